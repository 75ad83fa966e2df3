#!/usr/bin/env bash
# statsring in front of three real StatsD servers: the npm package statsd, installed into a temporary folder that is
# removed at the end. Known counters, gauges, timers and sets go through the proxy; what the servers then report must
# equal what was sent, to the last metric. The test itself is real-statsd-test.js beside this file.
#
# Usage: scripts/real-statsd-test.sh            builds the program and tests it
#        STATSRING=path scripts/real-statsd-test.sh   tests that program
#        SEED=n ...                             other traffic; the seed used is printed
#        CONFIG='"engine": "portable"' ...      more keys for the proxy's config, as JSON
#
# Needs node and npm. Ends with "N passed, N failed"; exit 0 only if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

statsd_version=0.9.0
seconds_max=180

die() {
    echo "real-statsd-test: $*" >&2
    echo "real-statsd-test: 0 passed, 1 failed"
    exit 1
}

for tool in node npm timeout; do
    command -v "$tool" >/dev/null || die "$tool is not installed; this test needs node and npm for the real StatsD"
done

work=$(mktemp -d)
test_pid=
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
    # The test ends the servers and the proxy that it started when it is told to end.
    if [ -n "$test_pid" ] && kill -TERM "$test_pid" 2>/dev/null; then
        wait "$test_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

program=${STATSRING:-}
if [ -z "$program" ]; then
    cargo build --release
    program=${CARGO_TARGET_DIR:-target}/release/statsring
fi
[ -x "$program" ] || die "no program at $program"

# No scripts and no optional parts: they are for syslog, Windows and proxy.js.
npm install --prefix "$work" --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error \
    "statsd@$statsd_version" >"$work/npm.log" 2>&1 || {
    cat "$work/npm.log" >&2
    die "npm could not install statsd@$statsd_version"
}

# In the background, so that a signal to this script reaches the trap at once.
timeout -k 10 "$seconds_max" node scripts/real-statsd-test.js "$program" "$work/node_modules/statsd" "$work" &
test_pid=$!
code=0
wait "$test_pid" || code=$?
test_pid=
[ "$code" != 124 ] || die "not finished after $seconds_max s"
exit "$code"
