#!/usr/bin/env bash
# statsring in the place of StatsD's proxy.js: the npm package statsd with hashring 3.2.0, installed into a temporary folder
# that is removed at the end. The real proxy.js, then statsring, start from the very same config file (proxy.js's) in front
# of the same three backends. 100,000 names, ASCII and not, in lines of every sort, go to each, with all backends up, with
# one stopped, and after its return: each line must arrive at the same backend, byte for byte. Admin sessions, recorded
# from the real proxy.js in that very run, are played against statsring: not a byte may differ but the number of uptime.
# Names that every JavaScript object has follow the ring in statsring, and not in proxy.js once it has changed. At last each
# of the two is the other's backend.
#
# Usage: scripts/proxyjs-test.sh            builds the program and tests it
#        STATSRING=path scripts/proxyjs-test.sh   tests that program
#        SEED=n NAMES=n ...                 other names, or more or fewer of them
#
# Needs python3, node and npm. Ends with "N passed, N failed"; exit 0 only if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."
name=proxyjs-test
seconds_max=600
# shellcheck source=scripts/peers/peers.bash
. scripts/peers/peers.bash

begin python3 node npm timeout
npm_packages statsd@0.9.0 hashring@3.2.0
run_test proxyjs.py
