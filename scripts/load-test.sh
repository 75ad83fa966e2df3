#!/usr/bin/env bash
# Runs one load through statsring and prints one verdict: starts statsring with three sinks, sends numbered metrics, and reports
# what was lost, duplicated or misplaced, where, the latency and the CPU time.
#
# Usage: scripts/load-test.sh [OPTIONS OF statsring load]
#        scripts/load-test.sh --rate 50000 --metrics 10 --seconds 5
#        scripts/load-test.sh --rate max --names 100000 --skew 1.1
#        scripts/load-test.sh --replay capture.txt
#        scripts/load-test.sh --to 127.0.0.1:8125     tests a running StatsD proxy of any kind, whose backends are those of
#                                                     exampleConfig.json, or of --sink and --health
#        STATSRING=path scripts/load-test.sh          tests that program
#        CONFIG='"flushInterval": 2' ...              further config keys for the started proxy, as JSON
#
# Exit 0 on PASS, 1 on FAIL, 64 on usage errors, 71 on OS errors.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
name=load-test
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

[ -z "${STATSRING:-}" ] || [ -x "$STATSRING" ] || STATSRING=$here/$STATSRING
find_program

has_target=
has_sinks=
has_delay=
for argument in "$@"; do
    case $argument in
        --to) has_target=yes ;;
        --sink) has_sinks=yes ;;
        --delay) has_delay=yes ;;
        -h | --help) "$program" load --help && exit ;;
    esac
done

# Ctrl-C ends the load early; the script waits for its verdict.
trap : INT

run_load() {
    local code load_pid
    (cd "$here" && exec "$program" load "$@") &
    load_pid=$!
    children=("$load_pid" "${children[@]}")
    while :; do
        code=0
        wait "$load_pid" || code=$?
        # A signal to the script interrupts wait.
        kill -0 "$load_pid" 2>/dev/null || break
    done
    children=("${children[@]:1}")
    return "$code"
}

code=0
if [ -n "$has_target" ]; then
    if [ -z "$has_sinks" ]; then
        # The proxy has seen no backends so far; its next health checks, every 10 s by default, find them.
        [ -n "$has_delay" ] || { echo "load-test: waiting 15 s for the proxy's health checks (--delay)" >&2; set -- --delay 15 "$@"; }
        set -- --sink 8127,8129,8131 --health 8128,8130,8132 "$@"
    fi
    run_load "$@" || code=$?
    exit "$code"
fi
[ -z "$has_sinks" ] || { echo "load-test: --sink requires --to" >&2; exit 64; }

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

start_proxy 3
run_load --to "127.0.0.1:$port" --sink "$(IFS=, && echo "${ports[*]}")" --admin "127.0.0.1:$admin" --pid "$proxy_pid" "$@" || code=$?
if ! kill -0 "$proxy_pid" 2>/dev/null; then
    show_log
    die "the proxy exited during the load"
fi
exit "$code"
