#!/usr/bin/env bash
# Reloads under load. Verdict: nothing lost, nothing misplaced, and unchanged backends keep sockets, state and counters.
#
# The config alternates: changed settings (flushInterval, maxPacketSize, queue, malformed, a backend's gso), a fourth backend
# added, changed settings, the fourth backend removed. A metric is misplaced if it arrives at a backend that owns its name
# neither with three nor with four backends.
#
# Usage: scripts/reload-test.sh [COUNT] [RATE]      reloads (default 200), datagrams/s (default 50000)
#        STATSRING=path scripts/reload-test.sh      tests that program
#        CONFIG='"engine": "portable"' ...          further config keys, as JSON
#
# Exit 0 on PASS, 1 on FAIL, 64 on usage errors, 71 on OS errors.
set -euo pipefail
cd "$(dirname "$0")/.."
name=reload-test
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

case ${1:-} in -h | --help) usage 0 ;; esac
count=${1:-200} rate=${2:-50000}
number "$count" 1 100000
number "$rate" 1 1000000

# An upper bound: the load is ended after the last reload.
seconds=$((count + 60))

# Prints the config of reload number $1, with $2 backends.
config() {
    local turn=$((($1 + 1) / 2)) gso node text=
    local flush=(5 1 10 2) packet=(1432 512 8192 1000) queue=(262144 1048576 65536) malformed=(drop forward)
    for ((node = 0; node < $2; node++)); do
        gso=auto
        [ "$node" = 1 ] && [ $((turn % 2)) = 1 ] && gso=off
        text+="${text:+, }{ \"host\": \"127.0.0.1\", \"port\": ${ports[node]}, \"gso\": \"$gso\" }"
    done
    cat <<JSON
{
  "host": "127.0.0.1", "port": $port, "managementHost": "127.0.0.1", "managementPort": $admin,
  "flushInterval": ${flush[turn % 4]}, "maxPacketSize": ${packet[turn % 4]}, "queue": ${queue[turn % 3]},
  "malformed": "${malformed[turn % 2]}",
  ${CONFIG:+$CONFIG,}
  "nodes": [ $text ]
}
JSON
}

write_config() {
    config 0 3 >"$work/config.json"
}

reload() {
    local answer nodes
    nodes=$(($1 % 4 == 2 || $1 % 4 == 3 ? 4 : 3))
    config "$1" "$nodes" >"$work/next.json"
    mv "$work/next.json" "$work/config.json"
    answer=$(ask reload)
    case "$(($1 % 4)) $answer" in
        "2 reloaded: 2"[0-9].*" added"* | "0 reloaded: 2"[0-9].*" removed"*) ;;
        [13]" reloaded: 0.0 %"*) ;;
        *) fail "reload $1: unexpected reply: $answer" ;;
    esac
    answers=$((answers + 1))
}

find_program
start_proxy 4
config 0 3 >"$work/three.json"
config 0 4 >"$work/four.json"
"$program" load --to "127.0.0.1:$port" --sink "$(IFS=, && echo "${ports[*]}")" --admin "127.0.0.1:$admin" \
    --placed-by "$work/three.json" --placed-by "$work/four.json" --rate "$rate" --seconds "$seconds" --quiet \
    >"$work/load" 2>&1 &
load_pid=$!
children+=("$load_pid")
sleep 1
sockets "${ports[@]:0:3}" >"$work/sockets_before"
[ "$(wc -l <"$work/sockets_before")" -ge 3 ] || die "the sockets of the proxy are missing in /proc/net/udp"

answers=0
for ((number = 1; number <= count; number++)); do
    reload "$number"
    sleep 0.1
done
if ! kill -0 "$load_pid" 2>/dev/null; then
    cat "$work/load" >&2
    die "the load ended before the reloads"
fi
sockets "${ports[@]:0:3}" >"$work/sockets_after"
sleep 0.5
kill -TERM "$load_pid"
code=0
wait "$load_pid" || code=$?
cat "$work/load"
[ "$code" -le 1 ] || die "the load failed"
settle
kill -0 "$proxy_pid" 2>/dev/null || { cat "$work/log" >&2; die "the proxy exited during the load"; }

[ "$code" = 0 ] || fail "$answers reloads at $rate datagrams/s: the load failed, see above"
cmp -s "$work/sockets_before" "$work/sockets_after" ||
    fail "the socket of an unchanged backend changed: $(paste -sd' ' "$work/sockets_before") before, $(paste -sd' ' "$work/sockets_after") after"
# Unchanged backends keep their counters and state since the start.
for node in 0 1 2; do
    arrived=$(awk -v sink="127.0.0.1:${ports[node]}" '$1 == sink { gsub(",", "", $2); print $2 }' "$work/load")
    sent=$(column "${ports[node]}" sent)
    [ "$arrived" = "$sent" ] || fail "127.0.0.1:${ports[node]} received $arrived metrics, but backends shows $sent"
    [ "$(column "${ports[node]}" since)" -ge $((count / 10)) ] || fail "127.0.0.1:${ports[node]} changed state"
done
[ "$(counter metrics_received)" = "$(counter metrics_sent)" ] || fail "metrics were dropped: $(grep dropped "$work/stats")"
echo "PASS: $answers reloads at $rate datagrams/s: 0 lost, 0 misplaced; unchanged backends kept sockets, state and counters"
