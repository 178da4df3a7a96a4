# The agent as a container: the program, OpenSSL and the CA certificates, run by a user without rights.

FROM rust:1-bookworm AS build
WORKDIR /src
# Dependencies first, against empty programs: a change of ours does not compile them again.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/hermetic tests/real tests/house benches/cost benches/truth \
 && touch src/lib.rs tests/hermetic/main.rs tests/real/main.rs tests/house/main.rs \
 && touch benches/cost/main.rs benches/truth/main.rs \
 && echo 'fn main() {}' >src/main.rs \
 && cargo build --locked --release
COPY README.md ./
COPY src src
RUN touch src/lib.rs src/main.rs && cargo build --locked --release

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/imaptrace --create-home --shell /usr/sbin/nologin imaptrace
COPY --from=build /src/target/release/imaptrace /usr/local/bin/imaptrace
USER imaptrace
WORKDIR /var/lib/imaptrace
VOLUME /var/lib/imaptrace
ENTRYPOINT ["imaptrace"]
