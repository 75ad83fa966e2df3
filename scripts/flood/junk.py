"""Junk at full speed; see scripts/junk-flood.sh.

In: seconds. Out: counters and a verdict.
"""

import json
import os
import random
import socket
import time

from proxy import EXIT_FAIL, Failure, Proxy, imbalance, number, program, run_script

# Pages, stacks and libraries of the program, which the printed bound does not include.
OWN_BYTES = 8 << 20
DATAGRAMS = 4096


def junk(chance):
    """One datagram."""
    kind = chance.randrange(10)
    if kind == 0:
        return b""
    if kind == 1:
        return b"\n" * chance.randrange(1, 500)
    if kind == 2:
        return bytes(chance.choice(b":|\n\r_") for _ in range(chance.randrange(1, 700)))
    if kind == 3:
        return b"x" * chance.randrange(1, 8192)
    if kind == 4:
        return (b"n" * 40 + b":1|c\n") * 200
    if kind == 5:
        # Longer than maxDatagramSize.
        return b"long.%d:1|c\n" % chance.randrange(1 << 30) * 900
    if kind == 6:
        return b"_e{%d,4}:t|x\n_sc|\n_sc||0\n:|\n" % chance.randrange(1 << 40)
    if kind == 7:
        return b"".join(b"once.%d:%d|c\n" % (chance.randrange(1 << 60), value) for value in range(30))
    return chance.randbytes(chance.randrange(1, 1400))


def flood(address, seconds, watch):
    """Sends for this time; returns the number of datagrams accepted by the kernel."""
    chance = random.Random(1)
    prepared = [junk(chance) for _ in range(DATAGRAMS)]
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(address)
    sent, end, look = 0, time.monotonic() + seconds, 0.0
    while (now := time.monotonic()) < end:
        for datagram in prepared:
            sender.send(datagram)
        sent += len(prepared)
        if now > look:
            look = now + 1
            watch()
    return sent


def main(arguments):
    seconds = number(arguments, 1, 60)
    keys = json.loads("{%s}" % os.environ.get("CONFIG", ""))
    with Proxy(program(), **keys) as proxy:
        bound_text, bound = proxy.memory_bound()
        # Backends that are bound but never read.
        backends = []
        for port in proxy.backends:
            backend = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            backend.bind(("127.0.0.1", port))
            backends.append(backend)
        print(f"memory bound printed at start: {bound_text}")
        resident = [proxy.resident_bytes()]
        sent = flood(("127.0.0.1", proxy.port), seconds, lambda: resident.append(proxy.resident_bytes()))
        # Wait for the datagrams in the receive buffer.
        end = time.monotonic() + 10
        while True:
            stats = proxy.stats()
            accounted = stats["datagrams_received"] + stats["kernel_drops"]
            if (accounted == sent and stats["metrics_pending"] == 0) or time.monotonic() > end:
                break
            time.sleep(0.1)
        if proxy.process.poll() is not None:
            raise Failure("the proxy exited")
    print(f"datagrams sent {sent}, {sent / seconds:.0f}/s; received {stats['datagrams_received']:.0f}, "
          f"dropped by the kernel before the proxy {stats['kernel_drops']:.0f}; unaccounted {sent - accounted:.0f}")
    shown = ("metrics_received", "metrics_sent", "metrics_dropped_malformed", "metrics_dropped_truncated", "datagrams_empty",
             "datagrams_blank", "datagrams_truncated")
    print(", ".join(f"{name} {stats[name]:.0f}" for name in shown if name in stats))
    print(f"imbalance of the counters: {imbalance(stats):.0f}")
    mib = 1 << 20
    print(f"resident {resident[0] / mib:.1f} MiB at start, {max(resident) / mib:.1f} MiB at most; "
          f"limit (bound plus {OWN_BYTES // mib} MiB for the program) {(bound + OWN_BYTES) / mib:.1f} MiB")
    is_passed = accounted == sent and imbalance(stats) == 0 and max(resident) <= bound + OWN_BYTES
    print("PASS" if is_passed else "FAIL")
    return 0 if is_passed else EXIT_FAIL


run_script("junk-flood", main)
