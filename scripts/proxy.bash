# A statsring under test, for scripts that change it while a load runs: found or built, started at free ports, asked at its
# admin port, ended with the script. To be sourced; a script that sources it sets `name`, and calls start_proxy with the
# number of ports that it needs itself, and write_config, which writes $work/config.json.
#
# Sets: program, work (a folder, gone in the end), port and admin (the proxy's), ports (the script's), proxy_pid.

die() {
    echo "$name: $*" >&2
    exit 71
}

bad() {
    echo "BAD: $*"
    exit 1
}

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
    exit "${1:-64}"
}

# A whole number within bounds, or the usage.
number() {
    [[ $1 =~ ^[0-9]{1,9}$ ]] && [ "$1" -ge "$2" ] && [ "$1" -le "$3" ] && return
    echo "$name: $1: expected a number from $2 to $3" >&2
    usage 64 >&2
}

children=()
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
    local pid
    for pid in "${children[@]}"; do
        if kill -TERM "$pid" 2>/dev/null; then
            wait "$pid" 2>/dev/null || true
        fi
    done
    rm -rf "$work"
}

find_program() {
    program=${STATSRING:-}
    if [ -z "$program" ]; then
        cargo build --release
        program=${CARGO_TARGET_DIR:-target}/release/statsring
    fi
    [ -x "$program" ] || die "no program at $program"
    program=$(readlink -f "$program")
    work=$(mktemp -d)
    trap finish EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
}

# Whether nobody has any of these ports, UDP or TCP.
are_free() {
    local taken number
    taken=$(cat /proc/net/udp /proc/net/udp6 /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    for number in "$@"; do
        [[ $taken != *":$(printf %04X "$number") "* ]] || return 1
    done
}

# The answer to one command. A proxy that hangs is not waited for longer than it lets a silent client wait.
ask() (
    exec 3<>"/dev/tcp/127.0.0.1/$admin" || exit 1
    printf '%s\nquit\n' "$1" >&3
    timeout 30 cat <&3
)

# A figure of stats, without its decimals.
figure() {
    awk -v name="$1:" '$1 == name { sub(/\..*/, "", $2); print $2 }' "$work/stats"
}

# A column of the backend with this port in the table of backends.
column() {
    awk -F '\t' -v name="127.0.0.1:$1" -v column="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == column) wanted = i }
        $1 == name { print $wanted }' "$work/backends"
}

# Starts the proxy with ports of its own and $1 more for the script. Ports are below the range of those that the kernel
# gives away; they are tried, not reserved.
start_proxy() {
    local attempt tick first
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        first=$((20000 + RANDOM % 12000))
        mapfile -t ports < <(seq "$first" $((first + $1 + 1)))
        are_free "${ports[@]}" || continue
        port=${ports[0]} admin=${ports[1]} ports=("${ports[@]:2}")
        write_config
        # A session of its own, so that Ctrl-C reaches the script and the proxy is ended by it.
        # The log is appended to, so that a script that runs for long may cut it.
        : >"$work/log"
        setsid "$program" -f "$work/config.json" >>"$work/log" 2>&1 &
        proxy_pid=$!
        for ((tick = 0; tick < 100; tick++)); do
            if [ "$( (ask ping) 2>/dev/null)" = pong ] && kill -0 "$proxy_pid" 2>/dev/null; then
                children+=("$proxy_pid")
                return
            fi
            kill -0 "$proxy_pid" 2>/dev/null || break
            sleep 0.1
        done
        kill "$proxy_pid" 2>/dev/null || true
        wait "$proxy_pid" 2>/dev/null || true
        grep -q "is in use" "$work/log" && continue
        cat "$work/log" >&2
        die "the proxy did not start"
    done
    die "no free ports after 10 attempts"
}

# Waits until nothing is on its way in the proxy, and takes its figures into $work/stats and $work/backends.
settle() {
    local tick
    for ((tick = 0; tick < 100; tick++)); do
        ask $'stats\nbackends' >"$work/both"
        awk -v stats="$work/stats" -v backends="$work/backends" '
            BEGIN { printf "" >stats; printf "" >backends }
            /\t/ { print >backends; next } { print >stats }' "$work/both"
        [ "$(figure metrics_pending)" = 0 ] && return
        sleep 0.1
    done
    die "metrics are still pending after 10 s"
}
