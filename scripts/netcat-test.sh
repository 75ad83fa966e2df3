#!/usr/bin/env bash
# Queries the admin port with the common netcats: Debian's netcat-openbsd and netcat-traditional, ncat, and busybox nc; with and
# without a newline, with and without half-close, over 127.0.0.1 and ::1.
#
# Usage: scripts/netcat-test.sh               builds and tests the program
#        STATSRING=path scripts/netcat-test.sh   tests that program
#
# Installs missing netcats with apt-get (as root); one that cannot be installed is a failure.
# Prints a line for each failure and ends with "N passed, N failed"; exit 0 only if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

name=netcat-test
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

parallel_max=8
answer_seconds_max=10

install_netcats() {
    local missing=()
    command -v nc.openbsd >/dev/null || missing+=(netcat-openbsd)
    command -v nc.traditional >/dev/null || missing+=(netcat-traditional)
    command -v ncat >/dev/null || missing+=(ncat)
    command -v busybox >/dev/null || missing+=(busybox)
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || die "installing ${missing[*]} requires root"
    command -v apt-get >/dev/null || die "apt-get, to install ${missing[*]}, was not found"
    export DEBIAN_FRONTEND=noninteractive
    # Try the existing package lists first.
    apt-get install -y --no-install-recommends "${missing[@]}" >"$work/apt" 2>&1 ||
        { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$work/apt" 2>&1 ||
        { tail -n 20 "$work/apt" >&2; die "apt-get failed to install ${missing[*]}"; }
}

write_config() {
    cat >"$work/config.json" <<JSON
{ "port": $port, "managementPort": $admin, "nodes": [{ "host": "127.0.0.1", "port": ${ports[0]} }] }
JSON
}

# --- Commands and their expected replies -----------------------------------------------------------------------

memstats_names=(
    'bytes allocated and in use' 'bytes allocated total' 'bytes obtained from system'
    'number of pointer lookups' 'number of mallocs' 'number of frees' 'bytes allocated and still in use'
    'bytes obtained from system' 'bytes in idle spans' 'bytes in non-idle span' 'bytes released to the OS'
    'total number of allocated objects'
)

# Each prints what is wrong with the reply in file $1, or nothing.
check_ping() {
    [ "$(cat "$1")" = pong ] || echo "expected pong"
}

check_stats() {
    local first second rest
    first=$(sed -n 1p "$1")
    second=$(sed -n 2p "$1")
    [[ $first =~ ^'time running in seconds: '[0-9]+$ ]] || echo "line 1: expected 'time running in seconds: N'"
    [[ $second =~ ^'packets_received: '[0-9]+\.000000$ ]] || echo "line 2: expected 'packets_received: N.000000'"
    rest=$(tail -n +3 "$1" | grep -vEm1 '^[a-z0-9_]+: [0-9]+\.[0-9]{6}$') &&
        echo "expected 'name: N.NNNNNN', found $rest"
    for name in metrics_received metrics_sent metrics_pending metrics_dropped_malformed kernel_drops; do
        grep -q "^$name: " "$1" || echo "line $name is missing"
    done
}

check_memstats() {
    local i line
    for i in "${!memstats_names[@]}"; do
        line=$(sed -n $((i + 1))p "$1")
        [[ $line =~ ^"${memstats_names[i]}: "[0-9]+$ ]] || echo "line $((i + 1)): expected '${memstats_names[i]}: N'"
    done
}

check_help() {
    local name
    for name in ping stats memstats latency backends health status config where tap reload version help quit; do
        grep -qw -- "$name" "$1" || echo "command $name is missing"
    done
}

check_unknown() {
    [[ $(sed -n 1p "$1") == 'unknown command'* ]] || echo "expected 'unknown command'"
}

check_pipelined() {
    local first second third
    first=$(sed -n 1p "$1")
    second=$(sed -n 2p "$1")
    third=$(sed -n 3p "$1")
    [ "$first" = pong ] || echo "line 1: expected pong"
    [[ $second == 'unknown command'* ]] || echo "line 2: expected 'unknown command'"
    [ "$third" = pong ] || echo "line 3: expected pong"
}

# --- Running ---------------------------------------------------------------------------------------------------

cases=0

# try NAME HOST COMMAND INPUT NETCAT...: runs one case in the background and writes its verdict to a file.
try() {
    local name=$1 host=$2 command=$3 input=$4
    shift 4
    while [ "$(jobs -rp | wc -l)" -gt "$parallel_max" ]; do
        wait -n 2>/dev/null || true
    done
    cases=$((cases + 1))
    local base="$work/case.$cases"
    (
        # The exit code of a netcat depends on how the connection ended: ncat -i exits with 1.
        printf '%b' "$input" |
            timeout "$answer_seconds_max" "$@" "$host" "$admin" >"$base.answer" 2>"$base.error" || code=$?
        why=$("check_$command" "$base.answer" || true)
        if [ "${code:-0}" = 124 ]; then
            why="${why:+$why; }not finished within $answer_seconds_max s"
        fi
        {
            echo "${why:+FAIL }$name"
            if [ -n "$why" ]; then
                while IFS= read -r line; do echo "    $line"; done <<<"$why"
                echo "    reply, first lines:"
                head -n 4 "$base.answer" | cat -v | sed 's/^/      /'
                head -n 2 "$base.error" | sed 's/^/      stderr: /'
            fi
        } >"$base.verdict"
    ) &
}

# try_all HOST LABEL NETCAT...: tries all commands, with and without a newline.
try_all() {
    local host=$1 label=$2 command text
    shift 2
    for command in ping stats memstats help unknown; do
        text=$command
        try "$label $host '$text'" "$host" "$command" "$text" "$@"
        try "$label $host '$text\\n'" "$host" "$command" "$text\\n" "$@"
    done
    try "$label $host three commands, the last without newline" "$host" pipelined 'ping\nnonsense\r\nping' "$@"
}

find_program
install_netcats
start_proxy 1

hosts=(127.0.0.1)
if grep -q '^0\{31\}1 ' /proc/net/if_inet6 2>/dev/null; then
    hosts+=(::1)
else
    [ "${CI:-}" != true ] || die "::1 is not available; with CI=true no test may be skipped"
    echo "skipped: ::1 is not available"
fi

for host in "${hosts[@]}"; do
    try_all "$host" 'nc.openbsd -w1 (stays open)' nc.openbsd -w1
    try_all "$host" 'nc.openbsd -N (half-close)' nc.openbsd -N
    try_all "$host" 'nc.openbsd -q1 (half-close)' nc.openbsd -q1
    if [ "$host" = 127.0.0.1 ]; then
        try_all "$host" 'nc.traditional -w1 (stays open)' nc.traditional -w1
        try_all "$host" 'nc.traditional -q1 (half-close)' nc.traditional -q1
    else
        echo "nc.traditional does not support IPv6: not tried over ::1"
    fi
    try_all "$host" 'ncat (half-close)' ncat
    try_all "$host" 'ncat --no-shutdown -i1 (stays open)' ncat --no-shutdown -i1
    try_all "$host" 'busybox nc (half-close)' busybox nc
done
# The proxy is a job of this shell, too: wait only for the cases.
for pid in $(jobs -rp); do
    [ "$pid" = "$proxy_pid" ] || wait "$pid" 2>/dev/null || true
done

passed=0
failed=0
for ((i = 1; i <= cases; i++)); do
    if [ ! -s "$work/case.$i.verdict" ]; then
        echo "FAIL case $i has no verdict"
        failed=$((failed + 1))
    elif grep -q '^FAIL ' "$work/case.$i.verdict"; then
        cat "$work/case.$i.verdict"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
done
if ! kill -0 "$proxy_pid" 2>/dev/null; then
    echo "FAIL the proxy exited:"
    tail -n 20 "$work/log"
    failed=$((failed + 1))
fi
echo "netcat-test: $passed passed, $failed failed"
[ "$failed" = 0 ]
