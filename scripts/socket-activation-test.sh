#!/usr/bin/env bash
# Socket activation by the real systemd-socket-activate: it makes the socket and starts statsring at the first datagram;
# then statsring starts itself again without loss. Everything that was sent must arrive. A socket of a wrong kind must be
# named. Installs nothing.
#
# Usage: scripts/socket-activation-test.sh
#        STATSRING=path scripts/socket-activation-test.sh      with that program
#
# Exit 0 if all is well, 1 if not, 71 if something is missing here.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    echo "socket-activation-test: $1" >&2
    exit "${2:-1}"
}

command -v systemd-socket-activate >/dev/null ||
    die "systemd-socket-activate is not installed (Debian: apt-get install systemd)" 71
program=${STATSRING:-}
if [ -z "$program" ]; then
    cargo build --release
    program=${CARGO_TARGET_DIR:-target}/release/statsring
fi
[ -x "$program" ] || die "no program at $program" 71
program=$(readlink -f "$program")

work=$(mktemp -d)
pids=()
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
    local pid
    for pid in "${pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

are_free() {
    local taken number
    taken=$(cat /proc/net/udp /proc/net/udp6 /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    for number in "$@"; do
        [[ $taken != *":$(printf %04X "$number") "* ]] || return 1
    done
}

for attempt in 1 2 3 4 5 6 7 8 9 10; do
    port=$((20000 + RANDOM % 12000))
    are_free "$port" $((port + 1)) $((port + 2)) $((port + 3)) && break
    [ "$attempt" -lt 10 ] || die "no free ports" 71
done
cat >"$work/config.json" <<JSON
{ "managementHost": "127.0.0.1", "managementPort": $((port + 1)), "workers": 1,
  "nodes": [{ "host": "127.0.0.1", "port": $((port + 2)) }] }
JSON

status() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$((port + 1))" || exit 1
        printf 'status\nquit\n' >&3
        timeout 5 cat <&3
    ) 2>/dev/null || true
}

# Waits until a command succeeds, at most a minute; $1 says what is awaited.
await() {
    local what=$1 tick
    shift
    for ((tick = 0; tick < 300; tick++)); do
        "$@" && return
        sleep 0.2
    done
    cat "$work/log" >&2
    die "timed out: $what"
}

status_has() {
    status >"$work/status"
    grep -q "$1" "$work/status"
}

has_ended() {
    ! kill -0 "$1" 2>/dev/null
}

# Without its restart it is the very process that systemd-socket-activate was.
systemd-socket-activate --datagram --listen "127.0.0.1:$port" --fdname metrics \
    "$program" -f "$work/config.json" >"$work/log" 2>&1 </dev/null &
first=$!
disown "$first"
pids+=("$first")
is_bound() {
    ! are_free "$port"
}
await "systemd-socket-activate has its socket" is_bound
"$program" load --to "127.0.0.1:$port" --sink $((port + 2)) --rate 1000 --names 100 --seconds 600 --quiet \
    >"$work/verdict" 2>&1 </dev/null &
load=$!
pids+=("$load")
await "it serves on the passed socket" status_has '^sockets: 1 data socket and 0 admin sockets were passed'
grep -q "^pid: $first\$" "$work/status" || die "$(cat "$work/status")"
kill -USR2 "$first"
await "another process has taken over" status_has '^last_restart: .*complete'
second=$(sed -n 's/^pid: //p' "$work/status")
pids+=("$second")
[ "$second" != "$first" ] || die "it is the same process: $(cat "$work/status")"
sleep 1
kill -INT "$load"
code=0
wait "$load" || code=$?
cat "$work/verdict"
[ "$code" = 0 ] || die "the verdict is bad: $(cat "$work/log")"
kill -TERM "$second"
await "it has ended" has_ended "$second"

# A connection instead of a listening socket.
systemd-socket-activate --accept --listen "127.0.0.1:$((port + 3))" \
    "$program" -f "$work/config.json" >"$work/log" 2>&1 </dev/null &
pids+=($!)
is_refused() {
    (exec 3<>"/dev/tcp/127.0.0.1/$((port + 3))") 2>/dev/null || true
    grep -q 'passed socket 3.*is not listening (Accept=yes is not supported)' "$work/log" && grep -q 'code 64' "$work/log"
}
await "the wrong socket is named, exit 64" is_refused
echo "socket activation: started at the first datagram, restarted without loss; a wrong socket was named"
