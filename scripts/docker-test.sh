#!/usr/bin/env bash
# Tests the image in a private Docker Engine: built from a static program, run as documented (UID 8125, no capabilities,
# read-only, no-new-privileges), under the current default seccomp profile and under docker/seccomp.json. Each time the
# HEALTHCHECK must become healthy, and all metrics must arrive although `docker stop` comes during the load.
#
# Usage: scripts/docker-test.sh
#        STATSRING=path scripts/docker-test.sh       tests that program, which must be static (scripts/build-static.sh)
#
# Requires root; installs docker.io and jq if missing. Pulls nothing: the compile stage is skipped in favour of a prebuilt
# program (scripts/docker-build-test.sh tests that stage). Exit 0 on success, 1 on failure, 71 if no engine runs here.
set -euo pipefail
cd "$(dirname "$0")/.."

name=docker-test
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash
# shellcheck source=scripts/docker/engine.bash
. scripts/docker/engine.bash

container=statsring-test
needs_engine jq
STATSRING=${STATSRING:-$(scripts/build-static.sh)}
find_program
[[ $("$program" --version) == *static\) ]] || die "$program is not static; build it with scripts/build-static.sh"
# glibc's resolver loads shared libraries, which the image does not contain.
[ -z "$(nm "$program" | awk '$3 == "getaddrinfo"')" ] || fail "$program contains glibc's resolver"

# shellcheck disable=SC2317,SC2329 # called by the trap
finish_docker() {
    [ ! -S "$work/docker.sock" ] || docker rm --force statsring-test >/dev/null 2>&1 || true
    finish_engine
}
trap finish_docker EXIT

# --- The engine and the image.

begin_engine vfs
# The build context for a prebuilt program: see docker/Dockerfile.
mkdir "$work/context"
cp "$program" LICENSE "$work/context/"
[ "$(basename "$program")" = statsring ] || mv "$work/context/$(basename "$program")" "$work/context/statsring"
docker build --quiet --tag statsring --file docker/Dockerfile --build-arg PROGRAM=prebuilt \
    "$work/context" >"$work/build-log" 2>&1 || { cat "$work/build-log" >&2; fail "docker build"; }
bytes=$(docker image inspect --format '{{.Size}}' statsring)
echo "image: $((bytes / 1000)) kB, Docker $(docker version --format '{{.Server.Version}}')"
[ "$(docker run --rm --network none statsring --version)" = "$("$program" --version)" ] || fail "--version in the container"

# The current default profile is docker/seccomp.json without the added rule.
jq '.syscalls |= map(select(.names | contains(["io_uring_setup"]) | not))' docker/seccomp.json >"$work/default.json"
[ "$(jq '.syscalls | length' "$work/default.json")" = $(($(jq '.syscalls | length' docker/seccomp.json) - 1)) ] ||
    die "docker/seccomp.json: expected the default profile plus one rule"

# --- Containers.

write_config() {
    cat >"$work/config.json" <<JSON
{ "host": "127.0.0.1", "port": $port, "managementHost": "127.0.0.1", "managementPort": $admin,
  "checkInterval": ${interval:-10000}, "nodes": [
  { "host": "statsd-1", "port": ${ports[0]}, "adminport": ${ports[3]} },
  { "host": "statsd_2", "port": ${ports[1]}, "adminport": ${ports[4]} },
  { "host": "statsd-3.test", "port": ${ports[2]}, "adminport": ${ports[5]} } ] }
JSON
}

has() {
    local text
    text=$( (ask status) 2>/dev/null)
    [[ $text == *"$1"* ]]
}

logged() {
    [[ $(docker logs statsring-test 2>&1) == *"$1"* ]]
}

is_healthy() {
    [ "$(docker inspect --format '{{.State.Health.Status}}' statsring-test)" = healthy ]
}

# try_profile NAME PROFILE ENGINE LOG: tests one profile. ENGINE is the expected engine, LOG a part of the expected log.
try_profile() {
    local pid load code=0 sinks health expected
    pick_ports 8
    port=${ports[0]} admin=${ports[1]} ports=("${ports[@]:2}")
    interval=10000 write_config
    printf -v sinks '%s,%s,%s' "${ports[@]:0:3}"
    printf -v health '%s,%s,%s' "${ports[@]:3:3}"
    # The backends must be up before the proxy checks them.
    "$program" load --to "127.0.0.1:$port" --sink "$sinks" --health "$health" --delay 8 --rate 5000 --names 1000 \
        --flows 4 --seconds 600 --quiet >"$work/verdict" 2>&1 </dev/null &
    load=$!
    children+=("$load")

    docker run --detach --name statsring-test --network host --add-host statsd-1:127.0.0.1 --add-host statsd_2:127.0.0.1 \
        --add-host statsd-3.test:127.0.0.1 \
        --read-only --cap-drop ALL --security-opt no-new-privileges --security-opt "seccomp=$2" \
        --ulimit memlock=8388608 --health-interval 1s --volume "$work/config.json:/etc/statsdproxy.json:ro" \
        statsring >/dev/null || fail "$1: docker run"
    await "$1: the engine is $3" has "engine: $3"
    await "$1: HEALTHCHECK is healthy" is_healthy
    await "$1: the log contains: $4" logged "$4"
    pid=$(docker inspect --format '{{.State.Pid}}' statsring-test)
    for expected in "Uid:.8125.8125.8125.8125" "CapEff:.0000000000000000" "CapBnd:.0000000000000000" "NoNewPrivs:.1" "Seccomp:.2"; do
        grep -q "^$expected$" "/proc/$pid/status" || fail "$1: expected $expected in $(cat "/proc/$pid/status")"
    done

    is_loaded() { ask stats >"$work/stats" 2>/dev/null && [ "$(counter metrics_received)" -gt 5000 ]; }
    await "$1: metrics arrive" is_loaded
    interval=9000 write_config
    docker kill --signal HUP statsring-test >/dev/null
    await "$1: a reload on SIGHUP" logged "checkInterval: 10000 -> 9000"
    docker kill --signal USR2 statsring-test >/dev/null
    await "$1: SIGUSR2 is refused with the reason" logged "this is process 1"
    kill -INT "$load"
    docker stop statsring-test >/dev/null
    wait "$load" || code=$?
    sed -n '1,3p' "$work/verdict"
    [ "$code" = 0 ] || { cat "$work/verdict" >&2; docker logs statsring-test >&2; fail "$1: the load failed"; }
    code=$(docker inspect --format '{{.State.ExitCode}}' statsring-test)
    [ "$code" = 0 ] || { docker logs statsring-test >&2; fail "$1: exit code $code after docker stop"; }
    logged "dropped 0, pending 0" || { docker logs statsring-test >&2; fail "$1: the final counters show drops or pending metrics"; }
    docker rm statsring-test >/dev/null
    echo "$1: $3, healthy, nothing lost, exit 0"
}

try_profile "default profile" "$work/default.json" portable "a seccomp profile forbids it"
try_profile "docker/seccomp.json" docker/seccomp.json io_uring "(io_uring)"
