#!/usr/bin/env bash
# The admin port, asked with the netcats that people have: Debian's netcat-openbsd and netcat-traditional, ncat, and
# busybox nc; with and without a newline, with and without half-close, over 127.0.0.1 and ::1.
#
# Usage: scripts/netcat-test.sh            builds the program and tests it
#        STATSRING=path scripts/netcat-test.sh   tests that program
#
# Missing netcats are installed with apt-get (as root); one that cannot be had is a failure, not a silent gap.
# Prints a line for each failure and ends with "N passed, N failed"; exit 0 only if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

parallel_max=8
answer_seconds_max=10

work=$(mktemp -d)
proxy_pid=
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
    if [ -n "$proxy_pid" ] && kill -TERM "$proxy_pid" 2>/dev/null; then
        wait "$proxy_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

die() {
    echo "netcat-test: $*" >&2
    exit 1
}

# --- the parts -------------------------------------------------------------------------------------------------

install_netcats() {
    local missing=()
    command -v nc.openbsd >/dev/null || missing+=(netcat-openbsd)
    command -v nc.traditional >/dev/null || missing+=(netcat-traditional)
    command -v ncat >/dev/null || missing+=(ncat)
    command -v busybox >/dev/null || missing+=(busybox)
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || die "not root, so these cannot be installed: ${missing[*]}"
    command -v apt-get >/dev/null || die "no apt-get here to install: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # With the lists of an earlier update it may work at once; if not, they are fetched.
    apt-get install -y --no-install-recommends "${missing[@]}" >"$work/apt" 2>&1 ||
        { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$work/apt" 2>&1 ||
        { tail -n 20 "$work/apt" >&2; die "apt-get could not install: ${missing[*]}"; }
}

# The first lines of a plain ping, without any netcat: tells when the proxy is there.
admin_answers() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
        echo ping >&3
        read -r -t 2 line <&3 && [ "$line" = pong ]
    ) 2>/dev/null
}

# Ports are tried, not reserved: a taken one ends the proxy with exit code 71 and the next is tried.
start_proxy() {
    local attempt udp tcp tick
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        udp=$((20000 + RANDOM % 12000))
        tcp=$((20000 + RANDOM % 12000))
        cat >"$work/config.json" <<JSON
{
  "port": $udp,
  "managementPort": $tcp,
  "nodes": [{ "host": "127.0.0.1", "port": $((udp + 1)) }]
}
JSON
        "$program" -f "$work/config.json" >"$work/log" 2>&1 &
        proxy_pid=$!
        for ((tick = 0; tick < 100; tick++)); do
            if admin_answers "$tcp" && kill -0 "$proxy_pid" 2>/dev/null; then
                admin_port=$tcp
                return
            fi
            kill -0 "$proxy_pid" 2>/dev/null || break
            sleep 0.1
        done
        if kill -0 "$proxy_pid" 2>/dev/null; then
            cat "$work/log" >&2
            die "the proxy runs but its admin port $tcp did not answer ping within 10 s"
        fi
        local code=0
        wait "$proxy_pid" || code=$?
        proxy_pid=
        [ "$code" = 71 ] && continue
        cat "$work/log" >&2
        die "the proxy ended with exit code $code"
    done
    cat "$work/log" >&2
    die "the proxy ended with exit code 71 on each of $attempt pairs of ports; above is what it said last"
}

# --- what is asked, and what must come back --------------------------------------------------------------------

memstats_names=(
    'bytes allocated and in use' 'bytes allocated total' 'bytes obtained from system'
    'number of pointer lookups' 'number of mallocs' 'number of frees' 'bytes allocated and still in use'
    'bytes obtained from system' 'bytes in idle spans' 'bytes in non-idle span' 'bytes released to the OS'
    'total number of allocated objects'
)

# Each prints why the answer in file $1 is wrong, or nothing.
check_ping() {
    [ "$(cat "$1")" = pong ] || echo "not exactly pong"
}

check_stats() {
    local first second rest
    first=$(sed -n 1p "$1")
    second=$(sed -n 2p "$1")
    [[ $first =~ ^'time running in seconds: '[0-9]+$ ]] || echo "line 1 is not 'time running in seconds: N'"
    [[ $second =~ ^'packets_received: '[0-9]+\.000000$ ]] || echo "line 2 is not 'packets_received: N.000000'"
    rest=$(tail -n +3 "$1" | grep -vEm1 '^[a-z0-9_]+: [0-9]+\.[0-9]{6}$') &&
        echo "a line that is not 'name: N.NNNNNN': $rest"
    for name in metrics_received metrics_sent metrics_pending metrics_dropped_malformed kernel_drops; do
        grep -q "^$name: " "$1" || echo "no line $name"
    done
}

check_memstats() {
    local i line
    for i in "${!memstats_names[@]}"; do
        line=$(sed -n $((i + 1))p "$1")
        [[ $line =~ ^"${memstats_names[i]}: "[0-9]+$ ]] || echo "line $((i + 1)) is not '${memstats_names[i]}: N'"
    done
}

check_help() {
    local name
    for name in ping stats memstats latency backends health status config where tap reload version help quit; do
        grep -qw -- "$name" "$1" || echo "does not name the command $name"
    done
}

check_no_such_command() {
    [[ $(sed -n 1p "$1") == 'unknown command'* ]] || echo "does not begin with 'unknown command'"
}

check_pipelined() {
    local first second third
    first=$(sed -n 1p "$1")
    second=$(sed -n 2p "$1")
    third=$(sed -n 3p "$1")
    [ "$first" = pong ] || echo "line 1 is not pong"
    [[ $second == 'unknown command'* ]] || echo "line 2 does not begin with 'unknown command'"
    [ "$third" = pong ] || echo "line 3 is not pong"
}

# --- running ---------------------------------------------------------------------------------------------------

cases=0

# ask NAME HOST COMMAND INPUT NETCAT...: one case in the background, its verdict in a file of its own.
ask() {
    local name=$1 host=$2 command=$3 input=$4
    shift 4
    while [ "$(jobs -rp | wc -l)" -gt "$parallel_max" ]; do
        wait -n 2>/dev/null || true
    done
    cases=$((cases + 1))
    local base="$work/case.$cases"
    (
        # A netcat's exit code says how the connection ended, not whether the answer was right: ncat -i ends with 1.
        printf '%b' "$input" |
            timeout "$answer_seconds_max" "$@" "$host" "$admin_port" >"$base.answer" 2>"$base.error" || code=$?
        why=$("check_$command" "$base.answer" || true)
        if [ "${code:-0}" = 124 ]; then
            why="${why:+$why; }no end within $answer_seconds_max s"
        fi
        {
            echo "${why:+FAIL }$name"
            if [ -n "$why" ]; then
                while IFS= read -r line; do echo "    $line"; done <<<"$why"
                echo "    answer, first lines:"
                head -n 4 "$base.answer" | cat -v | sed 's/^/      /'
                head -n 2 "$base.error" | sed 's/^/      stderr: /'
            fi
        } >"$base.verdict"
    ) &
}

# ask_all HOST LABEL NETCAT...: every command, with and without a newline.
ask_all() {
    local host=$1 label=$2 command text
    shift 2
    for command in ping stats memstats help no_such_command; do
        text=${command//_/-}
        ask "$label $host '$text'" "$host" "$command" "$text" "$@"
        ask "$label $host '$text\\n'" "$host" "$command" "$text\\n" "$@"
    done
    ask "$label $host three commands, the last without newline" "$host" pipelined 'ping\nnonsense\r\nping' "$@"
}

program=${STATSRING:-}
if [ -z "$program" ]; then
    cargo build --release
    program=${CARGO_TARGET_DIR:-target}/release/statsring
fi
[ -x "$program" ] || die "no program at $program"
install_netcats
start_proxy

hosts=(127.0.0.1)
if grep -q '^0\{31\}1 ' /proc/net/if_inet6 2>/dev/null; then
    hosts+=(::1)
else
    [ "${CI:-}" != true ] || die "this machine has no ::1, and with CI=true no test may be skipped"
    echo "skipped: ::1, which this machine does not have"
fi

for host in "${hosts[@]}"; do
    ask_all "$host" 'nc.openbsd -w1 (stays open)' nc.openbsd -w1
    ask_all "$host" 'nc.openbsd -N (half-close)' nc.openbsd -N
    ask_all "$host" 'nc.openbsd -q1 (half-close)' nc.openbsd -q1
    if [ "$host" = 127.0.0.1 ]; then
        ask_all "$host" 'nc.traditional -w1 (stays open)' nc.traditional -w1
        ask_all "$host" 'nc.traditional -q1 (half-close)' nc.traditional -q1
    else
        echo "nc.traditional does not speak IPv6: not tried over ::1"
    fi
    ask_all "$host" 'ncat (half-close)' ncat
    ask_all "$host" 'ncat --no-shutdown -i1 (stays open)' ncat --no-shutdown -i1
    ask_all "$host" 'busybox nc (half-close)' busybox nc
done
# The proxy is a job of this shell too: wait for the cases alone.
for pid in $(jobs -rp); do
    [ "$pid" = "$proxy_pid" ] || wait "$pid" 2>/dev/null || true
done

passed=0
failed=0
for ((i = 1; i <= cases; i++)); do
    if [ ! -s "$work/case.$i.verdict" ]; then
        echo "FAIL case $i left no verdict"
        failed=$((failed + 1))
    elif grep -q '^FAIL ' "$work/case.$i.verdict"; then
        cat "$work/case.$i.verdict"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
done
if ! kill -0 "$proxy_pid" 2>/dev/null; then
    echo "FAIL the proxy did not survive:"
    tail -n 20 "$work/log"
    failed=$((failed + 1))
fi
echo "netcat-test: $passed passed, $failed failed"
[ "$failed" = 0 ]
