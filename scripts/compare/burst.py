#!/usr/bin/env python3
"""Bursts into a small receive buffer: losses of statsring compared with a reader that wakes for each datagram.

In: options. Out: a Markdown table, JSON in a file.

While statsring sleeps, only the socket's receive buffer holds datagrams. This measures the cost: datagrams dropped by the
kernel at the program's socket. The backends' sockets are bound but never read.
"""

import datetime
import functools
import json
import time
from pathlib import Path
from statistics import median

import machine
import programs
import report
from machine import say
from measure import (
    FOREIGN_SHARE_MAX,
    Bench,
    Load,
    add_bench_options,
    foreign_share,
    healthy_ports,
    running,
    spent_by,
    undisturbed,
    unread_backends,
)
from programs import Floor, Statsring

# The kernel grants twice as much: 256 small datagrams.
RECEIVE_BUFFER = 106_496
BURSTS = [200, 600, 2_000]
# Background datagrams per second, and seconds between two bursts.
CASES = {"after silence": (0, 2.0), "on 1,000/s": (1_000, 0.5)}
READER = "a reader woken per datagram"


def parse():
    parser = machine.Parser(
        prog="burst.sh", description="Datagrams lost in bursts into a small receive buffer.",
        epilog="Run it on an idle machine. STATSRING=path measures that program, LOAD=path generates the load with that "
               "one.")
    add = parser.add_argument
    add("--runs", type=int, default=5, help="of each program and case (%(default)s)")
    add("--bursts", type=int, default=5, help="in a run (%(default)s)")
    add("--sizes", default=",".join(map(str, BURSTS)), help="datagrams of a burst (%(default)s)")
    add("--receive-buffer", type=int, default=RECEIVE_BUFFER, help="bytes requested (%(default)s)")
    add_bench_options(parser)
    add("--json", type=Path, metavar="FILE", help="every run")
    add("--from-json", type=Path, metavar="FILE", help="measure nothing, write the table of an earlier run")
    options = parser.parse_args()
    try:
        options.sizes = [int(size) for size in options.sizes.split(",")]
    except ValueError:
        parser.error(f"--sizes {options.sizes}: expected comma-separated numbers")
    # Unused, but Bench requires them.
    options.seconds, options.warm_up = 0, 0
    return options


def members():
    found = [
        Statsring("statsring"),
        Floor(READER, each=True),
        Statsring("statsring that never sleeps", config={"flushInterval": 0}),
    ]
    for program in found:
        program.install()
    return found


def measure(bench, program, size, bursts, case, granted):
    """Datagrams sent and lost. Only the kernel may lose any; the counters must agree."""
    beside, pause_s = CASES[case]
    with healthy_ports() as ports, unread_backends(ports), running(program, ports, bench.program_core, granted) as pid:
        time.sleep(1.5)
        before, spent = machine.drops_at(ports.listen), spent_by(bench, pid)
        seconds = bursts * pause_s
        background = None
        if beside:
            background = bench.start_load(ports, Load("", beside, 1), seconds + 1, "b", [])
            time.sleep(0.7)
        more = ["--burst", str(size), "--datagrams", str(size * bursts)]
        rate = max(round(size / pause_s), 1)
        result = bench.result_of(bench.start_load(ports, Load("", rate, 1), seconds + 5, "m", [], more))
        sent = result["sent"]["datagrams"]
        if background:
            sent += bench.result_of(background)["sent"]["datagrams"]
        lost = machine.drops_at(ports.listen) - before
        return {"sent": sent, "lost": lost, "foreign_share": foreign_share(spent())}


def collect(options):
    bench = Bench.of(options)
    rows = []
    programs_ = members()
    for case in CASES:
        for size in options.sizes:
            say(f"bursts of {size} {case}:")
            for round_ in range(options.runs):
                shift = round_ % len(programs_)
                for program in programs_[shift:] + programs_[:shift]:
                    row = undisturbed(bench, functools.partial(
                        measure, bench, program, size, options.bursts, case, 2 * options.receive_buffer))
                    rows.append({"case": case, "size": size, "round": round_, "program": program.name} | row)
                    say(f"  {program.name}: {row['lost']} of {row['sent']} lost, "
                        f"{row['foreign_share']:.0%} of a core used by other processes")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.describe(),
        "command": machine.command_line("burst.sh"),
        "receive_buffer": options.receive_buffer, "runs": options.runs, "bursts": options.bursts,
        "programs": [program.name for program in programs_],
        "rows": rows,
    }


def body_of(rows, names):
    """One row per case: losses of each program, and the rounds in which statsring lost more than the reader."""
    for case, size in dict.fromkeys((row["case"], row["size"]) for row in rows):
        own = [row for row in rows if (row["case"], row["size"]) == (case, size)]
        lost = {name: [row["lost"] for row in own if row["program"] == name] for name in names}
        sent = [row["sent"] for row in own if row["program"] == names[0]]
        cells = [f"{size} {case}", f"{median(sent):,.0f}"]
        cells += [f"{median(lost[name]):,.0f} ({min(lost[name]):,} to {max(lost[name]):,})" for name in names]
        more = sum(ours > others for ours, others in zip(lost[report.OURS], lost[READER]))
        yield cells + [f"{more} of {len(sent)}"]


def markdown(run):
    rows, names = run["rows"], run["programs"]
    foreign = max(row["foreign_share"] for row in rows)
    parts = [
        "## Bursts into a small receive buffer",
        f"{run['machine']}; {run['date']}; `receiveBuffer` {run['receive_buffer']:,} of every program; {run['runs']} rounds "
        f"of {run['bursts']} bursts; made by `{run['command']}`. Datagrams lost in a round: median (least to most).",
        report.table(["bursts of", "sent in a round", *names, "rounds in which statsring lost more than the reader"],
                     list(body_of(rows, names))),
    ]
    if foreign > FOREIGN_SHARE_MAX:
        parts.insert(2, f"**The machine was not idle**: other processes used up to {foreign:.0%} of one of the two cores. A "
                        "program that waits for its core loses datagrams, so these losses are not reliable.")
    return "\n\n".join(parts) + "\n"


def main():
    options = parse()
    programs.cache_folder().mkdir(parents=True, exist_ok=True)
    run = json.loads(options.from_json.read_text()) if options.from_json else collect(options)
    if options.json:
        options.json.write_text(json.dumps(run, indent=1) + "\n")
    print(markdown(run))
    return 0


if __name__ == "__main__":
    machine.main_with_signals("burst.sh", main)
