#!/usr/bin/env bash
# fuzz.sh : builds the fuzz targets and runs each for a while; prints a Markdown table for docs/fuzzing.md.
#
# What it finds besides goes to standard error. It ends with 1 when an input breaks a target, and says which input that is and
# how to give it to the target again. Inputs that reached something new stay in the cache and are where the next run begins.
#
# Environment:
#   TARGETS="framer …"   which ones; without it all of fuzz/targets and crates/imap/fuzz/targets
#   EACH=600             seconds for each
#   JOBS=2               how many at once
#   SANITIZER=none       or address: finds what unsafe code in a dependency does wrong, at half the speed; needs nightly
#   IMAPTRACE_CACHE=…    where cargo-fuzz, what is built, working corpora, logs and broken inputs are
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

CARGO_FUZZ=0.13.2
EACH=${EACH:-600} JOBS=${JOBS:-2} SANITIZER=${SANITIZER:-none}
WORK=$CACHE/fuzz

cd "$ROOT"
# The folder of the package that a target is in.
package() {
  local folder
  for folder in crates/imap/fuzz fuzz; do
    [ ! -e "$folder/targets/$1.rs" ] || { printf '%s' "$folder"; return; }
  done
}
all() { printf '%s\n' {crates/imap/fuzz,fuzz}/targets/*.rs | sed 's|.*/||; s|\.rs$||'; }
read -ra targets <<<"${TARGETS:-$(all | tr '\n' ' ')}"
for target in "${targets[@]}"; do
  [ -n "$(package "$target")" ] || die "there is no target $target in fuzz/targets or crates/imap/fuzz/targets"
done

build() {
  scripts/need.sh fuzz
  lock fuzz
  if [ "$("$BIN/cargo-fuzz" --version 2>/dev/null)" != "cargo-fuzz $CARGO_FUZZ" ]; then
    say "== cargo-fuzz"
    CARGO_TARGET_DIR=$CACHE/src/cargo-fuzz CARGO_PROFILE_DEV_DEBUG=0 \
      cargo install --quiet --locked --debug --root "$CACHE" --version "$CARGO_FUZZ" cargo-fuzz
    rm -rf "$CACHE/src/cargo-fuzz"
  fi
  # Nightly where it is to be had: else the compiler that is there is told to take nightly's flags.
  local toolchain=()
  if cargo +nightly --version >/dev/null 2>&1; then
    toolchain=(+nightly)
  else
    export RUSTC_BOOTSTRAP=1
  fi
  export CARGO_TARGET_DIR=$WORK/target PATH=$BIN:$PATH
  for target in "${targets[@]}"; do
    cargo "${toolchain[@]}" fuzz build --fuzz-dir "$(package "$target")" --sanitizer "$SANITIZER" --codegen-units 16 "$target"
  done
  exec 9>&-
}
build >&2
program() { printf '%s/target/%s/release/%s' "$WORK" "$(rustc -vV | sed -n 's/^host: //p')" "$1"; }

run() {
  local target=$1 dict=crates/imap/fuzz/imap.dict package
  package=$(package "$target")
  [ ! -e "fuzz/$target.dict" ] || dict=fuzz/$target.dict
  mkdir -p "$WORK/corpus/$target" "$WORK/artifacts/$target"
  # No server that is made up has a certificate: roots need not be read, again and again.
  export SSL_CERT_FILE=/dev/null
  # A panic's message stands at the log's end; a target that takes 20 s or 2 GiB for an input is broken as well.
  exec "$(program "$target")" -max_total_time="$EACH" -timeout=20 -rss_limit_mb=2048 -max_len=4096 -dict="$dict" \
    -print_final_stats=1 -artifact_prefix="$WORK/artifacts/$target/" \
    "$WORK/corpus/$target" "$package/corpus/$target" >"$WORK/$target.log" 2>&1
}

say "fuzzing ${targets[*]}, $EACH s each" >&2
declare -A running=()
broken=()
# Waits for one that runs to end.
reap() {
  local pid status=0
  wait -n -p pid "${!running[@]}" || status=$?
  [ "$status" = 0 ] || broken+=("${running[$pid]}")
  unset "running[$pid]"
}
# An interrupted run leaves nothing behind.
trap '[ ${#running[@]} = 0 ] || kill "${!running[@]}" 2>/dev/null || :' EXIT
for target in "${targets[@]}"; do
  [ ${#running[@]} -lt "$JOBS" ] || reap
  run "$target" &
  running[$!]=$target
done
while [ ${#running[@]} -gt 0 ]; do reap; done

stat() { sed -n "s/^stat::$2: *//p" "$WORK/$1.log"; }
last() { sed -n "s/^#[0-9].* $2: \([0-9]*\).*/\1/p" "$WORK/$1.log" | tail -1; }
say "| Target | Inputs | Time | Each second | Edges | Inputs kept | Peak memory | Broken |"
say "|---|---|---|---|---|---|---|---|"
for target in "${targets[@]}"; do
  seconds=$(sed -n 's/^Done .* in \([0-9]*\) second.*/\1/p' "$WORK/$target.log")
  broke=0
  [[ " ${broken[*]} " != *" $target "* ]] || broke=1
  say "| $target | $(stat "$target" number_of_executed_units) | ${seconds:-?} s | $(stat "$target" average_exec_per_sec) |" \
    "$(last "$target" cov) | $(last "$target" corp) | $(stat "$target" peak_rss_mb) MiB | $broke |"
done

for target in "${broken[@]}"; do
  {
    input=$(sed -n 's/.*Test unit written to //p' "$WORK/$target.log" | tail -1)
    grep -E 'panicked at|ERROR: libFuzzer' -A 3 "$WORK/$target.log" | cut -c 1-300 | tail -12
    say "== $target is broken by ${input:-something}, see $WORK/$target.log"
    say "   again:      $(program "$target") $input"
    say "   smaller:    $(program "$target") -minimize_crash=1 -max_total_time=60 $input"
    say "   for good:   cp $input $(package "$target")/corpus/$target/ && cargo test --workspace --lib what_was_found_by_fuzzing_holds"
  } >&2
done
[ ${#broken[@]} = 0 ]
