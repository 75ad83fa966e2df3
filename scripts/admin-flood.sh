#!/usr/bin/env bash
# What a flood of hostile admin connections does to metrics: pairs of runs of the same load, one with the flood and one
# without, and the medians of the pairs.
#
# Usage: scripts/admin-flood.sh [PAIRS [SECONDS]]          (5 pairs of runs of 8 seconds)
#        CONNECTIONS=1000 RATE=20000 scripts/admin-flood.sh
#        STATSRING=path scripts/admin-flood.sh             with that program
#
# The flood holds CONNECTIONS connections to the admin port at all times, a quarter of each kind: one that connects and says
# nothing; one that sends a byte now and then; one that sends garbage; one that asks for `stats` again and again and never
# reads. One that is closed comes back, up to CHURN times a second in all. p99 is the time from arrival to sending,
# `latency_p99_us` of `stats`; kernel drops are those before the proxy. The proxy is started anew for each run.
#
# Good is: no kernel drop in any run, every metric accounted for, and a p99 with the flood of at most twice that of the run
# beside it (median of the pairs). Exit 0 if so, 1 if not, 71 if the system refused something.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 scripts/flood/admin.py "$@"
