"""Admin sessions: writes to an admin port, and the replies.

In: an admin port. Out: each session's bytes, and whether the other side closed. Next: proxyjs.py records them from the
real proxy.js and compares statsring's with them.
"""

import re
import socket
from dataclasses import dataclass

# proxy.js treats each chunk that it reads as one command: wait for a reply before the next write.
SILENCE_S, ANSWER_S = 0.2, 5


@dataclass(frozen=True)
class Session:
    what: str
    writes: tuple
    # Whether this side closes after the last write; otherwise the other side closes or stays open.
    half_closes: bool = True


def session(what, *writes, half_closes=True):
    return Session(what, writes, half_closes)


# The order matters: health is a state.
SESSIONS = (
    session("help", b"help\n"),
    session("config", b"config\n"),
    session("health", b"health\n"),
    session("status", b"status\n"),
    session("quit", b"quit\n", half_closes=False),
    session("help, then quit", b"help\n", b"quit\n", half_closes=False),
    session("each command in a separate write", b"help\n", b"health\n", b"status\n", b"config\n", b"nothing\n"),
    session("with \\r\\n", b"help\r\n", b"health\r\n", b"status\r\n", b"config\r\n", b"nothing\r\n", b"\r\n"),
    session("without a newline", b"help"),
    session("health without a newline, as nc -N sends it", b"health"),
    session("health down", b"health down\n", b"health\n"),
    session("health is down for other clients", b"health\n"),
    session("health up", b"health up\n", b"health\n"),
    session("health in capitals", b"health DOWN\r\n", b"health\n", b"health Up\n", b"health\n"),
    session("health with other arguments", b"health sideways\n", b"health  down\n", b"health up down\n", b"health\n"),
    session("commands in capitals", b"HELP\n", b"Status\n", b"QUIT\n"),
    session("unknown commands", b"nothing\n", b"counters\n", b"gauges\n", b"timers\n", b"delcounters a.b\n", b"foo bar baz\n"),
    session("extra arguments", b"help me\n", b"config all\n", b"status now\n"),
    session("an empty line", b"\n"),
    session("empty lines", b"\n", b"\n", b"help\n"),
    session("blanks around a command", b"  help  \n", b"\thealth\t\n", b" \n"),
    session("two lines in one write", b"help\nhealth\n"),
    session("three lines in one write, the first with a parameter", b"health down\nhealth\nstatus\n", b"health\n"),
    session("health restored", b"health up\n"),
    session("two lines with \\r\\n in one write", b"health\r\nstatus\r\n"),
    session("a command and quit in one write", b"help\nquit\n"),
    session("binary data", b"\xff\xfe\x00\x01\n", b"h\xc3\xa9lp\n"),
    session("a long line", b"x" * 2000 + b"\n"),
    session("nothing at all"),
)


def run_session(port, each):
    """Runs one session: the bytes received after each write, and how it ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers, is_closed = [], False
        for write in each.writes:
            try:
                client.sendall(write)
            except OSError:
                break
            answer, is_closed = received(client)
            answers.append(answer)
            if is_closed:
                break
        if each.half_closes and not is_closed:
            client.shutdown(socket.SHUT_WR)
            answer, is_closed = received(client, to_end=True)
            answers.append(answer)
    return tuple(answers), "closed by the other side" if is_closed else "open"


def received(client, to_end=False):
    """Reads until a pause after the first bytes, or to the end; returns whether the end was reached."""
    answer = bytearray()
    while True:
        client.settimeout(SILENCE_S if answer and not to_end else ANSWER_S)
        try:
            piece = client.recv(65_536)
        except TimeoutError:
            return bytes(answer), False
        except ConnectionResetError:
            return bytes(answer), True
        if not piece:
            return bytes(answer), True
        answer += piece


def record(port, sessions=SESSIONS):
    return {each.what: run_session(port, each) for each in sessions}


def plain(answers):
    """Without the uptime, which differs between processes."""
    return tuple(re.sub(rb"^uptime: \d+$", b"uptime: N", answer, flags=re.MULTILINE) for answer in answers)


def differences(recorded, played):
    """Describes the differences."""
    found = []
    for what, (answers, ending) in recorded.items():
        other, other_ending = played[what]
        if plain(answers) != plain(other):
            found.append(f"{what}: {plain(other)}, proxy.js replies {plain(answers)}")
        elif ending != other_ending:
            found.append(f"{what}: {other_ending}, with proxy.js {ending}")
    return found
