#!/usr/bin/env bash
# Counts the instructions that the relay takes for a metric, with lines found by the portable way, and compares them with
# the recorded figures (benches/instructions.txt). No clock is read: a busy machine counts the same.
#
# Usage: scripts/instructions.sh             exit 1 if a figure is more than TOLERANCE percent above the recorded one
#        scripts/instructions.sh --record    writes the figures down instead
#
# A figure that has become smaller is told, and to be recorded. Another compiler makes other code: then the tolerance is
# TOLERANCE_OTHER_COMPILER, and the figures are to be recorded anew. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TOLERANCE=4 TOLERANCE_OTHER_COMPILER=15
readonly RECORDED=benches/instructions.txt
readonly SCENARIOS=(3_nodes 3_nodes_single 3_nodes_no_cache 3_nodes_unpadded 1000_nodes)
# The first rounds fill the cache and the packets; the counted ones begin behind them.
readonly ROUNDS_BEFORE=2 ROUNDS_COUNTED=4

die() {
    echo "instructions: $*" >&2
    exit 70
}

case "$*" in
'' | --record) ;;
*)
    echo "usage: $0 [--record]" >&2
    exit 64
    ;;
esac
command -v valgrind >/dev/null || die "valgrind is not installed (Debian: valgrind)"
if [ "$(uname -m)" != x86_64 ]; then
    echo "instructions: the figures are x86-64's, and this is $(uname -m): nothing to compare"
    exit 0
fi

# Flags for this machine's processor would make other code than the released one.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
cargo build --release --example instructions
program=${CARGO_TARGET_DIR:-target}/release/examples/instructions

# Instructions of a whole run. The C library copies by the processor's features, which differ from host to host: the plain
# way is the same on all of them. Valgrind 3.19 does not know AVX-512, and hides it from the program.
instructions() {
    local log count
    log=$(env -i PATH="$PATH" GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM \
        valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 >/dev/null) ||
        die "$1 did not run: $log"
    count=$(sed -n 's/^==[0-9]*== Collected : *\([0-9]*\)$/\1/p' <<<"$log")
    [ -n "$count" ] || die "valgrind did not count: $log"
    echo "$count"
}

compiler=$(rustc --version)
metrics=$("$program" "${SCENARIOS[0]}" 0)
measured=
for scenario in "${SCENARIOS[@]}"; do
    before=$(instructions "$scenario" "$ROUNDS_BEFORE")
    after=$(instructions "$scenario" $((ROUNDS_BEFORE + ROUNDS_COUNTED)))
    figure=$(awk -v i=$((after - before)) -v n=$((ROUNDS_COUNTED * metrics)) 'BEGIN { printf "%.2f", i / n }')
    measured+="$scenario $figure"$'\n'
done

if [ "${1:-}" = --record ]; then
    {
        echo "# Instructions per metric of 40 bytes, x86-64, portable scanner: scripts/instructions.sh --record"
        echo "# $compiler"
        printf '%s' "$measured"
    } >"$RECORDED"
    cat "$RECORDED"
    exit 0
fi

recorded_by=$(sed -n 's/^# \(rustc .*\)$/\1/p' "$RECORDED")
tolerance=$TOLERANCE
if [ "$recorded_by" != "$compiler" ]; then
    tolerance=$TOLERANCE_OTHER_COMPILER
    echo "note: recorded with $recorded_by, this is $compiler: up to $tolerance % more are let through; record anew"
fi
printf '%s' "$measured" | awk -v tolerance="$tolerance" -v recorded="$RECORDED" '
    BEGIN {
        while ((getline line < recorded) > 0)
            if (line !~ /^#/) { split(line, pair, " "); before[pair[1]] = pair[2] }
        printf "%-20s %10s %10s %8s\n", "instructions/metric", "recorded", "now", "change"
    }
    {
        if (!($1 in before)) { print $1 ": not recorded; run with --record"; bad = 1; next }
        change = 100 * ($2 / before[$1] - 1)
        verdict = ""
        if (change > tolerance) { verdict = "  too many"; bad = 1 }
        if (change < -tolerance) verdict = "  better: record it"
        printf "%-20s %10.2f %10.2f %+7.2f%%%s\n", $1, before[$1], $2, change, verdict
    }
    END { exit bad }'
