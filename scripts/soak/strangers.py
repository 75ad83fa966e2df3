"""Strangers at a proxy's ports while a load runs, and beside them a client that must be answered all the same.

In: the proxy's ports, for how long, a seed. Out: JSON, what was sent and what was answered; exit 1 if an answer was wrong or
did not come. Next: phases.bash, which compares it with the proxy's account.

Three things at once: junk datagrams from a sender of its own; connections to the admin port that say nothing, drip, send
garbage, speak another protocol, never read or break off, fewer than the port takes so that there is room for others; and
every command of the admin port in turn.
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

# Of the 64 that the admin port takes at once.
CONNECTIONS = 40
# For one answer.
PATIENCE_S = 30
# Different junk datagrams.
KINDS_OF_JUNK = 10
PREPARED = 1024
# Datagrams that leave together.
TOGETHER = 20
TICK_S = 0.05

# What is asked, and how the answer has to look.
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
    # The hostile ones may hold all taps that there are.
    ("tap load. 20", r"((load\.\S+.*\n){20}|error: too many taps \(\d+\): .*\n)$"),
    ("health down", r"health: down\n$"),
    ("health up", r"health: up\n$"),
    ("health", r"health: up\n$"),
    ("reload", r"reloaded: nothing changed"),
    ("version", r"statsring \d"),
    ("help", r"ping "),
    ("no such command", r"unknown command\n$"),
]


def junk(chance):
    """One datagram that no client should send."""
    kind = chance.randrange(KINDS_OF_JUNK)
    if kind == 0:
        return b""
    if kind == 1:
        return b"\n" * chance.randrange(1, 500)
    if kind == 2:
        return bytes(chance.choice(b":|\n\r_#@") for _ in range(chance.randrange(1, 700)))
    if kind == 3:
        return b"x" * chance.randrange(1, 8192)
    if kind == 4:
        return (b"same:1|c\n") * chance.randrange(1, 800)
    if kind == 5:
        # Longer than maxDatagramSize.
        return b"long.%d:1|c\n" % chance.randrange(1 << 30) * 900
    if kind == 6:
        return b"_e{%d,4}:t|x\n_sc|\n_sc||0\n:|\n" % chance.randrange(1 << 40)
    if kind == 7:
        return b"".join(b"once.%d:%d|c\n" % (chance.randrange(1 << 60), value) for value in range(30))
    if kind == 8:
        return b"huge:1|c\n" + chance.randbytes(chance.randrange(20000, 65000))
    return chance.randbytes(chance.randrange(1, 1400))


class Junk(threading.Thread):
    """Sends junk at a pace, in small bursts."""

    def __init__(self, address, rate, end, seed):
        super().__init__()
        self.address, self.rate, self.end = address, rate, end
        chance = random.Random(seed)
        self.prepared = [junk(chance) for _ in range(PREPARED)]
        self.sent = self.failed = 0

    def run(self):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        due, place = time.monotonic(), 0
        while time.monotonic() < self.end:
            for _ in range(TOGETHER):
                try:
                    sender.sendto(self.prepared[place % PREPARED], self.address)
                    self.sent += 1
                except OSError:
                    self.failed += 1
                place += 1
            # What a stall of this host made impossible is not made up for.
            due = max(due + TOGETHER / self.rate, time.monotonic() - TICK_S)
            time.sleep(max(0, due - time.monotonic()))


class Hostile:
    """One connection to the admin port."""

    def __init__(self, kind, address, ends):
        self.kind, self.ends = kind, ends
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.setblocking(False)
        self.socket.connect_ex(address)

    def act(self, now, chance):
        """Does what its kind does; false when it is over."""
        if now >= self.ends:
            return False
        words = {
            1: b"s",
            2: chance.randbytes(900).replace(b"\n", b" "),
            3: b"stats\n" * 50,
            4: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nhealth down\n",
            5: b"\x16\x03\x01" + chance.randbytes(200),
            6: b"tap x 1000\n" + b"ping\n" * 200,
        }.get(self.kind, b"")
        try:
            if words:
                self.socket.send(words)
            # The third kind never reads.
            return self.kind == 3 or self.socket.recv(65536) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self):
        if self.kind >= 6:
            # Breaks off: the other side gets a reset. A tap whose client only says that it sends no more goes on for 30 s.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Crowd(threading.Thread):
    """Keeps up hostile connections of every kind."""

    def __init__(self, address, end, seed):
        super().__init__()
        self.address, self.end, self.chance = address, end, random.Random(seed)
        self.made = 0

    def run(self):
        alive = []
        while (now := time.monotonic()) < self.end:
            for client in list(alive):
                if not client.act(now, self.chance):
                    client.close()
                    alive.remove(client)
            while len(alive) < CONNECTIONS:
                alive.append(Hostile(self.made % 8, self.address, now + self.chance.uniform(0.1, 2)))
                self.made += 1
            time.sleep(TICK_S)
        for client in alive:
            client.close()


def ask(address, command, with_newline):
    """The answer to one command, by a client that closes its side or says quit."""
    with socket.create_connection(address, timeout=PATIENCE_S) as client:
        if with_newline:
            client.sendall(f"{command}\nquit\n".encode())
        else:
            client.sendall(command.encode())
            client.shutdown(socket.SHUT_WR)
        parts, end = [], time.monotonic() + PATIENCE_S
        while part := client.recv(65536):
            parts.append(part)
            if time.monotonic() > end:
                raise TimeoutError(f"the answer did not end within {PATIENCE_S} s")
    return b"".join(parts).decode(errors="replace")


def converse(address, end):
    """Asks everything again and again: answers, the longest time for one in ms, what was wrong."""
    answers, longest_ms, wrong = 0, 0.0, []
    while time.monotonic() < end or answers < len(COMMANDS):
        command, pattern = COMMANDS[answers % len(COMMANDS)]
        start = time.monotonic()
        try:
            answer = ask(address, command, answers // len(COMMANDS) % 2 == 0)
            if not re.match(pattern, answer):
                wrong.append(f"{command} was answered {answer[:200]!r}")
        except OSError as error:
            wrong.append(f"{command} was not answered: {error}")
        answers += 1
        longest_ms = max(longest_ms, (time.monotonic() - start) * 1000)
        if len(wrong) >= 10:
            break
    return answers, longest_ms, wrong


def main():
    parser = argparse.ArgumentParser(prog="strangers.py", description="Junk datagrams and hostile admin connections.")
    parser.add_argument("--port", type=int, required=True, help="of the proxy, UDP")
    parser.add_argument("--admin", type=int, required=True, help="of the proxy, TCP")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=2000, help="junk datagrams a second (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # Ended by a signal, it leaves at once: its threads hold nothing but sockets.
    end = time.monotonic() + options.seconds
    flood = Junk(("127.0.0.1", options.port), options.rate, end, options.seed)
    crowd = Crowd(("127.0.0.1", options.admin), end, options.seed)
    for thread in (flood, crowd):
        thread.daemon = True
        thread.start()
    answers, longest_ms, wrong = converse(("127.0.0.1", options.admin), end)
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
