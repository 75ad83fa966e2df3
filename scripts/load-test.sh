#!/usr/bin/env bash
# One load through statsring, one verdict: starts statsring in front of three sinks, sends numbered metrics, and tells
# what was lost, duplicated or misplaced, where, how long it took, and what CPU it cost.
#
# Usage: scripts/load-test.sh [OPTIONS OF statsring load]
#        scripts/load-test.sh --rate 50000 --metrics 10 --seconds 5
#        scripts/load-test.sh --rate max --names 100000 --skew 1.1
#        scripts/load-test.sh --replay capture.txt
#        scripts/load-test.sh --to 127.0.0.1:8125     through a proxy that runs already, any StatsD proxy; its backends are
#                                                     those of exampleConfig.json, or those of --sink and --health
#        STATSRING=path scripts/load-test.sh          with that program
#        CONFIG='"flushInterval": 2' ...              more keys for the config of the proxy that it starts, as JSON
#
# Exit 0 if the verdict is good, 1 if it is bad, 64 for wrong usage, 71 if the system refused something.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

die() {
    echo "load-test: $*" >&2
    exit 71
}

work=$(mktemp -d)
proxy_pid=
load_pid=
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
    local pid
    for pid in $load_pid $proxy_pid; do
        if kill -TERM "$pid" 2>/dev/null; then
            wait "$pid" 2>/dev/null || true
        fi
    done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM

program=${STATSRING:-}
if [ -z "$program" ]; then
    cargo build --release
    program=${CARGO_TARGET_DIR:-target}/release/statsring
fi
case $program in
    /*) ;;
    *) [ -x "$program" ] || program=$here/$program ;;
esac
[ -x "$program" ] || die "no program at $program"
program=$(readlink -f "$program")

# What of the load's options the script has to know.
has_target=
has_sinks=
has_delay=
for argument in "$@"; do
    case $argument in
        --to) has_target=yes ;;
        --sink) has_sinks=yes ;;
        --delay) has_delay=yes ;;
        -h | --help) exec "$program" load --help ;;
    esac
done

# The operator's Ctrl-C ends the load early, with its verdict; the script waits for that.
trap : INT

run_load() {
    local code=0
    (cd "$here" && exec "$program" load "$@") &
    load_pid=$!
    while :; do
        code=0
        wait "$load_pid" || code=$?
        # A signal to this script ends the wait before the load has ended.
        kill -0 "$load_pid" 2>/dev/null || break
    done
    load_pid=
    return "$code"
}

if [ -n "$has_target" ]; then
    if [ -z "$has_sinks" ]; then
        # The proxy's backends were dead until now: its next health checks, every 10 s by default, find them up.
        [ -n "$has_delay" ] || { echo "load-test: waiting 15 s for the proxy's health checks (--delay)" >&2; set -- --delay 15 "$@"; }
        set -- --sink 8127,8129,8131 --health 8128,8130,8132 "$@"
    fi
    code=0
    run_load "$@" || code=$?
    exit "$code"
fi
[ -z "$has_sinks" ] || { echo "load-test: --sink goes with --to: the sinks of a proxy that runs already" >&2; exit 64; }

admin_answers() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
        echo ping >&3
        read -r -t 2 line <&3 && [ "$line" = pong ]
    ) 2>/dev/null
}

# Whether nobody has any of these ports, UDP or TCP.
are_free() {
    local taken number
    taken=$(cat /proc/net/udp /proc/net/udp6 /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    for number in "$@"; do
        [[ $taken != *":$(printf %04X "$number") "* ]] || return 1
    done
}

# Ports below the range of those that the kernel gives away. They are tried, not reserved: if one of the proxy's is
# taken meanwhile, it ends with 71 and others are tried.
start_proxy() {
    local attempt tick code
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        port=$((20000 + RANDOM % 12000))
        are_free "$port" $((port + 1)) $((port + 2)) $((port + 3)) $((port + 4)) || continue
        cat >"$work/config.json" <<JSON
{
  "host": "127.0.0.1", "port": $port,
  "managementHost": "127.0.0.1", "managementPort": $((port + 1)),
  ${CONFIG:+$CONFIG,}
  "nodes": [
    { "host": "127.0.0.1", "port": $((port + 2)) },
    { "host": "127.0.0.1", "port": $((port + 3)) },
    { "host": "127.0.0.1", "port": $((port + 4)) }
  ]
}
JSON
        # A session of its own, so that Ctrl-C reaches the load and not the proxy, which is needed to the end.
        setsid "$program" -f "$work/config.json" >"$work/log" 2>&1 &
        proxy_pid=$!
        for ((tick = 0; tick < 100; tick++)); do
            if admin_answers $((port + 1)) && kill -0 "$proxy_pid" 2>/dev/null; then
                return
            fi
            kill -0 "$proxy_pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -0 "$proxy_pid" 2>/dev/null && die "the proxy runs but its admin port did not answer within 10 s"
        code=0
        wait "$proxy_pid" || code=$?
        proxy_pid=
        [ "$code" = 71 ] && continue
        cat "$work/log" >&2
        exit "$code"
    done
    die "no free ports after $attempt attempts"
}

command -v setsid >/dev/null || die "setsid is not installed (Debian: util-linux)"
start_proxy
code=0
run_load --to "127.0.0.1:$port" --sink "$((port + 2)),$((port + 3)),$((port + 4))" \
    --admin "127.0.0.1:$((port + 1))" --pid "$proxy_pid" "$@" || code=$?
if ! kill -0 "$proxy_pid" 2>/dev/null; then
    cat "$work/log" >&2
    die "the proxy did not survive the load"
fi
exit "$code"
