#!/usr/bin/env bash
# A soak: everything is churned under load for hours, round by round, and the end is one verdict: lost, duplicated and
# misplaced metrics, memory growth, descriptors, the longest stall.
#
# Usage: scripts/soak.sh HOURS [RATE] [--json FILE]   how long, 0.01 to 1000, as 8 or 0.5; datagrams/s (default 20000)
#        STATSRING=path scripts/soak.sh 8             with that program
#        LIFE=10 TOLERANCE_KIB=1024 STALL_MS=10000 scripts/soak.sh 8
#                                                     rounds that a process lives; more growth or a longer stall is bad
#
# A round has five phases. Each has a load of its own with numbered metrics, and an account that is exact:
#   restarts   SIGUSR2 again and again; in the first round and in every LIFE-th one behind it, so that one process lives long
#   reloads    settings, a fourth backend added, settings, the fourth removed; identical backends keep their sockets
#   outages    a backend is killed and comes back; what was sent to it before it was found dead is "explained", as UDP has
#              no receipt, and has to be exactly the difference between what it was sent and what it got
#   drains     each backend is drained, or set to down, by the admin port, and given back; the load comes in bursts
#   strangers  junk from another sender, hostile admin connections, every admin command; the load comes in bursts
# The proxy lives through all of them. There are at least three rounds, so that a short soak may take a little longer.
#
# After each round, when nothing is on its way: resident memory and live heap, compared with those after the second round;
# open files. The longest stall is the longest time that a metric took from its send to the read at its backend.
#
# Exit 0 if the verdict is good, 1 if it is bad, 64 for wrong usage, 71 if the system refused something.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
name=soak
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash
# shellcheck source=scripts/soak/process.bash
. scripts/soak/process.bash
# shellcheck source=scripts/soak/phases.bash
. scripts/soak/phases.bash

hours='' rate=20000 json=''
take_arguments() {
    local given=()
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage 0 ;;
            --json) [ $# -gt 1 ] || usage 64 >&2; json=$2; shift ;;
            --json=*) json=${1#--json=} ;;
            -*) echo "$name: unknown option $1" >&2; usage 64 >&2 ;;
            *) given+=("$1") ;;
        esac
        shift
    done
    if [ ${#given[@]} -lt 1 ] || [ ${#given[@]} -gt 2 ]; then
        usage 64 >&2
    fi
    hours=${given[0]} rate=${given[1]:-20000}
    if ! [[ $hours =~ ^([0-9]{1,4}(\.[0-9]{0,6})?|\.[0-9]{1,6})$ ]] ||
        ! awk -v hours="$hours" 'BEGIN { exit !(hours >= 0.01 && hours <= 1000) }'; then
        echo "$name: $hours: give hours from 0.01 to 1000" >&2
        usage 64 >&2
    fi
    number "$rate" 100 1000000
}
take_arguments "$@"
life=${LIFE:-10} tolerance_kib=${TOLERANCE_KIB:-1024} stall_ms_max=${STALL_MS:-10000}
number "$life" 1 1000000
number "$tolerance_kib" 0 100000000
number "$stall_ms_max" 1 90000
if [ -n "$json" ]; then
    [[ $json = /* ]] || json=$here/$json
    : >"$json" || exit 71
fi
command -v setsid >/dev/null || die "setsid is not installed (Debian: util-linux)"
command -v python3 >/dev/null || die "python3 is not installed (Debian: python3)"

total_s=$(awk -v hours="$hours" 'BEGIN { printf "%d", hours * 3600 + 0.5 }')
# Of a phase about a second goes by before and behind its churn.
phase_s=$((total_s / 15 - 1))
[ "$phase_s" -ge 2 ] || phase_s=2
[ "$phase_s" -le 12 ] || phase_s=12
# When what this script has started ends by itself, should the script be killed.
bound_s=$((total_s + 1000))
junk_rate=2000

phases=(restarts reloads outages drains strangers)
declare -A sums
reasons=() round_lines=()
rounds=0 reason_count=0 answer_ms=0
phase=restarts

# Adds to a sum of the phase.
add() {
    sums[$phase.$1]=$((${sums[$phase.$1]:-0} + ${2:-0}))
}

# Something is not as it should be. The first few reasons are kept, all are counted.
blame() {
    reason_count=$((reason_count + 1))
    echo "BAD: round $rounds, $phase: $1"
    [ ${#reasons[@]} -ge 20 ] || reasons+=("round $rounds, $phase: $1")
}

# The longest time from a send to a read, in µs: of the phase, and of the round.
stall() {
    [ "${1:-0}" -le "${sums[$phase.stall_us]:-0}" ] || sums[$phase.stall_us]=$1
    [ "${1:-0}" -le "$round_stall_us" ] || round_stall_us=$1
    [ "${1:-0}" -le $((stall_ms_max * 1000)) ] || blame "a metric took $(($1 / 1000)) ms, and $stall_ms_max is too much"
}

# The sum of a figure over all phases.
all() {
    local each sum=0
    for each in "${phases[@]}"; do
        sum=$((sum + ${sums[$each.$1]:-0}))
    done
    echo "$sum"
}

# shellcheck disable=SC2317,SC2329 # called by the trap
end_soak() {
    trap - EXIT
    end_proxy
    finish
}

start_soak() {
    local granted
    find_program
    trap end_soak EXIT
    start_proxy 8
    # The first process ends with the first restart; its session is what all of the chain share.
    leader=$proxy_pid
    children=()
    config 0 3 >"$work/three.json"
    config 0 4 >"$work/four.json"
    answer_health 0 2 3
    answer_health 1
    victim_health=$started
    # The proxy was there before them, and has found them down.
    await_state each up || die "the backends are not found up"
    # A burst fills at most an eighth of what the socket can hold, 832 bytes for a small datagram.
    granted=$(status_line receive_buffer | sed 's/ .*//')
    burst=$((${granted:-212992} / 832 / 8))
    [ "$burst" -le 1000 ] || burst=1000
    trap 'interrupted 143' TERM
    trap 'interrupted 130' INT
}

# shellcheck disable=SC2317,SC2329 # called by the trap
interrupted() {
    trap '' TERM INT
    echo
    echo "interrupted in round $rounds; what was complete:"
    print_table
    exit "$1"
}

# One phase; the soak cannot go on if it fails.
run_phase() {
    phase=$1
    add times 1
    local code=0
    $phase 2>"$work/errors" || code=1
    if ! is_alive; then
        blame "the proxy did not survive: process $proxy_pid is gone"
        return 1
    fi
    cat "$work/errors" >&2
    return "$code"
}

# The log since the last round must not tell of a panic; it is cut, so that it does not grow for hours.
look_at_log() {
    if grep -a "panicked" "$work/log" >"$work/panics"; then
        blame "the log tells of a panic: $(head -1 "$work/panics")"
    fi
    : >"$work/log"
}

run_round() {
    local before each events
    round_stall_us=0
    before=$reason_count
    declare -A was=()
    for each in "${phases[@]}"; do
        was[$each]=${sums[$each.churn]:-0}
    done
    for each in "${phases[@]}"; do
        [ "$each" != restarts ] || [ $(((rounds - 1) % life)) = 0 ] || continue
        run_phase "$each" || return 1
    done
    phase=memory
    note_figures round || return 1
    take_sample || return 1
    look_at_log
    weigh_sample
    events=
    for each in "${phases[@]}"; do
        events+="${events:+, }$((${sums[$each.churn]:-0} - was[$each])) $each"
    done
    printf 'round %-4d %6d s  %s  %s; in all lost %d, duplicated %d, misplaced %d, explained %d; resident %d KiB, heap %d KiB, %d open files; stall %d ms\n' \
        "$rounds" "$SECONDS" "$([ "$reason_count" = "$before" ] && echo good || echo BAD)" "$events" \
        "$(all lost)" "$(all duplicated)" "$(all misplaced)" "$(all explained)" \
        "$sample_resident" $((sample_heap / 1024)) "$sample_descriptors" $((round_stall_us / 1000))
    round_lines+=("{\"round\": $rounds, \"seconds\": $SECONDS, \"pid\": $proxy_pid, \"resident_kib\": $sample_resident, \"heap_bytes\": $sample_heap, \"descriptors\": $sample_descriptors, \"stall_ms\": $((round_stall_us / 1000)), \"reasons\": $((reason_count - before))}")
}

# Compares with the second round: the first one is for everything to have been used once.
weigh_sample() {
    [ "$rounds" -gt 1 ] || { resident_first=$sample_resident; return 0; }
    if [ "$rounds" = 2 ]; then
        resident_base=$sample_resident heap_base=$sample_heap descriptors_base=$sample_descriptors
        resident_max=$sample_resident heap_max=$sample_heap descriptors_max=$sample_descriptors
        return
    fi
    [ "$sample_resident" -le "$resident_max" ] || resident_max=$sample_resident
    [ "$sample_heap" -le "$heap_max" ] || heap_max=$sample_heap
    [ "$sample_descriptors" -le "$descriptors_max" ] || descriptors_max=$sample_descriptors
    [ $((sample_resident - resident_base)) -le "$tolerance_kib" ] ||
        blame "resident memory grew by $((sample_resident - resident_base)) KiB, and $tolerance_kib is too much"
    [ $((sample_heap - heap_base)) -le $((tolerance_kib * 1024)) ] ||
        blame "the heap grew by $(((sample_heap - heap_base) / 1024)) KiB, and $tolerance_kib is too much"
    [ "$sample_descriptors" -le "$descriptors_base" ] ||
        blame "$sample_descriptors files are open, $descriptors_base were after the second round"
}

print_table() {
    local each row='%-10s %6s %10s %14s %6s %11s %10s %10s %9s\n'
    # shellcheck disable=SC2059 # one form for the head and the rows
    printf "$row" phase times churned metrics lost duplicated misplaced explained "stall ms"
    for each in "${phases[@]}"; do
        # shellcheck disable=SC2059
        printf "$row" "$each" "${sums[$each.times]:-0}" "${sums[$each.churn]:-0}" "${sums[$each.sent]:-0}" \
            "${sums[$each.lost]:-0}" "${sums[$each.duplicated]:-0}" "${sums[$each.misplaced]:-0}" \
            "${sums[$each.explained]:-0}" $((${sums[$each.stall_us]:-0} / 1000))
    done
    echo "strangers: ${sums[strangers.junk]:-0} junk datagrams, ${sums[strangers.connections]:-0} hostile connections, ${sums[strangers.answers]:-0} questions answered, the slowest in $answer_ms ms"
    if [ -n "${resident_base:-}" ]; then
        echo "resident   $resident_first KiB after the first round, $resident_base after the second, $resident_max at most since: growth $((resident_max - resident_base)), $tolerance_kib is allowed"
        echo "heap       $heap_base bytes after the second round, $heap_max at most since"
        echo "open files $descriptors_base after the second round, $descriptors_max at most since"
    fi
}

longest_stall_ms() {
    local each longest=0
    for each in "${phases[@]}"; do
        [ "${sums[$each.stall_us]:-0}" -le "$longest" ] || longest=${sums[$each.stall_us]}
    done
    echo $((longest / 1000))
}

# A list of JSON texts, with commas between.
json_list() {
    local first=yes item
    for item in "$@"; do
        [ -n "$first" ] || echo ,
        first=
        printf '    %s' "$item"
    done
    echo
}

# A text as JSON.
quoted() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    printf '"%s"' "${text//[[:cntrl:]]/ }"
}

print_json() {
    local each quoted_reasons=() rows=()
    for each in "${reasons[@]}"; do
        quoted_reasons+=("$(quoted "$each")")
    done
    for each in "${phases[@]}"; do
        rows+=("\"$each\": {\"times\": ${sums[$each.times]:-0}, \"churned\": ${sums[$each.churn]:-0}, \"metrics\": ${sums[$each.sent]:-0}, \"lost\": ${sums[$each.lost]:-0}, \"duplicated\": ${sums[$each.duplicated]:-0}, \"misplaced\": ${sums[$each.misplaced]:-0}, \"explained\": ${sums[$each.explained]:-0}, \"stall_ms\": $((${sums[$each.stall_us]:-0} / 1000))}")
    done
    cat <<JSON
{
  "good": $([ "$reason_count" = 0 ] && echo true || echo false),
  "reason_count": $reason_count,
  "reasons": [
$(json_list "${quoted_reasons[@]}")
  ],
  "seconds": $SECONDS,
  "rate": $rate,
  "phase_seconds": $phase_s,
  "burst": $burst,
  "rounds": $rounds,
  "metrics": $(all sent),
  "lost": $(all lost),
  "duplicated": $(all duplicated),
  "misplaced": $(all misplaced),
  "explained": $(all explained),
  "longest_stall_ms": $(longest_stall_ms),
  "slowest_answer_ms": $answer_ms,
  "junk_datagrams": ${sums[strangers.junk]:-0},
  "hostile_connections": ${sums[strangers.connections]:-0},
  "answers": ${sums[strangers.answers]:-0},
  "memory": {"resident_base_kib": ${resident_base:-null}, "resident_max_kib": ${resident_max:-null}, "tolerance_kib": $tolerance_kib, "heap_base_bytes": ${heap_base:-null}, "heap_max_bytes": ${heap_max:-null}},
  "descriptors": {"base": ${descriptors_base:-null}, "max": ${descriptors_max:-null}},
  "phases": {
$(json_list "${rows[@]}")
  },
  "samples": [
$(json_list "${round_lines[@]}")
  ]
}
JSON
}

start_soak
SECONDS=0
echo "soak: $hours hours at $rate datagrams/s, phases of $phase_s s, bursts of $burst; process $proxy_pid"
while [ "$rounds" -lt 3 ] || [ $((SECONDS + phase_s * 2)) -lt "$total_s" ]; do
    rounds=$((rounds + 1))
    run_round || break
done
phase=end
print_table
[ -z "$json" ] || print_json >"$json" || die "cannot write $json"
if [ "$reason_count" != 0 ]; then
    echo "the end of the proxy's log:"
    tail -5 "$work/log"
    bad "$reason_count reasons in $rounds rounds, $SECONDS s; the first: ${reasons[0]}"
fi
echo "GOOD: $rounds rounds in $SECONDS s, $(all sent) metrics: 0 lost, 0 duplicated, 0 misplaced; $(all explained) explained by $((sums[outages.churn])) outages; longest stall $(longest_stall_ms) ms"
