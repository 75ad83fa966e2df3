#!/usr/bin/env bash
# What a metric costs statsring as work grows: ns of CPU per metric against metrics per datagram, names, nodes and
# workers. Prints Markdown.
#
# Usage: scripts/cost-curves.sh [OPTIONS]      (--help lists them; about twenty minutes without)
#        scripts/cost-curves.sh --runs 1 --seconds 1 --points 3 --no-bench    a first look, two minutes
#
# It needs what compare.sh needs, but no peers.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/costs.py" "$@"
