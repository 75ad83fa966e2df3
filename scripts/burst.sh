#!/usr/bin/env bash
# Bursts into a small receive buffer: losses of statsring compared with a reader that wakes for each datagram. Prints
# Markdown.
#
# Usage: scripts/burst.sh [OPTIONS]            (see --help; about 15 minutes)
#        scripts/burst.sh --runs 1 --bursts 2  quick check, two minutes
#
# Same requirements as compare.sh, without the peers.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/burst.py" "$@"
