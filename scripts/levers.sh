#!/usr/bin/env bash
# What each of statsring's levers gains: the same load with it and without it. Prints Markdown.
#
# Usage: scripts/levers.sh [OPTIONS]           (--help lists them; about ten minutes without)
#        scripts/levers.sh --runs 1 --seconds 1 --no-bench    a first look, two minutes
#
# It needs what compare.sh needs, but no peers.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/levers.py" "$@"
