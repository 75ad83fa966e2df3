#!/usr/bin/env bash
# Sends junk at full speed: memory must stay within the bound printed at start, and every datagram must be counted, as received
# or as dropped by the kernel.
#
# Usage: scripts/junk-flood.sh [SECONDS]                   (60 seconds)
#        STATSRING=path scripts/junk-flood.sh              tests that program
#        CONFIG='"workers": 2' scripts/junk-flood.sh       further config keys, as JSON
#
# The junk: random bytes, empty datagrams, newlines, colons and bars, unterminated lines, datagrams longer than maxDatagramSize,
# names that never repeat, and some valid metrics. Exit 0 on PASS, 1 on FAIL, 71 on OS errors.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 scripts/flood/junk.py "$@"
