"""Hostile traffic to a proxy under load, and an admin client that must still be served.

In: the proxy's ports, a duration, a seed. Out: JSON with what was sent and answered; exit 1 if a reply was wrong or missing.
Next: phases.bash compares it with the proxy's counters.

Three threads: junk datagrams from a separate sender; admin connections that are silent, slow, send garbage, use another
protocol, never read, or reset, fewer than the port accepts; and every admin command in turn.
"""

import argparse
import json
import random
import re
import socket
import struct
import sys
import threading
import time

# The admin port accepts 64.
CONNECTIONS = 40
# For one reply.
REPLY_TIMEOUT_S = 30
# Kinds, and number, of junk datagrams.
KINDS_OF_JUNK = 10
PREPARED = 1024
# Datagrams per burst.
BURST = 20
TICK_S = 0.05

# Commands and patterns of their replies.
COMMANDS = [
    ("ping", r"pong\n$"),
    ("stats", r"time running in seconds: \d+\npackets_received: \d"),
    ("memstats", r"bytes allocated and in use: \d+\n"),
    ("latency", r"\S+.*\d"),
    ("latency hgrm", r"[\s\S]*Percentile"),
    ("backends", r"name\tstate\tsince\tsent\t"),
    ("backend 192.0.2.1:1 drain", r"error: no such backend: 192\.0\.2\.1:1"),
    ("status", r"uptime: \d+\nnodes: \d"),
    ("config", r"\{[\s\S]*\"nodes\"[\s\S]*\}\s*$"),
    ("where api.requests", r"api\.requests\t127\.0\.0\.1:\d+\n$"),
    # The hostile connections may hold all taps.
    ("tap load. 20", r"((load\.\S+.*\n){20}|error: too many taps \(\d+\): .*\n)$"),
    ("health down", r"health: down\n$"),
    ("health up", r"health: up\n$"),
    ("health", r"health: up\n$"),
    ("reload", r"reloaded: nothing changed"),
    ("version", r"statsring \d"),
    ("help", r"ping "),
    ("no such command", r"unknown command; help lists the commands\n$"),
]


def junk(rng):
    """One junk datagram."""
    kind = rng.randrange(KINDS_OF_JUNK)
    if kind == 0:
        return b""
    if kind == 1:
        return b"\n" * rng.randrange(1, 500)
    if kind == 2:
        return bytes(rng.choice(b":|\n\r_#@") for _ in range(rng.randrange(1, 700)))
    if kind == 3:
        return b"x" * rng.randrange(1, 8192)
    if kind == 4:
        return (b"same:1|c\n") * rng.randrange(1, 800)
    if kind == 5:
        # Longer than maxDatagramSize.
        return b"long.%d:1|c\n" % rng.randrange(1 << 30) * 900
    if kind == 6:
        return b"_e{%d,4}:t|x\n_sc|\n_sc||0\n:|\n" % rng.randrange(1 << 40)
    if kind == 7:
        return b"".join(b"once.%d:%d|c\n" % (rng.randrange(1 << 60), value) for value in range(30))
    if kind == 8:
        return b"huge:1|c\n" + rng.randbytes(rng.randrange(20000, 65000))
    return rng.randbytes(rng.randrange(1, 1400))


class Junk(threading.Thread):
    """Sends junk at a rate, in small bursts."""

    def __init__(self, address, rate, end, seed):
        super().__init__()
        self.address, self.rate, self.end = address, rate, end
        rng = random.Random(seed)
        self.prepared = [junk(rng) for _ in range(PREPARED)]
        self.sent = self.failed = 0

    def run(self):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        due, place = time.monotonic(), 0
        while time.monotonic() < self.end:
            for _ in range(BURST):
                try:
                    sender.sendto(self.prepared[place % PREPARED], self.address)
                    self.sent += 1
                except OSError:
                    self.failed += 1
                place += 1
            # Do not catch up after a stall of this host.
            due = max(due + BURST / self.rate, time.monotonic() - TICK_S)
            time.sleep(max(0, due - time.monotonic()))


class Hostile:
    """One hostile admin connection."""

    def __init__(self, kind, address, ends):
        self.kind, self.ends = kind, ends
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.setblocking(False)
        self.socket.connect_ex(address)

    def act(self, now, rng):
        """Acts once; false when the connection is over."""
        if now >= self.ends:
            return False
        data = {
            1: b"s",
            2: rng.randbytes(900).replace(b"\n", b" "),
            3: b"stats\n" * 50,
            4: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nhealth down\n",
            5: b"\x16\x03\x01" + rng.randbytes(200),
            6: b"tap x 1000\n" + b"ping\n" * 200,
        }.get(self.kind, b"")
        try:
            if data:
                self.socket.send(data)
            # The third kind never reads.
            return self.kind == 3 or self.socket.recv(65536) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self):
        if self.kind >= 6:
            # Reset: a tap whose client only half-closes continues for 30 s.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Crowd(threading.Thread):
    """Maintains hostile connections of every kind."""

    def __init__(self, address, end, seed):
        super().__init__()
        self.address, self.end, self.rng = address, end, random.Random(seed)
        self.made = 0

    def run(self):
        alive = []
        while (now := time.monotonic()) < self.end:
            for client in list(alive):
                if not client.act(now, self.rng):
                    client.close()
                    alive.remove(client)
            while len(alive) < CONNECTIONS:
                alive.append(Hostile(self.made % 8, self.address, now + self.rng.uniform(0.1, 2)))
                self.made += 1
            time.sleep(TICK_S)
        for client in alive:
            client.close()


def ask(address, command, with_newline):
    """Sends one command and half-closes or sends quit; returns the reply."""
    with socket.create_connection(address, timeout=REPLY_TIMEOUT_S) as client:
        if with_newline:
            client.sendall(f"{command}\nquit\n".encode())
        else:
            client.sendall(command.encode())
            client.shutdown(socket.SHUT_WR)
        parts, end = [], time.monotonic() + REPLY_TIMEOUT_S
        while part := client.recv(65536):
            parts.append(part)
            if time.monotonic() > end:
                raise TimeoutError(f"the reply was not complete after {REPLY_TIMEOUT_S} s")
    return b"".join(parts).decode(errors="replace")


def query_all(address, end):
    """Repeats all commands: returns the number of replies, the longest time in ms, and errors."""
    answers, longest_ms, wrong = 0, 0.0, []
    while time.monotonic() < end or answers < len(COMMANDS):
        command, pattern = COMMANDS[answers % len(COMMANDS)]
        start = time.monotonic()
        try:
            answer = ask(address, command, answers // len(COMMANDS) % 2 == 0)
            if not re.match(pattern, answer):
                wrong.append(f"{command}: unexpected reply {answer[:200]!r}")
        except OSError as error:
            wrong.append(f"{command}: no reply: {error}")
        answers += 1
        longest_ms = max(longest_ms, (time.monotonic() - start) * 1000)
        if len(wrong) >= 10:
            break
    return answers, longest_ms, wrong


def main():
    parser = argparse.ArgumentParser(prog="hostile.py", description="Junk datagrams and hostile admin connections.")
    parser.add_argument("--port", type=int, required=True, help="UDP port of the proxy")
    parser.add_argument("--admin", type=int, required=True, help="admin port of the proxy")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=2000, help="junk datagrams/s (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # Daemon threads: a signal ends the process at once.
    end = time.monotonic() + options.seconds
    flood = Junk(("127.0.0.1", options.port), options.rate, end, options.seed)
    crowd = Crowd(("127.0.0.1", options.admin), end, options.seed)
    for thread in (flood, crowd):
        thread.daemon = True
        thread.start()
    answers, longest_ms, wrong = query_all(("127.0.0.1", options.admin), end)
    flood.join()
    crowd.join()
    print(json.dumps({
        "junk": flood.sent, "unsent": flood.failed, "connections": crowd.made, "answers": answers,
        "answer_ms": round(longest_ms), "wrong": wrong,
    }, indent=2))
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
