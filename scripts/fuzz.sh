#!/usr/bin/env bash
# Fuzzes all parsers of external input, one target after the other, and prints a table.
#
# Usage: scripts/fuzz.sh [SECONDS | NUMBERruns] [TARGET...]     (default: 60 seconds, all targets)
#        scripts/fuzz.sh 600 relay                              ten minutes of one target
#        scripts/fuzz.sh 10000000runs                           ten million executions of each target
#
# Requires cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler for libFuzzer. Uses the stable toolchain, guided by coverage,
# without sanitizers. The corpus grows in fuzz/target/corpus and is reused by the next run; the seeds in fuzz/corpus are not
# changed. A failing input is saved in fuzz/artifacts/TARGET; reproduce it with `cargo fuzz run -s none TARGET FILE`.
#
# Exit 0 if no target failed, 1 if one did, 64 on usage errors, 71 if a requirement is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    echo "fuzz: $*" >&2
    exit "${code:-71}"
}

targets=()
for file in fuzz/fuzz_targets/*.rs; do
    targets+=("$(basename "$file" .rs)")
done
limit=-max_total_time=60
if [ $# -gt 0 ]; then
    case $1 in
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
            exit 0
            ;;
        *[!0-9]*runs | runs) code=64 die "expected a number of runs, found $1" ;;
        *runs) limit=-runs=${1%runs} && shift ;;
        *[!0-9]*) ;;
        *) limit=-max_total_time=$1 && shift ;;
    esac
fi
for target in "$@"; do
    [ -f "fuzz/fuzz_targets/$target.rs" ] || code=64 die "unknown target $target: expected one of ${targets[*]}"
done
[ $# -eq 0 ] || targets=("$@")
cargo fuzz --version >/dev/null 2>&1 || die "cargo-fuzz is not installed (cargo install cargo-fuzz)"

# The maximum input length of a target: as short as is useful, because short inputs run fast.
max_len() {
    case $1 in
        scan | relay) echo 400 ;;
        header) echo 160 ;;
        session | http) echo 300 ;;
        admin) echo 200 ;;
        *) echo 1000 ;;
    esac
}

# Stable rustc accepts the coverage instrumentation flags only with this.
export RUSTC_BOOTSTRAP=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for target in "${targets[@]}"; do
    cargo fuzz build -s none --no-trace-compares "$target" >"$work/build" 2>&1 || { cat "$work/build" >&2; die "$target does not build"; }
done

failed=0
row='%-8s %14s %10s %9s %9s %9s %8s\n'
# shellcheck disable=SC2059 # the format is row
printf "$row" target executions seconds 'exec/s' coverage corpus crashes
for target in "${targets[@]}"; do
    corpus=fuzz/target/corpus/$target
    artifacts=fuzz/artifacts/$target
    mkdir -p "$corpus" "$artifacts"
    before=$(find "$artifacts" -type f | wc -l)
    started=$(date +%s%N)
    code=0
    cargo fuzz run -s none --no-trace-compares "$target" "$corpus" "fuzz/corpus/$target" -- "$limit" \
        -max_len="$(max_len "$target")" -print_final_stats=1 -timeout=10 >"$work/log" 2>&1 || code=$?
    tenths=$((($(date +%s%N) - started) / 100000000))
    [ "$tenths" -gt 0 ] || tenths=1
    executions=$(awk '/^stat::number_of_executed_units:/ { print $2 }' "$work/log")
    coverage=$(grep -o 'cov: [0-9]*' "$work/log" | tail -n 1 | cut -d' ' -f2)
    units=$(find "$corpus" "fuzz/corpus/$target" -type f | wc -l)
    crashes=$(($(find "$artifacts" -type f | wc -l) - before))
    # shellcheck disable=SC2059
    printf "$row" "$target" "${executions:-0}" "$((tenths / 10)).$((tenths % 10))" \
        "$((${executions:-0} * 10 / tenths))" "${coverage:-0}" "$units" "$crashes"
    if [ "$code" != 0 ] || [ "$crashes" != 0 ]; then
        failed=1
        tail -n 60 "$work/log" >&2
    fi
done
exit "$failed"
