#!/usr/bin/env bash
# The placement hashring-3 beside the real thing: the npm package hashring 3.2.0, which StatsD's proxy.js uses, installed
# into a temporary folder that is removed at the end. 100,000 names, ASCII and not, 1 to 60 backends, backends removed and
# returned in several orders; then the running proxy in front of backends that go and come back, with lines of every sort.
# The test itself is placement-test.js beside this file.
#
# Usage: scripts/placement-test.sh            builds the program and tests it
#        STATSRING=path scripts/placement-test.sh   tests that program
#        SEED=n NAMES=n ...                   other names, or more or fewer of them; the seed used is printed
#
# Needs node and npm. Ends with "N passed, N failed"; exit 0 only if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

hashring_version=3.2.0
seconds_max=420

die() {
    echo "placement-test: $*" >&2
    echo "placement-test: 0 passed, 1 failed"
    exit 1
}

for tool in node npm timeout; do
    command -v "$tool" >/dev/null || die "$tool is not installed; this test needs node and npm for the real hashring"
done

work=$(mktemp -d)
test_pid=
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
    # The test ends the proxy that it started when it is told to end.
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

npm install --prefix "$work" --no-audit --no-fund --ignore-scripts --loglevel=error \
    "hashring@$hashring_version" >"$work/npm.log" 2>&1 || {
    cat "$work/npm.log" >&2
    die "npm could not install hashring@$hashring_version"
}

# In the background, so that a signal to this script reaches the trap at once.
timeout -k 10 "$seconds_max" node scripts/placement-test.js "$program" "$work/node_modules/hashring" "$work" &
test_pid=$!
code=0
wait "$test_pid" || code=$?
test_pid=
[ "$code" != 124 ] || die "not finished after $seconds_max s"
exit "$code"
