#!/usr/bin/env python3
"""Runs all measurements of the performance report in sequence; finished steps are kept.

In: options. Out: report.md, load-curve.csv and .svg in docs/src/performance, and the README's section. Results, and
performance.json with all of them, are kept in a separate directory; steps with a result are not repeated unless requested.
Next: pages.py.
"""

import datetime
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import machine
import pages
from machine import Failure, say
from programs import HERE, ROOT, release

CURVE_CSV, CURVE_SVG = "load-curve.csv", "load-curve.svg"


@dataclass(frozen=True)
class Step:
    """One script and its options."""

    name: str
    module: str
    quick: list
    full: list
    # Its output files, the result first.
    files: tuple

    def command(self, folder, is_quick):
        paths = [str(folder / (name + ".part")) for name in self.files]
        outputs = ["--csv", paths[0], "--svg", paths[1]] if len(paths) == 2 else ["--json", paths[0]]
        return [sys.executable, str(HERE / self.module), *(self.quick if is_quick else self.full), *outputs]


STEPS = [
    Step("compare", "compare.py",
         ["--runs", "2", "--seconds", "2", "--warm-up", "1", "--loads", "20k,100k,max,20kx30"],
         ["--runs", "5", "--seconds", "5", "--warm-up", "2"], ("compare.json",)),
    Step("load-curve", "curve.py",
         ["--rates", "10000,20000,50000,100000,200000,400000", "--runs", "1", "--seconds", "2", "--warm-up", "1"],
         ["--runs", "3", "--seconds", "4", "--warm-up", "1.5"], (CURVE_CSV, CURVE_SVG)),
    Step("burst", "burst.py",
         ["--runs", "1", "--bursts", "3", "--sizes", "600,2000"], ["--runs", "5", "--bursts", "5"], ("burst.json",)),
    Step("costs", "costs.py",
         ["--runs", "2", "--seconds", "1.5", "--warm-up", "0.5", "--points", "4", "--bench-seconds", "1"],
         ["--runs", "5", "--seconds", "3", "--warm-up", "1"], ("costs.json",)),
    Step("optimisations", "optimisations.py",
         ["--runs", "2", "--seconds", "1.5", "--warm-up", "0.5", "--bench-seconds", "1"],
         ["--runs", "7", "--seconds", "3", "--warm-up", "1"], ("optimisations.json",)),
]


def parse():
    parser = machine.Parser(
        prog="performance.sh", description="Measures everything and writes docs/src/performance/report.md, its plot, and the README's "
        "section.",
        epilog="Run it on an idle machine, as root for the table with equal buffers. It continues where it was "
               "interrupted. STATSRING=path measures that program, LOAD=path generates the load with that one.")
    names = ", ".join(step.name for step in STEPS)
    add = parser.add_argument
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few, short runs: less than 30 minutes (default)")
    size.add_argument("--full", action="store_true", help="many, long runs: two to three hours")
    add("--only", default="", metavar="STEPS", help=f"only these, comma-separated: {names}")
    add("--again", default="", metavar="STEPS", help="repeat these steps; all repeats every step")
    add("--write-only", action="store_true", help="measure nothing, write existing results")
    add("--state", type=Path, metavar="FOLDER", help="directory of the results (target/performance/quick or full)")
    add("--docs", type=Path, default=ROOT / "docs/src/performance", metavar="FOLDER", help="(%(default)s)")
    add("--readme", type=Path, default=ROOT / "README.md", metavar="FILE", help="(%(default)s)")
    add("--cores", default="0,1", help="of the load and of the program (%(default)s)")
    add("--retries", type=int, help="of a disturbed run (1 with --quick, else 3)")
    add("--patience", type=float, metavar="S", help="to wait for quiet cores before a run (5 with --quick, else 30)")
    options = parser.parse_args()
    options.quick = not options.full
    every = [step.name for step in STEPS]
    for key in ("only", "again"):
        chosen = [name for name in getattr(options, key).split(",") if name]
        chosen = every if chosen == ["all"] else chosen
        unknown = [name for name in chosen if name not in every]
        if unknown:
            parser.error(f"--{key}: unknown step {unknown[0]!r}: expected some of {names}")
        setattr(options, key, chosen)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()
    options.state = options.state or target / "performance" / ("quick" if options.quick else "full")
    options.retries = options.retries if options.retries is not None else 1 if options.quick else 3
    options.patience = options.patience if options.patience is not None else 5.0 if options.quick else 30.0
    return options


def build_of(path):
    """Identifies a build of statsring."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error


def program():
    return Path(os.environ.get("STATSRING") or release("statsring")).absolute()


def run_step(step, options):
    """Runs a step; incomplete results keep the suffix .part."""
    command = step.command(options.state, options.quick) + [
        "--cores", options.cores, "--retries", str(options.retries), "--patience", str(options.patience)]
    began = time.monotonic()
    say(f"=== {step.name}")
    with open(options.state / f"{step.name}.md", "w", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out)
        try:
            code = process.wait()
        except BaseException:
            # It ends its children and restores settings.
            process.terminate()
            process.wait()
            raise
    if code != 0:
        raise Failure(f"step {step.name} exited with {code}; run the command again to continue")
    for name in step.files:
        (options.state / (name + ".part")).replace(options.state / name)
    note = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "took_s": round(time.monotonic() - began), "build": build_of(program()),
    }
    (options.state / f"{step.name}.note.json").write_text(json.dumps(note) + "\n")


def note_of(step, options):
    try:
        return json.loads((options.state / f"{step.name}.note.json").read_text())
    except OSError:
        return {}


def is_done(step, options):
    return all((options.state / name).exists() for name in step.files)


def measure(options):
    options.state.mkdir(parents=True, exist_ok=True)
    build = build_of(program())
    for step in STEPS:
        if options.only and step.name not in options.only:
            continue
        if is_done(step, options) and step.name not in options.again:
            note = note_of(step, options)
            other = "" if note.get("build") == build else ", OF A DIFFERENT BUILD"
            say(f"=== {step.name}: kept, of {note.get('date')}{other}; --again {step.name} repeats it")
            continue
        run_step(step, options)


def results(options):
    """Results of the steps by name; for the curve, its path."""
    found = {}
    for step in STEPS:
        if is_done(step, options):
            path = options.state / step.files[0]
            found[step.name] = path if path.suffix == ".csv" else json.loads(path.read_text())
    return found


def write(options):
    found = results(options)
    if not found:
        raise Failure(f"no results in {options.state}")
    options.docs.mkdir(parents=True, exist_ok=True)
    notes = {step.name: note_of(step, options) for step in STEPS if step.name in found}
    if "load-curve" in found:
        for name in (CURVE_CSV, CURVE_SVG):
            shutil.copyfile(options.state / name, options.docs / name)
    own = shlex.join(["scripts/performance.sh", "--quick" if options.quick else "--full"])
    (options.docs / "report.md").write_text(pages.report_page(found, notes, own))
    (options.state / "performance.json").write_text(json.dumps(pages.figures(found, notes, own), indent=1) + "\n")
    pages.put_section(options.readme, pages.readme_section(found, own, options.docs, options.readme.parent))
    say(f"written: {options.docs}/report.md, the section of {options.readme}, and {options.state}/performance.json")


def main():
    options = parse()
    if not options.write_only:
        measure(options)
    write(options)
    return 0


if __name__ == "__main__":
    machine.main_with_signals("performance.sh", main)
