#!/usr/bin/env bash
# Loss and CPU against the rate, for statsring and the programs of compare.sh: load-curve.csv and .svg in docs/src/performance.
#
# Usage: scripts/load-curve.sh [OPTIONS]       (see --help; about 30 minutes)
#        scripts/load-curve.sh --from-csv      redraws the CSV
#        scripts/load-curve.sh --csv a.csv --svg a.svg --rates 20000,100000 --runs 1 --seconds 2    quick check
#
# Same requirements as compare.sh. As root it gives every program the same receive buffer.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/curve.py" "$@"
