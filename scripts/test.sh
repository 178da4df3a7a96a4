#!/usr/bin/env bash
# test.sh : what a change must pass, here as well as in CI.
#
# Needs a Debian machine with rustup, git and make, and registries to install from. The first time takes some fifteen minutes
# on two cores, most of it for the Collector, Jaeger and Prometheus 3; later ones take what the tests take.
# IMAPTRACE_TEST=hermetic leaves out all that needs real servers.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

case ${IMAPTRACE_TEST:-all} in
  all) which=() ;;
  hermetic) which=(--lib --test house --test hermetic --test faults) ;;
  *) die "IMAPTRACE_TEST is all or hermetic, not $IMAPTRACE_TEST" ;;
esac

[ ${#which[@]} -gt 0 ] || "$ROOT/scripts/need.sh" test
"$ROOT/scripts/check.sh"
[ ${#which[@]} -gt 0 ] || { "$ROOT/scripts/servers.sh" prepare; "$ROOT/scripts/backends.sh"; }
cd "$ROOT"
target_dir
export IMAPTRACE_CACHE=$CACHE
exec cargo test --locked --workspace --no-fail-fast "${which[@]}"
