"""Starts proxies, queries their admin ports, and ends them.

In: a command line and the ports it will listen on. Out: a running process. Next: the tests send to it.
"""

import contextlib
import socket
import subprocess
import time
from pathlib import Path

import machine
from backends import wait_until
from machine import Failure

START_S, STOP_S, ANSWER_S = 30, 20, 20


def ask(host, port, text):
    """Sends these bytes, half-closes, and reads until the other side closes."""
    with socket.create_connection((host, port), timeout=ANSWER_S) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        answer = bytearray()
        while piece := client.recv(65_536):
            answer += piece
    return bytes(answer)


class Process:
    """Context manager: a running proxy. An unexpected exit code fails the test."""

    def __init__(self, what, command, port, admin, folder, environment=None, ends_with=(0,)):
        self.what, self.command, self.port, self.admin = what, command, port, admin
        self.log = Path(folder) / f"{what.replace(' ', '-')}.log"
        self.environment, self.ends_with = environment, ends_with

    def __enter__(self):
        with open(self.log, "w", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=self.environment)
        try:
            wait_until(f"{self.what} to start", START_S, self._is_ready)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def _is_ready(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.what} exited with {self.process.returncode}:\n{self.text()}")
        if not machine.is_bound(self.port):
            return False
        with contextlib.suppress(OSError):
            return b"up" in ask("127.0.0.1", self.admin, b"health\n")
        return False

    def text(self):
        return self.log.read_text(errors="replace")[-4000:]

    def ask(self, text):
        return ask("127.0.0.1", self.admin, text)

    def stop(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.what} exited unexpectedly with {self.process.returncode}:\n{self.text()}")
        self.process.terminate()
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"{self.what} did not exit within {STOP_S} s:\n{self.text()}") from None
        if code not in self.ends_with:
            raise Failure(f"{self.what} exited with {code}:\n{self.text()}")

    def __exit__(self, kind, *_):
        if kind is None and self.process.poll() is None:
            self.stop()
        elif self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def wait_for_settled(port, seconds_max):
    """Waits until the sockets at this port are empty, twice in a row."""
    quiet = 0
    end = time.monotonic() + seconds_max
    while quiet < 2:
        if time.monotonic() > end:
            raise Failure(f"datagrams are still queued at port {port} after {seconds_max} s")
        waiting = sum(entry["queued"] for entry in machine.udp_sockets() if entry["port"] == port)
        quiet = quiet + 1 if waiting == 0 else 0
        time.sleep(0.02)
