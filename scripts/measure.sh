#!/usr/bin/env bash
# CPU of the running proxy per datagram, under the loads that the README names. Prints a Markdown table.
#
# Usage: scripts/measure.sh [RUNS [SECONDS]]       (5 runs of 5 seconds for each load)
#        STATSRING=path scripts/measure.sh         measures that program
#        CONFIG='"flushInterval": 2' ...           more keys for the proxy's config, as JSON
#
# Generator and sinks (examples/traffic.rs) run on core 0, the proxy on core 1, with three backends and one worker.
# CPU is kernel and user time of all the proxy's threads (schedstat), divided by the datagrams sent to it; where the
# kernel dropped some before the proxy, the cost of those that it received is larger, and stands beside. "delivered" is the
# share of metrics that reached a sink. Run it on an idle machine. Figures of different machines, or of one machine in
# different hours, do not compare; ratios measured in one run do.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-5}
seconds=${2:-5}

die() {
    echo "measure: $*" >&2
    exit 1
}

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

command -v taskset >/dev/null || die "taskset is not installed (Debian: util-linux)"
[ "$(nproc)" -ge 2 ] || die "two cores are needed, one for the load and one for the proxy"

cargo build --release --example traffic
traffic=${CARGO_TARGET_DIR:-target}/release/examples/traffic
program=${STATSRING:-}
if [ -z "$program" ]; then
    cargo build --release
    program=${CARGO_TARGET_DIR:-target}/release/statsring
fi
[ -x "$program" ] || die "no program at $program"

admin_answers() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
        echo ping >&3
        read -r -t 2 line <&3 && [ "$line" = pong ]
    ) 2>/dev/null
}

start_proxy() {
    mapfile -t ports < <("$traffic" --free-ports 5)
    cat >"$work/config.json" <<JSON
{
  "host": "127.0.0.1", "port": ${ports[0]},
  "managementHost": "127.0.0.1", "managementPort": ${ports[1]},
  "workers": 1,${CONFIG:+ $CONFIG,}
  "nodes": [
    { "host": "127.0.0.1", "port": ${ports[2]} },
    { "host": "127.0.0.1", "port": ${ports[3]} },
    { "host": "127.0.0.1", "port": ${ports[4]} }
  ]
}
JSON
    taskset -c 1 "$program" -f "$work/config.json" >"$work/log" 2>&1 &
    proxy_pid=$!
    local tick
    for ((tick = 0; tick < 100; tick++)); do
        admin_answers "${ports[1]}" && return
        kill -0 "$proxy_pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/log" >&2
    die "the proxy did not start"
}

# measure LABEL RATE METRICS: several runs, one row.
measure() {
    local label=$1 rate=$2 metrics=$3 run
    : >"$work/runs"
    for ((run = 0; run < runs; run++)); do
        taskset -c 0 "$traffic" --to "127.0.0.1:${ports[0]}" --sinks "${ports[2]},${ports[3]},${ports[4]}" \
            --rate "$rate" --metrics "$metrics" --seconds "$seconds" --pid "$proxy_pid" >>"$work/runs"
    done
    awk -v label="$label" '
        {
            for (i = 1; i <= NF; i++) { split($i, pair, "="); value[pair[1]] = pair[2] }
            cost[NR] = value["cpu_ns"] / value["sent_datagrams"] / 1000
            cpu_ns += value["cpu_ns"]; taken += value["sent_datagrams"] - value["proxy_drops"]
            rates += value["sent_datagrams"] / value["seconds"]
            sent += value["sent_metrics"]; got += value["sink_metrics"]
            proxy_drops += value["proxy_drops"]; sink_drops += value["sink_drops"]
            if (value["rss_kib"] > rss) rss = value["rss_kib"]
        }
        END {
            for (i = 2; i <= NR; i++)
                for (j = i; j > 1 && cost[j] < cost[j - 1]; j--) { t = cost[j]; cost[j] = cost[j - 1]; cost[j - 1] = t }
            median = NR % 2 ? cost[(NR + 1) / 2] : (cost[NR / 2] + cost[NR / 2 + 1]) / 2
            printf "| %s | %.0f | %.2f | %.2f to %.2f | %.2f | %.6f | %d | %d | %.1f |\n", label, rates / NR, median,
                cost[1], cost[NR], cpu_ns / taken / 1000, got / sent, proxy_drops, sink_drops, rss / 1024
        }' "$work/runs"
}

start_proxy
echo "$(grep -m1 '^model name' /proc/cpuinfo | cut -d: -f2- | sed 's/^ *//'), $(nproc) CPUs, Linux $(uname -r);" \
    "$runs runs of $seconds s; $("$program" --version 2>/dev/null | head -n 1)"
echo
echo "| load | datagrams/s | µs CPU per datagram, median | least to most | per datagram it received | delivered | dropped before the proxy | dropped at the sinks | MiB resident |"
echo "|---|---|---|---|---|---|---|---|---|"
measure '20,000/s, 1 metric each' 20000 1
measure '100,000/s, 1 metric each' 100000 1
measure '190,000/s, 1 metric each' 190000 1
measure 'flat out, 1 metric each' 0 1
measure '20,000/s, 30 metrics each' 20000 30
measure '130,000/s, 30 metrics each' 130000 30
measure 'flat out, 30 metrics each' 0 30
echo
grep -o 'sink_buffer_bytes=[0-9]*' "$work/runs" | head -n 1 |
    awk -F= '$2 < 4194304 { print "Note: the sinks were granted only " $2 " bytes; sysctl -w net.core.rmem_max=16777216 gives more." }'
kill -0 "$proxy_pid" 2>/dev/null || { cat "$work/log" >&2; die "the proxy did not survive"; }
