# The chain of processes that is one proxy over many restarts: who of them is alive, what it holds, how it is ended. To be
# sourced behind scripts/proxy.bash.
#
# In: proxy_pid, and leader, the first process of the chain, whose session all of them share. Out: figures in
# sample_resident, sample_heap and sample_descriptors. Next: scripts/soak.sh compares these from round to round.

# Processes of the chain that are alive.
members() {
    cat /proc/[0-9]*/stat 2>/dev/null | sed -n "s/^\([0-9]*\) (.*) [^ZX] [0-9]* $leader .*/\1/p"
}

is_alive() {
    [ -e "/proc/$proxy_pid/fd" ] && kill -0 "$proxy_pid" 2>/dev/null
}

# Ends the chain, whoever of it is alive, by force if it does not end by itself.
end_proxy() {
    local tick
    [ -n "${leader:-}" ] || return 0
    kill -TERM -- "-$leader" 2>/dev/null || return 0
    for ((tick = 0; tick < 100; tick++)); do
        [ -n "$(members)" ] || return 0
        sleep 0.1
    done
    kill -KILL -- "-$leader" 2>/dev/null || true
}

# A line of status, without its name.
status_line() {
    ask status 2>/dev/null | sed -n "s/^$1: //p"
}

# What the process holds: resident KiB, live bytes of its heap, open files. Checks of health and this script's own
# questions open some for a moment, so the least of several looks counts.
take_sample() {
    local look count
    sample_resident=$(awk '$1 == "Rss:" { print $2 }' "/proc/$proxy_pid/smaps_rollup" 2>/dev/null)
    ask memstats >"$work/memstats" 2>/dev/null
    sample_heap=$(sed -n 's/^bytes allocated and in use: //p' "$work/memstats")
    sample_descriptors=
    for ((look = 0; look < 20; look++)); do
        count=$(find "/proc/$proxy_pid/fd" -mindepth 1 2>/dev/null | wc -l)
        if [ -z "$sample_descriptors" ] || [ "$count" -lt "$sample_descriptors" ]; then
            sample_descriptors=$count
        fi
        sleep 0.05
    done
    if [ -z "$sample_resident" ] || [ -z "$sample_heap" ]; then
        blame "process $proxy_pid does not tell its memory"
        return 1
    fi
}
