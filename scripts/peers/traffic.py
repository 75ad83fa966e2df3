"""Sends lines through a proxy at the rate of their arrival, and resends lost ones.

In: datagrams of lines, a proxy's port, its backends. Out: where each line arrived. Next: proxyjs.py compares.
"""

import socket
import time
from dataclasses import dataclass, field

from backends import lines_of
from machine import Failure
from names import number_of

# proxy.js uses the kernel's default receive buffer, which holds about 150 datagrams of ten lines. Lost lines are resent, each
# time at half the rate.
DATAGRAMS_AHEAD_MAX = 80
STALLED_S, ROUNDS_MAX = 2, 8


@dataclass
class Arrived:
    """Backend and bytes by line number. `again` counts resent lines."""

    backend: dict = field(default_factory=dict)
    line: dict = field(default_factory=dict)
    again: int = 0
    # Lines that arrived at more than one backend.
    split: list = field(default_factory=list)


class Sender:
    def __init__(self, port, backends):
        self.backends = backends
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))

    def arrived(self):
        return sum(backend.udp.line_count for backend in self.backends if backend.udp)

    def send(self, datagrams, ahead_max):
        """Keeps no more in flight than the proxy's buffer holds; gives up on overdue datagrams."""
        base, waiting = self.arrived(), []
        for datagram in datagrams:
            while len(waiting) >= ahead_max:
                base = self._wait(base, waiting)
            self.socket.send(datagram)
            waiting.append(len(lines_of([datagram])))
        while waiting:
            base = self._wait(base, waiting)

    def _wait(self, base, waiting):
        """Waits until the first of `waiting` has arrived and removes those that have. Returns the new base count."""
        end = time.monotonic() + STALLED_S
        while self.arrived() - base < waiting[0]:
            if time.monotonic() > end:
                waiting.clear()
                return self.arrived()
            time.sleep(0.001)
        while waiting and self.arrived() - base >= waiting[0]:
            base += waiting.pop(0)
        return base


def packed(lines, each):
    return [b"\n".join(lines[first:first + each]) for first in range(0, len(lines), each)]


def send_all(port, backends, parts):
    """Sends `parts`, each a list of lines and the number of lines per datagram, until all lines have arrived."""
    for backend in backends:
        backend.forget()
    sender, found, missing = Sender(port, backends), Arrived(), parts
    for round_ in range(ROUNDS_MAX):
        for lines, each in missing:
            sender.send(packed(lines, each), max(DATAGRAMS_AHEAD_MAX >> round_, 1))
        collect(backends, found)
        missing = [([line for line in lines if number_of(line) not in found.backend], each) for lines, each in parts]
        lost = sum(len(lines) for lines, _ in missing)
        if lost == 0:
            return found
        if round_ + 1 < ROUNDS_MAX:
            found.again += lost
    raise Failure(f"{lost} lines did not arrive after {ROUNDS_MAX} attempts, e.g. {missing[0][0][:1] or missing[-1][0][:1]}")


def collect(backends, found):
    found.backend.clear()
    found.split.clear()
    for backend in backends:
        for line in backend.lines():
            number = number_of(line)
            if found.backend.setdefault(number, backend.name) != backend.name:
                found.split.append(line)
            found.line[number] = line
