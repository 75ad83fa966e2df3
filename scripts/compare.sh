#!/usr/bin/env bash
# statsring beside other StatsD proxies: CPU per datagram, what arrives, latency, memory. Prints Markdown.
#
# Usage: scripts/compare.sh [OPTIONS]          (--help lists them; about an hour and a half without)
#        scripts/compare.sh --runs 2 --seconds 2 --warm-up 1 --loads 20k     a first look, three minutes
#        STATSRING=path scripts/compare.sh     measures that program
#
# Beside statsring it runs StatsD's proxy.js (npm), statsdproxy (crates.io) and two floors: one that receives and one
# that also forwards blindly (examples/receive_floor.rs, examples/forward_floor.rs).
# The peers are installed once, below ${XDG_CACHE_HOME:-~/.cache}/statsring-compare; what cannot be installed is named and
# left out. Needs two cores, python3 (3.9 or later), taskset, cargo; node and npm for proxy.js; ss for the buffers that were granted.
# As root it sets net.core.rmem_default for the table with equal buffers, and puts it back.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/compare.py" "$@"
