#!/usr/bin/env bash
# Tests statsring on Debian's kernels: boots each in QEMU and runs in the guest the tests of tests/kernel_facts.rs, then on
# each engine a relay under load with a reload and a restart, which must lose nothing, and counts the context switches of its
# worker at 3,000 datagrams/s for 8 s. The guest's clock counts instructions: counts and order are exact, CPU times are not.
#
# Usage: scripts/kernel-test.sh [--assert-switches] [SUITE...]    kernels of these Debian suites (default bookworm: 6.1)
#        scripts/kernel-test.sh bookworm bookworm-backports       also the newest kernel for Debian 12
#        STATSRING=path scripts/kernel-test.sh                    tests that program
#
# --assert-switches: fail if the worker on io_uring switches more than 1.2 times as often as on the portable engine.
#
# Requires Debian on x86-64. As root it installs qemu-system-x86, busybox-static, iproute2, binutils and xz-utils if missing.
# Kernels are downloaded by apt from Debian's archive and kept in target/kernels. Exit codes: 0 passed, 1 failed, 64 usage
# error, 71 no kernel could be downloaded or the tests not be built.
set -euo pipefail
cd "$(dirname "$0")/.."

name="kernel-test"
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

# For one guest; on an idle machine it takes half a minute.
GUEST_S=300
SWITCHES_RATIO_MAX=1.2
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

asserts_switches=
suites=()
for argument in "$@"; do
    case $argument in
        -h | --help) usage 0 ;;
        --assert-switches) asserts_switches=yes ;;
        *)
            [[ $argument =~ ^[a-z]+(-backports)?$ ]] || usage 64 >&2
            suites+=("$argument")
            ;;
    esac
done
[ ${#suites[@]} -gt 0 ] || suites=(bookworm)

install_missing() {
    local missing=()
    [ "$(uname -m)" = x86_64 ] || die "expected an x86-64 machine, found $(uname -m)"
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        die "expected Debian: apt-get and dpkg-deb not found"
    fi
    command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
    # ldd fails for a static program.
    if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then
        missing+=(busybox-static)
    fi
    command -v tc >/dev/null || missing+=(iproute2)
    command -v strip >/dev/null || missing+=(binutils)
    command -v xz >/dev/null || missing+=(xz-utils)
    [ -e "$KEYRING" ] || missing+=(debian-archive-keyring)
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "missing packages; as root: apt-get install ${missing[*]}"
    apt-get update >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2
}

# fetch SUITE: sets `kernel` to a directory with the suite's vmlinuz and modules. It has its own apt state, because this
# machine may install from another suite.
fetch() {
    local suite=$1 state=$kernels/apt-$1 package version options
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    echo "deb [signed-by=$KEYRING] http://deb.debian.org/debian $suite main" >"$state/sources.list"
    [[ $suite == *-backports ]] ||
        echo "deb [signed-by=$KEYRING] http://deb.debian.org/debian-security $suite-security main" >>"$state/sources.list"
    options=(
        -o "Dir::State=$state" -o Dir::State::status=/dev/null -o "Dir::Cache=$state/cache"
        -o "Dir::Etc::SourceList=$state/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Acquire::Languages=none -o APT::Architecture=amd64 -o APT::Update::Error-Mode=any -o APT::Sandbox::User=
    )
    apt-get "${options[@]}" -qq update >&2 || die "$suite: cannot read the package lists of deb.debian.org"
    package=$(apt-cache "${options[@]}" depends linux-image-amd64 | sed -n 's/^  Depends: \(linux-image-[0-9]\)/\1/p')
    [ -n "$package" ] || die "$suite: the package linux-image-amd64 depends on no kernel"
    version=$(apt-cache "${options[@]}" policy "$package" | sed -n 's/^  Candidate: //p')
    kernel=$kernels/${package}_$version
    [ ! -e "$kernel/vmlinuz" ] || return 0

    rm -rf "$kernel.new"
    mkdir -p "$kernel.new/modules" "$kernel.new/package"
    (cd "$kernel.new/package" && apt-get "${options[@]}" -qq download "$package=$version" >&2) ||
        die "$suite: cannot download $package $version"
    # veth and tbf are for the tests of queueing disciplines.
    dpkg-deb --fsys-tarfile "$kernel.new"/package/*.deb | tar -C "$kernel.new/package" --extract --wildcards \
        './boot/vmlinuz-*' '*/drivers/net/veth.ko*' '*/net/sched/sch_tbf.ko*' || die "$package $version lacks a file"
    find "$kernel.new" -name '*.ko.xz' -exec xz --decompress {} +
    find "$kernel.new/package" -name '*.ko' -exec mv -t "$kernel.new/modules" {} +
    mv "$kernel.new"/package/boot/vmlinuz-* "$kernel.new/vmlinuz"
    rm -r "$kernel.new/package"
    rm -rf "$kernel"
    mv "$kernel.new" "$kernel"
}

# put_program FILE PATH: copies a program and its libraries into the guest.
put_program() {
    local library
    strip --strip-debug -o "$root/$2" "$1"
    chmod 755 "$root/$2"
    while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -Lu "$library" "$root$library"
    done < <(ldd "$1" 2>/dev/null | grep -o '/[^ ]*')
}

# Everything in the guest but the kernel's modules.
fill_root() {
    local facts applet
    facts=$(cargo test --no-run --test kernel_facts 2>&1 | tee /dev/stderr | sed -n 's/.*Executable .*(\(.*\))$/\1/p') ||
        die "cannot build tests/kernel_facts.rs"
    mkdir -p "$root"/{bin,proc,sys,dev,tmp,modules,repo/scripts/kernel}
    for applet in $(busybox --list); do
        ln -s busybox "$root/bin/$applet"
    done
    for applet in busybox bash ip tc; do
        rm -f "$root/bin/$applet"
        put_program "$(command -v "$applet")" "bin/$applet"
    done
    put_program "$program" repo/statsring
    put_program "$facts" repo/kernel_facts
    cp scripts/proxy.bash "$root/repo/scripts"
    cp scripts/kernel/guest.bash "$root/repo/scripts/kernel"
    cp scripts/kernel/init "$root/init"
}

# Runs the guest; its console output is in $work/console.
boot() {
    local pid code=0
    rm -f "$root"/modules/*
    cp "$kernel"/modules/*.ko "$root/modules"
    (cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initramfs"
    : >"$work/serial"
    # With icount an instruction takes 1 ns of the guest's clock and idle time is skipped, so the counts do not depend on
    # the load of this machine. That needs a guest with one CPU.
    timeout --kill-after 5 "$GUEST_S" qemu-system-x86_64 -accel tcg -icount shift=0,sleep=off -smp 1 -m 1024 -nodefaults \
        -no-user-config -display none -no-reboot -serial "file:$work/serial" -kernel "$kernel/vmlinuz" \
        -initrd "$work/initramfs" -append "console=ttyS0 quiet panic=-1" </dev/null &
    pid=$!
    children+=("$pid")
    wait "$pid" || code=$?
    tr -d '\r' <"$work/serial" >"$work/console"
    if [ "$code" = 124 ]; then
        echo "@ failed the guest timed out after $GUEST_S s" >>"$work/console"
    elif ! grep -qx '@ end' "$work/console"; then
        echo "@ failed the guest stopped early (exit code of QEMU: $code)" >>"$work/console"
    fi
}

reported() {
    sed -n "s/^@ $1 //p" "$work/console"
}

# judge SUITE: prints failures with the console and appends a line to `lines`; 1 if anything failed.
judge() {
    local engine uring portable ratio="?" failures=() failure
    mapfile -t failures < <(reported failed)
    [ -n "$(reported facts)" ] || failures+=("no result of the kernel facts")
    for engine in io_uring portable; do
        [ -n "$(reported "relay $engine")" ] || failures+=("no result of the relay on $engine")
    done
    uring=$(reported 'switches io_uring') portable=$(reported 'switches portable')
    if [ -n "$uring" ] && [ -n "$portable" ]; then
        ratio=$(awk -v uring="$uring" -v portable="$portable" 'BEGIN { printf "%.2f", uring / portable }')
        if [ -n "$asserts_switches" ] && awk "BEGIN { exit !($ratio > $SWITCHES_RATIO_MAX) }"; then
            failures+=("io_uring switched $ratio times as often as portable, expected at most $SWITCHES_RATIO_MAX")
        fi
    fi
    lines+=("$1, Linux $(reported kernel): $(reported facts) kernel facts; context switches in 8 s: io_uring ${uring:-?}, portable ${portable:-?} (ratio $ratio)")
    [ ${#failures[@]} -gt 0 ] || return 0
    echo "--- console of the guest" >&2
    cat "$work/console" >&2
    echo "---" >&2
    for failure in "${failures[@]}"; do
        echo "FAIL: $1: $failure"
    done
    return 1
}

install_missing
kernels=${CARGO_TARGET_DIR:-target}/kernels
mkdir -p "$kernels"
kernels=$(readlink -f "$kernels")
find_program
root=$work/root
fill_root
lines=()
code=0
for suite in "${suites[@]}"; do
    fetch "$suite"
    echo "$suite: running $(basename "$kernel")"
    boot
    judge "$suite" || code=1
done
printf '%s\n' "${lines[@]}"
[ "$code" = 0 ] || fail "${suites[*]}: see above"
echo "PASS: ${suites[*]}: kernel facts hold, reload and restart lost nothing on either engine"
