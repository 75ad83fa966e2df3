#!/usr/bin/env bash
# ns of CPU per metric against metrics per datagram, names, nodes and workers. Prints Markdown.
#
# Usage: scripts/cost-curves.sh [OPTIONS]      (see --help; about 20 minutes)
#        scripts/cost-curves.sh --runs 1 --seconds 1 --points 3 --no-bench    quick check, two minutes
#
# Same requirements as compare.sh, without the peers.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/costs.py" "$@"
