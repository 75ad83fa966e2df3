#!/usr/bin/env bash
# The real Prometheus scrapes the real proxy: what it shows must be what was sent, the alert rules must fire on losses that
# really happen, and each panel of the dashboard must find its figures.
#
# Usage: scripts/prometheus-test.sh
#        STATSRING=path scripts/prometheus-test.sh     with that program
#
# What is held against what: the format (promtool check metrics); the rules and their unit tests (promtool check rules, test
# rules); totals that Prometheus answers against what was sent; alerts after a backend was killed, after a receive buffer
# overflowed, after metrics were dropped and after the proxy ended; every expression of docs/src/monitoring/ against the names
# that a scrape really has. The alerts' times are shortened for this (a copy of the rules with seconds for minutes).
#
# Needs prometheus and promtool (Debian: apt-get install prometheus) and python3; listens on loopback at free ports, keeps its
# data in a temporary folder, and ends by itself. Exit 0 if all is well, 1 if not, 71 if something is missing here.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in prometheus promtool; do
    command -v "$tool" >/dev/null || {
        echo "prometheus-test: $tool is not installed (Debian: apt-get install prometheus)" >&2
        exit 71
    }
done
exec python3 -B scripts/monitoring/watch.py "$@"
