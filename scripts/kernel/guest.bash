# Runs in the guest of kernel-test.sh: the kernel facts, then on each engine a relay under load, with a reload, a restart and
# a count of the worker's context switches.
#
# In: /repo/kernel_facts, /repo/statsring. Out: lines on the console that begin with `@`, which kernel-test.sh reads:
#   @ kernel RELEASE    @ facts COUNT    @ relay ENGINE PASS    @ switches ENGINE COUNT    @ failed WHAT    @ end

export STATSRING=/repo/statsring name=guest
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

RATE=3000 COUNT_S=8

result() {
    echo "@ $*"
}

facts() {
    local code=0
    # As root nothing may be skipped.
    CI=true timeout 200 ./kernel_facts >/tmp/facts 2>&1 || code=$?
    cat /tmp/facts
    [ "$code" = 0 ] ||
        result failed "kernel facts (exit code $code):" "$(sed -n 's/^test \(.*\) \.\.\. FAILED.*/\1/p' /tmp/facts | paste -sd' ')"
    result facts "$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' /tmp/facts)"
}

# The config with the first $1 backends.
config() {
    local nodes=() sink
    for sink in "${ports[@]:0:$1}"; do
        nodes+=("{\"host\": \"127.0.0.1\", \"port\": $sink}")
    done
    echo "{\"host\": \"127.0.0.1\", \"port\": $port, \"managementHost\": \"127.0.0.1\", \"managementPort\": $admin,"
    echo "\"engine\": \"$engine\", \"workers\": 1, \"nodes\": [$(IFS=, && echo "${nodes[*]}")]}"
}

write_config() {
    config 3 >"$work/config.json"
}

# Whether a line of status matches.
status_shows() {
    grep -q "$1" <<<"$(ask status 2>/dev/null)"
}

await_status() {
    await "a line of status that matches $1" status_shows "$1"
}

# Voluntary context switches of the worker thread.
switches() {
    local task
    for task in /proc/"$proxy_pid"/task/*; do
        [ "$(<"$task/comm")" = worker-0 ] || continue
        sed -n 's/^voluntary_ctxt_switches:[^0-9]*//p' "$task/status"
        return
    done
    die "/proc/$proxy_pid/task has no thread worker-0"
}

# relay ENGINE: a subshell, so that finish() ends its processes only.
relay() (
    set -euo pipefail
    engine=$1
    find_program
    start_proxy 4
    config 3 >"$work/three.json"
    config 4 >"$work/four.json"
    "$program" load --to "127.0.0.1:$port" --sink "$(IFS=, && echo "${ports[*]}")" --placed-by "$work/three.json" \
        --placed-by "$work/four.json" --rate "$RATE" --seconds 600 --quiet >"$work/load" 2>&1 &
    load_pid=$!
    children+=("$load_pid")
    await_status "^engine: $engine"
    sleep 1

    cp "$work/four.json" "$work/config.json"
    kill -HUP "$proxy_pid"
    await_status "^last_reload: .* added"
    sleep 0.5

    restart_proxy || fail "the restart did not complete within 60 s: $status"
    children+=("$proxy_pid")
    await_status "^engine: $engine"
    sleep 1

    count=$(switches)
    sleep "$COUNT_S"
    count=$(($(switches) - count))
    kill -0 "$load_pid" || die "the load ended early: $(<"$work/load")"
    kill -TERM "$load_pid"
    code=0
    wait "$load_pid" || code=$?
    cat "$work/load"
    [ "$code" = 0 ] || fail "the load's verdict above is bad"
    result switches "$engine" "$count"
    result relay "$engine" PASS
)

result kernel "$(uname -r)"
facts
for engine in io_uring portable; do
    # In the background, because errexit has no effect left of ||.
    relay "$engine" &
    wait $! || result failed "relay on $engine"
done
result end
