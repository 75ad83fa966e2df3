# The phases of a soak round. Each runs its own load and sinks, repeats one kind of change under that load, and checks the
# counters exactly. Source it after scripts/proxy.bash and process.bash.
#
# In: a running proxy, phase_s, rate. Out: the results, added to the sums of $phase, and a call of `failure` for each deviation.
# A phase returns 1 if the soak cannot continue. Next: scripts/soak.sh reports.
#
# Backends 0 to 2 are in the config, 3 is added and removed by reloads. ports[2i] is the metrics port of backend i, ports[2i + 1]
# its admin port. Health checks are answered by separate processes, so that backends are up between two loads.

# config SETTINGS COUNT: prints a config with COUNT backends (3 or 4). SETTINGS 0 is used outside of the reloads.
config() {
    local gso node text=
    local flush=(5 1 10 2) packet=(1432 512 8192 1000) queue=(262144 1048576 65536) malformed=(drop forward)
    for ((node = 0; node < $2; node++)); do
        gso=auto
        [ "$node" = 1 ] && [ $(($1 % 2)) = 1 ] && gso=off
        text+="${text:+, }{ \"host\": \"127.0.0.1\", \"port\": ${ports[2 * node]}, \"adminport\": ${ports[2 * node + 1]}, \"gso\": \"$gso\" }"
    done
    cat <<JSON
{
  "host": "127.0.0.1", "port": $port, "managementHost": "127.0.0.1", "managementPort": $admin,
  "checkInterval": 500, "checkTimeout": 500, "checkFast": 100, "checkFall": 3, "checkRise": 2,
  "flushInterval": ${flush[$1 % 4]}, "maxPacketSize": ${packet[$1 % 4]}, "queue": ${queue[$1 % 3]},
  "malformed": "${malformed[$1 % 2]}",
  "nodes": [ $text ]
}
JSON
}

write_config() {
    config 0 3 >"$work/config.json"
}

identity() {
    echo "127.0.0.1:${ports[2 * $1]}"
}

# Prints the metrics ports of these backends, comma-separated.
sinks() {
    local node list=
    for node in "$@"; do
        list+="${list:+,}${ports[2 * node]}"
    done
    echo "$list"
}

# Starts a process that answers the health checks of these backends; sets started to its PID.
answer_health() {
    local node list=
    for node in "$@"; do
        list+="${list:+,}${ports[2 * node + 1]}"
    done
    "$program" sink --listen 0 --health "$list" --seconds "$bound_s" --quiet >/dev/null 2>&1 &
    started=$!
    children+=("$started")
}

end_child() {
    kill -TERM "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    forget_child "$1"
}

# The PID may be reused by the time the script ends, so it must not be signalled then.
forget_child() {
    local pid kept=()
    for pid in "${children[@]}"; do
        [ "$pid" = "$1" ] || kept+=("$pid")
    done
    children=("${kept[@]}")
}

# Waits until backend $1, or each backend, is in state $2.
await_state() {
    local tick
    for ((tick = 0; tick < 100; tick++)); do
        ask backends >"$work/backends" 2>/dev/null || true
        if [ "$1" = each ]; then
            awk -F '\t' -v state="$2" 'NR > 1 { all++; if ($2 == state) there++ } END { exit !(all && all == there) }' \
                "$work/backends" && return
        else
            [ "$(column "${ports[2 * $1]}" state)" = "$2" ] && return
        fi
        sleep 0.1
    done
    failure "not $2 after 20 s: $(tail -n +2 "$work/backends" | cut -f 1,2 | paste -sd' ')"
    return 1
}

# Saves the counters to $work/$1.stats and $work/$1.backends once no metric is pending.
snapshot() {
    if ! (settle) 2>"$work/settle.log"; then
        # run_phase reports a dead proxy.
        ! is_alive || failure "$(tail -1 "$work/settle.log")"
        return 1
    fi
    cp "$work/stats" "$work/$1.stats"
    cp "$work/backends" "$work/$1.backends"
}

# The increase of a counter in this phase.
growth() {
    cat "$work/before.stats" "$work/after.stats" | awk -v name="$1:" '
        $1 == name { sub(/\..*/, "", $2); value[++seen] = $2 } END { print value[2] - value[1] }'
}

# Metrics dropped in this phase for other than the given reasons.
dropped_except() {
    awk -v but=" $* " 'FNR == 1 { file++ } $1 ~ /^metrics_dropped_/ {
        reason = $1; sub(/^metrics_dropped_/, "", reason); sub(/:$/, "", reason)
        if (!index(but, " " reason " ")) sum += (file == 1 ? -$2 : $2)
    } END { print sum + 0 }' "$work/before.stats" "$work/after.stats"
}

# The increase of column $2 of backend $1 in this phase.
column_growth() {
    local before
    before=$(cp "$work/before.backends" "$work/backends" && column "${ports[2 * $1]}" "$2")
    cp "$work/after.backends" "$work/backends"
    echo $(($(column "${ports[2 * $1]}" "$2") - before))
}

# begin_load BACKENDS OPTION...: starts a load, e.g. to "0 1 2", and waits for its first datagram. load_names is the number of
# names.
begin_load() {
    local backends=$1 tick before
    shift
    snapshot before || return 1
    before=$(counter datagrams_received)
    # shellcheck disable=SC2086 # word splitting intended
    "$program" load --to "127.0.0.1:$port" --sink "$(sinks $backends)" --rate "$rate" \
        --names "${load_names:-1000}" --metrics 2 --flows 4 --seconds $((phase_s + 120)) --json --quiet "$@" >"$work/load" 2>"$work/load.log" &
    load_pid=$!
    children+=("$load_pid")
    for ((tick = 0; tick < 100; tick++)); do
        ask stats >"$work/stats"
        [ "$(counter datagrams_received)" -gt "$before" ] && return
        kill -0 "$load_pid" 2>/dev/null || break
        sleep 0.1
    done
    failure "the load did not start: $(cat "$work/load.log" "$work/load")"
    return 1
}

# Ends the load and adds its results to the sums of the phase.
end_load() {
    local value
    if ! kill -0 "$load_pid" 2>/dev/null; then
        failure "the load ended early: $(cat "$work/load.log" "$work/load")"
        return 1
    fi
    stop_load
    if [ ! -s "$work/load" ]; then
        failure "the load failed: $(cat "$work/load.log")"
        return 1
    fi
    snapshot after || return 1
    add sent "$(json_value "$work/load" metrics)"
    # The outages phase computes its losses itself: a dead backend's metrics are also missing.
    for value in $([ "$phase" = outages ] || echo lost) duplicated misplaced; do
        add "$value" "$(json_value "$work/load" "$value")"
    done
    stall "$(json_value "$work/load" max)"
    [ "$load_code" = 0 ] || failure "$(sed -n '/"reasons": \[/,/\]/s/^ *"\(.*\)",*$/\1/p' "$work/load" | grep -v reasons | paste -sd';')$(where_lost)"
}

# Kernel drops during this load: the host was too busy, or something stalled too long.
where_lost() {
    local before after
    before=$(json_value "$work/load" dropped_before_proxy) after=$(json_value "$work/load" dropped_at_sinks)
    [ "${before:-0}" = 0 ] || printf '; %s datagrams were dropped at the proxy's full receive buffer' "$before"
    [ "${after:-0}" = 0 ] || printf '; %s datagrams were dropped at the backends' full receive buffers' "$after"
}

stop_load() {
    load_code=0
    kill -TERM "$load_pid"
    wait "$load_pid" || load_code=$?
    forget_child "$load_pid"
}

# check_counters REASONS DATAGRAMS: checks the proxy's counters of a phase without restarts. REASONS are the permitted drop
# reasons, DATAGRAMS the number of datagrams from other senders than the load.
check_counters() {
    local arrived sent dropped
    # shellcheck disable=SC2086 # word splitting intended
    dropped=$(dropped_except $1)
    [ "$dropped" = 0 ] || failure "$dropped metrics were dropped by the proxy"
    sent=$(growth metrics_received)
    arrived=$(($(growth metrics_sent) + $(dropped_except)))
    [ "$sent" = "$arrived" ] || failure "$sent metrics were received, but $arrived sent or dropped"
    sent=$(($(json_value "$work/load" datagrams) + $2))
    arrived=$(($(growth datagrams_received) + $(growth kernel_drops)))
    [ "$sent" = "$arrived" ] || failure "$sent datagrams were sent to the proxy, which counted $arrived"
}

# Checks that a backend received what the proxy counted as sent.
check_backend() {
    local arrived sent
    arrived=$(arrived_at "${ports[2 * $1]}") sent=$(column_growth "$1" sent)
    [ "$arrived" = "$sent" ] || failure "$(identity "$1") received $arrived metrics, but $sent were sent to it"
}

# Repeated SIGUSR2.
restarts() {
    local end tick
    load_names=10000 begin_load "0 1 2" || return 1
    end=$((SECONDS + phase_s))
    while [ "$SECONDS" -lt "$end" ]; do
        restart_proxy || { failure "a restart was not complete after 60 s: $(sed -n 's/^last_restart: //p' <<<"${status:-}")"; return 1; }
        add churn 1
        sleep 0.1
    done
    # Each process starts with zero counters, so only the load's results are checked.
    end_load || return 1
    for ((tick = 0; tick < 100; tick++)); do
        [ "$(members)" = "$proxy_pid" ] && return
        sleep 0.1
    done
    failure "old processes still run 10 s after the restarts: $(members | paste -sd' ')"
}

reload() {
    local answer
    config "$1" "$2" >"$work/next.json"
    mv "$work/next.json" "$work/config.json"
    answer=$(ask reload)
    case $answer in
        "reloaded: "$3*) ;;
        *) failure "unexpected reply to reload: $answer" ;;
    esac
    add churn 1
    sleep 0.1
}

# Changed settings, a fourth backend added, changed settings, the fourth backend removed.
reloads() {
    local end turn=0 node
    await_state each up || return 1
    begin_load "0 1 2 3" --placed-by "$work/three.json" --placed-by "$work/four.json" || return 1
    sockets "${ports[0]}" "${ports[2]}" "${ports[4]}" >"$work/sockets_before"
    end=$((SECONDS + phase_s))
    while [ "$SECONDS" -lt "$end" ]; do
        turn=$((turn + 1))
        reload $turn 3 "0.0 %"
        reload $turn 4 "2[0-9].[0-9] %"
        turn=$((turn + 1))
        reload $turn 4 "0.0 %"
        reload $turn 3 "2[0-9].[0-9] %"
    done
    reload 0 3 ""
    sockets "${ports[0]}" "${ports[2]}" "${ports[4]}" >"$work/sockets_after"
    end_load || return 1
    [ -s "$work/sockets_before" ] && cmp -s "$work/sockets_before" "$work/sockets_after" ||
        failure "the socket of an unchanged backend changed: $(paste -sd' ' "$work/sockets_before") before, $(paste -sd' ' "$work/sockets_after") after"
    check_counters "" 0
    for node in 0 1 2; do
        check_backend "$node"
        [ "$(column_growth "$node" since)" -ge 0 ] || failure "$(identity "$node") changed state"
    done
}

start_victim() {
    starts=$((starts + 1))
    "$program" sink --listen "${ports[2]}" --health "${ports[3]}" --placed-by "$work/three.json" --names 1000 \
        --idle 100000 --seconds $((phase_s + 120)) --json --quiet >"$work/victim.$starts" 2>"$work/victim.$starts.log" &
    victim_pid=$!
    children+=("$victim_pid")
}

# victim_total NAME [max]: the sum, or the maximum, of a value over all runs of the victim.
victim_total() {
    json_total "$@" "$work"/victim.*[0-9]
}

# The second backend is killed and restarted. What is sent to it before the failure is detected is lost (UDP): it must be exactly
# the difference between what was sent to it and what it received.
outages() {
    local end
    starts=0
    rm -f "$work"/victim.*
    end_child "$victim_health"
    start_victim
    await_state each up || return 1
    begin_load "0 2" --allow-loss 1 --settle 1 --placed-by "$work/three.json" --down "$(identity 1)" || return 1
    end=$((SECONDS + phase_s))
    while :; do
        sleep 0.5
        end_child "$victim_pid"
        add churn 1
        await_state 1 down || return 1
        sleep 0.5
        start_victim
        await_state 1 up || return 1
        [ "$SECONDS" -lt "$end" ] || break
    done
    sleep 0.5
    end_load || return 1
    end_child "$victim_pid"
    answer_health 1
    victim_health=$started
    check_outages
    await_state each up
}

check_outages() {
    local arrived to lost dropped refused node total
    arrived=$(victim_total unique) to=$(column_growth 1 sent)
    lost=$((to - arrived)) dropped=$(dropped_except) refused=$(growth metrics_dropped_send_refused)
    total=$((to + dropped))
    for node in 0 2; do
        check_backend "$node"
        total=$((total + $(arrived_at "${ports[2 * node]}")))
    done
    [ "$lost" -ge 0 ] || failure "$(identity 1) received $((-lost)) more metrics than were sent to it"
    add explained $((lost + dropped))
    add lost $(($(json_value "$work/load" metrics) - total))
    [ "$total" = "$(json_value "$work/load" metrics)" ] || failure "$(($(json_value "$work/load" metrics) - total)) metrics are not accounted for"
    [ "$dropped" = "$refused" ] || failure "$((dropped - refused)) metrics were dropped for other reasons than ECONNREFUSED at the killed backend"
    [ "$(column_growth 1 dropped)" = "$dropped" ] || failure "metrics of other backends than the killed one were dropped"
    add misplaced "$(victim_total misplaced)"
    add duplicated "$(victim_total duplicated)"
    [ "$(victim_total misplaced)" = 0 ] || failure "$(victim_total misplaced) metrics misplaced at the killed backend"
    [ "$(victim_total duplicated)" = 0 ] || failure "$(victim_total duplicated) metrics duplicated at the killed backend"
    stall "$(victim_total max max)"
    check_counters "send_refused" 0
}

# Waits until backend $1 receives nothing; $2 is its admin state.
await_idle() {
    local tick last=
    for ((tick = 0; tick < 50; tick++)); do
        ask backends >"$work/backends"
        [ "$(column "${ports[2 * $1]}" sent)" = "$last" ] && return
        last=$(column "${ports[2 * $1]}" sent)
        sleep 0.1
    done
    failure "$(identity "$1") still receives metrics 5 s after it was set to $2"
}

# Each backend in turn is set to drain or down, and to up again.
drains() {
    local end node=0 state answer turn
    await_state each up || return 1
    begin_load "0 1 2" --placed-by "$work/three.json" --down "$(identity 0)" --down "$(identity 1)" --down "$(identity 2)" \
        --burst "$burst" || return 1
    end=$((SECONDS + phase_s))
    for ((turn = 0; SECONDS < end || turn < 3; turn++)); do
        node=$((turn % 3))
        state=drain
        [ $((turn / 3 % 3)) = 2 ] && state=down
        answer=$(ask "backend $(identity $node) $state")
        case "$state $answer" in
            "drain backend $(identity $node): drain" | "down backend $(identity $node): forced_down") ;;
            *) failure "unexpected reply to backend … $state: $answer" ;;
        esac
        await_idle "$node" "$state"
        answer=$(ask "backend $(identity $node) up")
        [ "$answer" = "backend $(identity $node): up" ] || failure "unexpected reply to backend … up: $answer"
        add churn 1
        sleep 0.1
    done
    end_load || return 1
    check_counters "" 0
    for node in 0 1 2; do
        check_backend "$node"
    done
    [ "$(growth metrics_diverted)" -gt 0 ] || failure "no metric was diverted by a drain"
}

# Junk from another sender, hostile admin connections, every admin command, and a load in bursts.
hostile() {
    local code=0 node wrong
    await_state each up || return 1
    begin_load "0 1 2" --placed-by "$work/three.json" --burst "$burst" --skew 1 || return 1
    python3 -B scripts/soak/hostile.py --port "$port" --admin "$admin" --seconds "$phase_s" --rate "$junk_rate" \
        --seed "$rounds" >"$work/hostile" 2>"$work/hostile.log" &
    hostile_pid=$!
    children+=("$hostile_pid")
    wait "$hostile_pid" || code=$?
    forget_child "$hostile_pid"
    if [ "$code" -gt 1 ] || [ ! -s "$work/hostile" ]; then
        failure "hostile.py failed: $(tail -3 "$work/hostile.log")"
        return 1
    fi
    wrong=$(sed -n '/"wrong": \[/,/\]/s/^ *"\(.*\)",*$/\1/p' "$work/hostile" | grep -v '^wrong' | head -3 | paste -sd';')
    [ "$code" = 0 ] || failure "the admin port: $wrong"
    add churn $(($(json_value "$work/hostile" junk) + $(json_value "$work/hostile" connections)))
    add junk "$(json_value "$work/hostile" junk)"
    add connections "$(json_value "$work/hostile" connections)"
    add answers "$(json_value "$work/hostile" answers)"
    [ "$(json_value "$work/hostile" answer_ms)" -le "$answer_ms" ] || answer_ms=$(json_value "$work/hostile" answer_ms)
    end_load || return 1
    check_counters "malformed truncated send_too_long" "$(json_value "$work/hostile" junk)"
    for node in 0 1 2; do
        check_backend "$node"
    done
}
