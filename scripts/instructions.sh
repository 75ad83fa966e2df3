#!/usr/bin/env bash
# Counts the relay's instructions per metric, with the portable scanner, and compares them with the recorded values
# (benches/instructions.txt). Independent of time, so it works on a busy machine.
#
# Usage: scripts/instructions.sh             exits with 1 if a value exceeds the recorded one by more than TOLERANCE percent
#        scripts/instructions.sh --record    records the values instead
#
# Improvements are reported; record them. With another compiler the tolerance is TOLERANCE_OTHER_COMPILER; record new values.
# Requires valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TOLERANCE=4 TOLERANCE_OTHER_COMPILER=15
readonly RECORDED=benches/instructions.txt
readonly SCENARIOS=(3_nodes 3_nodes_single 3_nodes_no_cache 3_nodes_unpadded 1000_nodes)
# The first rounds warm up the cache and the packets.
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
    echo "instructions: the recorded values are for x86-64, this is $(uname -m): nothing to compare"
    exit 0
fi

# Flags for this processor would change the code.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
cargo build --release --example instructions
program=${CARGO_TARGET_DIR:-target}/release/examples/instructions

# Instructions of a whole run. The C library's copy functions depend on the processor; the baseline ones are the same on all
# hosts. Valgrind 3.19 does not support AVX-512 and hides it from the program.
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
    echo "note: recorded with $recorded_by, this is $compiler: up to $tolerance % more is accepted; record new values"
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
        if (change < -tolerance) verdict = "  improved: record it"
        printf "%-20s %10.2f %10.2f %+7.2f%%%s\n", $1, before[$1], $2, change, verdict
    }
    END { exit bad }'
