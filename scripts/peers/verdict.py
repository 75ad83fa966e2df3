"""Output of the peer tests: one line per check, and a verdict.

In: checks. Out: lines on stdout, "N passed, N failed", the exit code.
"""

import os
import subprocess
from pathlib import Path

from machine import Failure

ROOT = Path(__file__).resolve().parent.parent.parent


class Verdict:
    def __init__(self, name):
        self.name, self.passed, self.failed = name, 0, 0

    def check(self, what, ok, detail=""):
        if ok:
            self.passed += 1
            print(f"ok    {what}", flush=True)
        else:
            self.failed += 1
            print(f"FAIL  {what}: {detail}" if detail else f"FAIL  {what}", flush=True)
        return ok

    def end(self):
        print(f"{self.name}: {self.passed} passed, {self.failed} failed", flush=True)
        return 0 if self.failed == 0 and self.passed > 0 else 1


def owners(program, config, names):
    """Backends of these names (bytes without newlines) by `statsring where`."""
    done = subprocess.run(
        [program, "where", "-f", config], input=b"".join(name + b"\n" for name in names), capture_output=True, check=False)
    if done.returncode != 0:
        raise Failure(f"where exited with {done.returncode}: {done.stderr.decode(errors='replace')}")
    answers = [line.rpartition(b"\t")[2].decode() for line in done.stdout.split(b"\n")[:-1]]
    if len(answers) != len(names):
        raise Failure(f"where: expected {len(names)} replies, found {len(answers)}")
    return answers


def program_under_test():
    """The path in STATSRING, set by the calling script."""
    path = Path(os.environ["STATSRING"]).absolute()
    if not os.access(path, os.X_OK):
        raise Failure(f"no program at {path}")
    return str(path)
