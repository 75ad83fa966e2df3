#!/usr/bin/env bash
# Measures the gain of each optimisation: pairs of runs with and without it under the same load. Prints Markdown.
#
# Usage: scripts/optimisations.sh [OPTIONS]           (see --help; about ten minutes)
#        scripts/optimisations.sh --runs 1 --seconds 1 --no-bench    quick check, two minutes
#
# Same requirements as compare.sh, without the peers.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/optimisations.py" "$@"
