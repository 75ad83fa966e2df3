"""Plain sockets as backends; they record every datagram.

In: an address. Out: datagrams in order of arrival, and replies to health checks. Next: the tests compare them.
"""

import contextlib
import socket
import threading
import time

import machine
from machine import Failure

BUFFER_BYTES = 8 << 20
# SO_RCVBUFFORCE, which Python's socket module lacks: exceeds net.core.rmem_max as root.
SO_RCVBUFFORCE = 33
WAKE_S = 0.05


class BareSocket:
    """A UDP socket with a reader thread."""

    def __init__(self, host, port=0):
        self.host, self.datagrams, self.line_count = host, [], 0
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self.socket.bind((host, port))
        self.socket.settimeout(WAKE_S)
        self.port = self.socket.getsockname()[1]
        self.name = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.is_ending = False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while True:
            try:
                datagram = self.socket.recv(65_536)
                self.datagrams.append(datagram)
                self.line_count += len(lines_of([datagram]))
            except TimeoutError:
                # On loopback a datagram has arrived when its send returns, so an empty socket stays empty.
                if self.is_ending:
                    return

    def lines(self):
        """The received lines, split like a StatsD server does."""
        return lines_of(self.datagrams)

    def drops(self):
        return machine.drops_at(self.port)

    def stop(self):
        """Reads the remaining datagrams and closes. A drop at this socket invalidates the test."""
        self.is_ending = True
        self.thread.join()
        drops = self.drops()
        self.socket.close()
        if drops > 0:
            raise Failure(f"the kernel dropped {drops} datagrams at the test's socket {self.name}: the machine is too busy")


def lines_of(datagrams):
    return [line for datagram in datagrams for line in datagram.split(b"\n") if line]


class Backend:
    """A plain socket with an admin port that answers health checks, like a StatsD server."""

    def __init__(self, host, port, admin):
        self.host, self.port, self.admin = host, port, admin
        self.name = f"{host}:{port}"
        self.earlier = []
        self.checks = 0
        self.udp = self.listener = None

    def start(self):
        self.udp = BareSocket(self.host, self.port)
        self.listener = socket.create_server((self.host, self.admin), reuse_port=False, backlog=64)
        threading.Thread(target=self._serve, args=(self.listener,), daemon=True).start()
        return self

    def stop(self):
        """Closes both ports; received datagrams are kept."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.udp.stop()
        self.earlier += self.udp.datagrams
        self.udp = self.listener = None

    def datagrams(self):
        return self.earlier + (self.udp.datagrams if self.udp else [])

    def lines(self):
        return lines_of(self.datagrams())

    def forget(self):
        self.earlier = []
        if self.udp:
            self.udp.datagrams = []

    def _serve(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client):
        with client, contextlib.suppress(OSError):
            client.settimeout(10)
            while client.recv(1024):
                self.checks += 1
                client.sendall(b"health: up\n")


def wait_until(what, seconds_max, condition, every_s=0.02):
    end = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"timed out after {seconds_max} s: {what}")
        time.sleep(every_s)
