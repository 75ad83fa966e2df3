# A Docker engine of a script's own, ended with the script. To be sourced after scripts/proxy.bash, by a script that has set
# `name`; `begin_engine` needs the folder `work`.
#
# Sets: docker, a function that is the client of that engine.

# Root, and Debian's packages of the engine and of what else the script names.
needs_engine() {
    local missing=() package
    [ "$(id -u)" = 0 ] || die "needs root, for a Docker engine of its own"
    command -v dockerd >/dev/null || missing+=(docker.io)
    for package in "$@"; do
        command -v "$package" >/dev/null || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        apt-get update >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2
    fi
    # The client that came with the engine, rather than one without its builder.
    client=/usr/bin/docker
    [ -x "$client" ] || client=$(command -v docker) || die "dockerd is here, and its client docker is not"
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
    # The engine leaves its network namespace's mount behind.
    while read -r mount; do
        umount "$mount" 2>/dev/null || true
    done < <(awk -v under="$work/" 'index($2, under) == 1 { print $2 }' /proc/mounts | sort -r)
    finish
}

# Waits until a command succeeds, at most a minute; $1 says what is awaited. If it does not, the log of $container is shown.
await() {
    local what=$1 tick
    shift
    for ((tick = 0; tick < 300; tick++)); do
        "$@" && return
        sleep 0.2
    done
    [ -z "${container:-}" ] || docker logs "$container" >&2 || true
    bad "not within a minute: $what"
}

is_engine_up() {
    if ! kill -0 "$engine" 2>/dev/null; then
        tail -5 "$work/dockerd-log" >&2
        die "no Docker engine runs on this machine; above is what dockerd said"
    fi
    docker info >/dev/null 2>&1
}

# Starts the engine, without networks, with a storage driver that works everywhere, or another one.
begin_engine() {
    dockerd --iptables=false --ip-masq=false --bridge=none --storage-driver="${1:-vfs}" --data-root "$work/data" \
        --exec-root "$work/exec" --pidfile "$work/docker.pid" --host "unix://$work/docker.sock" >"$work/dockerd-log" 2>&1 &
    engine=$!
    children+=("$engine")
    await "dockerd answers" is_engine_up
}
