#!/usr/bin/env bash
# Compares statsring with StatsD's proxy.js (npm packages statsd and hashring 3.2.0). proxy.js, then statsring, start from the
# same config file with the same three backends. 100,000 names, ASCII and not, in all kinds of lines, are sent to each, with all
# backends up, with one stopped, and after its return: each line must arrive unchanged at the same backend. Admin sessions
# recorded from proxy.js are replayed against statsring: only the uptime may differ. Names that exist on every JavaScript object
# follow the ring in statsring, but not in proxy.js after a change. Finally, each of the two is used as the other's backend.
#
# Usage: scripts/proxyjs-test.sh            builds and tests the program
#        STATSRING=path scripts/proxyjs-test.sh   tests that program
#        SEED=n NAMES=n ...                 seed and number of names
#
# Requires python3, node and npm; installs the packages into a temporary directory. Ends with "N passed, N failed"; exit 0 only if
# nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."
name=proxyjs-test
seconds_max=600
# shellcheck source=scripts/peers/peers.bash
. scripts/peers/peers.bash

begin python3 node npm timeout
npm_packages statsd@0.9.0 hashring@3.2.0
run_test proxyjs.py
