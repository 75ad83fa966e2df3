#!/usr/bin/env bash
# A backend is killed and restored every few seconds under load, one verdict: only its own names move, nothing that was for
# another backend is lost, and every metric that it did not get is accounted for.
#
# Three backends; the second one is a process of its own that ends and comes back, with its admin port. What the proxy
# still sent there before it had found the backend dead is lost, as UDP has no receipt: it must be exactly the
# difference between what backends says was sent to it and what it has got. A metric at another backend than one where the
# placement puts its name, with that backend up or down, is misplaced.
#
# Usage: scripts/outage-test.sh [SECONDS] [RATE]    how long (default 120, at least 20), datagrams/s (default 20000)
#        STATSRING=path scripts/outage-test.sh      with that program
#
# Exit 0 if the verdict is good, 1 if it is bad, 64 for wrong usage, 71 if the system refused something.
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
lives=0
victim_starts() {
    lives=$((lives + 1))
    "$program" sink --listen "${ports[2]}" --health "${ports[3]}" --placed-by "$work/config.json" --names 1000 \
        --idle 100000 --json --quiet >"$work/life.$lives" 2>"$work/life.$lives.log" &
    victim_pid=$!
    children+=("$victim_pid")
}

victim_ends() {
    kill -TERM "$victim_pid"
    # Its exit code tells of gaps, which there are, since its names were elsewhere.
    wait "$victim_pid" || true
}

# Waits until the victim's state is $1.
await_state() {
    local tick
    for ((tick = 0; tick < 200; tick++)); do
        ask backends >"$work/backends"
        [ "$(column "${ports[2]}" state)" = "$1" ] && return
        sleep 0.1
    done
    bad "the backend was not found $1 within 20 s"
}

# The sum of a figure over the victim's lives.
of_lives() {
    cat "$work"/life.*[0-9] | awk -v name="\"$1\":" '$1 == name { gsub(/[^0-9]/, "", $2); sum += $2 } END { print sum + 0 }'
}

find_program
start_proxy 6
victim_starts
# The proxy finds the sinks up while the load waits.
"$program" load --run "$run" --to "127.0.0.1:$port" --sink "${ports[0]},${ports[4]}" --health "${ports[1]},${ports[5]}" \
    --placed-by "$work/config.json" --down "127.0.0.1:${ports[2]}" --delay 6 --rate "$rate" --seconds "$seconds" \
    --allow-loss 1 --settle 1 --json --quiet >"$work/load" 2>"$work/load.log" &
load_pid=$!
children+=("$load_pid")
sleep 5
ask backends >"$work/backends"
[ "$(awk -F '\t' '$2 == "up"' "$work/backends" | wc -l)" = 3 ] || { cat "$work/backends" >&2; die "the backends were not found up"; }
sleep 2

outages=0
end=$((SECONDS + seconds - 12))
while [ "$SECONDS" -lt "$end" ]; do
    victim_ends
    outages=$((outages + 1))
    await_state down
    sleep 2
    victim_starts
    await_state up
    sleep 2
done
kill -0 "$load_pid" 2>/dev/null || die "the load ended too early"
code=0
wait "$load_pid" || code=$?
settle
victim_ends
kill -0 "$proxy_pid" 2>/dev/null || { cat "$work/log" >&2; die "the proxy did not survive"; }
[ -s "$work/load" ] || { cat "$work/load.log" >&2; die "the load could not be carried out"; }

# A figure of the load's account; its first occurrence is that of the whole.
of_load() {
    awk -v name="\"$1\":" '$1 == name { gsub(/[^0-9]/, "", $2); print $2; exit }' "$work/load"
}

arrived_at() {
    awk -v sink="\"127.0.0.1:$1\"," '$2 == sink { found = 1 } found && $1 == "\"metrics\":" { gsub(/[^0-9]/, "", $2); print $2; exit }' "$work/load"
}

sent=$(of_load metrics)
victims=$(of_lives unique)
to_victim=$(column "${ports[2]}" sent)
dropped=$(awk '$1 ~ /^metrics_dropped_/ { sum += $2 } END { print sum + 0 }' "$work/stats")
lost=$((to_victim - victims))
total=$((victims + lost + dropped))
echo "outages       $outages in $seconds s at $rate datagrams/s"
echo "sent          $sent metrics by the load, $(figure metrics_received) received by the proxy, $(figure kernel_drops) dropped before it"
for index in 0 4; do
    arrived=$(arrived_at "${ports[$index]}")
    to=$(column "${ports[$index]}" sent)
    total=$((total + arrived))
    echo "steady        127.0.0.1:${ports[$index]}: $to sent to it, $arrived arrived"
    [ "$arrived" = "$to" ] || bad "127.0.0.1:${ports[$index]} was up all the time and did not get $((to - arrived)) metrics"
done
echo "killed        127.0.0.1:${ports[2]}: $to_victim sent to it, $victims arrived in $lives lives"
echo "lost there    $lost metrics, $((lost / outages)) an outage: about $((lost * 3000 / rate / outages)) ms until it was found dead"
echo "refused       $(column "${ports[2]}" refused) sends there that reported an earlier datagram as refused"
echo "dropped       $dropped metrics by the proxy: $(awk '$1 ~ /^metrics_dropped_/ && $2 > 0 { printf "%s %d ", $1, $2 }' "$work/stats")"
echo "diverted      $(figure metrics_diverted) metrics"
misplaced=$(($(of_load misplaced) + $(of_lives misplaced)))
duplicated=$(($(of_load duplicated) + $(of_lives duplicated)))
echo "misplaced     $misplaced, duplicated $duplicated"

[ "$code" = 0 ] || bad "see the load's verdict: $(grep -A3 '"reasons"' "$work/load")"
[ "$misplaced" = 0 ] || bad "$misplaced metrics misplaced: other names than the killed backend's moved"
[ "$duplicated" = 0 ] || bad "$duplicated metrics duplicated"
[ "$total" = "$sent" ] || bad "$((sent - total)) metrics are not accounted for"
# Only what was for the killed backend may be dropped, and only because it refused.
others=$((dropped - $(figure metrics_dropped_send_refused)))
[ "$others" = 0 ] || bad "$others metrics were dropped for another reason than its refusals"
[ "$(column "${ports[2]}" dropped)" = "$dropped" ] || bad "metrics of other backends were dropped"
echo "GOOD: $outages outages: only the killed backend's names moved, 0 metrics of others lost, all $sent accounted for"
