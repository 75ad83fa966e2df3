#!/usr/bin/env bash
# Installs statsring on this host: the program, man page, systemd units, socket buffer limits, and an example config if none
# exists. Starts nothing; prints the next steps.
#
#   scripts/install.sh [--prefix DIR] [--destdir DIR] [--systemd VERSION] [PROGRAM]
#   scripts/install.sh --uninstall [--prefix DIR] [--destdir DIR]      removes everything except the config
#
# For systemd before 253 the service gets Type=notify and ExecReload= instead of Type=notify-reload. VERSION defaults to this
# host's, with --destdir to 253.
#
# PROGRAM defaults to target/release/statsring (cargo build --release), --prefix to /usr/local. --destdir is a staging
# directory for packages.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
    exit "$1"
}

die() {
    echo "install: $*" >&2
    exit 71
}

prefix=/usr/local
destdir=
program=${CARGO_TARGET_DIR:-target}/release/statsring
uninstall=
systemd=
while [ $# -gt 0 ]; do
    case $1 in
        --prefix | --destdir)
            [ $# -ge 2 ] || usage 64 >&2
            [[ $2 == /* ]] || die "$1 $2: expected an absolute path"
            declare "${1#--}=${2%/}"
            shift
            ;;
        --systemd)
            [[ ${2:-} =~ ^[0-9]+$ ]] || usage 64 >&2
            systemd=$2
            shift
            ;;
        --uninstall) uninstall=1 ;;
        -h | --help) usage 0 ;;
        -*) usage 64 >&2 ;;
        *) program=$1 ;;
    esac
    shift
done

binary=$prefix/bin/statsring
manual=$prefix/share/man/man8/statsring.8
units=$prefix/lib/systemd/system
limits=$prefix/lib/sysctl.d/60-statsring.conf
doc=$prefix/share/doc/statsring
config=/etc/statsdproxy.json

if [ -n "$uninstall" ]; then
    rm -fv "$destdir$binary" "$destdir$manual" "$destdir$units"/statsring.{service,socket} "$destdir$limits" \
        "$destdir$doc"/{README.md,LICENSE,exampleConfig.json}
    rm -rf "$destdir$doc/docs"
    [ ! -d "$destdir$doc" ] || rmdir --ignore-fail-on-non-empty "$destdir$doc"
    [ ! -e "$destdir$config" ] || echo "left: $destdir$config"
    exit 0
fi

[ -x "$program" ] || die "no program at $program: build it with cargo build --release, or give its path"
[ -w "${destdir:-/}" ] || [ ! -e "${destdir:-/}" ] || die "cannot write to ${destdir:-/}: run it as root, or use --destdir"
# Replace the old program only if the new one runs.
"$program" --version >/dev/null || die "$program does not run on this host"

install -D -m 755 "$program" "$destdir$binary"
install -D -m 644 docs/statsring.8 "$destdir$manual"
install -D -m 644 docs/systemd/60-statsring.conf "$destdir$limits"
install -D -m 644 docs/systemd/statsring.socket "$destdir$units/statsring.socket"
install -D -m 644 docs/systemd/statsring.service "$destdir$units/statsring.service"
sed -i "s|^ExecStart=/usr/local/bin/statsring|ExecStart=$binary|" "$destdir$units/statsring.service"
if [ -z "$systemd$destdir" ]; then
    systemd=$(systemctl --version 2>/dev/null | awk 'NR == 1 { print int($2) }' || true)
fi
# Type=notify-reload requires systemd 253.
if [ "${systemd:-253}" -lt 253 ]; then
    # shellcheck disable=SC2016 # expanded by systemd
    sed -i 's|^Type=notify-reload$|Type=notify\nExecReload=/bin/sh -c '\''kill -HUP "$MAINPID"'\''|' "$destdir$units/statsring.service"
    echo "systemd $systemd: the unit has Type=notify and ExecReload="
fi
install -D -m 644 -t "$destdir$doc" README.md LICENSE exampleConfig.json
# The README links to the book.
while IFS= read -r page; do
    install -D -m 644 "$page" "$destdir$doc/$page"
done < <(find docs/src -type f)
if [ -e "$destdir$config" ]; then
    echo "$config exists and is kept"
else
    install -D -m 644 exampleConfig.json "$destdir$config"
fi
[ -z "$destdir" ] || exit 0
[[ $prefix =~ ^/usr(/local)?$ ]] || echo "note: systemd and sysctl read only /usr/local and /usr, not $prefix"

cat <<NEXT
Installed $("$binary" --version). Next:
  edit $config and check it:   statsring --check
  sysctl --system                                      larger socket buffers
  systemctl daemon-reload
  systemctl enable --now statsring.socket statsring    omit statsring.socket if statsring shall bind the port itself
To upgrade without loss, install the new version and run
  systemctl kill -s SIGUSR2 --kill-whom=main statsring
NEXT
