#!/usr/bin/env bash
# stack.sh up|down : the whole of docker-compose.yml without containers, for looking and trying.
#
# `up` starts a mail server with mail in it, Jaeger, the Collector, Prometheus and the agent, all on loopback, waits for
# the first trace and draws it. What ran before is ended first, so `up` twice is `up` once. `down` ends it.
#
# Environment: PORT_OFFSET=0 is added to every port; each offset is a stack of its own, for `down` too.
# IMAPTRACE_STACK is where logs, mail and process ids go (the cache).
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

RUN=${IMAPTRACE_STACK:-$CACHE/stack${PORT_OFFSET:+-$PORT_OFFSET}}
port() { echo $(($1 + ${PORT_OFFSET:-0})); }
imap=$(port 1143) imaps=$(port 1993)
query=$(port 16686) prometheus=$(port 9090)

# A process's start time tells it from a later one that was given the same number.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

start() { # NAME COMMAND...
  local name=$1
  shift
  (cd "$RUN" && exec setsid "$@" >"$name.log" 2>&1 </dev/null) &
  printf '%s %s\n' $! "$(started_at $!)" >"$RUN/$name.pid"
}

alive() { # NAME
  local pid time
  read -r pid time 2>/dev/null <"$RUN/$1.pid" && [ "$(started_at "$pid")" = "$time" ]
}

# wait_for NAME SECONDS COMMAND... : until the command succeeds; for as long as NAME lives.
wait_for() {
  local name=$1 tries=$(($2 * 5))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ! alive "$name" || [ $((tries -= 1)) -lt 0 ]; then
      tail -n 10 "$RUN/$name.log" >&2
      die "$name is not as it should be; its log is $RUN/$name.log; \`make stack-down\` ends what was started"
    fi
    sleep 0.2
  done
}

get() { curl --silent --show-error --fail --max-time 5 --get "$@"; }

down() {
  local name pid
  for name in agent prometheus otelcol jaeger; do
    if alive "$name"; then
      read -r pid _ <"$RUN/$name.pid"
      kill "$pid"
      for _ in {1..100}; do alive "$name" || break; sleep 0.1; done
      ! alive "$name" || kill -KILL "$pid"
      say "$name ended"
    fi
    rm -f "$RUN/$name.pid"
  done
  if mail=$(cat "$RUN/dovecot.dir" 2>/dev/null); then
    "$ROOT/scripts/dovecot.sh" stop "$mail"
    rm -rf "$mail" "$RUN/dovecot.dir"
    say "dovecot ended"
  fi
}

# Everything that a run sent is in Jaeger within the second; the newest whole trace is the one to show.
traces() { get "http://127.0.0.1:$query/api/traces" -d service=imaptrace -d limit=20 -d lookback=1h; }
some_trace() { traces | jq -e '.data | length > 0'; }

waterfall() {
  traces | jq -r '
    def pad($n): . + (" " * ([$n - length, 0] | max) // "");
    def ms: . / 10 | round / 100 | tostring | . + " ms";
    .data | max_by([.spans[].startTime] | min)
    | ([.spans[].startTime] | min) as $begin
    | ([.spans[] | .startTime + .duration] | max - $begin) as $whole
    | "trace \(.traceID)",
      (.spans | sort_by([.startTime, -.duration])[]
       | ((.startTime - $begin) * 48 / $whole | floor) as $gap
       | ([.duration * 48 / $whole | round, 1] | max) as $length
       | (if any(.references[]?; .refType == "CHILD_OF") then "  " else "" end) as $indent
       | "  " + ($indent + .operationName | pad(24)) + ((" " * $gap // "") + ("█" * $length) | pad(50)) + (.duration | ms))'
}

ask() { # QUERY : each series and its value
  get "http://127.0.0.1:$prometheus/api/v1/query" --data-urlencode "query=$1" |
    jq -r '.data.result[] | "  \(.metric.imaptrace_target_name)  \(.value[1] | tonumber * 10000 | round / 10000)"'
}
FLL='sum by (imaptrace_target_name) (imaptrace_probe_first_loading_duration_seconds_sum)
   / sum by (imaptrace_target_name) (imaptrace_probe_first_loading_duration_seconds_count) > 0'
some_fll() { ask "$FLL" | grep .; }

up() {
  "$ROOT/scripts/need.sh" stack
  "$ROOT/scripts/backends.sh" otelcol jaeger prometheus
  (cd "$ROOT" && cargo build --locked)
  mkdir -p "$RUN"
  RUN=$(cd "$RUN" && pwd)
  down

  # Not below RUN: that may lie in a home which Dovecot's own users cannot enter.
  mail=$(mktemp -d /tmp/imaptrace-dovecot.XXXXXX)
  echo "$mail" >"$RUN/dovecot.dir"
  "$ROOT/scripts/dovecot.sh" start "$mail" "$imap" "$imaps"

  JAEGER_OTLP_GRPC=127.0.0.1:$(port 14317)
  JAEGER_QUERY_HTTP=127.0.0.1:$query
  JAEGER_QUERY_GRPC=127.0.0.1:$(port 16685)
  JAEGER_HEALTH=127.0.0.1:$(port 13134)
  JAEGER_OTLP_ENDPOINT=$JAEGER_OTLP_GRPC
  COLLECTOR_OTLP_GRPC=127.0.0.1:$(port 4317)
  COLLECTOR_OTLP_HTTP=127.0.0.1:$(port 4318)
  COLLECTOR_HEALTH=127.0.0.1:$(port 13133)
  COLLECTOR_PROMETHEUS=127.0.0.1:$(port 8889)
  COLLECTOR_SELF_PORT=$(port 8888)
  export JAEGER_OTLP_GRPC JAEGER_QUERY_HTTP JAEGER_QUERY_GRPC JAEGER_HEALTH JAEGER_OTLP_ENDPOINT
  export COLLECTOR_OTLP_GRPC COLLECTOR_OTLP_HTTP COLLECTOR_HEALTH COLLECTOR_PROMETHEUS COLLECTOR_SELF_PORT
  start jaeger "$BIN/jaeger" --config "$ROOT/deploy/jaeger/jaeger.yaml"
  wait_for jaeger 30 get "http://$JAEGER_HEALTH/status"
  start otelcol "$BIN/otelcol" --config "$ROOT/otel-collector.yaml"
  wait_for otelcol 30 get "http://$COLLECTOR_HEALTH/"

  mkdir -p "$RUN/prometheus"
  cp -r "$ROOT/deploy/prometheus/prometheus.yml" "$ROOT/deploy/prometheus/rules" "$RUN/prometheus/"
  printf '[{ "targets": ["%s"] }]\n' "$COLLECTOR_PROMETHEUS" >"$RUN/prometheus/targets.json"
  start prometheus "$BIN/prometheus" --config.file=prometheus/prometheus.yml --storage.tsdb.path=prometheus/data \
    --web.listen-address="127.0.0.1:$prometheus" --enable-feature=exemplar-storage
  wait_for prometheus 30 get "http://127.0.0.1:$prometheus/-/ready"

  sed -e "s|http://otel-collector:4317|http://$COLLECTOR_OTLP_GRPC|" -e "s|imaps://dovecot|imaps://localhost:$imaps|" \
    -e "s|/srv/mail/|$mail/|" "$ROOT/deploy/compose/imaptrace.toml" >"$RUN/imaptrace.toml"
  # Its state beside the rest, and figures more often than is good for a fleet.
  XDG_STATE_HOME=$RUN/state DOVECOT_PASSWORD=pass1 OTEL_METRIC_EXPORT_INTERVAL=3000 \
    start agent "${CARGO_TARGET_DIR:-$ROOT/target}/debug/imaptrace" agent --config imaptrace.toml
  say "waiting for the first trace in Jaeger"
  wait_for agent 40 some_trace
  waterfall
  say "waiting for the first figures in Prometheus"
  wait_for agent 60 some_fll
  say "mean First Loading Latency, seconds:"
  ask "$FLL"
  cat <<END

  mail server   imaps://localhost:$imaps and imap://localhost:$imap, user1 / pass1, CA $mail/tls/ca.pem
  Collector     OTLP on $COLLECTOR_OTLP_GRPC (gRPC) and $COLLECTOR_OTLP_HTTP (HTTP)
  Jaeger        http://127.0.0.1:$query/api/traces?service=imaptrace
  Prometheus    http://127.0.0.1:$prometheus/api/v1/query?query=imaptrace_probe_up
  agent         $RUN/imaptrace.toml, its log $RUN/agent.log

\`make stack-down\` ends it all.
END
}

case ${1:-} in
  up) up ;;
  down) down ;;
  *) die "usage: stack.sh up|down" ;;
esac
