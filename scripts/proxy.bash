# Common code of the test scripts: finds or builds the program, picks free ports, starts the proxy, queries its admin port, and
# ends all child processes with the script. Source it from the top directory, with `name` set; start_proxy calls the script's
# write_config, which writes $work/config.json.
#
# Sets: program, work (temporary directory), port and admin (the proxy's), ports (the script's), proxy_pid.

die() {
    echo "$name: $*" >&2
    exit 71
}

fail() {
    echo "FAIL: $*"
    exit 1
}

# Prints the head comment of the script.
usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
    exit "${1:-64}"
}

# number VALUE MIN MAX: usage error unless VALUE is an integer in this range.
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

# Whether these ports are free, UDP and TCP.
are_free() {
    local taken number
    taken=$(cat /proc/net/udp /proc/net/udp6 /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    for number in "$@"; do
        [[ $taken != *":$(printf %04X "$number") "* ]] || return 1
    done
}

# Sets ports to $1 consecutive free ports below the ephemeral range. They are not reserved.
pick_ports() {
    local first _
    for _ in {1..10}; do
        first=$((20000 + RANDOM % 12000))
        mapfile -t ports < <(seq "$first" $((first + $1 - 1)))
        are_free "${ports[@]}" && return
    done
    die "no free ports after 10 attempts"
}

# Prints the reply to an admin command. The timeout is that of the proxy for idle clients.
ask() (
    exec 3<>"/dev/tcp/127.0.0.1/$admin" || exit 1
    printf '%s\nquit\n' "$1" >&3
    timeout 30 cat <&3
)

# shellcheck disable=SC2317,SC2329 # scripts override it
show_log() {
    [ ! -s "$work/log" ] || cat "$work/log" >&2
}

# await WHAT COMMAND...: waits up to a minute for the command to succeed.
await() {
    local what=$1 tick
    shift
    for ((tick = 0; tick < 300; tick++)); do
        "$@" && return
        sleep 0.2
    done
    show_log
    fail "timed out after 60 s: $what"
}

# The integer part of a counter in $work/stats.
counter() {
    awk -v name="$1:" '$1 == name { sub(/\..*/, "", $2); print $2 }' "$work/stats"
}

# column PORT NAME: a column of the backend with this port in $work/backends.
column() {
    awk -F '\t' -v name="127.0.0.1:$1" -v column="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == column) index_of = i }
        $1 == name { print $index_of }' "$work/backends"
}

# json_value FILE NAME: the first number of this name in pretty-printed JSON.
json_value() {
    awk -v name="\"$2\":" '$1 == name { gsub(/[^0-9]/, "", $2); print $2; exit }' "$1"
}

# json_total NAME [max] FILE...: the sum, or the maximum, over the files.
json_total() {
    local name=$1 how=sum
    shift
    [ "$1" != max ] || { how=max; shift; }
    awk -v name="\"$name\":" -v how="$how" '
        $1 == name { gsub(/[^0-9]/, "", $2); total = how == "max" ? ($2 > total ? $2 : total) : total + $2 }
        END { print total + 0 }' "$@"
}

# Metrics that arrived at the sink with this port, from the load's JSON report.
arrived_at() {
    awk -v sink="\"127.0.0.1:$1\"," '
        $2 == sink { found = 1 }
        found && $1 == "\"metrics\":" { gsub(/[^0-9]/, "", $2); print $2; exit }' "$work/load"
}

# The local addresses of the proxy's sockets to these ports, in this order.
sockets() {
    local number
    for number in "$@"; do
        awk -v remote="0100007F:$(printf %04X "$number")" '$3 == remote { print $2 }' /proc/net/udp | sort
    done
}

# Starts the proxy; $1 is the number of further ports that the script needs.
start_proxy() {
    local tick code _
    command -v setsid >/dev/null || die "setsid is not installed (Debian: util-linux)"
    for _ in {1..10}; do
        pick_ports $(($1 + 2))
        port=${ports[0]} admin=${ports[1]} ports=("${ports[@]:2}")
        write_config
        # Its own session: Ctrl-C reaches only the script, which then ends the proxy.
        # Append mode: a long-running script may truncate the log.
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
        kill "$proxy_pid" 2>/dev/null && die "the proxy runs but its admin port did not answer within 10 s"
        code=0
        wait "$proxy_pid" 2>/dev/null || code=$?
        grep -q "is in use" "$work/log" && continue
        show_log
        exit "$code"
    done
    die "no free ports after 10 attempts"
}

# Restarts the proxy by SIGUSR2 and sets proxy_pid. Fails if that takes more than 60 s; $status is the last reply.
restart_proxy() {
    local before=$proxy_pid tick pid
    kill -USR2 "$before" || return 1
    for ((tick = 0; tick < 1200; tick++)); do
        status=$(ask status 2>/dev/null || true)
        pid=$(sed -n 's/^pid: //p' <<<"$status")
        if [ -n "$pid" ] && [ "$pid" != "$before" ] && [[ $status == *"last_restart: "*complete* ]]; then
            proxy_pid=$pid
            return
        fi
        sleep 0.05
    done
    return 1
}

# Waits until no metric is pending, and saves the counters to $work/stats and $work/backends.
settle() {
    local tick
    for ((tick = 0; tick < 100; tick++)); do
        ask $'stats\nbackends' >"$work/both"
        awk -v stats="$work/stats" -v backends="$work/backends" '
            BEGIN { printf "" >stats; printf "" >backends }
            /\t/ { print >backends; next } { print >stats }' "$work/both"
        [ "$(counter metrics_pending)" = 0 ] && return
        sleep 0.1
    done
    die "metrics are still pending after 10 s"
}
