#!/usr/bin/env bash
# A flood of junk at full speed: memory has to stay within the bound that is printed at start, and every datagram has to be
# counted, as received or as dropped by the kernel.
#
# Usage: scripts/junk-flood.sh [SECONDS]                   (60 seconds)
#        STATSRING=path scripts/junk-flood.sh              with that program
#        CONFIG='"workers": 2' scripts/junk-flood.sh       more keys for the proxy's config, as JSON
#
# The junk: random bytes, empty datagrams, newlines, colons and bars, lines without an end, datagrams longer than
# maxDatagramSize, names that never come again; among them some metrics that are right. Exit 0 if the verdict is good, 1 if
# not, 71 if the system refused something.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 scripts/flood/junk.py "$@"
