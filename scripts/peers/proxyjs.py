"""Compares statsring with StatsD's proxy.js; see scripts/proxyjs-test.sh.

In: the program under test (STATSRING), NODE_MODULES with statsd and hashring, a folder. Out: a verdict.

proxy.js runs first, then statsring, with the same file and the same three backends. Each handles the same admin sessions and
lines with all backends up, with one stopped, after its return, and with none. The results are compared.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import chain
import machine
import names
import object_names
import sessions
from backends import Backend, wait_until
from machine import main_with_signals
from processes import Process
from traffic import send_all
from verdict import Verdict, program_under_test

NAMES = int(os.environ.get("NAMES", 100_000))
# Some line forms share one name.
LINES = NAMES + NAMES // 20
WILD = max(NAMES // 50, 10)
LINES_EACH = 10
# proxy.js considers a backend dead that does not answer within checkInterval: long enough for a busy machine.
CHECK_MS = 2000
SEEN_S = 60
STATUS = sessions.session("status", b"status\n")

# The relevant keys of exampleProxyConfig.js, in typical style.
CONFIG = """\
/* proxy.js and statsring start from this file. */
{{
nodes: [
{nodes}
],
server: './servers/udp',   // the one that listens on UDP
host:  '0.0.0.0',
address: '127.0.0.1',
port: {port},
udp_version:'udp4',
mgmt_address: "127.0.0.1",
mgmt_port: {admin},
forkCount: 0,
checkInterval: {check_ms},
cacheSize: 10000,
}}
"""

# All kinds of values, for the admin command `config`, and a file in strict JSON.
OTHER_CONFIGS = {
    "all keys": """\
{{ // in no order
  "cacheSize": 0x400, checkInterval: 2e3, 'forkCount': 0,
  udp_version: "udp4", address_ipv6: false, healthStatus: 'up', automaticConfigReload: false,
  log: {{ backend: "stdout", level: 'LOG_INFO' }},
  mgmt_port: {admin}, mgmt_address: '127.0.0.1', port: {port}, address: "127.0.0.1", host: '0.0.0.0',
  server: "./servers/udp",
  nodes: [{{host: '127.0.0.1', port: {node}, adminport: {adminport},}},],
}};
""",
    "JSON": """\
{{"nodes": [{{"host": "127.0.0.1", "port": {node}, "adminport": {adminport}}}], "address": "127.0.0.1", "port": {port},
 "mgmt_address": "127.0.0.1", "mgmt_port": {admin}, "checkInterval": 2000}}
""",
}
WORDS = [each for each in sessions.SESSIONS if each.what in ("help", "config", "health", "status", "quit")]


@dataclass
class Seen:
    """Sessions and arrivals of one proxy, by the state of the backends."""

    sessions: dict = field(default_factory=dict)
    arrived: dict = field(default_factory=dict)


def write_config(path, backends, port, admin):
    nodes = ",\n".join(f"{{host: '{each.host}', port: {each.port}, adminport: {each.admin}}}" for each in backends)
    path.write_text(CONFIG.format(nodes=nodes, port=port, admin=admin, check_ms=CHECK_MS))


def proxy_js(config, port, admin, folder):
    """Starts proxy.js. It calls util.log, which Node 23 removed."""
    preload = folder / "preload.js"
    preload.write_text("const util = require('util'); if (!util.log) util.log = (...args) => console.log(...args);\n")
    script = Path(os.environ["NODE_MODULES"]) / "statsd/proxy.js"
    command = ["node", "--no-deprecation", "-r", preload, script, config]
    # It has no signal handler.
    return Process("proxy.js", command, port, admin, folder, ends_with=(-15,))


def statsring(program, config, port, admin, folder):
    return Process("statsring", [program, "-f", config], port, admin, folder)


def living(proxy):
    """The backends listed by `status`, in order."""
    line = re.search(rb"^nodes: (.*)$", proxy.ask(b"status"), re.MULTILINE)
    return line[1].decode().split() if line else None


def observe(proxy, backends, parts):
    """Collects the results of one running proxy."""
    seen = Seen()

    def state(what, nodes, sends=True):
        wait_until(f"{proxy.what}, {what}: nodes {nodes}", SEEN_S, lambda: sorted(living(proxy) or []) == sorted(nodes), 0.1)
        seen.sessions[what] = sessions.record(proxy.admin, sessions.SESSIONS if what == "all up" else [STATUS])
        if sends:
            seen.arrived[what] = send_all(proxy.port, backends, parts)

    all_names = [backend.name for backend in backends]
    state("all up", all_names)
    gone = backends[1]
    gone.stop()
    state("one stopped", [name for name in all_names if name != gone.name])
    gone.start()
    state("it is back", all_names)
    for backend in backends:
        backend.stop()
    state("all stopped", [], sends=False)
    for backend in backends:
        backend.start()
    # They return in an arbitrary order.
    wait_until(f"{proxy.what}: all back", SEEN_S, lambda: len(living(proxy)) == len(backends), 0.1)
    return seen


def arrival_differences(expected, got, exact):
    """Lines of two `Arrived` at different backends, or, below the number `exact`, with different bytes."""
    found = [f"{line!r} is split" for line in got.split + expected.split]
    for number, backend in expected.backend.items():
        if got.backend.get(number) != backend:
            found.append(f"{expected.line[number]!r} is at {got.backend.get(number)}, with proxy.js at {backend}")
        elif number < exact and got.line[number] != expected.line[number]:
            found.append(f"{got.line[number]!r}, with proxy.js {expected.line[number]!r}")
    return found


def distinct(arrived):
    return len({line.partition(b":")[0] for line in arrived.line.values()})


def check_comparison(verdict, seen, exact):
    """Checks that the comparison detects a changed byte of a session or a line, and a line at another backend."""
    recorded = seen.sessions["all up"]
    answers, ending = recorded["status"]
    changed = recorded | {"status": ((answers[0].replace(b" \n", b"\n"), *answers[1:]), ending)}
    verdict.check("the comparison detects a missing blank in status", len(sessions.differences(recorded, changed)) == 1)
    arrived = seen.arrived["all up"]
    moved = type(arrived)(dict(arrived.backend), dict(arrived.line))
    moved.backend[7] = next(name for name in set(arrived.backend.values()) if name != arrived.backend[7])
    moved.line[8] += b" "
    verdict.check(
        "the comparison detects a line at another backend and a line with an extra byte",
        len(arrival_differences(arrived, moved, exact)) == 2 and not arrival_differences(arrived, arrived, exact))


def compare(verdict, expected, got, exact):
    for what in expected.sessions:
        recorded = expected.sessions[what]
        count = sum(len(answer) for answers, _ in recorded.values() for answer in answers)
        wrong = sessions.differences(recorded, got.sessions[what])
        verdict.check(
            f"{what}: {len(recorded)} admin sessions, {count} bytes equal those of proxy.js", not wrong,
            f"{len(wrong)} differences:\n      " + "\n      ".join(wrong[:20]))
    for what, arrived in expected.arrived.items():
        other = got.arrived[what]
        wrong = arrival_differences(arrived, other, exact)
        again = f"{arrived.again} lines resent to proxy.js, {other.again} to statsring"
        verdict.check(
            f"{what}: {len(arrived.backend)} lines of {distinct(arrived)} names at the same backends ({again})",
            not wrong and distinct(arrived) >= NAMES,
            f"{len(wrong)} differences:\n      " + "\n      ".join(wrong[:10]))
    first, stopped, back = (expected.arrived[what].backend for what in ("all up", "one stopped", "it is back"))
    moved = sum(stopped[number] != backend for number, backend in first.items())
    verdict.check(f"{moved} names moved when one backend stopped, and came back", moved > 0 and first == back)


def test_other_configs(verdict, program, backend, folder):
    """Other config files: compares the status of both proxies."""
    for what, text in OTHER_CONFIGS.items():
        port, admin = machine.free_ports(2)
        config = folder / "other.js"
        config.write_text(text.format(port=port, admin=admin, node=backend.port, adminport=backend.admin))
        with proxy_js(config, port, admin, folder) as proxy:
            recorded = sessions.record(admin, WORDS)
        with statsring(program, config, port, admin, folder) as proxy:
            wrong = sessions.differences(recorded, sessions.record(proxy.admin, WORDS))
        verdict.check(f"{what}: {len(WORDS)} admin sessions equal those of proxy.js", not wrong, "\n      ".join(wrong))


def test_example(verdict, program):
    """StatsD's example file, unmodified. Its ports may be in use, so it is only checked."""
    file = Path(os.environ["NODE_MODULES"]) / "statsd/exampleProxyConfig.js"
    done = subprocess.run([program, "--check", "-f", file], capture_output=True, text=True, check=False)
    is_right = done.returncode == 0 and json.loads(done.stdout).get("hashing") == "hashring-3"
    verdict.check("StatsD's exampleProxyConfig.js is accepted unmodified", is_right, f"{done.stdout[:400]}{done.stderr}")


def main():
    program, folder = program_under_test(), Path(sys.argv[1])
    verdict = Verdict("proxyjs-test")
    port, admin, *ports = machine.free_ports(8)
    backends = [Backend("127.0.0.1", ports[i], ports[i + 3]).start() for i in range(3)]
    config = folder / "proxyConfig.js"
    write_config(config, backends, port, admin)
    chance = names.chance_of(int(os.environ.get("SEED", 20)))
    lines, strange, packed = (
        names.make(LINES, chance), names.wild(WILD, LINES, chance), names.wild(WILD, LINES + WILD, chance))
    # proxy.js converts datagrams of several lines to a string and back: compare only their placement.
    parts, exact = [(lines, LINES_EACH), (strange, 1), (packed, LINES_EACH)], LINES + WILD

    with proxy_js(config, port, admin, folder) as proxy:
        expected = observe(proxy, backends, parts)
    check_comparison(verdict, expected, exact)
    with statsring(program, config, port, admin, folder) as proxy:
        got = observe(proxy, backends, parts)
        stats = proxy.ask(b"stats\n")
        verdict.check("statsring's own commands work as well", stats.startswith(b"time running"), stats[:80])
    compare(verdict, expected, got, exact)
    test_other_configs(verdict, program, backends[0], folder)
    test_example(verdict, program)
    starts = (lambda: proxy_js(config, port, admin, folder), lambda: statsring(program, config, port, admin, folder))
    object_names.test(verdict, starts, backends, living)
    object_names.test_prototype(verdict, starts, backends)
    chain.test(verdict, program, proxy_js, backends[0], folder)
    for backend in backends:
        backend.stop()
    return verdict.end()


main_with_signals("proxyjs-test", main)
