"""Starts the proxy with free ports, queries its counters, and ends it.

In: keys for its config. Out: a running process, `stats` as numbers. Next: admin.py and junk.py.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXIT_FAIL, EXIT_USAGE, EXIT_SYSTEM = 1, 64, 71


class Failure(Exception):
    """Ends the script with this message."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def number(arguments, index, default):
    """A positive integer from the command line."""
    text = arguments[index] if len(arguments) > index else str(default)
    if not text.isdigit() or int(text) == 0:
        say(f"expected a number above 0, found {text}; see the usage at the top of this script")
        sys.exit(EXIT_USAGE)
    return int(text)


def run_script(name, main):
    """Runs `main` and exits with its code. Signals raise an exception, so that children are ended."""

    def stop(received, _frame):
        raise SystemExit(128 + received)

    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main(sys.argv))
    except Failure as failure:
        say(f"{name}: {failure}")
        sys.exit(EXIT_SYSTEM)
    except KeyboardInterrupt:
        sys.exit(130)


def program():
    """The program under test; built unless STATSRING is set."""
    named = os.environ.get("STATSRING")
    if named:
        return Path(named).resolve()
    subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
    return (ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/statsring").resolve()


def free_ports(count):
    """Free ports of 127.0.0.1, UDP and TCP."""
    held, ports = [], []
    while len(ports) < count:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        held.append(udp)
        tcp = socket.socket()
        held.append(tcp)
        try:
            tcp.bind(udp.getsockname())
            ports.append(udp.getsockname()[1])
        except OSError:
            pass
    for each in held:
        each.close()
    return ports


class Proxy:
    """A running proxy with three backends, which need not exist."""

    def __init__(self, path, cpu=None, **keys):
        self.folder = tempfile.TemporaryDirectory()
        self.port, self.admin, *self.backends = free_ports(5)
        config = {
            "host": "127.0.0.1", "port": self.port,
            "managementHost": "127.0.0.1", "managementPort": self.admin,
            "nodes": [{"host": "127.0.0.1", "port": port} for port in self.backends],
            **keys,
        }
        file = Path(self.folder.name) / "config.json"
        file.write_text(json.dumps(config))
        self.log_path = Path(self.folder.name) / "log"
        pin = None if cpu is None else lambda: os.sched_setaffinity(0, {cpu})
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen([path, "-f", file], stderr=log, preexec_fn=pin)
        end = time.monotonic() + 10
        while "ready: " not in self.log():
            if self.process.poll() is not None or time.monotonic() > end:
                raise Failure(f"the proxy did not start:\n{self.log()}")
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.folder.cleanup()

    def log(self):
        return self.log_path.read_text()

    def memory_bound(self):
        """The printed memory bound, as text and in bytes."""
        found = re.search(r"memory bound: (([0-9.]+) MiB[^,]*)", self.log())
        if not found:
            raise Failure(f"no memory bound was printed:\n{self.log()}")
        return found[1], int(float(found[2]) * (1 << 20))

    def ask(self, command):
        with socket.create_connection(("127.0.0.1", self.admin), timeout=5) as client:
            client.sendall(f"{command}\nquit\n".encode())
            parts = []
            while part := client.recv(65536):
                parts.append(part)
        return b"".join(parts).decode()

    def stats(self, patience_s=40):
        """All counters of one moment; retried while the admin port is full."""
        end = time.monotonic() + patience_s
        while True:
            try:
                figures = dict(re.findall(r"^(\S+): ([0-9.]+)$", self.ask("stats"), re.M))
                if "metrics_received" in figures:
                    return {name: float(value) for name, value in figures.items()}
            except OSError:
                pass
            if self.process.poll() is not None:
                raise Failure(f"the proxy exited:\n{self.log()}")
            if time.monotonic() > end:
                raise Failure("the admin port did not answer")
            time.sleep(0.1)

    def resident_bytes(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


def imbalance(stats):
    """Received metrics that are not accounted for."""
    dropped = sum(value for name, value in stats.items() if name.startswith("metrics_dropped_"))
    return stats["metrics_received"] - stats["metrics_sent"] - dropped - stats["metrics_pending"]
