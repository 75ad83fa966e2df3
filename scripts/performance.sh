#!/usr/bin/env bash
# Runs all measurements and writes report.md and the load curve in docs/src/performance, and the README's performance section.
#
# Usage: scripts/performance.sh [--quick]      less than half an hour
#        scripts/performance.sh --full         two to three hours
#        scripts/performance.sh --help         lists the options
#
# It continues after an interruption: finished steps are kept below target/performance and repeated only with --again. Same
# requirements as compare.sh. Run it on an idle machine, as root for the table with equal receive buffers.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/performance.py" "$@"
