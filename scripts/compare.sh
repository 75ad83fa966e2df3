#!/usr/bin/env bash
# Compares statsring with other StatsD proxies: CPU per datagram, delivery, latency, memory. Prints Markdown.
#
# Usage: scripts/compare.sh [OPTIONS]          (see --help; about 90 minutes)
#        scripts/compare.sh --runs 2 --seconds 2 --warm-up 1 --loads 20k     quick check, three minutes
#        STATSRING=path scripts/compare.sh     measures that program
#
# The peers are StatsD's proxy.js (npm), statsdproxy (crates.io), statsd-proxy (C) and two floors: one that receives, and one that
# also forwards blindly (examples/receive_floor.rs, examples/forward_floor.rs). They are installed once, below
# ${XDG_CACHE_HOME:-~/.cache}/statsring-compare; those that fail to install are reported and left out.
# Requires two cores, python3 (3.9 or later), taskset, cargo; node and npm for proxy.js; ss for granted buffer sizes.
# As root it sets net.core.rmem_default for the table with equal buffers, and restores it.
set -euo pipefail
folder=$(dirname "$0")/compare
# shellcheck source-path=SCRIPTDIR source=compare/prepare.sh
. "$folder/prepare.sh"
prepare "$@"
exec python3 "$folder/compare.py" "$@"
