#!/usr/bin/env bash
# Takes the README's picture: runs `statsring demo` in a real terminal (tmux), captures the screen while a backend is down and
# at the end, and draws both as an SVG.
#
# Usage: scripts/picture.sh [FILE]               writes FILE (default: docs/src/demo.svg)
#        STATSRING=path scripts/picture.sh       runs that program
#        SECONDS_SHOWN=15 scripts/picture.sh     how long the demo runs
#
# Needs tmux and python3. Exit 0 if the demo succeeded and the picture was written.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    echo "picture: $*" >&2
    exit 71
}

file=${1:-docs/src/demo.svg}
seconds=${SECONDS_SHOWN:-15}
program=${STATSRING:-}
if [ -z "$program" ]; then
    cargo build --release
    program=${CARGO_TARGET_DIR:-target}/release/statsring
fi
command -v tmux >/dev/null || die "tmux is missing"
work=$(mktemp -d)
# A server of its own, so that no other session is touched.
terminal=(tmux -f /dev/null -S "$work/socket")
trap '"${terminal[@]}" kill-server 2>/dev/null || true; rm -rf "$work"' EXIT

# The program goes by its name, as in the README.
ln -s "$(readlink -f "$program")" "$work/statsring"
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
    # The last screen on which a backend is down: by then the table shows what the others took over.
    if grep -qE '% .* down ' "$work/now"; then
        mv "$work/now" "$work/running"
    fi
    sleep 0.3
done
[ "$(cat "$work/code")" = 0 ] || { screen; die "the demo failed with exit code $(cat "$work/code")"; }
[ -s "$work/running" ] || die "no backend was down on any screen: give the demo more time"
screen >"$work/ended"
python3 scripts/picture.py "$work/running" "$work/ended" >"$work/svg"
mkdir -p "$(dirname "$file")"
mv "$work/svg" "$file"
chmod 644 "$file"
echo "picture: written to $file"
