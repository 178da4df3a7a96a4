#!/usr/bin/env bash
# bench-truth.sh : runs against a real Dovecot under a packet capture, and prints how far our times lie from the wire's.
# docs/performance.md tells what is measured, and has the tables.
#
# ROWS="alone blocked"   only these; the others are 1000 10000 alone-user blocked-user 1000-user
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

[ "$(id -u)" = 0 ] || die "tcpdump needs root to capture on lo: run this as root"
[ "$(uname)" = Linux ] || die "the kernel's stamps, and what they are compared with, are only to be had on Linux"
"$ROOT/scripts/need.sh" truth
cd "$ROOT"
target_dir
cargo bench --locked --no-run --bench truth

# 10,000 connections are as many descriptors, here and in Dovecot.
ulimit -n "$(ulimit -Hn)"
# Whatever ends us, Dovecot ends, too. Its users must be able to enter.
TMPDIR=$(mktemp -d)
export TMPDIR
chmod 755 "$TMPDIR"
finish() {
  local dir
  for dir in "$TMPDIR"/dovecot-*; do [ ! -d "$dir" ] || "$ROOT/scripts/dovecot.sh" stop "$dir"; done
  rm -rf "$TMPDIR"
}
trap finish EXIT
read -ra rows <<<"${ROWS:-}"
cargo bench --quiet --locked --bench truth -- "${rows[@]}"
