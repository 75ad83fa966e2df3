#!/usr/bin/env bash
# CPU per metric of two proxies in a chain with `gro` of the second one on and off, in pairs. Prints Markdown.
#
# Usage: scripts/chain.sh [OPTIONS]                    (see --help; about two minutes)
#        scripts/chain.sh --runs 1 --seconds 1         quick check, half a minute
#
# Same requirements as compare.sh, without the peers.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/chain.py" "$@"
