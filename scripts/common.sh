# shellcheck shell=bash disable=SC2034
# Shared by the other scripts: where things are, and how to stop. To be sourced, not run.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# All that is built or downloaded stays here, outside the checkout, so that a fresh clone finds it warm.
CACHE=${IMAPTRACE_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/imaptrace}
BIN=$CACHE/bin

# rustup puts cargo where a shell that was open before does not look.
command -v cargo >/dev/null || [ ! -x "${HOME:-}/.cargo/bin/cargo" ] || PATH=$HOME/.cargo/bin:$PATH

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# One of us at a time: a second one waits until the first has ended, and then finds its work done.
# The lock lives as long as this process has the file open; background children must not inherit it.
lock() {
  mkdir -p "$CACHE"
  exec 9>"$CACHE/$1.lock"
  flock -n 9 || { say "waiting for another run to finish ($1)"; flock 9; }
}

# Where cargo builds. Two checkouts may take turns in one folder: cargo tells sources apart by how old they are, not by where
# they lie, and would run what the other one has built. So all that is ours is built anew when the checkout is another.
target_dir() {
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
  local mark=$CARGO_TARGET_DIR/checkout
  [ "$(cat "$mark" 2>/dev/null)" != "$ROOT" ] || return 0
  # Nothing was built yet on a new machine, and there may be no index yet to ask what is ours.
  if [ -e "$CARGO_TARGET_DIR/CACHEDIR.TAG" ]; then
    local ours=(-p imaptrace -p imaptrace-imap -p imaptrace-record -p imaptrace-testkit)
    (cd "$ROOT" && cargo clean --quiet --locked "${ours[@]}" && cargo clean --quiet --locked --release "${ours[@]}")
  fi
  mkdir -p "$CARGO_TARGET_DIR"
  say "$ROOT" >"$mark"
}
