#!/usr/bin/env bash
# Measures how a flood of hostile admin connections affects metrics: pairs of runs under the same load, with and without the
# flood, and the medians of the pairs.
#
# Usage: scripts/admin-flood.sh [PAIRS [SECONDS]]          (5 pairs of runs of 8 seconds)
#        CONNECTIONS=1000 RATE=20000 scripts/admin-flood.sh
#        STATSRING=path scripts/admin-flood.sh             tests that program
#
# The flood keeps CONNECTIONS admin connections open, a quarter each of: silent clients, clients that send a byte now and then,
# clients that send garbage, clients that repeat `stats` and never read. Closed connections are reopened, at most CHURN per
# second. p99 is the time from arrival to sending, `latency_p99_us` of `stats`; kernel drops are those before the proxy. Each run
# starts a new proxy.
#
# It passes if no run has kernel drops, every metric is accounted for, and the median p99 ratio of the pairs is at most
# 2. Exit 0 on PASS, 1 on FAIL, 71 on OS errors.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 scripts/flood/admin.py "$@"
