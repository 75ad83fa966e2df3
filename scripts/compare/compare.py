#!/usr/bin/env python3
"""Compares statsring with other StatsD proxies: same loads, same cores, interleaved.

In: options. Out: Markdown on stdout, JSON in a file. Next: report.py writes the tables.
"""

import datetime
import json
import os
from pathlib import Path

import machine
import programs
import report
from machine import Failure, say
from measure import Bench, Load, add_bench_options, direct, idle, measure

LOADS = {
    "20k": Load("20,000/s, 1 metric each", 20_000, 1),
    "100k": Load("100,000/s, 1 metric each", 100_000, 1),
    "max": Load("flat out, 1 metric each", None, 1),
    "20kx30": Load("20,000/s, 30 metrics each", 20_000, 30),
    "5kx30": Load("5,000/s, 30 metrics each", 5_000, 30),
    "maxx30": Load("flat out, 30 metrics each", None, 30),
}
# What the kernel grants statsring by default: twice the requested size.
EQUAL_BYTES = 16 << 20


def parse():
    parser = machine.Parser(
        prog="compare.sh", description="Compares statsring with other StatsD proxies.",
        epilog="Run it on an idle machine. Compare only ratios within one run, not results of different machines or times. "
               "STATSRING=path measures that program, LOAD=path generates the load with that one.")
    add = parser.add_argument
    add("--runs", type=int, default=5, help="runs of each program under each load (%(default)s)")
    add("--seconds", type=float, default=5, help="of a run (%(default)s)")
    add("--warm-up", type=float, default=2, help="seconds of the same load before each run (%(default)s)")
    add("--loads", default=",".join(LOADS), help="some of %(default)s")
    add("--programs", help="some of " + ", ".join(programs.known()))
    add("--variant", action="append", default=[], metavar="NAME=KEYS",
        help='statsring with further config keys, e.g. now=\'"flushInterval": 0\'')
    add("--build", action="append", default=[], metavar="NAME=PATH", help="another build of statsring")
    add("--buffers", choices=["default", "equal", "both"], default="both", help="receive buffers (%(default)s)")
    add("--equal", type=int, metavar="BYTES",
        help=f"the equal receive buffer, as granted ({EQUAL_BYTES} as root, who may set net.core.rmem_default; else that)")
    add_bench_options(parser)
    add("--no-idle", action="store_true", help="skip idle wakeups")
    add("--json", type=Path, metavar="FILE", help="every run, and the summary")
    add("--from-json", type=Path, metavar="FILE", help="measure nothing, write the tables of an earlier run")
    options = parser.parse_args()
    unknown = [name for name in options.loads.split(",") if name not in LOADS]
    if unknown:
        parser.error(f"--loads: unknown load {unknown[0]!r}")
    if options.runs < 1 or options.seconds <= 0 or options.warm_up <= 0:
        parser.error("--runs, --seconds and --warm-up must be greater than 0")
    return options


def in_turn(members, round_):
    """The order rotates in each round. The floors come right after statsring, because they are paired with it and get the
    same load."""
    floors = [program for program in members if program.is_floor]
    others = [program for program in members if not program.is_floor]
    shift = round_ % max(len(others), 1)
    order = others[shift:] + others[:shift]
    place = next((index + 1 for index, program in enumerate(order) if program.name == report.OURS), len(order))
    return order[:place] + floors + order[place:]


def measure_load(bench, members, load, runs, granted, failed):
    rows = []
    for round_ in range(runs):
        offered = None
        for program in in_turn(members, round_):
            asked = load
            if program.is_floor and load.rate is None and offered:
                asked = Load(load.name, int(offered), load.metrics)
            if (load.name, program.name) in failed:
                continue
            try:
                row = measure(bench, program, asked, granted)
            except Failure as failure:
                # A peer may fail under a load, statsring must not.
                if isinstance(program, (programs.Statsring, programs.Floor)):
                    raise
                say(f"  {failure}")
                failed[load.name, program.name] = str(failure)
                continue
            if program.name == report.OURS:
                offered = row["rate"]
            rows.append({"program": program.name, "load": load.name, "round": round_} | row)
            delivered = f", {row['delivered']:.4f} delivered" if "delivered" in row else ""
            say(f"  {program.name}: {row['us_per_received']:.2f} µs per datagram{delivered}, "
                f"{row['foreign_share']:.0%} of a core used by other processes")
        if load.rate:
            rows.append({"program": report.DIRECT, "load": load.name, "round": round_} | direct(bench, load))
    return rows


def measure_table(bench, members, loads, runs, granted, failed):
    rows = []
    for load in loads:
        say(f"{load.name}, {runs} rounds:")
        rows += measure_load(bench, members, load, runs, granted, failed)
    return rows


def collect(options):
    bench = Bench.of(options)
    members, missing = programs.chosen(options.programs, options.variant, options.build)
    loads = [LOADS[name] for name in options.loads.split(",")]
    failed = {}
    run = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.describe(),
        "command": machine.command_line("compare.sh"),
        "runs": options.runs, "seconds": options.seconds, "warm_up": options.warm_up, "cores": options.cores,
        "receive_default": machine.host_receive_default(),
        "load_average": os.getloadavg(),
        "programs": [{"name": p.name, "version": p.version, "note": p.note} for p in members],
        "missing": [{"name": name, "why": why} for name, why in missing],
        "tables": {},
    }
    if not options.no_idle:
        say("idle:")
        run["idle"] = {program.name: idle(bench, program) for program in members}
    if options.buffers != "equal":
        run["tables"]["default"] = measure_table(bench, members, loads, options.runs, None, failed)
    if options.buffers != "default":
        allowed = EQUAL_BYTES if machine.may_set_receive_default() else run["receive_default"]
        equal = options.equal or allowed
        with machine.receive_default(equal):
            run["equal_bytes"] = equal
            run["tables"]["equal"] = measure_table(bench, members, loads, options.runs, equal, failed)
    run["failed"] = [{"load": load, "name": name, "why": why} for (load, name), why in failed.items()]
    return run


def main():
    options = parse()
    if options.from_json:
        run = json.loads(options.from_json.read_text())
    else:
        run = collect(options)
    run["summary"] = report.summary(run)
    if options.json:
        options.json.write_text(json.dumps(run, indent=1) + "\n")
    print(report.markdown(run))
    return 0


if __name__ == "__main__":
    machine.main_with_signals("compare.sh", main)
