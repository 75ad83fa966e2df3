#!/usr/bin/env bash
# Generates the picture of the README: runs `statsring demo` in a terminal (tmux), captures the screen while a backend is down
# and at the end, and renders both as SVG.
#
# Usage: scripts/picture.sh [FILE]               writes FILE (default docs/src/demo.svg)
#        STATSRING=path scripts/picture.sh       runs that program
#        SECONDS_SHOWN=15 scripts/picture.sh     duration of the demo
#
# Requires tmux and python3. Exit 0 if the demo succeeded and the picture was written.
set -euo pipefail
cd "$(dirname "$0")/.."

name=picture
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

file=${1:-docs/src/demo.svg}
seconds=${SECONDS_SHOWN:-15}
command -v tmux >/dev/null || die "tmux is not installed (Debian: tmux)"
find_program
# A separate server, so that other sessions are not affected.
terminal=(tmux -f /dev/null -S "$work/socket")
trap '"${terminal[@]}" kill-server 2>/dev/null || true; finish' EXIT

# The command is shown as in the README.
ln -s "$program" "$work/statsring"
export PATH=$work:$PATH LC_ALL=C.UTF-8
unset NO_COLOR
"${terminal[@]}" new-session -d -x 110 -y 60 \
    "printf '\033[2m$\033[0m statsring demo --seconds $seconds\n'; statsring demo --seconds $seconds; echo \$? >'$work/code'; sleep 600"

screen() {
    "${terminal[@]}" capture-pane -p -e
}

deadline=$((SECONDS + seconds + 30))
while [ ! -s "$work/code" ]; do
    [ "$SECONDS" -lt "$deadline" ] || die "the demo did not end"
    screen >"$work/now"
    # The last screen with a backend down shows the diverted metrics best.
    if grep -qE '% .* down ' "$work/now"; then
        mv "$work/now" "$work/running"
    fi
    sleep 0.3
done
[ "$(cat "$work/code")" = 0 ] || { screen; die "the demo failed with exit code $(cat "$work/code")"; }
[ -s "$work/running" ] || die "no screen showed a backend down: increase SECONDS_SHOWN"
screen >"$work/ended"
python3 scripts/picture.py "$work/running" "$work/ended" >"$work/svg"
mkdir -p "$(dirname "$file")"
mv "$work/svg" "$file"
chmod 644 "$file"
echo "picture: written to $file"
