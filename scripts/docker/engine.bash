# A private Docker Engine, stopped with the script. Source it after scripts/proxy.bash; begin_engine needs the directory `work`.
#
# Defines: docker, the client of that engine.

# Checks for root and installs the engine and the given packages if missing.
needs_engine() {
    local missing=() package
    [ "$(id -u)" = 0 ] || die "requires root to start a Docker Engine"
    command -v dockerd >/dev/null || missing+=(docker.io)
    for package in "$@"; do
        command -v "$package" >/dev/null || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        apt-get update >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2
    fi
    # Prefer the engine's own client: others may lack the builder.
    client=/usr/bin/docker
    [ -x "$client" ] || client=$(command -v docker) || die "dockerd is installed, but its client docker is not"
}

docker() {
    DOCKER_BUILDKIT=1 "$client" --host "unix://$work/docker.sock" "$@"
}

# shellcheck disable=SC2317,SC2329 # called by the trap
finish_engine() {
    local mount pid
    for pid in "${children[@]}"; do
        kill -TERM "$pid" 2>/dev/null || continue
        wait "$pid" 2>/dev/null || true
    done
    children=()
    # dockerd does not unmount its network namespace.
    while read -r mount; do
        umount "$mount" 2>/dev/null || true
    done < <(awk -v under="$work/" 'index($2, under) == 1 { print $2 }' /proc/mounts | sort -r)
    finish
}

# shellcheck disable=SC2317,SC2329 # called by await
show_log() {
    [ -z "${container:-}" ] || docker logs "$container" >&2 || true
}

is_engine_up() {
    if ! kill -0 "$engine" 2>/dev/null; then
        tail -5 "$work/dockerd-log" >&2
        die "dockerd does not run on this machine; its log is above"
    fi
    docker info >/dev/null 2>&1
}

# Starts the engine without networks. $1 is the storage driver; vfs works everywhere.
begin_engine() {
    dockerd --iptables=false --ip-masq=false --bridge=none --storage-driver="$1" --data-root "$work/data" \
        --exec-root "$work/exec" --pidfile "$work/docker.pid" --host "unix://$work/docker.sock" >"$work/dockerd-log" 2>&1 &
    engine=$!
    children+=("$engine")
    await "dockerd answers" is_engine_up
}
