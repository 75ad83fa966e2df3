#!/usr/bin/env bash
# Follows the pages of docs/src/migrating: starts each config as printed, with its ports and sockets at its backends' addresses,
# in a network namespace. Metrics must arrive where `statsring where` says.
#
# Usage: scripts/guides-test.sh            builds and tests the program
#        STATSRING=path scripts/guides-test.sh   tests that program
#
# Requires python3, ip (iproute2), unshare, and permission to create a network namespace. Ends with "N passed, N failed"; exit 0
# only if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."
name=guides-test
seconds_max=120
# shellcheck source=scripts/peers/peers.bash
. scripts/peers/peers.bash

begin python3 ip unshare timeout
# Without root, a user namespace grants the permission.
own_network=(unshare --net)
[ "$(id -u)" = 0 ] || own_network=(unshare --map-root-user --net)
"${own_network[@]}" true || die "cannot create a network namespace; run it as root"
run_test guides.py "${own_network[@]}"
