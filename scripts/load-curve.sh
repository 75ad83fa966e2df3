#!/usr/bin/env bash
# Loss and CPU against the rate, for statsring and the programs of compare.sh: load-curve.csv and .svg in docs/src/performance.
#
# Usage: scripts/load-curve.sh [OPTIONS]       (--help lists them; about half an hour without)
#        scripts/load-curve.sh --from-csv      draws the CSV again
#        scripts/load-curve.sh --csv a.csv --svg a.svg --rates 20000,100000 --runs 1 --seconds 2    a first look
#
# It needs what compare.sh needs, and as root gives every program the same receive buffer.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/curve.py" "$@"
