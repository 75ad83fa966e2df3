#!/usr/bin/env bash
# Runs statsring in front of three real StatsD servers, the npm package statsd. Known counters, gauges, timers and sets are sent
# through the proxy; what the servers report must equal what was sent, to the last metric. The test is real-statsd-test.js.
#
# Usage: scripts/real-statsd-test.sh            builds and tests the program
#        STATSRING=path scripts/real-statsd-test.sh   tests that program
#        SEED=n ...                             seed of the traffic, printed by each run
#        CONFIG='"engine": "portable"' ...      further config keys, as JSON
#
# Requires node and npm; installs the package into a temporary directory. Ends with "N passed, N failed"; exit 0 only if nothing
# failed.
set -euo pipefail
cd "$(dirname "$0")/.."
name=real-statsd-test
seconds_max=180
# shellcheck source=scripts/peers/peers.bash
. scripts/peers/peers.bash

begin node npm timeout
npm_packages statsd@0.9.0
run node scripts/real-statsd-test.js "$program" "$NODE_MODULES/statsd" "$work"
