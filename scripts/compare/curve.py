#!/usr/bin/env python3
"""Loss and CPU against the rate, for statsring and the programs of compare.py.

In: options. Out: a CSV and an SVG. Next: plot.py draws.
"""

import csv
import datetime
import math
from pathlib import Path

import machine
import programs
from compare import EQUAL_BYTES, in_turn
from machine import Failure, say
from measure import FOREIGN_SHARE_MAX, Bench, Load, add_bench_options, measure
from plot import Point, svg
from report import spread

RATES = [10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 150_000, 200_000, 250_000, 300_000, 400_000]
DOCS = programs.ROOT / "docs/src/performance"
# Prefix of the remark that is only in the CSV.
MADE_BY = "Made by"
TITLE = "Loss and CPU against the rate"
AXIS = "offered datagrams per second"
SPREADS = ("delivered", "cores")
COLUMNS = ["program", "rate_asked", "rate", *(f"{name}_{part}" for name in SPREADS for part in ("median", "least", "most")),
           "us_per_received", "received_share", "foreign_share"]


def parse():
    parser = machine.Parser(
        prog="load-curve.sh", description="Loss and CPU against the rate, as CSV and SVG.",
        epilog="Run it on an idle machine. STATSRING=path measures that program, LOAD=path generates the load with that "
               "one.")
    add = parser.add_argument
    add("--rates", default=",".join(map(str, RATES)), help="datagrams/s (%(default)s)")
    add("--metrics", type=int, default=1, help="in each datagram (%(default)s)")
    add("--runs", type=int, default=3, help="of each program at each rate (%(default)s)")
    add("--seconds", type=float, default=4, help="of a run (%(default)s)")
    add("--warm-up", type=float, default=1.5, help="seconds of the same load before each run (%(default)s)")
    add("--programs", help="some of " + ", ".join(programs.known()))
    add("--buffers", choices=["default", "equal"], default="equal" if machine.may_set_receive_default() else "default",
        help="receive buffers: each program's default, or the same for all, which needs root (%(default)s)")
    add_bench_options(parser)
    add("--csv", type=Path, default=DOCS / "load-curve.csv", metavar="FILE")
    add("--svg", type=Path, default=DOCS / "load-curve.svg", metavar="FILE")
    add("--from-csv", action="store_true", help="measure nothing, draw the existing CSV")
    options = parser.parse_args()
    try:
        options.rates = [int(rate) for rate in options.rates.split(",")]
    except ValueError:
        parser.error(f"--rates {options.rates}: expected comma-separated numbers")
    return options


def line_of(program, asked, rows):
    """One line of the CSV."""
    found = {
        "program": program, "rate_asked": asked,
        "rate": round(spread([row["rate"] for row in rows])["median"]),
        "us_per_received": round(spread([row["us_per_received"] for row in rows])["median"], 4),
        "received_share": round(
            spread([row["received_datagrams"] / row["sent_datagrams"] for row in rows])["median"], 6),
        "foreign_share": round(max(row["foreign_share"] for row in rows), 4),
    }
    for name in SPREADS:
        figures = spread([row.get(name) for row in rows]) or {}
        for part in ("median", "least", "most"):
            # Rounded down: a loss must not show as 1.
            found[f"{name}_{part}"] = math.floor(figures[part] * 1e6) / 1e6 if figures else ""
    return found


def collect(options):
    bench = Bench.of(options)
    members, _ = programs.chosen(options.programs)
    lines = []
    granted = EQUAL_BYTES if options.buffers == "equal" else None
    with machine.receive_default(granted):
        for asked in options.rates:
            say(f"{asked:,}/s:")
            rows = {program.name: [] for program in members}
            for round_ in range(options.runs):
                for program in in_turn(members, round_):
                    try:
                        row = measure(bench, program, Load("", asked, options.metrics), granted)
                    except Failure as failure:
                        # A peer may fail at a rate, statsring must not.
                        if isinstance(program, (programs.Statsring, programs.Floor)):
                            raise
                        say(f"  {failure}")
                        continue
                    rows[program.name].append(row)
            for name, own in ((name, own) for name, own in rows.items() if own):
                lines.append(line_of(name, asked, own))
                say(f"  {name}: {lines[-1]['rate']:,}/s, {lines[-1]['delivered_median'] or 0:.4f} delivered, "
                    f"{lines[-1]['cores_median']:.3f} cores")
    return lines, notes(options, members, lines, granted)


def notes(options, members, lines, granted):
    """The notes below the plot; kept in the CSV for redrawing."""
    buffers = (f"every receive buffer {granted >> 20} MiB as granted" if granted
               else f"receive buffers as requested by each program (default {machine.host_receive_default():,} bytes)")
    versions = "; ".join(f"{program.name}: {program.version}" for program in members if not program.is_floor)
    found = [
        f"{machine.describe()}; {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}; load and backends on one core, "
        "the program on another.",
        f"{metrics_each(options.metrics)} in each datagram; 3 backends, 1 worker; {buffers}; median of {options.runs} runs "
        f"of {options.seconds:g} s, bars from minimum to maximum.",
        f"{versions}. {floors_note(members)}",
        f"{MADE_BY} `{machine.command_line('load-curve.sh')}`.",
    ]
    foreign = max(line["foreign_share"] for line in lines)
    if foreign > FOREIGN_SHARE_MAX:
        found.append(f"The machine was not idle: other processes used up to {foreign:.0%} of one of the two cores.")
    return found


def floors_note(members):
    """What the floors that took part do."""
    return " ".join(f"The {program.name} ({program.version}) {program.note.split('; flat out')[0]}."
                    for program in members if program.is_floor)


def metrics_each(count):
    return "1 metric of 39 bytes" if count == 1 else f"{count} metrics of 39 bytes"


def write_csv(path, lines, remarks):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as out:
        for remark in remarks:
            out.write(f"# {remark}\n")
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def read_csv(path):
    try:
        text = path.read_text().splitlines()
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    remarks = [line[2:] for line in text if line.startswith("# ")]
    return list(csv.DictReader(line for line in text if not line.startswith("#"))), remarks


def series(lines, name):
    """Points by program. Programs that forward nothing, such as the receive floor, have none."""
    found = {}
    for line in lines:
        if line[f"{name}_median"] not in ("", None):
            figures = (float(line[f"{name}_{part}"]) for part in ("median", "least", "most"))
            found.setdefault(line["program"], []).append(Point(float(line["rate"]), *figures))
    return {program: sorted(points, key=lambda point: point.rate) for program, points in found.items()}


def losses(lines):
    """Shares lost: maximum and minimum swap places."""
    arrived = series(lines, "delivered")
    return {program: [Point(p.rate, 1 - p.median, 1 - p.most, 1 - p.least) for p in points]
            for program, points in arrived.items()}


def main():
    options = parse()
    if options.from_csv:
        lines, remarks = read_csv(options.csv)
    else:
        lines, remarks = collect(options)
        write_csv(options.csv, lines, remarks)
    shown = [remark for remark in remarks if not remark.startswith(MADE_BY)]
    options.svg.write_text(svg(losses(lines), series(lines, "cores"), TITLE, AXIS, shown))
    say(f"written: {options.csv}, {options.svg}")
    return 0


if __name__ == "__main__":
    machine.main_with_signals("load-curve.sh", main)
