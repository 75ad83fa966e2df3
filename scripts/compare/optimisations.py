#!/usr/bin/env python3
"""Measures the gain of each optimisation: pairs of runs with and without it under the same load.

In: options. Out: Markdown on stdout, JSON in a file.
"""

from dataclasses import dataclass

import cases
import inprocess
import machine
import report
from cases import Case
from measure import Bench, Load, add_bench_options

WITH, WITHOUT = "with", "without"


@dataclass(frozen=True)
class Optimisation:
    """Config keys to enable and to disable it."""

    name: str
    on: dict
    off: dict
    load: Load
    setting: str
    note: str = ""


FULL = Load("20,000/s, 30 metrics each", 20_000, 30)
SINGLE = Load("100,000/s, 1 metric each", 100_000, 1)
TRICKLE = Load("20,000/s, 1 metric each", 20_000, 1)
MANY_NODES = Load("10,000/s, 30 metrics each, 100 nodes", 10_000, 30, nodes=100)
OPTIMISATIONS = {
    "gso": Optimisation("GSO batches", {}, {"gso": "off"}, FULL, "`gso` auto, off"),
    "padding": Optimisation("Padding, which makes GSO batches longer", {"gso": "padded"}, {"gso": "unpadded"}, FULL,
                     "`gso` padded, unpadded"),
    "unpadded": Optimisation("GSO batches without padding", {"gso": "unpadded"}, {"gso": "off"}, FULL, "`gso` unpadded, off"),
    "packets": Optimisation("Packets as large as the path MTU", {"maxPacketSize": "auto"}, {}, FULL,
                     "`maxPacketSize` auto, 1432"),
    "cache": Optimisation("Placement cache", {}, {"cacheSize": 0}, FULL, "`cacheSize` 10000, 0"),
    "cache-nodes": Optimisation("Placement cache, more nodes", {}, {"cacheSize": 0}, MANY_NODES,
                         "`cacheSize` 10000, 0"),
    "coalescing": Optimisation("Coalescing", {}, {"flushInterval": 0}, TRICKLE, "`flushInterval` 5, 0",
                        "metrics are held for up to 5 ms"),
    "coalescing-busy": Optimisation("Coalescing under more load", {}, {"flushInterval": 0}, SINGLE, "`flushInterval` 5, 0",
                             "metrics are held for up to 5 ms"),
    "spread": Optimisation("One sender on two workers", {"workers": 2, "spread": "datagram"}, {"workers": 2}, SINGLE,
                    "`spread` datagram, flow; `workers` 2",
                    "costs CPU and gains a second core, which this test on one core cannot show"),
}
BENCH = "levers"


def parse():
    parser = machine.Parser(
        prog="optimisations.sh", description="Measures the gain of each optimisation in pairs of runs.",
        epilog="Run it on an idle machine. STATSRING=path measures that program, LOAD=path generates the load with that "
               "one.")
    cases.add_options(parser, runs=5, seconds=3)
    add = parser.add_argument
    add("--only", default=",".join(OPTIMISATIONS), help="some of %(default)s")
    add("--no-bench", action="store_true", help="skip in-process benchmarks")
    add("--bench-seconds", type=float, default=3, help="of each case in process (%(default)s)")
    add_bench_options(parser)
    options = cases.check_options(parser, parser.parse_args())
    unknown = [name for name in options.only.split(",") if name not in OPTIMISATIONS]
    if unknown:
        parser.error(f"--only: unknown optimisation {unknown[0]!r}")
    return options


def collect(options):
    bench = Bench.of(options)
    run = cases.described("optimisations.sh", options) | {"rows": [], "in_process": {}}
    for name in options.only.split(","):
        optimisation = OPTIMISATIONS[name]
        pair = [Case(WITH, optimisation.load, optimisation.on), Case(WITHOUT, optimisation.load, optimisation.off)]
        run["rows"] += cases.measure_series(bench, optimisation.name, pair, options.runs)
    if not options.no_bench:
        run["in_process"] = inprocess.run(bench.program_core, [BENCH], options.bench_seconds)
    return run


def pair_table(run):
    head = ["optimisation", "load", "setting: with, without", "µs CPU per datagram, with", "without", "without ÷ with",
            "p99 with, ms", "without", "delivered, least: with, without"]
    body = []
    measured = report.names_of(run["rows"], "load")
    for optimisation in OPTIMISATIONS.values():
        if optimisation.name not in measured:
            continue
        figures = cases.figures_of(run, optimisation.name)
        on, off = figures[WITH], figures[WITHOUT]
        gain = report.ratio(run["rows"], optimisation.name, WITHOUT, WITH)
        body.append([
            optimisation.name + (f" ({optimisation.note})" if optimisation.note else ""), optimisation.load.name, optimisation.setting,
            report.ranged(on["us_per_received"]), report.ranged(off["us_per_received"]), report.ranged(gain),
            report.middle(on.get("p99_us"), 1e3), report.middle(off.get("p99_us"), 1e3),
            f"{report.worst(on['delivered'])}, {report.worst(off['delivered'])}",
        ])
    return report.table(head, body)


def bench_table(found):
    """In-process results, including all scanners; a running proxy always uses the fastest one."""
    body = [[label_of(case), report.ranged(figures, 1)] for case, figures in sorted(found.items())]
    return report.table(["in process", "ns per metric"], body)


def label_of(case):
    """Cache cases end with the number of nodes."""
    head, _, last = case.rpartition(" ")
    return f"{head}, {int(last):,} nodes" if last.isdigit() else case


def markdown(run):
    parts = [
        "## What each optimisation gains",
        cases.conditions(run),
        "The same load with the optimisation and without it, in pairs: more than 1 under \"without ÷ with\" is what it saves. "
        "`status` shows what is in effect.",
        pair_table(run),
    ]
    if run["in_process"].get(BENCH):
        parts += [
            "The relay alone (`cargo bench`): the cache with 3 and with 1,000 nodes, and each scanner that this "
            "processor supports. statsring always uses the fastest.",
            bench_table(run["in_process"][BENCH]),
        ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    cases.run_main("optimisations.sh", parse, collect, markdown)
