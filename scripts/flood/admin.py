"""Pairs of runs with and without a flood of hostile admin connections; see scripts/admin-flood.sh.

In: pairs and seconds. Out: a table and a verdict.
"""

import json
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import time

from proxy import EXIT_FAIL, Failure, Proxy, imbalance, number, program, run_script, say

CONNECTIONS = int(os.environ.get("CONNECTIONS", 1000))
RATE = int(os.environ.get("RATE", 20000))
# Closed connections that are reopened per second.
CHURN = 500
KINDS = 4
RATIO_MAX = 2.0


class Client:
    """One hostile connection."""

    def __init__(self, kind, address):
        self.kind = kind
        self.socket = socket.socket()
        self.socket.setblocking(False)
        # A small window fills quickly if the client does not read.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect_ex(address)

    def act(self):
        """Acts once; false if the connection is closed."""
        try:
            if self.kind == 1:
                self.socket.send(b"s")
            elif self.kind == 2:
                self.socket.send(os.urandom(512).replace(b"\n", b" "))
            elif self.kind == 3:
                self.socket.send(b"stats\n" * 50)
            if self.kind != 3:
                return self.socket.recv(4096) != b""
            # It never reads; MSG_PEEK detects a closed connection.
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


def flood(address, seconds, cpu, peak):
    """Keeps the connections open for this time. Runs in a separate process."""
    os.sched_setaffinity(0, {cpu})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS + 100
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    clients, made, end = [], 0, time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        alive = []
        for client in clients:
            if client.act():
                alive.append(client)
            else:
                client.socket.close()
        clients = alive
        # All at once at the start, then at most CHURN per second.
        room = CONNECTIONS if made < CONNECTIONS else CHURN // 5
        for _ in range(min(room, CONNECTIONS - len(clients))):
            clients.append(Client(made % KINDS, address))
            made += 1
        peak.value = max(peak.value, len(clients))
        time.sleep(max(0, 0.2 - (time.monotonic() - started)))


def one_run(path, seconds, with_flood):
    """Runs the load once and returns its results."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise Failure("requires two CPUs, one for the load and one for the proxy")
    peak = multiprocessing.Value("i", 0)
    with Proxy(path, cpu=cpus[1], workers=1) as proxy:
        address = ("127.0.0.1", proxy.admin)
        flooding = multiprocessing.Process(target=flood, args=(address, seconds + 3, cpus[0], peak))
        if with_flood:
            flooding.start()
            time.sleep(1)
        load = [
            path, "load", "--to", f"127.0.0.1:{proxy.port}", "--sink", ",".join(map(str, proxy.backends)),
            "--rate", str(RATE), "--seconds", str(seconds), "--json", "--quiet",
        ]
        pin = lambda: os.sched_setaffinity(0, {cpus[0]})
        try:
            done = subprocess.run(load, capture_output=True, text=True, preexec_fn=pin, timeout=seconds + 60)
        finally:
            if with_flood:
                flooding.join()
        try:
            report = json.loads(done.stdout)
        except ValueError:
            raise Failure(f"the load printed no result: {done.stderr}") from None
        stats = proxy.stats()
        return {
            "p99_us": stats["latency_p99_us"],
            "max_us": stats["latency_max_us"],
            "report": report,
            "kernel_drops": stats["kernel_drops"],
            "imbalance": imbalance(stats),
            "connections": stats["admin_connections"] + stats["admin_connections_refused"],
            "peak": peak.value,
            "passed": done.returncode == 0,
        }


def main(arguments):
    pairs, seconds = number(arguments, 1, 5), number(arguments, 2, 8)
    path = program()
    print(f"{RATE} datagrams/s for {seconds} s, {CONNECTIONS} hostile connections, {pairs} pairs")
    print(f"{'pair':>4} {'p99 µs without':>15} {'with flood':>11} {'ratio':>6} {'max µs without':>15} {'with':>7} "
          f"{'kernel drops':>13} {'connections':>12} {'at once':>8} {'load':>5}")
    ratios, is_passed = [], True
    for pair in range(pairs):
        # The order alternates, so that drift does not favour either side.
        runs = {}
        for with_flood in ((False, True) if pair % 2 == 0 else (True, False)):
            runs[with_flood] = one_run(path, seconds, with_flood)
        calm, flooded = runs[False], runs[True]
        ratio = flooded["p99_us"] / max(calm["p99_us"], 1)
        ratios.append(ratio)
        drops = calm["kernel_drops"] + flooded["kernel_drops"]
        is_whole = calm["passed"] and flooded["passed"]
        print(f"{pair + 1:>4} {calm['p99_us']:>15.0f} {flooded['p99_us']:>11.0f} {ratio:>6.2f} {calm['max_us']:>15.0f} "
              f"{flooded['max_us']:>7.0f} {drops:>13.0f} {flooded['connections']:>12.0f} {flooded['peak']:>8} "
              f"{'pass' if is_whole else 'FAIL':>5}", flush=True)
        if not is_whole:
            say(json.dumps(flooded["report"] if calm["passed"] else calm["report"]))
        is_passed &= drops == 0 and is_whole and calm["imbalance"] == 0 and flooded["imbalance"] == 0
        if flooded["peak"] < CONNECTIONS // 2:
            raise Failure(f"only {flooded['peak']} connections were open at once")
    ratio = statistics.median(ratios)
    is_passed &= ratio <= RATIO_MAX
    print(f"median ratio {ratio:.2f} (limit {RATIO_MAX:.0f}): {'PASS' if is_passed else 'FAIL'}")
    return 0 if is_passed else EXIT_FAIL


run_script("admin-flood", main)
