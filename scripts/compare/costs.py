#!/usr/bin/env python3
"""Cost per metric against metrics per datagram, names, nodes and workers.

In: options. Out: Markdown on stdout, JSON in a file.

Each curve varies one parameter at a constant metric rate. It is measured end to end (the process under load) and, where
applicable, in process (the relay without sockets).
"""

from dataclasses import dataclass

import cases
import inprocess
import machine
import report
from cases import Case
from measure import NODES, Bench, Load, add_bench_options

# Metrics per second; with one metric per datagram, a core cannot reliably send more.
PER_SECOND = 300_000
PER_SECOND_SINGLE = 100_000
METRICS = 30
# A curve is flat if its medians differ by no more than this.
FLAT = 1.15


@dataclass(frozen=True)
class Curve:
    """One varied parameter."""

    title: str
    what: str
    values: list
    # The case that ratios refer to.
    base: int
    # The group in benches/relay.rs, if any.
    bench: str = ""

    def case(self, value):
        return CASES[self.title](value)


CASES = {
    "Metrics per datagram": lambda n: (Load("", PER_SECOND_SINGLE // n, n), {}),
    "Names": lambda n: (Load("", PER_SECOND // METRICS, METRICS, more=("--names", str(n))), {}),
    "Nodes": lambda n: (Load("", PER_SECOND // METRICS, METRICS, nodes=n), {}),
    "Workers": lambda n: (Load("", PER_SECOND // METRICS, METRICS, more=("--flows", "64")), {"workers": n}),
    "Workers with one sender and spread by datagram": lambda n: (
        Load("", PER_SECOND // METRICS, METRICS), {"workers": n, "spread": "datagram"}),
}
CURVES = {
    "metrics": Curve("Metrics per datagram", "metrics per datagram", [1, 2, 5, 10, 20, 30, 50], 1, "curve metrics"),
    "names": Curve("Names", "names", [10**power for power in range(1, 8)], 1_000, "curve names"),
    "nodes": Curve("Nodes", "nodes", [1, 3, 10, 30, 100, 300, 1_000], NODES, "curve nodes"),
    "workers": Curve("Workers", "workers", [1, 2, 3, 4], 1),
    "spread": Curve("Workers with one sender and spread by datagram", "workers", [1, 2, 4], 1),
}


def parse():
    parser = machine.Parser(
        prog="cost-curves.sh", description="ns per metric against metrics per datagram, names, nodes and workers.",
        epilog="Run it on an idle machine. STATSRING=path measures that program, LOAD=path generates the load with that "
               "one.")
    cases.add_options(parser, runs=5, seconds=3)
    add = parser.add_argument
    add("--curves", default=",".join(CURVES), help="some of %(default)s")
    add("--points", type=int, metavar="N", help="about N points of each curve, including both ends")
    add("--no-bench", action="store_true", help="skip in-process benchmarks")
    add("--bench-seconds", type=float, default=3, help="of each case in process (%(default)s)")
    add_bench_options(parser)
    options = cases.check_options(parser, parser.parse_args())
    unknown = [name for name in options.curves.split(",") if name not in CURVES]
    if unknown:
        parser.error(f"--curves: unknown curve {unknown[0]!r}")
    if options.points is not None and options.points < 2:
        parser.error("--points must be at least 2")
    return options


def thinned(curve, points):
    """About this many of its values: the first, the last, the base, and some in between."""
    if points is None or points >= len(curve.values):
        return curve.values
    last = len(curve.values) - 1
    kept = {curve.values[round(i * last / (points - 1))] for i in range(points)} | {curve.base}
    return [value for value in curve.values if value in kept]


def collect(options):
    bench = Bench.of(options)
    run = cases.described("cost-curves.sh", options) | {"rows": [], "in_process": {}}
    curves = [CURVES[name] for name in options.curves.split(",")]
    for curve in curves:
        series = [Case(str(value), *curve.case(value)) for value in thinned(curve, options.points)]
        run["rows"] += cases.measure_series(bench, curve.title, series, options.runs)
    groups = [curve.bench for curve in curves if curve.bench]
    if groups and not options.no_bench:
        run["in_process"] = inprocess.run(bench.program_core, groups, options.bench_seconds)
    return run


def line_through(points):
    """Least squares: intercept, slope, and the largest relative deviation."""
    count = len(points)
    mean_x, mean_y = (sum(point[i] for point in points) / count for i in (0, 1))
    spread_x = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread_x if spread_x else 0.0
    start = mean_y - slope * mean_x
    return start, slope, max(abs(start + slope * x - y) / y for x, y in points)


def medians(run, curve, key):
    """Medians of a measured value, by the value of the curve."""
    found = cases.figures_of(run, curve.title)
    return {value: found[str(value)][key]["median"] for value in curve.values if found.get(str(value), {}).get(key)}


def flatness(values):
    return max(values) / min(values)


def reason(run, curve):
    """Explains the curve. All numbers are computed from this run."""
    costs = medians(run, curve, "ns_per_metric")
    if len(costs) < 2:
        return "A single point."
    apart = flatness(costs.values())
    if apart <= FLAT:
        return f"Flat: the medians differ by no more than {apart - 1:.0%}."
    return {
        "Metrics per datagram": why_metrics,
        "Names": why_names,
        "Nodes": why_nodes,
    }.get(curve.title, why_workers)(run, curve, costs)


def why_metrics(_run, _curve, costs):
    start, slope, off = line_through([(1 / value, cost) for value, cost in costs.items()])
    return (f"Not flat, because the metrics of a datagram share its cost. A linear fit gives "
            f"{slope:,.0f} ns for a datagram (the kernel's part of receiving it, one completion, one batch entry) and "
            f"{start:,.0f} ns for each metric in it (scan, hash, copy, and its share of the sent packet); no "
            f"point deviates by more than {off:.0%}.")


def why_names(run, curve, costs):
    first, last = min(costs), max(costs)
    text = (f"Not flat: from {first:,} to {last:,} names a metric costs {costs[last] - costs[first]:+,.0f} ns. Each worker "
            "caches the backends of 10,000 names by default (`cacheSize`); other names are placed again and evict an "
            "entry. Nothing else in statsring depends on the number of names, so there is no further "
            "step")
    inside = run["in_process"].get(curve.bench, {})
    if str(first) in inside and str(last) in inside:
        more = inside[str(last)]["median"] - inside[str(first)]["median"]
        text += (f"; in process the step is {more:+,.1f} ns, the cost of a cache miss. The rest of the end-to-end "
                 "difference is caused by the machine: with many names, generator and sinks use the processor caches that "
                 "both cores share")
    return text + "."


def why_nodes(run, curve, costs):
    filled = medians(run, curve, "metrics_per_packet")
    start, slope, off = line_through([(1 / filled[value], cost) for value, cost in costs.items()])
    few, many = min(costs), max(costs)
    return (f"Not flat, because each backend gets separate packets every `flushInterval`: with {few:,} of them a packet "
            f"carries {filled[few]:,.0f} metrics, with {many:,} it carries {filled[many]:,.1f}, so more packets are sent for "
            f"the same metrics. A linear fit gives {slope:,.0f} ns for each packet sent and {start:,.0f} ns for "
            f"each metric; no point deviates by more than {off:.0%}. Choosing among more backends costs little: "
            "see the in-process column. More traffic, or a longer `flushInterval`, fills the packets again.")


def why_workers(run, curve, costs):
    filled, wakes = (medians(run, curve, key) for key in ("metrics_per_packet", "switches_per_second"))
    one, many = min(costs), max(costs)
    return (f"Not flat, because each worker sleeps and wakes separately, takes smaller batches and fills its own "
            f"packets: {wakes[many]:,.0f} wake-ups a second with {many} of them and {wakes[one]:,.0f} with {one}; a packet "
            f"carries {filled[many]:,.1f} metrics and {filled[one]:,.1f}. All of them shared one core here, so this shows "
            "only the cost of more workers, not the benefit of more cores.")


def curve_table(run, curve):
    inside = run["in_process"].get(curve.bench, {})
    found = cases.figures_of(run, curve.title)
    head = [curve.what, "ns CPU per metric", f"÷ that of {curve.base:,}", "metrics per packet sent", "wake-ups/s",
            "delivered, least"] + (["in process, ns"] if inside else [])
    body = []
    for value in curve.values:
        figures = found.get(str(value))
        if not figures:
            continue
        ratio = report.ratio(run["rows"], curve.title, str(value), str(curve.base), "ns_per_metric")
        cells = [f"{value:,}", report.ranged(figures["ns_per_metric"], 0), report.ranged(ratio),
                 report.middle(figures["metrics_per_packet"], digits=1),
                 report.middle(figures["switches_per_second"], digits=0), report.worst(figures["delivered"])]
        if inside:
            cells.append(report.middle(inside.get(str(value)), digits=1))
        body.append(cells)
    return report.table(head, body)


def markdown(run):
    parts = [
        "## Cost as work grows",
        cases.conditions(run),
        f"ns of CPU per metric, kernel and user, of the whole process: median (least to most). Each "
        f"table varies one parameter at a constant metric rate ({PER_SECOND:,}, and {PER_SECOND_SINGLE:,} in the first table), {METRICS} in a "
        f"datagram, {NODES} backends, 1 worker, 1,000 names, defaults otherwise. \"In process\" is the relay alone, without "
        "sockets (`cargo bench`), at full speed: the end-to-end figure additionally includes the kernel's work and "
        "waking up.",
    ]
    measured = report.names_of(run["rows"], "load")
    for curve in CURVES.values():
        if curve.title in measured:
            parts += [f"### {curve.title}", curve_table(run, curve), reason(run, curve)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    cases.run_main("cost-curves.sh", parse, collect, markdown)
