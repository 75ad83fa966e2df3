#!/usr/bin/env bash
# Soak test: changes everything under load for hours, in rounds, and ends with one verdict: lost, duplicated and misplaced
# metrics, memory growth, descriptors, the longest stall.
#
# Usage: scripts/soak.sh HOURS [RATE] [--json FILE]   0.01 to 1000 hours, e.g. 8 or 0.5; datagrams/s (default 20000)
#        STATSRING=path scripts/soak.sh 8             tests that program
#        LIFE=10 TOLERANCE_KIB=1024 STALL_MS=10000 scripts/soak.sh 8
#                                                     rounds per process; maximum growth and stall
#
# A round has five phases. Each has its own load of numbered metrics and exact counters:
#   restarts   repeated SIGUSR2; in the first round and then every LIFE-th, so that one process lives long
#   reloads    changed settings, a fourth backend added, changed settings, the fourth removed; unchanged backends keep sockets
#   outages    a backend is killed and restarted; what is sent to it before the failure is detected is "explained" (UDP), and
#              must be exactly the difference between what was sent to it and what it received
#   drains     each backend is set to drain or down and up again by the admin port; the load comes in bursts
#   hostile    junk from another sender, hostile admin connections, every admin command; the load comes in bursts
# The proxy stays up through all of them. There are at least three rounds, so a short soak may take longer than HOURS.
#
# After each round, with no metric pending: resident memory and live heap, compared with those after the second round; open
# files. The longest stall is the longest time of a metric from its send to the read at its backend.
#
# Exit 0 on PASS, 1 on FAIL, 64 on usage errors, 71 on OS errors.
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
        echo "$name: $hours: expected hours from 0.01 to 1000" >&2
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
command -v python3 >/dev/null || die "python3 is not installed (Debian: python3)"

total_s=$(awk -v hours="$hours" 'BEGIN { printf "%d", hours * 3600 + 0.5 }')
# A phase takes about one second besides its changes.
phase_s=$((total_s / 15 - 1))
[ "$phase_s" -ge 2 ] || phase_s=2
[ "$phase_s" -le 12 ] || phase_s=12
# The lifetime of child processes, should the script be killed.
bound_s=$((total_s + 1000))
junk_rate=2000

phases=(restarts reloads outages drains hostile)
declare -A sums
reasons=() round_lines=()
rounds=0 reason_count=0 answer_ms=0
phase=restarts

# Adds to a sum of the phase.
add() {
    sums[$phase.$1]=$((${sums[$phase.$1]:-0} + ${2:-0}))
}

# Records a failure. All are counted, the first 20 kept.
failure() {
    reason_count=$((reason_count + 1))
    echo "FAIL: round $rounds, $phase: $1"
    [ ${#reasons[@]} -ge 20 ] || reasons+=("round $rounds, $phase: $1")
}

# Updates the longest time from a send to a read (µs) of the phase and of the round.
stall() {
    [ "${1:-0}" -le "${sums[$phase.stall_us]:-0}" ] || sums[$phase.stall_us]=$1
    [ "${1:-0}" -le "$round_stall_us" ] || round_stall_us=$1
    [ "${1:-0}" -le $((stall_ms_max * 1000)) ] || failure "a metric took $(($1 / 1000)) ms; the limit is $stall_ms_max ms"
}

# A sum over all phases.
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
    # The first process exits at the first restart; its session is shared by all successors.
    leader=$proxy_pid
    children=()
    config 0 3 >"$work/three.json"
    config 0 4 >"$work/four.json"
    answer_health 0 2 3
    answer_health 1
    victim_health=$started
    # The proxy started first and found them down.
    await_state each up || die "not all backends are up"
    # A burst fills at most an eighth of the receive buffer, at 832 bytes per small datagram.
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
    echo "interrupted in round $rounds; completed phases:"
    print_table
    exit "$1"
}

# Runs one phase. Fails if the soak cannot continue.
run_phase() {
    phase=$1
    add times 1
    local code=0
    $phase 2>"$work/errors" || code=1
    if ! is_alive; then
        failure "the proxy exited: process $proxy_pid"
        return 1
    fi
    cat "$work/errors" >&2
    return "$code"
}

# Checks the log since the last round for panics, and truncates it.
check_log() {
    if grep -a "panicked" "$work/log" >"$work/panics"; then
        failure "panic in the log: $(head -1 "$work/panics")"
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
    snapshot round || return 1
    take_sample || return 1
    check_log
    check_growth
    events=
    for each in "${phases[@]}"; do
        events+="${events:+, }$((${sums[$each.churn]:-0} - was[$each])) $each"
    done
    printf 'round %-4d %6d s  %s  %s; total: lost %d, duplicated %d, misplaced %d, explained %d; resident %d KiB, heap %d KiB, %d open files; stall %d ms\n' \
        "$rounds" "$SECONDS" "$([ "$reason_count" = "$before" ] && echo pass || echo FAIL)" "$events" \
        "$(all lost)" "$(all duplicated)" "$(all misplaced)" "$(all explained)" \
        "$sample_resident" $((sample_heap / 1024)) "$sample_descriptors" $((round_stall_us / 1000))
    round_lines+=("{\"round\": $rounds, \"seconds\": $SECONDS, \"pid\": $proxy_pid, \"resident_kib\": $sample_resident, \"heap_bytes\": $sample_heap, \"descriptors\": $sample_descriptors, \"stall_ms\": $((round_stall_us / 1000)), \"reasons\": $((reason_count - before))}")
}

# Compares with the second round; the first one is a warm-up.
check_growth() {
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
        failure "resident memory grew by $((sample_resident - resident_base)) KiB; the limit is $tolerance_kib KiB"
    [ $((sample_heap - heap_base)) -le $((tolerance_kib * 1024)) ] ||
        failure "the heap grew by $(((sample_heap - heap_base) / 1024)) KiB; the limit is $tolerance_kib KiB"
    [ "$sample_descriptors" -le "$descriptors_base" ] ||
        failure "$sample_descriptors files are open; after the second round it was $descriptors_base"
}

print_table() {
    local each row='%-10s %6s %10s %14s %6s %11s %10s %10s %9s\n'
    # shellcheck disable=SC2059 # the format is row
    printf "$row" phase times changes metrics lost duplicated misplaced explained "stall ms"
    for each in "${phases[@]}"; do
        # shellcheck disable=SC2059
        printf "$row" "$each" "${sums[$each.times]:-0}" "${sums[$each.churn]:-0}" "${sums[$each.sent]:-0}" \
            "${sums[$each.lost]:-0}" "${sums[$each.duplicated]:-0}" "${sums[$each.misplaced]:-0}" \
            "${sums[$each.explained]:-0}" $((${sums[$each.stall_us]:-0} / 1000))
    done
    echo "hostile: ${sums[hostile.junk]:-0} junk datagrams, ${sums[hostile.connections]:-0} hostile connections, ${sums[hostile.answers]:-0} admin replies, the slowest after $answer_ms ms"
    if [ -n "${resident_base:-}" ]; then
        echo "resident   $resident_first KiB after the first round, $resident_base after the second, $resident_max at most since: growth $((resident_max - resident_base)), limit $tolerance_kib"
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

# Prints JSON values, comma-separated.
json_list() {
    local first=yes item
    for item in "$@"; do
        [ -n "$first" ] || echo ,
        first=
        printf '    %s' "$item"
    done
    echo
}

# Prints a string as JSON.
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
  "passed": $([ "$reason_count" = 0 ] && echo true || echo false),
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
  "junk_datagrams": ${sums[hostile.junk]:-0},
  "hostile_connections": ${sums[hostile.connections]:-0},
  "answers": ${sums[hostile.answers]:-0},
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
    echo "end of the proxy's log:"
    tail -5 "$work/log"
    fail "$reason_count failures in $rounds rounds, $SECONDS s; the first: ${reasons[0]}"
fi
echo "PASS: $rounds rounds in $SECONDS s, $(all sent) metrics: 0 lost, 0 duplicated, 0 misplaced; $(all explained) explained by ${sums[outages.churn]} outages; longest stall $(longest_stall_ms) ms"
