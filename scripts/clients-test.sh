#!/usr/bin/env bash
# Real client libraries behind statsring: PyPI's statsd and datadog, npm's hot-shots, each in several ways (one metric a
# datagram, pipelines, buffers, aggregation, telemetry, a background sender). A fixed program of each (scripts/peers/programs)
# runs against a bare socket and against statsring in front of three bare sockets: what the backends receive must be, line
# for line and byte for byte, what the client sent to the bare socket, in its order and at the backend that
# `statsring where` names. Counters, gauges, timers, sets, histograms, distributions, events and service checks, with
# tags and sample rates; the placements jump and hashring-3; IPv4 and IPv6.
#
# Usage: scripts/clients-test.sh            builds the program and tests it
#        STATSRING=path scripts/clients-test.sh   tests that program
#
# Needs python3 with venv, node and npm; the clients are installed into a temporary folder that is removed at the end.
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
