#!/usr/bin/env bash
# Restarts without loss, under load: starts statsring in front of three sinks, sends numbered metrics, and has it start
# itself again by SIGUSR2 as often as asked. The verdict is the load's: nothing lost, nothing twice, no name at two backends.
#
# Usage: scripts/restart-test.sh [COUNT] [RATE]      restarts (50), and datagrams a second (50000)
#        STATSRING=path scripts/restart-test.sh      with that program
#        CONFIG='"workers": 2' ...                   more keys for the proxy's config, as JSON
#        NAMES=10000 FLOWS=4 GAP=0.2 ...             names, sending sockets, seconds between two restarts
#
# Exit 0 if the verdict is good, 1 if it is bad, 64 for wrong usage, 71 if the system refused something.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    echo "restart-test: $*" >&2
    exit 71
}

count=${1:-50}
rate=${2:-50000}
if ! [[ $count =~ ^[1-9][0-9]{0,3}$ && $rate =~ ^[1-9][0-9]{0,6}$ ]]; then
    echo "restart-test: expected a number of restarts (1 to 9999) and a rate, e.g. scripts/restart-test.sh 50 50000" >&2
    exit 64
fi
gap=${GAP:-0.2}

work=$(mktemp -d)
proxy_pid=
load_pid=
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
    local pid
    for pid in $load_pid $proxy_pid; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    [ -z "$load_pid" ] || wait "$load_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

program=${STATSRING:-}
if [ -z "$program" ]; then
    cargo build --release
    program=${CARGO_TARGET_DIR:-target}/release/statsring
fi
[ -x "$program" ] || die "no program at $program"
program=$(readlink -f "$program")

ask() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$((port + 1))" || exit 1
        printf '%s\nquit\n' "$1" >&3
        timeout 5 cat <&3
    ) 2>/dev/null
}

value() {
    sed -n "s/^$1: //p"
}

are_free() {
    local taken number
    taken=$(cat /proc/net/udp /proc/net/udp6 /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    for number in "$@"; do
        [[ $taken != *":$(printf %04X "$number") "* ]] || return 1
    done
}

# Ports below the range of those that the kernel gives away.
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    port=$((20000 + RANDOM % 12000))
    are_free "$port" $((port + 1)) $((port + 2)) $((port + 3)) $((port + 4)) && break
    [ "$attempt" -lt 10 ] || die "no free ports"
done
cat >"$work/config.json" <<JSON
{
  "host": "127.0.0.1", "port": $port, "managementHost": "127.0.0.1", "managementPort": $((port + 1)),
  ${CONFIG:+$CONFIG,}
  "nodes": [
    { "host": "127.0.0.1", "port": $((port + 2)) },
    { "host": "127.0.0.1", "port": $((port + 3)) },
    { "host": "127.0.0.1", "port": $((port + 4)) }
  ]
}
JSON
"$program" -f "$work/config.json" 2>"$work/log" &
proxy_pid=$!
disown "$proxy_pid"
for ((tick = 0; tick < 300; tick++)); do
    [ "$(ask ping | head -1)" = pong ] && break
    kill -0 "$proxy_pid" 2>/dev/null || { cat "$work/log" >&2; die "the proxy did not start"; }
    sleep 0.1
done

# Longer than the restarts can take: it is ended when they are done.
"$program" load --to "127.0.0.1:$port" --sink "$((port + 2)),$((port + 3)),$((port + 4))" --rate "$rate" \
    --names "${NAMES:-10000}" --flows "${FLOWS:-4}" --seconds 3600 --quiet >"$work/verdict" 2>"$work/load-log" &
load_pid=$!
sleep 1

longest_ms=0
for ((number = 1; number <= count; number++)); do
    before=$proxy_pid
    start_ms=$(date +%s%3N)
    kill -USR2 "$before"
    for ((tick = 0; ; tick++)); do
        status=$(ask status || true)
        pid=$(value pid <<<"$status")
        if [ -n "$pid" ] && [ "$pid" != "$before" ] && [[ $status == *"last_restart: "*complete* ]]; then
            break
        fi
        [ "$tick" -lt 1200 ] || { tail -20 "$work/log" >&2; die "restart $number was not complete after 60 s: $status"; }
        sleep 0.05
    done
    proxy_pid=$pid
    took_ms=$(($(date +%s%3N) - start_ms))
    [ "$took_ms" -le "$longest_ms" ] || longest_ms=$took_ms
    kill -0 "$load_pid" 2>/dev/null || { cat "$work/load-log" >&2; die "the load ended early"; }
    sleep "$gap"
done
kill -INT "$load_pid"
code=0
wait "$load_pid" || code=$?
load_pid=
cat "$work/verdict"
grep -q "\(metrics_dropped\|kernel_drops\)" <<<"$(ask stats)" || die "the proxy's account cannot be read"
echo
echo "$count restarts at $rate datagrams/s, the longest took $longest_ms ms until the old process had ended"
grep -c "final counters: " "$work/log" | sed 's/$/ final counters of old processes in the log; those that dropped anything:/'
grep "final counters: " "$work/log" | grep -v "dropped 0, pending 0.*dropped by the kernel before 0\$" || echo "  none"
exit "$code"
