#!/usr/bin/env bash
# Kills and restores a backend every few seconds under load. Verdict: only its own names move, no metric of another backend is
# lost, and every metric that it did not receive is accounted for.
#
# Of three backends, the second is a separate process that exits and returns, with its admin port. What the proxy sends to it
# before detecting the failure is lost (UDP): it must be exactly the difference between what the proxy sent and what the backend
# received. A metric is misplaced if it arrives at a backend that does not own its name, with the killed backend up or down.
#
# Usage: scripts/outage-test.sh [SECONDS] [RATE]    duration (default 120, at least 20), datagrams/s (default 20000)
#        STATSRING=path scripts/outage-test.sh      tests that program
#
# Exit 0 on PASS, 1 on FAIL, 64 on usage errors, 71 on OS errors.
set -euo pipefail
cd "$(dirname "$0")/.."
name=outage-test
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

case ${1:-} in -h | --help) usage 0 ;; esac
seconds=${1:-120} rate=${2:-20000}
number "$seconds" 20 100000
number "$rate" 1 1000000
run=outage

write_config() {
    cat >"$work/config.json" <<JSON
{
  "host": "127.0.0.1", "port": $port, "managementHost": "127.0.0.1", "managementPort": $admin,
  "checkInterval": 1000, "checkTimeout": 500, "checkFast": 100, "checkFall": 3, "checkRise": 2,
  "nodes": [
    { "host": "127.0.0.1", "port": ${ports[0]}, "adminport": ${ports[1]} },
    { "host": "127.0.0.1", "port": ${ports[2]}, "adminport": ${ports[3]} },
    { "host": "127.0.0.1", "port": ${ports[4]}, "adminport": ${ports[5]} }
  ]
}
JSON
}

victim_pid=
starts=0
start_victim() {
    starts=$((starts + 1))
    "$program" sink --listen "${ports[2]}" --health "${ports[3]}" --placed-by "$work/config.json" --names 1000 \
        --idle 100000 --json --quiet >"$work/victim.$starts" 2>"$work/victim.$starts.log" &
    victim_pid=$!
    children+=("$victim_pid")
}

stop_victim() {
    kill -TERM "$victim_pid"
    # It exits with 1: its sequence has gaps, because other backends received its names meanwhile.
    wait "$victim_pid" || true
}

# Waits until the victim is in state $1.
await_state() {
    local tick
    for ((tick = 0; tick < 200; tick++)); do
        ask backends >"$work/backends"
        [ "$(column "${ports[2]}" state)" = "$1" ] && return
        sleep 0.1
    done
    fail "the backend is not $1 after 20 s"
}

# The sum of a value over all runs of the victim.
victim_total() {
    json_total "$1" "$work"/victim.*[0-9]
}

find_program
start_proxy 6
start_victim
# --delay gives the health checks time to find the sinks.
"$program" load --run "$run" --to "127.0.0.1:$port" --sink "${ports[0]},${ports[4]}" --health "${ports[1]},${ports[5]}" \
    --placed-by "$work/config.json" --down "127.0.0.1:${ports[2]}" --delay 6 --rate "$rate" --seconds "$seconds" \
    --allow-loss 1 --settle 1 --json --quiet >"$work/load" 2>"$work/load.log" &
load_pid=$!
children+=("$load_pid")
sleep 5
ask backends >"$work/backends"
[ "$(awk -F '\t' '$2 == "up"' "$work/backends" | wc -l)" = 3 ] || { cat "$work/backends" >&2; die "not all backends are up"; }
sleep 2

outages=0
end=$((SECONDS + seconds - 12))
while [ "$SECONDS" -lt "$end" ]; do
    stop_victim
    outages=$((outages + 1))
    await_state down
    sleep 2
    start_victim
    await_state up
    sleep 2
done
kill -0 "$load_pid" 2>/dev/null || die "the load ended early"
code=0
wait "$load_pid" || code=$?
settle
stop_victim
kill -0 "$proxy_pid" 2>/dev/null || { cat "$work/log" >&2; die "the proxy exited during the load"; }
[ -s "$work/load" ] || { cat "$work/load.log" >&2; die "the load failed"; }

sent=$(json_value "$work/load" metrics)
victims=$(victim_total unique)
to_victim=$(column "${ports[2]}" sent)
dropped=$(awk '$1 ~ /^metrics_dropped_/ { sum += $2 } END { print sum + 0 }' "$work/stats")
lost=$((to_victim - victims))
total=$((victims + lost + dropped))
echo "outages       $outages in $seconds s at $rate datagrams/s"
echo "sent          $sent metrics, $(counter metrics_received) received by the proxy, $(counter kernel_drops) dropped by the kernel before it"
for index in 0 4; do
    arrived=$(arrived_at "${ports[$index]}")
    to=$(column "${ports[$index]}" sent)
    total=$((total + arrived))
    echo "steady        127.0.0.1:${ports[$index]}: $to sent, $arrived arrived"
    [ "$arrived" = "$to" ] || fail "127.0.0.1:${ports[$index]} was up throughout but did not receive $((to - arrived)) metrics"
done
echo "killed        127.0.0.1:${ports[2]}: $to_victim sent, $victims arrived in $starts runs"
echo "lost there    $lost metrics, $((lost / outages)) per outage: detected after about $((lost * 3000 / rate / outages)) ms"
echo "refused       $(column "${ports[2]}" refused) sends to it failed with ECONNREFUSED"
echo "dropped       $dropped metrics by the proxy: $(awk '$1 ~ /^metrics_dropped_/ && $2 > 0 { printf "%s %d ", $1, $2 }' "$work/stats")"
echo "diverted      $(counter metrics_diverted) metrics"
misplaced=$(($(json_value "$work/load" misplaced) + $(victim_total misplaced)))
duplicated=$(($(json_value "$work/load" duplicated) + $(victim_total duplicated)))
echo "misplaced     $misplaced, duplicated $duplicated"

[ "$code" = 0 ] || fail "the load failed: $(grep -A3 '"reasons"' "$work/load")"
[ "$misplaced" = 0 ] || fail "$misplaced metrics misplaced: names of other backends moved"
[ "$duplicated" = 0 ] || fail "$duplicated metrics duplicated"
[ "$total" = "$sent" ] || fail "$((sent - total)) metrics are not accounted for"
# Only metrics of the killed backend may be dropped, and only on ECONNREFUSED.
others=$((dropped - $(counter metrics_dropped_send_refused)))
[ "$others" = 0 ] || fail "$others metrics were dropped for other reasons than ECONNREFUSED"
[ "$(column "${ports[2]}" dropped)" = "$dropped" ] || fail "metrics of other backends were dropped"
echo "PASS: $outages outages: only the killed backend's names moved, 0 metrics of other backends lost, all $sent accounted for"
