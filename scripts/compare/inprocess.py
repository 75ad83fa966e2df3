"""Runs the in-process benchmark: the relay without sockets, on one core, in CPU time.

In: groups of benches/relay.rs. Out: ns per metric by group and case. Next: costs.py and optimisations.py.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from machine import Failure, say
from programs import ROOT


def run(core, groups, seconds):
    """Spreads of ns per metric (the median and its 95 % interval), by group, then by case."""
    say("in process:")
    bench = ["cargo", "bench", "--quiet", "--manifest-path", str(ROOT / "Cargo.toml"), "--bench", "relay"]
    with tempfile.TemporaryDirectory(prefix="statsring-bench-") as folder:
        # Built on all cores, run on one.
        call([*bench, "--no-run"], None)
        for group in groups:
            call(["taskset", "-c", str(core), *bench, "--", f"^{group}/", "--warm-up-time", "0.3", "--sample-size", "10",
                  "--measurement-time", str(seconds)], folder)
        return read(Path(folder))


def call(command, folder):
    environment = os.environ | ({"CRITERION_HOME": folder} if folder else {})
    # This script is pinned to the core of the load; its children must not be.
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False,
                          preexec_fn=lambda: os.sched_setaffinity(0, range(os.cpu_count())))
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr[-2000:]}")


def read(folder):
    """Criterion's results, as ns per element."""
    found = {}
    for path in folder.rglob("new/benchmark.json"):
        benchmark = json.loads(path.read_text())
        estimate = json.loads((path.parent / "estimates.json").read_text())["median"]
        interval = estimate["confidence_interval"]
        elements = benchmark["throughput"]["Elements"]
        case = " ".join(part for part in (benchmark["function_id"], benchmark["value_str"]) if part)
        found.setdefault(benchmark["group_id"], {})[case] = {
            "median": estimate["point_estimate"] / elements,
            "least": interval["lower_bound"] / elements,
            "most": interval["upper_bound"] / elements,
        }
    return found
