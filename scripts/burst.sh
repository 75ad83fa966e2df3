#!/usr/bin/env bash
# Bursts into a small receive buffer: what statsring loses beside a reader that is woken for each datagram. Prints
# Markdown.
#
# Usage: scripts/burst.sh [OPTIONS]            (--help lists them; about a quarter of an hour without)
#        scripts/burst.sh --runs 1 --bursts 2  a first look, two minutes
#
# It needs what compare.sh needs, but no peers.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/burst.py" "$@"
