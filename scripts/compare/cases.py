"""Measures statsring in several cases that differ in one parameter, interleaved.

In: cases, each a config and a load. Out: rows for report.py. Next: costs.py and optimisations.py.

A row holds the name of its series as `load` and of its case as `program`, so that report.py computes medians, spreads and
ratios of pairs.
"""

import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import machine
import report
from machine import say
from measure import FOREIGN_SHARE_MAX, Load, measure
from programs import Statsring


@dataclass(frozen=True)
class Case:
    """One case of a series."""

    name: str
    load: Load
    # Additional config keys.
    config: dict


def add_options(parser, runs, seconds):
    add = parser.add_argument
    add("--runs", type=int, default=runs, help="rounds of each series (%(default)s)")
    add("--seconds", type=float, default=seconds, help="of a run (%(default)s)")
    add("--warm-up", type=float, default=1, help="seconds of the same load before each run (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="every run")
    add("--from-json", type=Path, metavar="FILE", help="measure nothing, write the tables of an earlier run")


def check_options(parser, options):
    if options.runs < 1 or options.seconds <= 0 or options.warm_up <= 0:
        parser.error("--runs, --seconds and --warm-up must be greater than 0")
    return options


def parse_pairs(script, description, seconds, cores, engine):
    """The options of a script that compares cases in pairs of runs; `cores` and `engine` say whose they are."""
    parser = machine.Parser(
        prog=script, description=description,
        epilog="Run it on an idle machine. STATSRING=path measures that program, LOAD=path generates the load with that "
               "one.")
    add_options(parser, runs=7, seconds=seconds)
    parser.add_argument("--cores", default="0,1", help=f"{cores} (%(default)s)")
    parser.add_argument("--engine", default="auto", help=f"{engine} (%(default)s)")
    # Bench requires them; pairs are compared, so nothing is repeated.
    parser.set_defaults(retries=0, patience=0)
    return check_options(parser, parser.parse_args())


def measure_series(bench, name, cases, runs):
    """Each round measures all cases once, starting with a different one."""
    say(f"{name}:")
    program = Statsring("statsring")
    program.install()
    rows = []
    for round_ in range(runs):
        shift = round_ % len(cases)
        for case in cases[shift:] + cases[:shift]:
            row = measure(bench, Statsring("statsring", config=case.config), case.load)
            rows.append({"load": name, "program": case.name, "round": round_} | row)
            say(f"  {case.name}: {row['ns_per_metric']:.0f} ns per metric, {row['delivered']:.4f} delivered, "
                f"{row['foreign_share']:.0%} of a core used by other processes")
    return rows


def described(script, options):
    """The conditions of these measurements; the head of their JSON."""
    program = Statsring("statsring")
    program.install()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.describe(),
        "command": machine.command_line(script),
        "statsring": program.version,
        "runs": options.runs, "seconds": options.seconds, "warm_up": options.warm_up, "cores": options.cores,
    }


def conditions(run):
    load_core, program_core = run["cores"].split(",")
    lines = [
        f"{run['machine']}; {run['date']}; statsring {run['statsring']}; {run['runs']} rounds of {run['seconds']:g} s after "
        f"{run['warm_up']:g} s of the same load; load and backends on core {load_core}, statsring on core {program_core}; "
        f"made by `{run['command']}`.",
    ]
    shares = [row["foreign_share"] for row in run["rows"]]
    many = sum(share > FOREIGN_SHARE_MAX for share in shares)
    if many:
        lines.append(f"**The machine was not idle**: in {many} of {len(shares)} runs other processes used more than "
                     f"{FOREIGN_SHARE_MAX:.0%} of one of the two cores, {max(shares):.0%} at worst.")
    return "\n\n".join(lines)


def figures_of(run, series):
    """The spread of every value, by case."""
    return {entry["program"]: entry["figures"] for entry in report.summarize(run["rows"]) if entry["load"] == series}


def run_main(name, parse, collect, markdown):
    """The program of a script that measures, or reads an earlier run, and prints Markdown."""

    def main():
        options = parse()
        run = json.loads(options.from_json.read_text()) if options.from_json else collect(options)
        if options.json:
            options.json.write_text(json.dumps(run, indent=1) + "\n")
        print(markdown(run))
        return 0

    machine.main_with_signals(name, main)
