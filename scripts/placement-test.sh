#!/usr/bin/env bash
# Compares the placement hashring-3 with the npm package hashring 3.2.0, which StatsD's proxy.js uses: 100,000 names, ASCII and
# not, 1 to 60 backends, backends removed and re-added in several orders; then with a running proxy whose backends fail and
# return, and with all kinds of lines. The test is placement-test.js.
#
# Usage: scripts/placement-test.sh               builds and tests the program
#        STATSRING=path scripts/placement-test.sh   tests that program
#        SEED=n NAMES=n ...                      seed (printed by each run) and number of names
#
# Requires node and npm; installs the package into a temporary directory. Ends with "N passed, N failed"; exit 0 only if nothing
# failed.
set -euo pipefail
cd "$(dirname "$0")/.."
name=placement-test
seconds_max=420
# shellcheck source=scripts/peers/peers.bash
. scripts/peers/peers.bash

begin node npm timeout
npm_packages hashring@3.2.0
run node scripts/placement-test.js "$program" "$NODE_MODULES/hashring" "$work"
