#!/usr/bin/env bash
# check.sh : all that can be said about the tree without running it.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

CARGO_DENY=0.20.2

"$ROOT/scripts/need.sh" check
cd "$ROOT"
target_dir

step() { say "== $*"; "$@"; }

# Debug and without its advisory database: that compiles in a third of the time, and looks at these few files as well.
if [ "$("$BIN/cargo-deny" --version 2>/dev/null)" != "cargo-deny $CARGO_DENY" ]; then
  lock cargo-deny
  step env CARGO_TARGET_DIR="$CACHE/src/cargo-deny" CARGO_PROFILE_DEV_DEBUG=0 \
    cargo install --quiet --locked --debug --no-default-features --root "$CACHE" --version "$CARGO_DENY" cargo-deny
  rm -rf "$CACHE/src/cargo-deny"
  exec 9>&-
fi

step cargo fmt --all --check
step cargo clippy --locked --workspace --all-targets -- -D warnings
step env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
# What depends on no crate of ours can be built from its package alone.
step cargo package --quiet --locked -p imaptrace-imap --allow-dirty
# The fuzz targets are packages of their own, with lock files that a change of the dependencies leaves behind. Nothing is linked,
# so the path of libFuzzer leads nowhere, and its C++ is not compiled.
for package in fuzz crates/imap/fuzz; do
  step env CARGO_TARGET_DIR="$CACHE/fuzz-check" RUSTFLAGS="--cfg fuzzing" CUSTOM_LIBFUZZER_PATH="$CACHE/libfuzzer.a" \
    cargo check --quiet --locked --manifest-path "$package/Cargo.toml"
done
step "$BIN/cargo-deny" --locked check licenses bans sources
step shellcheck --external-sources scripts/*.sh .ci/run
