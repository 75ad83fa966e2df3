#!/usr/bin/env bash
# The pages of docs/src/migrating followed: each config in them is started as it is printed, at its own ports, in front of sockets at the
# backends' own addresses, in a network namespace of the test's own; metrics must arrive where `statsring where` says.
#
# Usage: scripts/guides-test.sh            builds the program and tests it
#        STATSRING=path scripts/guides-test.sh   tests that program
#
# Needs python3, ip (iproute2) and unshare, and the right to make a network namespace. Ends with "N passed, N failed"; exit 0
# only if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."
name=guides-test
seconds_max=120
# shellcheck source=scripts/peers/peers.bash
. scripts/peers/peers.bash

begin python3 ip unshare timeout
# Without root: one's own user namespace gives the right.
own_network=(unshare --net)
[ "$(id -u)" = 0 ] || own_network=(unshare --map-root-user --net)
"${own_network[@]}" true || die "a network namespace cannot be made here; as root it can"
run_test guides.py "${own_network[@]}"
