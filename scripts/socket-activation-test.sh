#!/usr/bin/env bash
# Socket activation by the real systemd-socket-activate: it binds the socket and starts statsring on the first datagram; then
# statsring restarts without loss. All metrics must arrive, and a passed socket of the wrong kind must be reported. Installs
# nothing.
#
# Usage: scripts/socket-activation-test.sh
#        STATSRING=path scripts/socket-activation-test.sh      tests that program
#
# Exit 0 on success, 1 on failure, 71 if a requirement is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
name=socket-activation-test
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

command -v systemd-socket-activate >/dev/null || die "systemd-socket-activate is not installed (Debian: systemd)"
find_program
pick_ports 4
port=${ports[0]} admin=${ports[1]}
cat >"$work/config.json" <<JSON
{ "managementHost": "127.0.0.1", "managementPort": $admin, "workers": 1,
  "nodes": [{ "host": "127.0.0.1", "port": ${ports[2]} }] }
JSON

status_has() {
    ask status >"$work/status" 2>/dev/null || true
    grep -q "$1" "$work/status"
}

has_ended() {
    ! kill -0 "$1" 2>/dev/null
}

# systemd-socket-activate execs the program: until the restart it has the same PID.
systemd-socket-activate --datagram --listen "127.0.0.1:$port" --fdname metrics \
    "$program" -f "$work/config.json" >"$work/log" 2>&1 </dev/null &
first=$!
disown "$first"
children+=("$first")
is_bound() {
    ! are_free "$port"
}
await "systemd-socket-activate binds its socket" is_bound
"$program" load --to "127.0.0.1:$port" --sink "${ports[2]}" --rate 1000 --names 100 --seconds 600 --quiet \
    >"$work/verdict" 2>&1 </dev/null &
load=$!
children+=("$load")
await "statsring serves on the passed socket" status_has '^sockets: 1 data socket and 0 admin sockets were passed'
grep -q "^pid: $first\$" "$work/status" || fail "expected pid $first: $(cat "$work/status")"
kill -USR2 "$first"
await "the restart is complete" status_has '^last_restart: .*complete'
second=$(sed -n 's/^pid: //p' "$work/status")
children+=("$second")
[ "$second" != "$first" ] || fail "the process is still the same: $(cat "$work/status")"
sleep 1
kill -INT "$load"
code=0
wait "$load" || code=$?
cat "$work/verdict"
[ "$code" = 0 ] || fail "the load failed: $(cat "$work/log")"
kill -TERM "$second"
await "statsring exits" has_ended "$second"

# --accept passes a connection instead of a listening socket.
systemd-socket-activate --accept --listen "127.0.0.1:${ports[3]}" \
    "$program" -f "$work/config.json" >"$work/log" 2>&1 </dev/null &
children+=($!)
is_refused() {
    (exec 3<>"/dev/tcp/127.0.0.1/${ports[3]}") 2>/dev/null || true
    grep -q 'passed socket 3.*is not listening (Accept=yes is not supported)' "$work/log" && grep -q 'code 64' "$work/log"
}
await "a socket of the wrong kind is refused with exit code 64" is_refused
echo "socket activation: started on the first datagram, restarted without loss; a socket of the wrong kind was refused"
