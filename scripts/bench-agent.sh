#!/usr/bin/env bash
# bench-agent.sh : CPU, memory and start lag of an agent with thousands of targets, an hour's runs
# without a Collector, and memory over an hour.
#
# Prints Markdown for docs/performance.md, which tells how it measures; what it says besides goes to standard error.
#
# Environment:
#   TARGETS="1000 2000"  rows; each is started without and with metrics, in clear text and over TLS
#   WINDOW=60            seconds that a row is measured for
#   EVENTS=1             0 leaves out what the events of the servers add
#   SHARDS=0             1 measures 10,000 targets over five agents and nothing else; needs root, for a network namespace
#   OUTAGE=1             0 leaves the hour without a Collector out
#   SOAK_MINUTES=60      0 leaves the long run out
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
PATH=$PATH:/usr/sbin:/sbin

{
  "$ROOT/scripts/need.sh" stack
  "$ROOT/scripts/backends.sh" otelcol
  cd "$ROOT"
  target_dir
  mkdir -p "$CACHE/agent"
  cargo build --locked --release
  # A copy: building the bench builds the program again, with what only tests need in it, and puts it in the same place.
  cp "$CARGO_TARGET_DIR/release/imaptrace" "$CACHE/agent/imaptrace"
  cargo bench --locked --bench agent --no-run
} >&2

export AGENT_IMAPTRACE=$CACHE/agent/imaptrace
ulimit -n "$(ulimit -Hn)"
if [ "${SHARDS:-0}" != 0 ]; then
  # Each server is an address of its own, and what listens on all addresses is reached from nowhere else.
  exec unshare --net sh -c 'ip link set lo up && exec cargo bench --quiet --locked --offline --bench agent'
fi
exec cargo bench --quiet --locked --bench agent
