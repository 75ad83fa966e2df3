# The phases of a round: each has a load and sinks of its own, changes one thing under that load again and again, and ends
# with an exact account. To be sourced behind scripts/proxy.bash and process.bash.
#
# In: a running proxy, phase_s, rate. Out: what the phase had, added to the sums of $phase, and a call of `blame` for
# everything that is not as it should be. A phase fails (1) if the soak cannot go on. Next: scripts/soak.sh sums up.
#
# Backends 0 to 2 are the config's, 3 comes and goes by reloads; ports[2i] is the metrics' port of backend i, ports[2i + 1]
# its admin port. Processes of their own answer the health checks, so that backends are up between two loads too.

# The config with $2 backends (3 or 4) and the settings number $1; number 0 is in force outside of the reloads.
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

# The metrics' ports of these backends, with commas between.
sinks() {
    local node list=
    for node in "$@"; do
        list+="${list:+,}${ports[2 * node]}"
    done
    echo "$list"
}

# Answers the health checks of these backends, in a process of its own, whose number is in started.
answer_health() {
    local node list=
    for node in "$@"; do
        list+="${list:+,}${ports[2 * node + 1]}"
    done
    "$program" sink --listen 0 --health "$list" --seconds "$bound_s" --quiet >/dev/null 2>&1 &
    started=$!
    children+=("$started")
}

# Ends a child.
end_child() {
    kill -TERM "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    forget_child "$1"
}

# A number that another process may have by the time this script ends must not be on its list.
forget_child() {
    local pid kept=()
    for pid in "${children[@]}"; do
        [ "$pid" = "$1" ] || kept+=("$pid")
    done
    children=("${kept[@]}")
}

# Waits until backend $1 is in state $2; if $1 is "each", all backends.
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
    blame "not found $2 within 20 s: $(tail -n +2 "$work/backends" | cut -f 1,2 | paste -sd' ')"
    return 1
}

# The proxy's figures when nothing is on its way, in $work/$1.stats and $work/$1.backends.
note_figures() {
    if ! (settle) 2>"$work/complaint"; then
        blame "$(cat "$work/complaint")"
        return 1
    fi
    cp "$work/stats" "$work/$1.stats"
    cp "$work/backends" "$work/$1.backends"
}

# A figure of stats, as it has grown in this phase.
growth() {
    cat "$work/before.stats" "$work/after.stats" | awk -v name="$1:" '
        $1 == name { sub(/\..*/, "", $2); value[++seen] = $2 } END { print value[2] - value[1] }'
}

# Metrics dropped in this phase, but for the reasons given.
dropped_but() {
    awk -v but=" $* " 'FNR == 1 { file++ } $1 ~ /^metrics_dropped_/ {
        reason = $1; sub(/^metrics_dropped_/, "", reason); sub(/:$/, "", reason)
        if (!index(but, " " reason " ")) sum += (file == 1 ? -$2 : $2)
    } END { print sum + 0 }' "$work/before.stats" "$work/after.stats"
}

# Column $2 of backend $1, as it has grown in this phase.
column_growth() {
    local before
    before=$(cp "$work/before.backends" "$work/backends" && column "${ports[2 * $1]}" "$2")
    cp "$work/after.backends" "$work/backends"
    echo $(($(column "${ports[2 * $1]}" "$2") - before))
}

# The first figure of this name in a file of JSON with a line for each.
json_figure() {
    awk -v name="\"$2\":" '$1 == name { gsub(/[^0-9]/, "", $2); print $2; exit }' "$1"
}

# Metrics that arrived at backend $1's sink in the load.
arrived_at() {
    awk -v sink="\"$(identity "$1")\"," '
        $2 == sink { found = 1 }
        found && $1 == "\"metrics\":" { gsub(/[^0-9]/, "", $2); print $2; exit }' "$work/load"
}

# Starts the load to backends $1 (as "0 1 2"), with more options, and waits until it flows; load_rate and load_names change
# its rate and its names.
begin_load() {
    local backends=$1 tick before
    shift
    note_figures before || return 1
    before=$(figure datagrams_received)
    # shellcheck disable=SC2086 # a list of numbers
    "$program" load --to "127.0.0.1:$port" --sink "$(sinks $backends)" --rate "${load_rate:-$rate}" \
        --names "${load_names:-1000}" --metrics 2 --flows 4 --seconds $((phase_s + 120)) --json --quiet "$@" >"$work/load" 2>"$work/load.log" &
    load_pid=$!
    children+=("$load_pid")
    for ((tick = 0; tick < 100; tick++)); do
        ask stats >"$work/stats"
        [ "$(figure datagrams_received)" -gt "$before" ] && return
        kill -0 "$load_pid" 2>/dev/null || break
        sleep 0.1
    done
    blame "the load does not flow: $(cat "$work/load.log" "$work/load")"
    return 1
}

# Ends the load and takes its account over: the phase's sums, and what is wrong.
end_load() {
    local figure
    if ! kill -0 "$load_pid" 2>/dev/null; then
        blame "the load ended too early: $(cat "$work/load.log" "$work/load")"
        return 1
    fi
    take_load_down
    if [ ! -s "$work/load" ]; then
        blame "the load could not be carried out: $(cat "$work/load.log")"
        return 1
    fi
    note_figures after || return 1
    add sent "$(json_figure "$work/load" metrics)"
    # While a backend is dead, more is missing than is lost; that phase takes it apart itself.
    for figure in $([ "$phase" = outages ] || echo lost) duplicated misplaced; do
        add "$figure" "$(json_figure "$work/load" "$figure")"
    done
    stall "$(json_figure "$work/load" max)"
    [ "$load_code" = 0 ] || blame "$(sed -n '/"reasons": \[/,/\]/s/^ *"\(.*\)",*$/\1/p' "$work/load" | grep -v reasons | paste -sd';')"
}

take_load_down() {
    load_code=0
    kill -TERM "$load_pid"
    wait "$load_pid" || load_code=$?
    forget_child "$load_pid"
}

# The proxy's own account of this phase, in which it was one process: $1 are the reasons for which it may drop, and $2 is the
# number of datagrams that others than the load sent.
weigh_account() {
    local arrived sent dropped
    # shellcheck disable=SC2086 # a list of words
    dropped=$(dropped_but $1)
    [ "$dropped" = 0 ] || blame "$dropped metrics were dropped by the proxy"
    sent=$(growth metrics_received)
    arrived=$(($(growth metrics_sent) + $(dropped_but)))
    [ "$sent" = "$arrived" ] || blame "$sent metrics were received, and $arrived sent or dropped"
    sent=$(($(json_figure "$work/load" datagrams) + $2))
    arrived=$(($(growth datagrams_received) + $(growth kernel_drops)))
    [ "$sent" = "$arrived" ] || blame "$sent datagrams were sent to the proxy, which knows of $arrived"
}

# Whether a backend got what the proxy says it sent to it.
weigh_backend() {
    local arrived sent
    arrived=$(arrived_at "$1") sent=$(column_growth "$1" sent)
    [ "$arrived" = "$sent" ] || blame "$(identity "$1") got $arrived metrics, and $sent were sent to it"
}

# SIGUSR2, again and again.
restarts() {
    local end before status pid tick
    load_names=10000 begin_load "0 1 2" || return 1
    end=$((SECONDS + phase_s))
    while [ "$SECONDS" -lt "$end" ]; do
        before=$proxy_pid
        kill -USR2 "$before" || { blame "process $before is gone"; return 1; }
        for ((tick = 0; ; tick++)); do
            status=$(ask status 2>/dev/null || true)
            pid=$(sed -n 's/^pid: //p' <<<"$status")
            [ -n "$pid" ] && [ "$pid" != "$before" ] && [[ $status == *"last_restart: "*complete* ]] && break
            if [ "$tick" -ge 1200 ]; then
                blame "a restart was not complete after 60 s: $(sed -n 's/^last_restart: //p' <<<"$status")"
                return 1
            fi
            sleep 0.05
        done
        proxy_pid=$pid
        add churn 1
        sleep 0.1
    done
    # The counters begin anew with each process: the load's account is the whole.
    end_load || return 1
    for ((tick = 0; tick < 100; tick++)); do
        [ "$(members)" = "$proxy_pid" ] && return
        sleep 0.1
    done
    blame "old processes are still there 10 s after the restarts: $(members | paste -sd' ')"
}

# The local ports of the proxy's sockets to the first three backends, in their order.
sockets() {
    local node
    for node in 0 1 2; do
        awk -v remote="0100007F:$(printf %04X "${ports[2 * node]}")" '$3 == remote { print $2 }' /proc/net/udp | sort
    done
}

reload() {
    local answer
    config "$1" "$2" >"$work/next.json"
    mv "$work/next.json" "$work/config.json"
    answer=$(ask reload)
    case $answer in
        "reloaded: "$3*) ;;
        *) blame "a reload was answered: $answer" ;;
    esac
    add churn 1
    sleep 0.1
}

# Settings, a fourth backend added, settings, the fourth removed.
reloads() {
    local end turn=0 node
    await_state each up || return 1
    load_rate=$((rate * 2)) begin_load "0 1 2 3" --placed-by "$work/three.json" --placed-by "$work/four.json" || return 1
    sockets >"$work/sockets_before"
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
    sockets >"$work/sockets_after"
    end_load || return 1
    [ -s "$work/sockets_before" ] && cmp -s "$work/sockets_before" "$work/sockets_after" ||
        blame "a backend that stayed has another socket: $(paste -sd' ' "$work/sockets_before") before, $(paste -sd' ' "$work/sockets_after") after"
    weigh_account "" 0
    for node in 0 1 2; do
        weigh_backend "$node"
        [ "$(column_growth "$node" since)" -ge 0 ] || blame "$(identity "$node") changed its state"
    done
}

victim_starts() {
    lives=$((lives + 1))
    "$program" sink --listen "${ports[2]}" --health "${ports[3]}" --placed-by "$work/three.json" --names 1000 \
        --idle 100000 --seconds $((phase_s + 120)) --json --quiet >"$work/life.$lives" 2>"$work/life.$lives.log" &
    victim_pid=$!
    children+=("$victim_pid")
}

# The sum of a figure over the victim's lives; of $2 = max, the largest.
of_lives() {
    cat "$work"/life.*[0-9] | awk -v name="\"$1\":" -v how="${2:-sum}" '
        $1 == name { gsub(/[^0-9]/, "", $2); sum = how == "max" ? ($2 > sum ? $2 : sum) : sum + $2 } END { print sum + 0 }'
}

# The second backend is killed and comes back. What was sent to it before it was found dead is lost, as UDP has no
# receipt: it has to be exactly the difference between what was sent to it and what it got.
outages() {
    local end
    lives=0
    rm -f "$work"/life.*
    end_child "$victim_health"
    victim_starts
    await_state each up || return 1
    begin_load "0 2" --allow-loss 1 --settle 1 --placed-by "$work/three.json" --down "$(identity 1)" || return 1
    end=$((SECONDS + phase_s))
    while :; do
        sleep 0.5
        end_child "$victim_pid"
        add churn 1
        await_state 1 down || return 1
        sleep 0.5
        victim_starts
        await_state 1 up || return 1
        [ "$SECONDS" -lt "$end" ] || break
    done
    sleep 0.5
    end_load || return 1
    end_child "$victim_pid"
    answer_health 1
    victim_health=$started
    weigh_outages
    await_state each up
}

weigh_outages() {
    local arrived to lost dropped refused node total
    arrived=$(of_lives unique) to=$(column_growth 1 sent)
    lost=$((to - arrived)) dropped=$(dropped_but) refused=$(growth metrics_dropped_send_refused)
    total=$((to + dropped))
    for node in 0 2; do
        weigh_backend "$node"
        total=$((total + $(arrived_at "$node")))
    done
    [ "$lost" -ge 0 ] || blame "$(identity 1) got $((-lost)) metrics more than were sent to it"
    add explained $((lost + dropped))
    add lost $(($(json_figure "$work/load" metrics) - total))
    [ "$total" = "$(json_figure "$work/load" metrics)" ] || blame "$(($(json_figure "$work/load" metrics) - total)) metrics are not accounted for"
    [ "$dropped" = "$refused" ] || blame "$((dropped - refused)) metrics were dropped for another reason than the killed backend's refusals"
    [ "$(column_growth 1 dropped)" = "$dropped" ] || blame "metrics for other backends than the killed one were dropped"
    add misplaced "$(of_lives misplaced)"
    add duplicated "$(of_lives duplicated)"
    [ "$(of_lives misplaced)" = 0 ] || blame "$(of_lives misplaced) metrics misplaced at the killed backend"
    [ "$(of_lives duplicated)" = 0 ] || blame "$(of_lives duplicated) metrics duplicated at the killed backend"
    stall "$(of_lives max max)"
    weigh_account "send_refused" 0
}

# Waits until backend $1 gets nothing any more; $2 says what was done to it.
await_silence() {
    local tick last=
    for ((tick = 0; tick < 50; tick++)); do
        ask backends >"$work/backends"
        [ "$(column "${ports[2 * $1]}" sent)" = "$last" ] && return
        last=$(column "${ports[2 * $1]}" sent)
        sleep 0.1
    done
    blame "$(identity "$1") still gets metrics 5 s after it was set to $2"
}

# Each backend in turn is drained, or taken for dead, and given back.
drains() {
    local end node=0 wish answer turn
    await_state each up || return 1
    begin_load "0 1 2" --placed-by "$work/three.json" --down "$(identity 0)" --down "$(identity 1)" --down "$(identity 2)" \
        --burst "$burst" || return 1
    end=$((SECONDS + phase_s))
    for ((turn = 0; SECONDS < end || turn < 3; turn++)); do
        node=$((turn % 3))
        wish=drain
        [ $((turn / 3 % 3)) = 2 ] && wish=down
        answer=$(ask "backend $(identity $node) $wish")
        case "$wish $answer" in
            "drain backend $(identity $node): drain" | "down backend $(identity $node): forced_down") ;;
            *) blame "backend … $wish was answered: $answer" ;;
        esac
        await_silence "$node" "$wish"
        answer=$(ask "backend $(identity $node) up")
        [ "$answer" = "backend $(identity $node): up" ] || blame "backend … up was answered: $answer"
        add churn 1
        sleep 0.1
    done
    end_load || return 1
    weigh_account "" 0
    for node in 0 1 2; do
        weigh_backend "$node"
    done
    [ "$(growth metrics_diverted)" -gt 0 ] || blame "no metric was diverted by a drain"
}

# Junk from another sender, hostile admin connections, every command, and a load in bursts.
strangers() {
    local code=0 node wrong
    await_state each up || return 1
    begin_load "0 1 2" --placed-by "$work/three.json" --burst "$burst" --skew 1 || return 1
    python3 -B scripts/soak/strangers.py --port "$port" --admin "$admin" --seconds "$phase_s" --rate "$junk_rate" \
        --seed "$rounds" >"$work/strangers" 2>"$work/strangers.log" &
    strangers_pid=$!
    children+=("$strangers_pid")
    wait "$strangers_pid" || code=$?
    forget_child "$strangers_pid"
    if [ "$code" -gt 1 ] || [ ! -s "$work/strangers" ]; then
        blame "the strangers could not be carried out: $(tail -3 "$work/strangers.log")"
        return 1
    fi
    wrong=$(sed -n '/"wrong": \[/,/\]/s/^ *"\(.*\)",*$/\1/p' "$work/strangers" | grep -v '^wrong' | head -3 | paste -sd';')
    [ "$code" = 0 ] || blame "the admin port: $wrong"
    add churn $(($(json_figure "$work/strangers" junk) + $(json_figure "$work/strangers" connections)))
    add junk "$(json_figure "$work/strangers" junk)"
    add connections "$(json_figure "$work/strangers" connections)"
    add answers "$(json_figure "$work/strangers" answers)"
    [ "$(json_figure "$work/strangers" answer_ms)" -le "$answer_ms" ] || answer_ms=$(json_figure "$work/strangers" answer_ms)
    end_load || return 1
    weigh_account "malformed truncated send_too_long" "$(json_figure "$work/strangers" junk)"
    for node in 0 1 2; do
        weigh_backend "$node"
    done
}
