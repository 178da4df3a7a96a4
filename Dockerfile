# The agent as a container: the program, OpenSSL and the CA certificates, run by a user without rights.

FROM rust:1-bookworm AS build
WORKDIR /src
# Dependencies first, against an empty library and program: a change of ours does not compile them again. Tests and
# benches are not built here, so cargo does not look for their files.
COPY Cargo.toml Cargo.lock ./
COPY crates/imap/Cargo.toml crates/imap/
COPY crates/record/Cargo.toml crates/record/
COPY crates/testkit/Cargo.toml crates/testkit/
RUN mkdir -p src crates/imap/src crates/record/src crates/testkit/src \
 && touch src/lib.rs crates/imap/src/lib.rs crates/record/src/lib.rs crates/testkit/src/lib.rs \
 && echo 'fn main() {}' >src/main.rs \
 && cargo build --locked --release
COPY crates crates
COPY src src
RUN touch src/lib.rs src/main.rs crates/*/src/lib.rs && cargo build --locked --release

FROM debian:bookworm-slim
# The numbers are fixed, so that volumes and Kubernetes can name them. The user has no home of a shell's files: its only
# directory is the agent's state.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 imaptrace \
 && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/imaptrace \
      --shell /usr/sbin/nologin imaptrace \
 && install --directory --owner=imaptrace --group=imaptrace --mode=0700 /var/lib/imaptrace
COPY --from=build /src/target/release/imaptrace /usr/local/bin/imaptrace
# The default of `dir` in [state]: baselines and undelivered runs are in the volume.
ENV STATE_DIRECTORY=/var/lib/imaptrace
USER 10001:10001
WORKDIR /var/lib/imaptrace
VOLUME /var/lib/imaptrace
ENTRYPOINT ["imaptrace"]
