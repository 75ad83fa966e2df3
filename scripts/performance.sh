#!/usr/bin/env bash
# Measures everything and writes it down: report.md and the load curve in docs/src/performance, and the README's section on
# performance.
#
# Usage: scripts/performance.sh [--quick]      less than half an hour
#        scripts/performance.sh --full         two to three hours
#        scripts/performance.sh --help         lists the options
#
# Ended in between, it goes on where it was: each finished step is kept, below target/performance, and measured again only
# by --again. It needs what compare.sh needs; run it on an idle machine, as root for the table with equal receive buffers.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/performance.py" "$@"
