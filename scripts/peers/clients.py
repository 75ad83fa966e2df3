"""Tests real client libraries with statsring; see scripts/clients-test.sh.

In: the program under test (STATSRING), PYTHON and NODE_MODULES with the clients in them, a folder. Out: a verdict.

Each client's deterministic program (programs/) runs twice: against a plain socket, and against statsring with three plain
sockets as backends. Each backend must receive, unchanged and in order, the lines of the first run that `statsring where`
assigns to it.
"""

import collections
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import machine
from backends import BareSocket
from machine import Failure, main_with_signals
from processes import Process, wait_for_settled
from verdict import Verdict, owners, program_under_test

PROGRAMS = Path(__file__).resolve().parent / "programs"
CLIENTS = {
    "statsd": ("statsd_client.py", ["single", "pipeline", "large"]),
    "datadog": ("datadog_client.py", ["single", "buffered", "background", "aggregated", "telemetry"]),
    "hot-shots": ("hot_shots_client.js", ["single", "buffered", "large", "aggregated", "telegraf"]),
}
# What each client's programs must have sent in total; otherwise the test proves nothing.
KINDS = {
    "statsd": {"c", "g", "ms", "s", "@"},
    "datadog": {"c", "g", "ms", "s", "h", "d", "event", "check", "@", "#"},
    "hot-shots": {"c", "g", "ms", "s", "h", "d", "event", "check", "@", "#"},
}
LINES_MIN = 3000
CLIENT_S, ARRIVAL_S = 60, 30
NODES = 3


def name_of(line, hashing):
    """The bytes that determine the placement of a line: reimplemented, not queried from the program."""
    if hashing == "jump":
        event = re.match(rb"_e\{(\d+),[^}]*\}:", line)
        if event:
            end = event.end() + int(event[1])
            if line[end:end + 1] == b"|":
                return line[event.end():end]
        check = re.match(rb"_sc\|([^|]+)\|", line)
        if check:
            return check[1]
    return line.partition(b":")[0]


def kinds_of(lines):
    """The kinds among these lines: types, sample rates, tags, events, service checks."""
    found = set()
    for line in lines:
        if line.startswith(b"_e{"):
            found.add("event")
        elif line.startswith(b"_sc|"):
            found.add("check")
        else:
            found.update(part.decode() for part in line.split(b"|")[1:2])
        found.update(sign for sign in "@#" if b"|" + sign.encode() in line)
    return found


def differences(expected, got):
    """Describes the differences between expected and received lines of a backend."""
    if got == expected:
        return []
    due, had = collections.Counter(expected), collections.Counter(got)
    found = [f"lost {count} times: {line!r}" for line, count in (due - had).items()]
    found += [f"duplicated {count} times: {line!r}" for line, count in (had - due).items()]
    if not found:
        place = next(i for i, (line, other) in enumerate(zip(expected, got)) if line != other)
        found = [f"out of order at {place}: expected {expected[place]!r}, found {got[place]!r}"]
    return found


def check_comparison(verdict):
    """Checks that the comparison detects each kind of error."""
    lines = [f"name{number % 7}:{number}|c".encode() for number in range(50)]
    wrong = {
        "a lost line": lines[:20] + lines[21:],
        "a doubled line": lines[:20] + lines[19:],
        "a changed byte": lines[:20] + [lines[20].replace(b"c", b"g")] + lines[21:],
        "two lines in the other order": lines[:20] + [lines[27], *lines[21:27], lines[20]] + lines[28:],
        "a line of another backend": lines + [b"name8:1|c"],
        "a cut line": lines[:-1] + [lines[-1][:-1]],
    }
    missed = [what for what, changed in wrong.items() if not differences(lines, changed)]
    verdict.check(f"the comparison detects {', '.join(wrong)}", not missed and not differences(lines, list(lines)), f"missed: {missed}")


def run_client(client, mode, host, port):
    """Runs the program to completion. All its datagrams are then at the socket."""
    file = PROGRAMS / CLIENTS[client][0]
    if file.suffix == ".py":
        command = [os.environ["PYTHON"], file]
    else:
        command = ["node", file, Path(os.environ["NODE_MODULES"]) / client]
    # No DD_* variables, which the clients would send as tags, and a fixed order of sets.
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, host, str(port), mode], env=environment, capture_output=True, text=True, timeout=CLIENT_S, check=False)
    if done.returncode != 0 or done.stderr:
        raise Failure(f"{client} {mode} exited with {done.returncode}:\n{done.stderr}")


def sent_to_bare_socket(client, mode, host):
    bare = BareSocket(host)
    run_client(client, mode, host, bare.port)
    bare.stop()
    return bare.lines()


def sent_through(program, client, mode, host, hashing, folder):
    """The lines of each backend by name, and the path of the config."""
    port, admin = machine.free_ports(2)
    backends = [BareSocket(host) for _ in range(NODES)]
    config = Path(folder) / "config.json"
    config.write_text(json.dumps({
        "nodes": [{"host": host, "port": backend.port} for backend in backends],
        "host": host, "port": port, "managementHost": "127.0.0.1", "managementPort": admin, "hashing": hashing,
    }))
    with Process("statsring", [program, "-f", config], port, admin, folder) as proxy:
        run_client(client, mode, host, port)
        wait_for_settled(port, ARRIVAL_S)
        # Relays everything received, then exits.
        proxy.stop()
    for backend in backends:
        backend.stop()
    return {backend.name: backend.lines() for backend in backends}, config


def test_one(verdict, program, client, mode, hashing, host, sent, folder):
    got, config = sent_through(program, client, mode, host, hashing, folder)
    names = list(dict.fromkeys(name_of(line, hashing) for line in sent))
    owner_of = dict(zip(names, owners(program, config, names)))
    expected = {name: [] for name in got}
    for line in sent:
        expected[owner_of[name_of(line, hashing)]].append(line)
    wrong = [f"{name}: {text}" for name in got for text in differences(expected[name], got[name])]
    shares = "/".join(str(len(lines)) for lines in got.values())
    verdict.check(
        f"{client}, {mode}, {hashing}, {host}: {len(sent)} lines arrived unchanged at their backends ({shares})",
        not wrong and len(sent) >= LINES_MIN and all(expected.values()),
        f"{len(wrong)} wrong of {len(sent)} ({shares}):\n      " + "\n      ".join(wrong[:10]))


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def main():
    program, folder = program_under_test(), sys.argv[1]
    verdict = Verdict("clients-test")
    check_comparison(verdict)
    hosts = ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]
    if len(hosts) == 1:
        if os.environ.get("CI") == "true":
            sys.exit("clients-test: ::1 is not available; with CI=true no test may be skipped")
        print("      IPv6 is not available: testing IPv4 only")
    for client, (_, modes) in CLIENTS.items():
        seen = set()
        for turn, mode in enumerate(modes):
            # Alternating, so that each client and each placement is tested with both families.
            host = hosts[turn % len(hosts)]
            sent = sent_to_bare_socket(client, mode, host)
            seen |= kinds_of(sent)
            for hashing in ("jump", "hashring-3"):
                test_one(verdict, program, client, mode, hashing, host, sent, folder)
        missing = KINDS[client] - seen
        verdict.check(f"{client} sent {', '.join(sorted(KINDS[client]))}", not missing, f"missing: {missing}")
    return verdict.end()


main_with_signals("clients-test", main)
