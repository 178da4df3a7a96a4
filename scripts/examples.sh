#!/usr/bin/env bash
# examples.sh [lock|disk...] : makes docs/examples anew: a run that waited for a lock, and one whose server waited for its disk.
#
# For each: NAME.jsonl, the record; NAME.txt, what `imaptrace show` draws of it; NAME.json, its trace as Jaeger's API gives it.
# A Dovecot 2.3 with mail on a loop device, an agent beside it that takes its events and samples its processes, and Jaeger run in
# namespaces of their own, on a host that is called mail01. The lock is held by another process on dovecot.index.log; the disk is
# limited to some reads a second, and nothing is cached. The agent has no receiver, so its runs stay on disk; the chosen one is
# sent to Jaeger by `imaptrace replay`.
#
# Needs root. Environment: IMAPTRACE, the program (built, unless given).
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
PATH=$PATH:/usr/sbin:/sbin

PLAIN=1143 TLS=1993 EVENTS=8144 OTLP=14317 QUERY=16686
READS=20 # a second, of the slow disk

wait_for() { # SECONDS WHAT COMMAND...
  local tries=$(($1 * 5)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $((tries -= 1)) -gt 0 ] || die "$what: not within its time; $(tail -n 5 "$work"/*.log)"
    sleep 0.2
  done
}

runs() { "$IMAPTRACE" show "$work/state" --all --output json 2>/dev/null; }
passed() { [ "$(runs | grep -c '"outcome":"passed"')" -ge "$1" ]; }

# The newest run after a time with this cause, with all that the server reported.
chosen() { # TARGET CAUSE SINCE
  runs | jq -ce --arg target "$1" --arg cause "$2" --arg since "$3" '
    select(.target == $target and .started_at > $since and .outcome == "passed" and .verdict.cause == $cause)
    | select(.verdict.excess_s > 0.5)
    | select([.server_events.events[]?.name] | contains(["mail_user_session_finished", "auth_passdb_request_finished"]))
    | select([.server_events.processes[]?.span_id] | any)
    | select([.steps[] | select(.waits)] | any)' | tail -n 1 >"$work/run.jsonl"
  [ -s "$work/run.jsonl" ]
}

now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

keep() { # NAME
  local id to=$ROOT/docs/examples
  mkdir -p "$to"
  cp "$work/run.jsonl" "$to/$1.jsonl"
  (cd "$to" && "$IMAPTRACE" show "$1.jsonl" >"$1.txt")
  "$IMAPTRACE" replay --otlp-endpoint "http://127.0.0.1:$OTLP" --otlp-protocol grpc "$to/$1.jsonl"
  id=$(jq -r .trace_id "$to/$1.jsonl")
  wait_for 20 "trace $id in Jaeger" curl -sf "http://127.0.0.1:$QUERY/api/traces/$id"
  curl -sf "http://127.0.0.1:$QUERY/api/traces/$id" | jq '.data[0]' >"$to/$1.json"
  say "$to/$1: $(jq -r '.verdict.evidence[0]' "$to/$1.jsonl")"
}

lock_example() {
  local since holder
  since=$(now)
  # 1.6 s of each 1.9 s, as a backup or an indexer that works through a mailbox.
  python3 -c '
import fcntl, os, sys, time
while True:
    with open(sys.argv[1], "r+b") as log:
        fcntl.lockf(log, fcntl.LOCK_EX)
        time.sleep(1.6)
    time.sleep(0.3)' "$work/server/mail/user1/Maildir/dovecot.index.log" &
  holder=$!
  wait_for 90 "a run that waited for the lock" chosen mail01 lock "$since"
  kill "$holder"
  keep held-lock
}

device() { stat -c %d "$work/server/mail" | awk '{ print int($1 / 256) ":" $1 % 256 }'; }

# Takes what is on the disk out of memory.
cold() {
  local tries=100
  until umount "$work/server/mail" 2>/dev/null; do [ $((tries -= 1)) -gt 0 ] || die "the disk is in use"; sleep 0.1; done
  python3 -c 'import os, sys; f = os.open(sys.argv[1], os.O_RDONLY); os.fsync(f); os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)' \
    "$work/disk.img"
  mount -o loop,noatime "$work/disk.img" "$work/server/mail"
}

limit_reads() { # A_SECOND, or 0 for no limit
  if [ -d /sys/fs/cgroup/blkio ]; then
    echo "$(device) $1" >"$group/blkio.throttle.read_iops_device"
  else
    echo "$(device) riops=$([ "$1" = 0 ] && echo max || echo "$1")" >"$group/io.max"
  fi
}

disk_example() {
  local since pid
  for pid in $(pgrep -f 'dovecot|imap|auth|config|anvil|stats'); do echo "$pid" >"$group/cgroup.procs" 2>/dev/null || true; done
  since=$(now)
  for _ in {1..20}; do
    cold
    limit_reads "$READS"
    sleep 11
    limit_reads 0
    ! chosen mail01-cold disk "$since" || break
  done
  chosen mail01-cold disk "$since" || die "no run waited for the disk"
  keep slow-disk
}

inside() { # NAME...
  ip link set lo up
  hostname mail01
  mkdir "$work/server" "$work/server/mail" "$work/state"
  truncate -s 96M "$work/disk.img"
  mkfs.ext4 -q -F "$work/disk.img"
  mount -o loop,noatime "$work/disk.img" "$work/server/mail"
  {
    printf 'event_exporter imaptrace {\n  format = json\n  format_args = time-rfc3339\n  transport = http-post\n'
    printf '  transport_args = http://mail01:secret@127.0.0.1:%s/dovecot\n  transport_timeout = 2 secs\n}\n' "$EVENTS"
    for event in imap_command_finished auth_client_request_finished auth_request_finished auth_passdb_request_finished \
      auth_userdb_request_finished mail_user_session_finished mail_opened; do
      printf 'metric %s {\n  filter = event=%s AND user=user1\n  exporter = imaptrace\n' "$event" "$event"
      printf '  exporter_include = name hostname timestamps fields\n}\n'
    done
    # A process that stays would keep the disk in use.
    printf 'service imap {\n  service_count = 1\n}\n'
  } >"$work/events.conf"
  DOVECOT_EXTRA=$work/events.conf "$ROOT/scripts/dovecot.sh" start "$work/server" "$PLAIN" "$TLS"
  chown nobody:nogroup "$work/server/mail"
  cat >"$work/imaptrace.toml" <<END
[http]
listen = "off"
[otlp]
endpoint = "http://127.0.0.1:9"
[state]
dir = "$work/state"
[latency]
min_runs = 10
[server_events]
listen   = "127.0.0.1:$EVENTS"
proc     = true
users    = ["user1"]
mail_log = "$work/server/dovecot.log"
[[server_events.senders]]
name    = "mail01"
secret  = { env = "EVENTS_SECRET" }
targets = ["mail01*"]
[defaults]
address  = "v4"
interval = "5s"
timeout  = "4800ms"
END
  local name
  for name in mail01 mail01-cold; do
    cat >>"$work/imaptrace.toml" <<END
[[targets]]
name     = "$name"
url      = "imaps://localhost:$TLS"
user     = "user1"
password = { env = "PROBE_PASSWORD" }
ca_file  = "$work/server/tls/ca.pem"
cold     = $([ "$name" = mail01 ] && echo false || echo true)
END
  done
  EVENTS_SECRET=secret PROBE_PASSWORD=pass1 "$IMAPTRACE" agent --config "$work/imaptrace.toml" >"$work/agent.log" 2>&1 &
  (cd "$work" && JAEGER_OTLP_GRPC=127.0.0.1:$OTLP JAEGER_QUERY_HTTP=127.0.0.1:$QUERY exec "$BIN/jaeger" \
    --config "$ROOT/deploy/jaeger/jaeger.yaml" >"$work/jaeger.log" 2>&1) &
  wait_for 180 "runs before the cause" passed 24
  wait_for 30 "Jaeger" curl -sf "http://127.0.0.1:$QUERY/api/services"
  for name; do "${name}_example"; done
}

[ "$(id -u)" = 0 ] || die "this needs root, for namespaces, a control group and a loop device: run it as root"
if [ "${1:-}" = --inside ]; then
  shift
  inside "$@"
  exit
fi
[ $# -gt 0 ] || set -- lock disk
[ -x "$BIN/jaeger" ] || "$ROOT/scripts/backends.sh" jaeger
if [ -z "${IMAPTRACE:-}" ]; then
  cd "$ROOT"
  target_dir
  cargo build --quiet --locked
  IMAPTRACE=$CARGO_TARGET_DIR/debug/imaptrace
fi
# Whatever ends us, all processes and mounts inside end with it. Dovecot's users must be able to enter.
work=$(mktemp -d)
chmod 755 "$work"
group=/sys/fs/cgroup/blkio
[ -d "$group" ] || { group=/sys/fs/cgroup; echo +io >"$group/cgroup.subtree_control"; }
group=$group/imaptrace-examples-$$
mkdir "$group"
finish() {
  local _
  for _ in {1..50}; do rmdir "$group" 2>/dev/null && break; sleep 0.1; done
  rm -rf "$work"
}
trap finish EXIT
export IMAPTRACE work group
unshare --fork --pid --kill-child --mount-proc --mount --propagation private --net --uts -- "$0" --inside "$@"
