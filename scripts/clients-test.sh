#!/usr/bin/env bash
# Tests real client libraries with statsring: PyPI's statsd and datadog, npm's hot-shots, each in several modes (one metric per
# datagram, pipelines, buffers, aggregation, telemetry, a background sender). A deterministic program for each
# (scripts/peers/programs) runs against a plain socket and against statsring with three plain sockets as backends. The backends
# must receive the same lines, byte for byte and in order, each at the backend that `statsring where` prints. Covers counters,
# gauges, timers, sets, histograms, distributions, events and service checks, with tags and sample rates; the placements jump and
# hashring-3; IPv4 and IPv6.
#
# Usage: scripts/clients-test.sh            builds and tests the program
#        STATSRING=path scripts/clients-test.sh   tests that program
#
# Requires python3 with venv, node and npm; installs the clients into a temporary directory.
# Ends with "N passed, N failed"; exit 0 only if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."
name=clients-test
seconds_max=300
# shellcheck source=scripts/peers/peers.bash
. scripts/peers/peers.bash

begin python3 node npm timeout
python_packages statsd==4.0.1 datadog==0.56.0
npm_packages hot-shots@17.1.1
run_test clients.py
