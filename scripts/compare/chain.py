#!/usr/bin/env python3
"""CPU per metric of two proxies in a chain: the load goes to the first, which sends everything to the second.

In: options. Out: Markdown on stdout, JSON in a file.

The first one and the load share a core, the second one has the other. Its backends' sockets are bound but never read, so that
nothing else needs the cores. The first one checks the second one's admin port, so its packets are padded to one length.
"""

import socket

import cases
import machine
import report
from machine import Failure, say
from measure import Bench, Load, running, unread_backends
from programs import Ports, Statsring

LOADS = [
    Load("100,000/s, 1 metric each", 100_000, 1),
    Load("20,000/s, 30 metrics each", 20_000, 30),
]
ON, OFF = "`gro` on", "`gro` off"
NODES = 3


def parse():
    return cases.parse_pairs(
        "chain.sh", "CPU per metric of two proxies in a chain with gro on and off, in pairs of runs.", 3,
        "of the load and the first proxy, and of the second one", "of both proxies")


def stats(port):
    """The figures of `stats`."""
    with socket.create_connection(("127.0.0.1", port), 10) as admin:
        admin.sendall(b"stats\n")
        admin.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: admin.recv(65_536), b"")).decode()
    return {name: float(value) for name, value in (line.split(": ") for line in answer.splitlines())}


def measure(bench, case, load, engine):
    numbers = machine.free_ports(4 + NODES)
    last = Ports(numbers[0], numbers[1], numbers[4:], [])
    first = Ports(numbers[2], numbers[3], [last.listen], [last.admin])
    receiver = Statsring("statsring", config={"gro": case == ON, "engine": engine})
    sender = Statsring("statsring", config={"engine": engine})
    with unread_backends(last), running(receiver, last, bench.program_core, None) as receiver_pid, \
            running(sender, first, bench.load_core, None) as sender_pid:
        bench.result_of(bench.start_load(first, load, bench.warm_up, "w", []))

        def now():
            figures = stats(last.admin)
            return {name: figures[name] for name in ("metrics_received", "datagrams_received", "datagrams_gro")} | {
                "receiver_ns": machine.cpu_ns(receiver_pid), "sender_ns": machine.cpu_ns(sender_pid)}

        before = now()
        sent = bench.result_of(bench.start_load(first, load, bench.seconds, "m", []))["sent"]["metrics"]
        spent = {name: value - before[name] for name, value in now().items()}
    if not spent["metrics_received"]:
        raise Failure("the second proxy received nothing")
    return {
        "receiver_ns_per_metric": spent["receiver_ns"] / spent["metrics_received"],
        "sender_ns_per_metric": spent["sender_ns"] / spent["metrics_received"],
        "delivered": spent["metrics_received"] / sent,
        "joined": spent["datagrams_gro"] / spent["datagrams_received"],
    }


def collect(options):
    bench = Bench.of(options)
    run = cases.described("chain.sh", options) | {"engine": options.engine, "rows": []}
    for load in LOADS:
        say(f"{load.name}:")
        for round_ in range(options.runs):
            for case in (ON, OFF) if round_ % 2 else (OFF, ON):
                row = measure(bench, case, load, options.engine)
                run["rows"].append({"load": load.name, "program": case, "round": round_} | row)
                say(f"  {case}: {row['receiver_ns_per_metric']:.1f} ns per metric, the first proxy "
                    f"{row['sender_ns_per_metric']:.1f} ns, {row['delivered']:.4f} received, {row['joined']:.0%} joined")
    return run


def markdown(run):
    body = []
    for load in report.names_of(run["rows"], "load"):
        figures = cases.figures_of(run, load)
        for proxy, figure in (("second", "receiver_ns_per_metric"), ("first", "sender_ns_per_metric")):
            body.append([load, proxy, *(report.ranged(figures[case][figure], 1) for case in (ON, OFF)),
                         report.ranged(report.ratio(run["rows"], load, ON, OFF, figure)),
                         f"{figures[ON]['joined']['median']:.0%}", report.worst(figures[ON]["delivered"])])
    parts = [
        "## A chain of two proxies",
        f"{run['machine']}; {run['date']}; statsring {run['statsring']}, engine {run['engine']}; {run['runs']} pairs of "
        f"{run['seconds']:g} s after {run['warm_up']:g} s of the same load; load and first proxy, and second proxy, on cores "
        f"{run['cores']}; made by `{run['command']}`. ns of CPU per metric: median (least to most).",
        report.table(["load", "proxy", ON, OFF, f"{ON} ÷ {OFF}, in pairs", "datagrams joined", "received with `gro`, least"],
                     body),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    cases.run_main("chain.sh", parse, collect, markdown)
