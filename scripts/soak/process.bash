# The processes of one proxy across restarts: which are alive, their resource usage, how to end them. Source it after
# scripts/proxy.bash.
#
# In: proxy_pid, and leader, the first process, whose session they all share. Out: sample_resident, sample_heap and
# sample_descriptors. Next: scripts/soak.sh compares these between rounds.

# Prints the PIDs of the processes that are alive.
members() {
    cat /proc/[0-9]*/stat 2>/dev/null | sed -n "s/^\([0-9]*\) (.*) [^ZX] [0-9]* $leader .*/\1/p"
}

is_alive() {
    [ -e "/proc/$proxy_pid/fd" ] && kill -0 "$proxy_pid" 2>/dev/null
}

# Ends all of them, by SIGKILL after 10 s.
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

# The value of a line of status.
status_line() {
    ask status 2>/dev/null | sed -n "s/^$1: //p"
}

# Samples resident memory (KiB), live heap (bytes) and open files. Health checks and admin connections briefly open files, so the
# minimum of several counts is used.
take_sample() {
    local _ count
    sample_resident=$(awk '$1 == "Rss:" { print $2 }' "/proc/$proxy_pid/smaps_rollup" 2>/dev/null)
    ask memstats >"$work/memstats" 2>/dev/null
    sample_heap=$(sed -n 's/^bytes allocated and in use: //p' "$work/memstats")
    sample_descriptors=
    for _ in {1..20}; do
        count=$(find "/proc/$proxy_pid/fd" -mindepth 1 2>/dev/null | wc -l)
        if [ -z "$sample_descriptors" ] || [ "$count" -lt "$sample_descriptors" ]; then
            sample_descriptors=$count
        fi
        sleep 0.05
    done
    if [ -z "$sample_resident" ] || [ -z "$sample_heap" ]; then
        failure "cannot read the memory usage of process $proxy_pid"
        return 1
    fi
}
