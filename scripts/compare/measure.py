"""Measures one program under one load.

In: a program, a load. Out: a dict of costs and deliveries. Next: compare.py, curve.py, burst.py, costs.py and
optimisations.py repeat it.

The generator and the sinks (`statsring load`) run on one core, the program on the other. Each measurement starts a
new process and warms it up with the same load.
"""

import atexit
import contextlib
import json
import os
import resource
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import machine
from machine import Failure, Usage
from programs import Ports, release

NODES = 3
# With more backends there are no health checks: that many threads would disturb the load.
HEALTHY_NODES_MAX = 16
START_S = 10
STOP_S = 6
# Makes a line 39 bytes long, 40 with its newline.
NAME_BYTES = 28
# statsdproxy holds its last packet for up to 2 s.
SETTLE_S = 3
SAMPLE_S = 0.05
# Above this share of a core used by other processes, a run counts as disturbed.
FOREIGN_SHARE_MAX = 0.03
QUIET_PROBE_S = 0.5


@dataclass(frozen=True)
class Load:
    """`rate` in datagrams/s; None for as many as one core can send singly."""

    name: str
    rate: int
    metrics: int
    # Number of backends.
    nodes: int = NODES
    # Further options of `statsring load`.
    more: tuple = ()


@dataclass
class Bench:
    """Common settings of all measurements."""

    seconds: float
    warm_up: float
    load_core: int
    program_core: int
    load_program: Path
    retries: int
    patience_s: float

    @staticmethod
    def of(options):
        try:
            load_core, program_core = (int(core) for core in options.cores.split(","))
        except ValueError as error:
            raise Usage(f"--cores {options.cores}: expected two cores, e.g. 0,1") from error
        path = Path(os.environ.get("LOAD") or os.environ.get("STATSRING") or release("statsring")).absolute()
        if not os.access(path, os.X_OK):
            raise Failure(f"no program at {path}")
        allowed = os.sched_getaffinity(0)
        if load_core == program_core or not {load_core, program_core} <= allowed:
            raise Usage(f"--cores {options.cores}: expected two different cores out of {sorted(allowed)}")
        # Keeps this script off the core of the program under test.
        os.sched_setaffinity(0, {load_core})
        return Bench(options.seconds, options.warm_up, load_core, program_core, path, options.retries, options.patience)

    def cores_busy_ns(self):
        return [machine.core_busy_ns(core) for core in (self.load_core, self.program_core)]

    def wait_for_quiet(self):
        """Waits until the cores are idle, at most `patience` seconds."""
        end = time.monotonic() + self.patience_s
        while True:
            before, began = self.cores_busy_ns(), time.monotonic_ns()
            time.sleep(QUIET_PROBE_S)
            took = time.monotonic_ns() - began
            busy = max(now - then for now, then in zip(self.cores_busy_ns(), before)) / took
            if busy <= FOREIGN_SHARE_MAX or time.monotonic() > end:
                return

    def start_load(self, ports, load, seconds, run, sinks, more=()):
        command = [
            str(self.load_program), "load", "--to", f"127.0.0.1:{ports.listen}",
            "--rate", str(load.rate or "max"), "--metrics", str(load.metrics), "--seconds", str(seconds),
            "--name-length", str(NAME_BYTES), "--run", run, "--settle", str(SETTLE_S), "--json", "--quiet",
            *load.more, *more,
        ]
        if sinks:
            command += ["--sink", ",".join(str(port) for port in sinks)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # The load must not outlive this script.
        atexit.register(process.kill)
        return process

    def result_of(self, process):
        out, error = process.communicate()
        atexit.unregister(process.kill)
        # 1 is a bad verdict, which is a valid measurement.
        if process.returncode not in (0, 1) or not out:
            raise Failure(f"{self.load_program} load exited with {process.returncode}: {error or out}")
        return json.loads(out)


def add_bench_options(parser):
    add = parser.add_argument
    add("--cores", default="0,1", help="of the load and of the program (%(default)s)")
    add("--retries", type=int, default=3,
        help="of a run in which other processes used more than 3 %% of a core; the least disturbed run counts (%(default)s)")
    add("--patience", type=float, default=30, metavar="S", help="to wait for quiet cores before a run (%(default)s)")


def undisturbed(bench, measure_once):
    """The first undisturbed run, else the least disturbed one."""
    best = None
    for attempt in range(1 + bench.retries):
        bench.wait_for_quiet()
        row = measure_once() | {"attempts": attempt + 1}
        if best is None or row["foreign_share"] < best["foreign_share"]:
            best = row
        if best["foreign_share"] <= FOREIGN_SHARE_MAX:
            break
    return best


class Health(socketserver.BaseRequestHandler):
    """Answers health checks like a StatsD server."""

    def handle(self):
        with contextlib.suppress(OSError):
            while self.request.recv(1024):
                self.request.sendall(b"health: up\n")


class HealthServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextlib.contextmanager
def healthy_ports(nodes=NODES):
    """Context manager: ports for one run; the backends' admin ports answer."""
    healthy = nodes if nodes <= HEALTHY_NODES_MAX else 0
    numbers = machine.free_ports(2 + nodes + healthy)
    ports = Ports(numbers[0], numbers[1], numbers[2:2 + nodes], numbers[2 + nodes:])
    with contextlib.ExitStack() as stack:
        for port in ports.health:
            server = stack.enter_context(HealthServer(("127.0.0.1", port), Health))
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
        yield ports


@contextlib.contextmanager
def unread_backends(ports):
    """Bound sockets that are never read."""
    with contextlib.ExitStack() as stack:
        for port in ports.nodes:
            backend = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            backend.bind(("127.0.0.1", port))
        yield


@contextlib.contextmanager
def running(program, ports, core, granted):
    """Context manager: the running program, once it listens."""
    with tempfile.TemporaryDirectory(prefix="statsring-compare-") as folder:
        log = Path(folder) / "log"
        with open(log, "w", encoding="utf-8") as out:
            command = ["taskset", "-c", str(core), *program.command(ports, Path(folder), granted)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            wait_for(process, ports.listen, program.name, log)
            yield process.pid
            if process.poll() is not None:
                raise Failure(f"{program.name} exited:\n{log.read_text()[-2000:]}")
        finally:
            end(process)


def wait_for(process, port, name, log):
    for _ in range(START_S * 20):
        if machine.is_bound(port):
            # The socket is bound slightly before the program reads from it.
            time.sleep(0.3)
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise Failure(f"{name} did not start:\n{log.read_text()[-2000:]}")


def end(process):
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Sampler(threading.Thread):
    """Samples the peak kernel memory queued in a process's UDP sockets."""

    def __init__(self, owned):
        super().__init__(daemon=True)
        self.owned, self.peak, self.ended = owned, 0, threading.Event()

    def run(self):
        while not self.ended.wait(SAMPLE_S):
            self.peak = max(self.peak, machine.queued_bytes(self.owned))

    def stop(self):
        self.ended.set()
        self.join()
        return self.peak


def measure(bench, program, load, granted=None):
    """Measures `program` under `load`."""
    return undisturbed(bench, lambda: measure_once(bench, program, load, granted))


def measure_once(bench, program, load, granted):
    with healthy_ports(load.nodes) as ports, running(program, ports, bench.program_core, granted) as pid:
        sinks = ports.nodes if program.forwards else []
        bench.result_of(bench.start_load(ports, load, bench.warm_up, "w", sinks))
        owned = machine.inodes(pid)
        sampler = Sampler(owned)
        spent = spent_by(bench, pid)
        sampler.start()
        result = bench.result_of(bench.start_load(ports, load, bench.seconds, "m", sinks))
        row = figures(result, spent())
        row["socket_bytes_peak"] = sampler.stop()
        row["receive_buffer_bytes"], row["socket_bytes_granted"] = machine.granted_bytes(ports.listen, owned)
        row["resident_kib"] = machine.resident_kib(pid)
        return row


def spent_by(bench, pid):
    """Returns a function that returns what was spent since."""

    def now():
        load_core_ns, program_core_ns = bench.cores_busy_ns()
        # This script and finished loads.
        own = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "cpu_ns": machine.cpu_ns(pid),
            "load_ns": int(1e9 * sum(usage.ru_utime + usage.ru_stime for usage in own)),
            "switches": machine.switches(pid),
            "program_core_ns": program_core_ns, "load_core_ns": load_core_ns,
            "wall_ns": time.monotonic_ns(),
        }

    before = now()
    return lambda: {key: value - before[key] for key, value in now().items()}


def foreign_share(spent):
    """The larger of the two shares of a core used by other processes."""
    foreign_ns = max(spent["program_core_ns"] - spent["cpu_ns"], spent["load_core_ns"] - spent["load_ns"], 0)
    return foreign_ns / spent["wall_ns"]


def figures(result, spent):
    sent, arrived = result["sent"], result["arrived"]
    received = sent["datagrams"] - (result["dropped_before_proxy"] or 0)
    row = {
        "rate": sent["datagrams"] / sent["seconds"],
        "sent_datagrams": sent["datagrams"],
        "sent_metrics": sent["metrics"],
        "given_up_datagrams": sent["given_up"],
        "received_datagrams": received,
        "cpu_ns": spent["cpu_ns"],
        "us_per_sent": spent["cpu_ns"] / sent["datagrams"] / 1e3,
        "us_per_received": spent["cpu_ns"] / max(received, 1) / 1e3,
        "ns_per_metric": spent["cpu_ns"] / max(received * sent["metrics"] / sent["datagrams"], 1),
        "cores": spent["cpu_ns"] / 1e9 / sent["seconds"],
        "switches_per_second": spent["switches"] / sent["seconds"],
        "foreign_share": foreign_share(spent),
    }
    if arrived:
        latency = arrived["latency_us"] or {}
        row |= {
            "delivered": arrived["unique"] / sent["metrics"],
            "dropped_at_sinks": arrived["dropped_at_sinks"],
            "misplaced": arrived["misplaced"],
            "packets": arrived["datagrams"],
            "metrics_per_packet": arrived["unique"] / max(arrived["datagrams"], 1),
            "p50_us": latency.get("p50"),
            "p99_us": latency.get("p99"),
        }
    return row


def direct(bench, load):
    """Sends the load directly to a sink: the cost of generator, kernel and sink."""
    return undisturbed(bench, lambda: direct_once(bench, load))


def direct_once(bench, load):
    with healthy_ports(load.nodes) as ports:
        ports.listen = ports.nodes[0]
        # No program is under test, so activity on its core does not matter.
        spent = spent_by(bench, os.getpid())
        arrived = bench.result_of(bench.start_load(ports, load, bench.seconds, "m", ports.nodes))["arrived"]
        share = foreign_share(spent() | {"program_core_ns": 0, "cpu_ns": 0})
        return {"p50_us": arrived["latency_us"]["p50"], "p99_us": arrived["latency_us"]["p99"], "foreign_share": share}


def idle(bench, program):
    """Wake-ups and CPU of a program that is idle after traffic."""
    with healthy_ports() as ports, running(program, ports, bench.program_core, None) as pid:
        bench.result_of(bench.start_load(ports, Load("", 1_000, 1), 1, "w", ports.nodes if program.forwards else []))
        time.sleep(2)
        before = machine.switches(pid), machine.cpu_ns(pid), time.monotonic()
        time.sleep(max(bench.seconds, 10))
        took = time.monotonic() - before[2]
        return {
            "wake_ups_per_second": (machine.switches(pid) - before[0]) / took,
            "cpu_us_per_second": (machine.cpu_ns(pid) - before[1]) / 1e3 / took,
        }
