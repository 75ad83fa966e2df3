#!/usr/bin/env python3
"""CPU per datagram with `spread` "cpu" and with "flow": one sender on each of two CPUs, two workers pinned to them.

In: options. Out: Markdown on stdout, JSON in a file.

Over loopback a datagram arrives on its sender's CPU. With "cpu" it is received there too; with "flow", where the hash of its
sender's address says, for half of the flows on the other CPU. The senders use many flows, so that "flow" loads both workers
evenly. The backends' sockets are bound but never read, so that nothing else needs the two CPUs.
"""

import os
import subprocess

import cases
import machine
import report
from machine import Failure, say
from measure import NAME_BYTES, Bench, Load, healthy_ports, running, unread_backends
from programs import Statsring

# Datagrams per second of each of the two senders.
LOADS = [
    Load("2 × 5,000/s, 1 metric each", 5_000, 1),
    Load("2 × 50,000/s, 1 metric each", 50_000, 1),
    Load("2 × 10,000/s, 30 metrics each", 10_000, 30),
]
BY_CPU, BY_FLOW, UNPINNED = '`"cpu"`, pinned', '`"flow"`, pinned', '`"flow"`, not pinned'
FLOWS = 8


def parse():
    return cases.parse_pairs(
        "steering.sh", "CPU per datagram with spread \"cpu\" and with \"flow\", in pairs of runs.", 4,
        "of the senders and of the workers", "of statsring")


def config_of(case, cpus, engine):
    pinned = False if case == UNPINNED else cpus
    return {"workers": 2, "spread": "cpu" if case == BY_CPU else "flow", "pinWorkers": pinned, "engine": engine}


def send(bench, ports, load, seconds, cpus):
    """Sends from both CPUs at once; datagrams sent."""
    def command(run, cpu):
        return ["taskset", "-c", str(cpu), str(bench.load_program), "load", "--to", f"127.0.0.1:{ports.listen}",
                "--rate", str(load.rate), "--metrics", str(load.metrics), "--seconds", str(seconds), "--flows", str(FLOWS),
                "--name-length", str(NAME_BYTES), "--run", run, "--json", "--quiet"]

    senders = [subprocess.Popen(command(run, cpu), stdout=subprocess.PIPE, text=True) for run, cpu in zip("ab", cpus)]
    try:
        return sum(bench.result_of(sender)["sent"]["datagrams"] for sender in senders)
    finally:
        for sender in senders:
            sender.kill()


def measure(bench, case, load, engine):
    cpus = [bench.load_core, bench.program_core]
    program = Statsring("statsring", config=config_of(case, cpus, engine))
    both = ",".join(map(str, cpus))
    with healthy_ports(load.nodes) as ports, unread_backends(ports), running(program, ports, both, None) as pid:
        send(bench, ports, load, bench.warm_up, cpus)
        before, drops = machine.cpu_ns(pid), machine.drops_at(ports.listen)
        sent = send(bench, ports, load, bench.seconds, cpus)
        spent, lost = machine.cpu_ns(pid) - before, machine.drops_at(ports.listen) - drops
        if lost >= sent:
            raise Failure("statsring received nothing")
        return {"us_per_received": spent / (sent - lost) / 1e3, "delivered": (sent - lost) / sent}


def collect(options):
    # This script sleeps while it measures: it need not keep to one core.
    allowed = os.sched_getaffinity(0)
    bench = Bench.of(options)
    os.sched_setaffinity(0, allowed)
    run = cases.described("steering.sh", options) | {"engine": options.engine, "rows": []}
    names = [BY_CPU, BY_FLOW, UNPINNED]
    for load in LOADS:
        say(f"{load.name}:")
        for round_ in range(options.runs):
            shift = round_ % len(names)
            for case in names[shift:] + names[:shift]:
                row = measure(bench, case, load, options.engine)
                run["rows"].append({"load": load.name, "program": case, "round": round_} | row)
                say(f"  {case}: {row['us_per_received']:.3f} µs per datagram, {row['delivered']:.4f} received")
    return run


def markdown(run):
    body = []
    for load in report.names_of(run["rows"], "load"):
        figures = cases.figures_of(run, load)
        body.append([load, *(report.ranged(figures[case]["us_per_received"]) for case in (BY_CPU, BY_FLOW, UNPINNED)),
                     report.ranged(report.ratio(run["rows"], load, BY_CPU, BY_FLOW)),
                     report.worst(figures[BY_CPU]["delivered"])])
    parts = [
        "## Spread by CPU",
        f"{run['machine']}; {run['date']}; statsring {run['statsring']}, engine {run['engine']}; {run['runs']} rounds of "
        f"{run['seconds']:g} s after {run['warm_up']:g} s of the same load; senders and workers on CPUs {run['cores']}; made by "
        f"`{run['command']}`. µs of CPU of statsring per datagram: median (least to most).",
        report.table(["load", BY_CPU, BY_FLOW, UNPINNED, "`\"cpu\"` ÷ `\"flow\"`, pinned, in pairs",
                      "received with `\"cpu\"`, least"], body),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    cases.run_main("steering.sh", parse, collect, markdown)
