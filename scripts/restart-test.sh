#!/usr/bin/env bash
# Restarts under load: starts statsring with three sinks, sends numbered metrics, and restarts it by SIGUSR2. The verdict is
# the load's: nothing lost, nothing duplicated, no name at two backends.
#
# Usage: scripts/restart-test.sh [COUNT] [RATE]      restarts (default 50), datagrams/s (default 50000)
#        STATSRING=path scripts/restart-test.sh      tests that program
#        CONFIG='"workers": 2' ...                   further config keys, as JSON
#        NAMES=10000 FLOWS=4 GAP=0.2 ...             names, sending sockets, seconds between two restarts
#
# Exit 0 on PASS, 1 on FAIL, 64 on usage errors, 71 on OS errors.
set -euo pipefail
cd "$(dirname "$0")/.."
name=restart-test
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

case ${1:-} in -h | --help) usage 0 ;; esac
count=${1:-50} rate=${2:-50000}
number "$count" 1 9999
number "$rate" 1 9999999

write_config() {
    cat >"$work/config.json" <<JSON
{
  "host": "127.0.0.1", "port": $port, "managementHost": "127.0.0.1", "managementPort": $admin,
  ${CONFIG:+$CONFIG,}
  "nodes": [
    { "host": "127.0.0.1", "port": ${ports[0]} },
    { "host": "127.0.0.1", "port": ${ports[1]} },
    { "host": "127.0.0.1", "port": ${ports[2]} }
  ]
}
JSON
}

find_program
start_proxy 3
disown "$proxy_pid"

# The duration is an upper bound: SIGINT ends the load after the last restart.
"$program" load --to "127.0.0.1:$port" --sink "$(IFS=, && echo "${ports[*]}")" --rate "$rate" \
    --names "${NAMES:-10000}" --flows "${FLOWS:-4}" --seconds 3600 --quiet >"$work/verdict" 2>"$work/load-log" &
load_pid=$!
children=("$load_pid" "$proxy_pid")
sleep 1

longest_ms=0
for ((number = 1; number <= count; number++)); do
    start_ms=$(date +%s%3N)
    restart_proxy || { tail -20 "$work/log" >&2; die "restart $number was not complete after 60 s: $status"; }
    children=("$load_pid" "$proxy_pid")
    took_ms=$(($(date +%s%3N) - start_ms))
    [ "$took_ms" -le "$longest_ms" ] || longest_ms=$took_ms
    kill -0 "$load_pid" 2>/dev/null || { cat "$work/load-log" >&2; die "the load ended early"; }
    sleep "${GAP:-0.2}"
done
kill -INT "$load_pid"
code=0
wait "$load_pid" || code=$?
children=("$proxy_pid")
cat "$work/verdict"
grep -q "\(metrics_dropped\|kernel_drops\)" <<<"$(ask stats)" || die "cannot read the proxy's counters"
echo
echo "$count restarts at $rate datagrams/s; the longest took $longest_ms ms until the old process had exited"
grep -c "final counters: " "$work/log" | sed 's/$/ final counters of old processes in the log; those with drops:/'
grep "final counters: " "$work/log" | grep -v "dropped 0, pending 0.*dropped by the kernel 0\$" || echo "  none"
exit "$code"
