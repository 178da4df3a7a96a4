#!/usr/bin/env bash
# demo.sh : builds imaptrace and runs its demo.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

"$ROOT/scripts/need.sh" build
cd "$ROOT"
# The dev profile: it compiles in well under half the time of the release profile, and a demo ought to start soon.
exec cargo run --locked -- demo "$@"
