#!/usr/bin/env bash
# mutants.sh : changes the code at random places, one place at a time, and lists the changes that no test notices.
#
#   SEED    chooses the places: the same seed in the same tree gives the same ones; without it a new one is made and printed
#   SAMPLE  the number of places in crates/imap and crates/record (150); two fifths as many are taken in the root package
#
# A package of crates/ is judged by its own tests. The root package is judged by its unit tests, and what they do not notice by
# the hermetic tests of the module. It works on a copy of the tree. Each change is compiled: the default sample takes hours.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

CARGO_MUTANTS=27.1.0
SEED=${SEED:-$RANDOM}
SAMPLE=${SAMPLE:-150}
[[ $SEED =~ ^[0-9]+$ && $SAMPLE =~ ^[1-9][0-9]*$ ]] || die "SEED and SAMPLE are numbers, not $SEED and $SAMPLE"

"$ROOT/scripts/need.sh" check
lock mutants
WORK=$CACHE/mutants

if [ "$("$BIN/cargo-mutants" --version 2>/dev/null)" != "cargo-mutants $CARGO_MUTANTS" ]; then
  CARGO_TARGET_DIR="$CACHE/src/cargo-mutants" CARGO_PROFILE_DEV_DEBUG=0 \
    cargo install --quiet --locked --debug --root "$CACHE" --version "$CARGO_MUTANTS" cargo-mutants
  rm -rf "$CACHE/src/cargo-mutants"
fi

# Both parts run at once, each in a tree of its own. Always the same paths, and files with their own times: what was compiled
# stays valid.
rm -rf "$WORK/trees" "$WORK/out"
mkdir -p "$WORK/trees/crates" "$WORK/trees/root" "$WORK/out"
cd "$ROOT"
for tree in crates root; do
  git ls-files -z --cached --others --exclude-standard |
    tar --create --null --no-recursion --ignore-failed-read --files-from=- | tar --extract --directory="$WORK/trees/$tree"
done

# in_tree NAME : works there from now on.
in_tree() {
  cd "$WORK/trees/$1"
  export CARGO_TARGET_DIR=$WORK/targets/$1
}

# No backtrace is read: without their lines each change is linked sooner.
export CARGO_PROFILE_DEV_DEBUG=0
# A change may make a loop without an end that allocates: its test then fails, and the machine keeps its memory.
ulimit -v $((8 << 20))

# Not what only fuzzing, or another system than Linux, compiles.
mutants() {
  "$BIN/cargo-mutants" mutants --colors=never --exclude='**/fuzzed/**' --exclude='**/fuzzed.rs' \
    --exclude='src/net/portable.rs' "$@"
}

# elsewhere : the places, `FILE:LINE:`, that only another system than Linux compiles.
elsewhere() {
  git -C "$ROOT" ls-files --full-name 'src/*.rs' 'crates/*.rs' | while read -r file; do
    awk -v file="$file" '
      /cfg\(not\(target_os = "linux"\)\)/ { inside = 1 }
      inside { print file ":" FNR ":" }
      /^ *}$|;$/ { inside = 0 }' "$ROOT/$file"
  done
}

# choose NUMBER : that many of the lines, by the seed.
choose() {
  awk -v seed="$SEED" 'BEGIN { srand(seed) } { printf "%.9f\t%s\n", rand(), $0 }' | LC_ALL=C sort |
    awk -v number="$1" 'NR <= number' | cut -f2-
}

# judge NAME OPTION… [-- ARGUMENT…] : makes the changes of $WORK/NAME.list.
judge() {
  local name=$1 code=0 out=$WORK/out/$1
  shift
  [ -s "$WORK/$name.list" ] || return 0
  # All others count as noticed before: the options that choose by a regular expression let deleted fields through.
  mkdir -p "$out/mutants.out"
  mutants --list "$@" | grep -vxFf "$WORK/$name.list" >"$out/mutants.out/previously_caught.txt" || true
  mutants --in-place --no-shuffle --iterate --output "$out" "$@" || code=$?
  # 2: some were not noticed; 3: some ran into the time limit.
  case $code in 0 | 2 | 3) ;; *) die "cargo-mutants ended with $code, see $out" ;; esac
}

# Unit tests that take four fifths of their time, properties of the queue, the configuration and the baselines for the most part:
# they are run for the changes that the others do not notice.
SLOW=(
  delivery::queue::spool::tests::whatever
  delivery::queue::spool::tests::planted
  delivery::queue::tests::property
  delivery::queue::fuzzed
  delivery::queue::dead_letters::tests::refused_batches
  config::tests::a_file_of_targets_takes_no_more_memory
  config::tests::a_few_lines_cannot_expand
  config::tests::any_group_or_window
  config::sources::document::tests::what_would_take_too_much_memory
  probe::fuzzed
  latency::tests::a_spread
  latency::tests::a_history
  latency::tests::after_a_lasting_change
  latency::tests::day::the_days_baseline_is
)

# hermetic MODULE : the files of tests/hermetic that run it.
hermetic() {
  case $1 in
    agent | schedule | latency) say 'agent reload itself overload baseline server_events' ;;
    status) say 'itself agent' ;;
    delivery | state) say 'delivery otlp proxies receivers disk state_directory' ;;
    telemetry) say 'otlp metrics names agent' ;;
    net | follow | blocking) say 'resolvers certificates tls_faults streams following survival' ;;
    server_events | process_accounting) say 'server_events forwarding' ;;
    diagnosis) say 'recorded_runs baseline waits show' ;;
    probe | clock) say 'protocol scenarios failures auth attribution inspection limits ways' ;;
    config | plan) say 'configuration command_line usage reload' ;;
    secret) say 'secret_files secrets' ;;
    terminal) say 'on_a_terminal verbose usage demo messages' ;;
    demo) say 'demo' ;;
    canary | synthetic_mail) say 'canary mail_content messages' ;;
    *) say 'command_line usage on_a_terminal verbose canary demo show baseline delivery streams' ;;
  esac
}

say "seed $SEED, $SAMPLE places in crates and $(((SAMPLE * 2 + 4) / 5)) in the root package"
crates=(--package imaptrace-imap --package imaptrace-record)
in_tree root
elsewhere >"$WORK/elsewhere"
mutants --list "${crates[@]}" | grep -vFf "$WORK/elsewhere" | choose "$SAMPLE" >"$WORK/crates.list"
mutants --list --package imaptrace | grep -vFf "$WORK/elsewhere" | choose $(((SAMPLE * 2 + 4) / 5)) >"$WORK/root.list"
(in_tree crates && judge crates "${crates[@]}") &
judge root --package imaptrace --cargo-arg=--lib -- -- "${SLOW[@]/#/--skip=}"
wait $!

missed() { cat "$WORK/out/$1/mutants.out/missed.txt" 2>/dev/null || true; }
module() { sed -E 's,^src/([a-z_]+).*,\1,'; }

missed root >"$WORK/slow.list"
judge slow --package imaptrace --baseline=skip --timeout=300 --cargo-arg=--lib -- -- "${SLOW[@]}"

# Unit tests did not notice these: the hermetic tests of each module try them again.
mapfile -t modules < <(missed slow | module | sort -u)
for module in "${modules[@]}"; do
  missed slow | grep -E "^src/${module}[/.]" >"$WORK/$module.list"
  read -ra files <<<"$(hermetic "$module")"
  judge "$module" --package imaptrace --baseline=skip --timeout=600 --cargo-arg=--test --cargo-arg=hermetic \
    --cargo-arg=--test --cargo-arg=faults -- -- "${files[@]/%/::}"
done

# count WORD… : lines of the results of both parts.
count() {
  local word
  for word; do cat "$WORK"/out/{crates,root}/mutants.out/"$word".txt 2>/dev/null || true; done | wc -l
}
survivors=$(for name in crates "${modules[@]}"; do missed "$name"; done)
judged=$(count caught missed timeout)
survived=$(grep -c . <<<"$survivors" || true)
say "" "not noticed:" "$survivors" ""
say "seed $SEED: $((judged - survived)) of $judged changes were noticed; $(count unviable) more do not compile"
