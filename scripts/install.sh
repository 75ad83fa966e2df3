#!/usr/bin/env bash
# Installs statsring on this host: the program, its man page, systemd's units, socket buffers' limits, and an example config
# where there is none yet. Starts nothing; what is to be done next is printed.
#
#   scripts/install.sh [--prefix DIR] [--destdir DIR] [--systemd VERSION] [PROGRAM]
#   scripts/install.sh --uninstall [--prefix DIR] [--destdir DIR]      removes all of it but the config
#
# For a systemd before 253 the service gets Type=notify and ExecReload= instead of Type=notify-reload; VERSION is this host's
# unless given, or with --destdir a new one.
#
# PROGRAM is target/release/statsring (cargo build --release) unless given; DIR of --prefix is /usr/local. With --destdir
# everything is put below that folder, as packages are made.
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
            [[ $2 == /* ]] || die "$1 $2: give a path from the root on"
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
papers=$prefix/share/doc/statsring
config=/etc/statsdproxy.json

if [ -n "$uninstall" ]; then
    rm -fv "$destdir$binary" "$destdir$manual" "$destdir$units"/statsring.{service,socket} "$destdir$limits" \
        "$destdir$papers"/{README.md,LICENSE,exampleConfig.json}
    rm -rf "$destdir$papers/docs"
    [ ! -d "$destdir$papers" ] || rmdir --ignore-fail-on-non-empty "$destdir$papers"
    [ ! -e "$destdir$config" ] || echo "left: $destdir$config"
    exit 0
fi

[ -x "$program" ] || die "no program at $program: build it with cargo build --release, or name another"
[ -w "${destdir:-/}" ] || [ ! -e "${destdir:-/}" ] || die "cannot write to ${destdir:-/}: run it as root, or give --destdir"
# Only then the old program is replaced.
"$program" --version >/dev/null || die "$program does not run here"

install -D -m 755 "$program" "$destdir$binary"
install -D -m 644 docs/statsring.8 "$destdir$manual"
install -D -m 644 docs/systemd/60-statsring.conf "$destdir$limits"
install -D -m 644 docs/systemd/statsring.socket "$destdir$units/statsring.socket"
install -D -m 644 docs/systemd/statsring.service "$destdir$units/statsring.service"
sed -i "s|^ExecStart=/usr/local/bin/statsring|ExecStart=$binary|" "$destdir$units/statsring.service"
if [ -z "$systemd$destdir" ]; then
    systemd=$(systemctl --version 2>/dev/null | awk 'NR == 1 { print int($2) }' || true)
fi
# It may be older than the unit's way to reload.
if [ "${systemd:-253}" -lt 253 ]; then
    # shellcheck disable=SC2016 # expanded by systemd
    sed -i 's|^Type=notify-reload$|Type=notify\nExecReload=/bin/sh -c '\''kill -HUP "$MAINPID"'\''|' "$destdir$units/statsring.service"
    echo "systemd $systemd: the unit has Type=notify and ExecReload="
fi
install -D -m 644 -t "$destdir$papers" README.md LICENSE exampleConfig.json
# The book, to which the README links.
while IFS= read -r page; do
    install -D -m 644 "$page" "$destdir$papers/$page"
done < <(find docs/src -type f)
if [ -e "$destdir$config" ]; then
    echo "$config is there already and stays as it is"
else
    install -D -m 644 exampleConfig.json "$destdir$config"
fi
[ -z "$destdir" ] || exit 0
[[ $prefix =~ ^/usr(/local)?$ ]] || echo "note: systemd and sysctl look below /usr/local and /usr only, not in $prefix"

cat <<NEXT
Installed $("$binary" --version). Next:
  edit $config, and look at it: statsring --check
  sysctl --system                                      larger socket buffers
  systemctl daemon-reload
  systemctl enable --now statsring.socket statsring    without the socket unit statsring opens its port itself
A later version is taken into service without loss by installing it and
  systemctl kill -s SIGUSR2 --kill-whom=main statsring
NEXT
