#!/usr/bin/env bash
# bench-hostile.sh : what hostile servers can do to an agent: memory, the framer's pace, deadlines among thousands of silent
# connections, good targets among bad ones.
#
# Prints Markdown for docs/performance.md, which tells how it measures; what it says besides goes to standard error.
#
# Environment:
#   PARTS="literal framer held late mix"   only these
#   LITERAL_MIB=10240    the literal that is sent over loopback, in clear text and over TLS
#   ROUNDS=9             rounds of the framer
#   FRAMER_MIB=256       of each kind of input
#   CONNECTIONS=10000    in flight at most; this process and the one that probes need a descriptor for each
#   DEADLINE=30          seconds that a run has whose server is silent; all have to be in flight before the first is over
#   MIX_ROUNDS=3         rounds of good and hostile targets
#   WINDOW=20            seconds that the good ones are probed for, three times a round; what is between alone and among
#                        hostile ones is not measured
#   HOSTILE=1000         targets beside the 50 good ones
#   PER_MINUTE=1         runs of each of them
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

{
  "$ROOT/scripts/need.sh" build
  cd "$ROOT"
  target_dir
  cargo bench --locked --bench hostile --no-run
} >&2

ulimit -n "$(ulimit -Hn)"
exec cargo bench --quiet --locked --bench hostile
