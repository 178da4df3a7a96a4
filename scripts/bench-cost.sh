#!/usr/bin/env bash
# bench-cost.sh : what a run costs, beside the same dialogue by other clients, and what a connection in flight costs.
#
# Prints Markdown for docs/performance.md, which tells how it measures; what it says besides goes to standard error.
#
# Environment:
#   ROUNDS=5            rounds, in each of which every client has its turn
#   RUNS=300            runs of each client in a round
#   CONNECTIONS=10000   in flight at most, and a tenth of it at least, where memory is measured
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
PATH=$PATH:/usr/sbin:/sbin

{
  "$ROOT/scripts/need.sh" cost
  "$ROOT/scripts/backends.sh" otelcol
  cd "$ROOT"
  target_dir
  mkdir -p "$CACHE/cost"
  cargo build --locked --release
  # A copy: building the bench builds the program again, with what only tests need in it, and puts it in the same place.
  cp "$CARGO_TARGET_DIR/release/imaptrace" "$CACHE/cost/imaptrace"
  cargo build --locked --release --manifest-path benches/peers/Cargo.toml
  cargo bench --locked --bench cost --no-run
} >&2

export COST_IMAPTRACE=$CACHE/cost/imaptrace COST_ASYNC_IMAP=$CARGO_TARGET_DIR/release/async-imap-loop
exec cargo bench --quiet --locked --bench cost
