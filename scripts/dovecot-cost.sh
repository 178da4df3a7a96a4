#!/usr/bin/env bash
# What posting the probes' events costs a Dovecot 2.3: CPU of all its processes a session, without and with them.
#
#   dovecot-cost.sh [SESSIONS] [ROUNDS]     default: 300 sessions, 5 rounds of each kind, in turn
#
# A session is a run of `imaptrace probe` (IMAPTRACE_BIN, else the release build) over TLS on a mailbox of 200 messages that is
# warm. The events are those of deploy/dovecot/events-2.3.conf, posted over TLS to a sink that answers 204. The CPU is that of
# the kernel's accounting (/proc/PID/schedstat), of Dovecot's master and all its processes, so other work on the machine changes
# little. Needs python3 for the sink.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

sessions=${1:-300} rounds=${2:-5}
bin=${IMAPTRACE_BIN:-${CARGO_TARGET_DIR:-$ROOT/target}/release/imaptrace}
[ -x "$bin" ] || die "$bin is missing: run make build, or set IMAPTRACE_BIN"
dir=$(mktemp -d /tmp/dovecot-cost-XXXXXX)
chmod 755 "$dir"
sink=''
finish() {
  for kind in without with; do "$ROOT/scripts/dovecot.sh" stop "$dir/$kind" 2>/dev/null || true; done
  [ -z "$sink" ] || kill "$sink" 2>/dev/null || true
  rm -rf "$dir"
}
trap finish EXIT

"$ROOT/scripts/dovecot.sh" certificates "$dir/tls" localhost
python3 - "$dir" <<'END' &
import http.server, ssl, sys
class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_POST(self):
        size = int(self.headers['content-length'])
        self.rfile.read(size)
        count[0] += 1; count[1] += size
        open(sys.argv[1] + '/count', 'w').write('%d %d\n' % tuple(count))
        self.send_response(204); self.end_headers()
    def log_message(self, *_): pass
count = [0, 0]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + '/tls/server.pem', sys.argv[1] + '/tls/server.key')
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Sink)
server.socket = context.wrap_socket(server.socket, server_side=True)
open(sys.argv[1] + '/port', 'w').write(str(server.server_address[1]))
server.serve_forever()
END
sink=$!
for _ in {1..100}; do [ -s "$dir/port" ] && break; sleep 0.05; done
sed -e "s#NAME:SECRET@imaptrace.example.org:8144#mail01:secret@localhost:$(cat "$dir/port")#" \
  -e "s#/etc/ssl/certs/ca-certificates.crt#$dir/tls/ca.pem#" -e 's#user=probe\*#user=user1#' \
  "$ROOT/deploy/dovecot/events-2.3.conf" >"$dir/with.conf"
: >"$dir/without.conf"
declare -A tls
port=$((20000 + RANDOM % 10000))
for kind in without with; do
  mkdir -p "$dir/$kind"
  tls[$kind]=$((port + 1))
  DOVECOT_EXTRA=$dir/$kind.conf "$ROOT/scripts/dovecot.sh" start "$dir/$kind" "$port" "${tls[$kind]}"
  port=$((port + 2))
done

# Nanoseconds of CPU of the processes of a Dovecot, those that have ended among them (in ticks of 10 ms).
cpu() { # KIND
  local master pid ns=0 one stat
  master=$(cat "$dir/$1/run/master.pid")
  for pid in "$master" $(pgrep -P "$master"); do
    read -r one _ <"/proc/$pid/schedstat" && ns=$((ns + one))
  done
  stat=$(cat "/proc/$master/stat")
  # shellcheck disable=SC2086 # words they are
  set -- ${stat##*) }
  echo $((ns + (${14} + ${15}) * 10000000))
}
probe() { # KIND COUNT
  IMAPTRACE_PASSWORD=pass1 "$bin" probe -u user1 --ca-file "$dir/$1/tls/ca.pem" --count "$2" --every 0 \
    "imaps://localhost:${tls[$1]}" >/dev/null
}
for kind in without with; do probe "$kind" 50; done
sleep 1
read -r first_events first_bytes <"$dir/count"
printf '%-8s %18s %18s\n' round 'without, ms/session' 'with, ms/session'
for ((round = 1; round <= rounds; round++)); do
  for kind in without with; do
    before=$(cpu "$kind")
    probe "$kind" "$sessions"
    sleep 1
    after=$(cpu "$kind")
    printf '%s %s\n' "$kind" "$(((after - before) / sessions))" >>"$dir/result"
    declare "$kind=$(((after - before) / sessions))"
  done
  awk -v round="$round" -v one="${without:?}" -v two="${with:?}" 'BEGIN { printf "%-8s %18.3f %18.3f\n", round, one / 1e6, two / 1e6 }'
done
median() { awk -v kind="$1" '$1 == kind { print $2 }' "$dir/result" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
awk -v one="$(median without)" -v two="$(median with)" 'BEGIN {
  printf "%-8s %18.3f %18.3f   %+.3f ms a session\n", "median", one / 1e6, two / 1e6, (two - one) / 1e6 }'
read -r events bytes <"$dir/count"
awk -v events="$((events - first_events))" -v bytes="$((bytes - first_bytes))" -v sessions="$((sessions * rounds))" 'BEGIN {
  printf "%.1f events and %.1f kB of JSON a session\n", events / sessions, bytes / sessions / 1e3 }'
