#!/usr/bin/env bash
# test-causes.sh : injects causes of slowness into a real Dovecot, one after the other, while an agent probes it, and prints
# what was recorded of each (docs/testing.md).
#
# Needs root. Networks and mounts are namespaces of its own; control groups, Dovecot and what is mounted are gone at the end.
#
# Environment:
#   CAUSES="dns loss"   only these
#   CAUSES_RUNS=9       usable runs of each
#   CAUSES_DIR=         a directory that keeps the recorded runs, for `cargo run --example diagnose -- DIR`
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
PATH=$PATH:/usr/sbin:/sbin

[ "$(id -u)" = 0 ] || die "this needs root, for namespaces, control groups and a loop device: run it as root"
[ "$(uname)" = Linux ] || die "causes are injected by means of Linux: run it there"
"$ROOT/scripts/need.sh" causes
[ -z "${CAUSES_DIR:-}" ] || { mkdir -p "$CAUSES_DIR"; CAUSES_DIR=$(cd "$CAUSES_DIR" && pwd); export CAUSES_DIR; }
cd "$ROOT"
target_dir
cargo test --locked --workspace --test causes --no-run

# Whatever ends us, all processes and mounts inside end with it. Dovecot's users must be able to enter.
TMPDIR=$(mktemp -d)
export TMPDIR CAUSES_GROUPS=imaptrace-causes-$$
chmod 755 "$TMPDIR"
finish() {
  local group
  for group in /sys/fs/cgroup/{,*/}"$CAUSES_GROUPS"-*; do [ ! -d "$group" ] || rmdir "$group"; done
  rm -rf "$TMPDIR"
}
trap finish EXIT
read -ra causes <<<"${CAUSES:-}"
# The shell is the first process inside: it waits for the processes whose parents have ended, such as Dovecot's.
# shellcheck disable=SC2016
unshare --fork --pid --kill-child --mount-proc --mount --propagation private -- sh -c '"$@"; exit "$?"' sh \
  cargo test --quiet --locked --workspace --test causes -- "${causes[@]}"
