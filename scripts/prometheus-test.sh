#!/usr/bin/env bash
# Runs a real Prometheus against the proxy: its totals must equal what was sent, the alert rules must fire on real losses, and
# each panel of the dashboard must have data.
#
# Usage: scripts/prometheus-test.sh
#        STATSRING=path scripts/prometheus-test.sh     tests that program
#
# Checks: the format (promtool check metrics); the rules and their unit tests (promtool check rules, test rules); totals in
# Prometheus; alerts after a backend was killed, a receive buffer overflowed, metrics were dropped and the proxy exited; and that
# every metric name used in docs/src/monitoring/ exists in a scrape. Uses a copy of the rules with seconds instead of minutes.
#
# Requires prometheus and promtool (Debian: prometheus) and python3. Listens on free loopback ports and stores data in a
# temporary directory. Exit 0 on success, 1 on failure, 71 if a requirement is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in prometheus promtool; do
    command -v "$tool" >/dev/null || {
        echo "prometheus-test: $tool is not installed (Debian: prometheus)" >&2
        exit 71
    }
done
exec python3 -B scripts/monitoring/watch.py "$@"
