#!/usr/bin/env bash
# soak.sh : an agent with everything wrong at once: a secret's mount that does not answer, a log that nobody reads, a
# receiver that refuses, a state directory on a full tmpfs, and a stop of 5 s each minute.
#
# Prints a table; exits 1 when a run is neither delivered nor kept nor counted, when starts are missing, or when memory grows.
# Needs root: it makes a network and a mount namespace of its own, and mounts in there only.
#
# Environment:
#   MINUTES=10      how long
#   TARGETS=200     good targets, each probed every 5 s
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

[ "$(id -u)" = 0 ] || die "soak.sh needs root, for namespaces and mounts of its own"
{
  "$ROOT/scripts/need.sh" build
  cd "$ROOT"
  target_dir
  mkdir -p "$CACHE/soak"
  cargo build --locked --release
  cp "$CARGO_TARGET_DIR/release/imaptrace" "$CACHE/soak/imaptrace"
  cargo bench --locked --bench soak --no-run
} >&2

export SOAK_IMAPTRACE=${SOAK_IMAPTRACE:-$CACHE/soak/imaptrace}
# shellcheck disable=SC2016
exec unshare --net --mount --propagation private -- \
  sh -c 'ip link set lo up && exec "$@"' sh cargo bench --quiet --locked --bench soak
