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
# The fuzz targets have a lock file of their own, which a change of the dependencies leaves behind.
for package in fuzz crates/imap/fuzz; do
  say "== cargo metadata --locked --manifest-path $package/Cargo.toml"
  cargo metadata --locked --quiet --format-version 1 --manifest-path "$package/Cargo.toml" >/dev/null
done
step "$BIN/cargo-deny" --locked check licenses bans
step shellcheck --external-sources scripts/*.sh .ci/run
