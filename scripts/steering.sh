#!/usr/bin/env bash
# CPU per datagram with `spread` "cpu" and with "flow", in pairs: one sender on each of two CPUs, two pinned workers. Prints
# Markdown.
#
# Usage: scripts/steering.sh [OPTIONS]                 (see --help; about eight minutes)
#        scripts/steering.sh --runs 1 --seconds 1      quick check, half a minute
#
# Same requirements as compare.sh, without the peers.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/steering.py" "$@"
