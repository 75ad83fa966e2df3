#!/usr/bin/env bash
# statsring under a real systemd: boots a minimal Debian with systemd as PID 1 in separate namespaces and a cgroup, installs
# statsring with scripts/install.sh and exercises its hardened units: start, reload, restart without loss, crash, socket
# activation with `systemctl restart` under load, stop. All metrics sent meanwhile must arrive.
#
# Usage: scripts/systemd-test.sh
#        STATSRING=path scripts/systemd-test.sh      tests that program
#        RATE=20000 scripts/systemd-test.sh          datagrams/s (default 5000)
#        RELEASE=bookworm scripts/systemd-test.sh    uses the systemd of that Debian release (default trixie)
#
# Requires root, cgroup v2, and mmdebstrap (installed if missing), which creates the Debian once in target/systemd-RELEASE.
# Exit 0 on success, 1 on failure, 71 if a requirement is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

name='systemd-test'
# Debian 13 has systemd 257, which supports Type=notify-reload; bookworm has 252.
release=${RELEASE:-trixie}
rate=${RATE:-5000}
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

fail() {
    echo "FAIL: $*" >&2
    in_root journalctl --no-pager --unit statsring --unit statsring.socket 2>/dev/null | tail -40 >&2 || true
    exit 1
}

[ "$(id -u)" = 0 ] || die "requires root to create namespaces"
if ! command -v mmdebstrap >/dev/null; then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends mmdebstrap
fi

cgroup=
boot_pid=
init=
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
    # Killing PID 1 ends everything in its PID namespace.
    [ -z "$init" ] || kill -KILL "$init" 2>/dev/null || true
    [ -z "$boot_pid" ] || wait "$boot_pid" 2>/dev/null || true
    if [ -n "$cgroup" ]; then
        local tick
        for ((tick = 0; tick < 50; tick++)); do
            find "$cgroup" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true
            rmdir "$cgroup" 2>/dev/null && break
            sleep 0.1
        done
    fi
    ! mountpoint -q "$work/cgroup" || umount "$work/cgroup"
    rm -rf --one-file-system "$work"
}
find_program

enter=(--mount --uts --ipc --net --pid --cgroup)
in_root() {
    nsenter --target "$init" "${enter[@]}" -- "$@"
}

property() {
    in_root systemctl show --value --property "$1" statsring.service
}

# --- The Debian tree, created once.

base=${CARGO_TARGET_DIR:-target}/systemd-$release
if [ ! -e "$base/etc/debian_version" ]; then
    rm -rf "$base.new"
    mmdebstrap --variant=minbase --include=systemd,dbus --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' "$release" "$base.new" ||
        die "mmdebstrap failed to create Debian $release in $base.new"
    mv "$base.new" "$base"
fi
root=$work/root
cp -a "$base" "$root"
systemd=$(chroot "$root" systemctl --version | awk 'NR == 1 { print int($2) }')
scripts/install.sh --destdir "$root" --systemd "$systemd" "$program"
ports=(8127 8129 8131)
write_config() {
    cat >"$root/etc/statsdproxy.json" <<JSON
{ "managementHost": "127.0.0.1", "checkInterval": $1, "nodes": [
  { "host": "127.0.0.1", "port": ${ports[0]} }, { "host": "127.0.0.1", "port": ${ports[1]} },
  { "host": "127.0.0.1", "port": ${ports[2]} } ] }
JSON
}
write_config 10000

# --- PID 1.

cat >"$work/boot" <<'BOOT'
set -e
cd "$1"
mount --make-rprivate /
mount --bind . .
cd "$1"
mkdir -p .old
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
# PrivateDevices= bind-mounts these into its own /dev.
mkdir dev/shm dev/mqueue dev/hugepages dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ip link set lo up
pivot_root . .old
umount -l .old
exec env -i container=test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=multi-user.target --show-status=no </dev/null
BOOT
mounted=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
if [ -z "$mounted" ]; then
    mkdir "$work/cgroup"
    mount -t cgroup2 cgroup2 "$work/cgroup" || die "this kernel has no cgroup v2"
    mounted=$work/cgroup
fi
cgroup=$mounted/statsring-$name-$$
mkdir "$cgroup" || die "cannot create a cgroup in $mounted"
# The shell that moves itself into the cgroup becomes the parent of PID 1.
# shellcheck disable=SC2016 # expanded by that shell
bash -c 'echo $$ >"$1/cgroup.procs" && exec unshare --fork --pid --mount --uts --ipc --net --cgroup bash "$2" "$3"' \
    boot "$cgroup" "$work/boot" "$root" >"$work/boot-log" 2>&1 &
boot_pid=$!
is_up() {
    init=$(pgrep -P "$boot_pid" || true)
    kill -0 "$boot_pid" 2>/dev/null || { cat "$work/boot-log" >&2; die "systemd did not start"; }
    [ -n "$init" ] && [ "$(cat "/proc/$init/comm")" = systemd ] || return 1
    # Degraded: a unit failed that cannot work in a container, such as kernel modules.
    [[ $(in_root systemctl is-system-running 2>/dev/null) =~ ^(running|degraded)$ ]]
}
await "systemd is up" is_up
echo "PID 1: $(in_root systemctl --version | head -1)"

# --- The units.

findings=$(in_root systemd-analyze verify --man=no statsring.service statsring.socket 2>&1 || true)
[ -z "$findings" ] || fail "systemd-analyze verify: $findings"
score=$(in_root systemd-analyze security --no-pager --offline=true \
    /usr/local/lib/systemd/system/statsring.service | tail -1)
echo "systemd-analyze security --offline=true: ${score#→ }"

# --- Without socket activation.

start_load() {
    # Not through in_root: in the background it adds a subshell between this script and the load.
    nsenter --target "$init" "${enter[@]}" -- /usr/local/bin/statsring load --to 127.0.0.1:8125 --sink "$(IFS=,; echo "${ports[*]}")" \
        --rate "$rate" --names 1000 --flows 4 --seconds 600 --quiet >"$work/verdict" 2>&1 </dev/null &
    load=$!
    await "the load starts" is_load_up
}
is_load_up() {
    kill -0 "$load" 2>/dev/null || { cat "$work/verdict" >&2; fail "the load ended early"; }
    load_child=$(pgrep -P "$load" || true)
    [ -n "$load_child" ]
}
end_load() {
    local code=0
    kill -INT "$load_child"
    wait "$load" || code=$?
    sed -n '1,3p' "$work/verdict"
    [ "$code" = 0 ] || { cat "$work/verdict" >&2; fail "$1: the load failed"; }
}
has_changed_from() {
    local pid
    pid=$(property MainPID)
    [ "$pid" != 0 ] && [ "$pid" != "$1" ] && [ "$(property ActiveState)" = active ] && [ ! -e "$root/proc/$1" ]
}
is_gone() {
    ! in_root test -e "/proc/$1"
}
# The journal receives lines with a delay; use it with await.
logged() {
    in_root journalctl --no-pager --output=cat --unit statsring | grep "$1" >/dev/null
}
# Restarts without loss: the main process changes.
hand_over() {
    local old
    old=$(property MainPID)
    in_root systemctl kill --signal=SIGUSR2 --kill-whom=main statsring
    await "the main process changes" has_changed_from "$old"
    await "the old process exits" is_gone "$old"
    echo "restart without loss: main process $old, then $(property MainPID)"
}

in_root systemctl start statsring || fail "systemctl start statsring"
main=$(property MainPID)
await "statsring uses io_uring" logged "(io_uring)"
in_root cat "/proc/$main/status" >"$work/status"
awk '$1 == "Uid:" { exit $2 == 0 }' "$work/status" || fail "it runs as root"
for expected in "CapEff:.0000000000000000" "CapBnd:.0000000000000000" "NoNewPrivs:.1" "Seccomp:.2"; do
    grep -q "^$expected$" "$work/status" || fail "expected $expected in $(cat "$work/status")"
done
in_root cat "/proc/$main/limits" >"$work/limits"
# 64 MiB, or the limit of this environment if systemd may not raise it.
locked=67108864
[[ $(ulimit -Hl) == unlimited || $(ulimit -Hl) -ge 65536 ]] || locked=$(($(ulimit -Hl) * 1024))
grep -q "^Max locked memory  *$locked " "$work/limits" || fail "LimitMEMLOCK is not in force: $(cat "$work/limits")"

start_load
sleep 1
write_config 9000
in_root systemctl reload statsring || fail "systemctl reload statsring"
[ "$(property MainPID)" = "$main" ] || fail "a reload changed the main process"
await "the log shows the reload" logged "checkInterval: 10000 -> 9000"
hand_over
sleep 1
end_load "reload and restart without loss"

# The main process is not a child of systemd; its death must be detected all the same.
crashed=$(property MainPID)
in_root bash -c "kill -KILL $crashed"
await "systemd restarts it after a crash" has_changed_from "$crashed"
[ "$(property NRestarts)" = 1 ] || fail "NRestarts=$(property NRestarts) after a crash"
in_root systemctl stop statsring || fail "systemctl stop statsring"
[ "$(property Result)" = success ] || fail "the stop's result is $(property Result)"

# --- With socket activation: a plain restart loses nothing that fits into the kernel's buffer.

in_root systemctl start statsring.socket || fail "systemctl start statsring.socket"
[ "$(property ActiveState)" = inactive ] || fail "the socket unit started the service without traffic"
start_load
await "the first metric starts the service" logged "were passed by the service manager"
sleep 1
for number in 1 2 3; do
    before=$(property MainPID)
    in_root systemctl restart statsring || fail "systemctl restart statsring, number $number"
    [ "$(property MainPID)" != "$before" ] || fail "systemctl restart kept the main process"
    sleep 0.5
done
hand_over
in_root systemctl restart statsring || fail "systemctl restart statsring after a restart without loss"
sleep 1
end_load "systemctl restart under socket activation"
hand_over
in_root systemctl stop statsring.socket statsring.service || fail "systemctl stop"
[ "$(property Result)" = success ] || fail "the stop's result is $(property Result)"
# systemd must wait for every stop, including those of processes it did not start.
! logged "with signal SIGKILL" || fail "systemd killed a process instead of waiting for its exit"
echo "systemd: started, reloaded, restarted without loss, restarted after a crash, restarted under socket activation, stopped"
