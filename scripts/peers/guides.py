"""Follows the pages of docs/src/migrating; see scripts/guides-test.sh.

In: the program (STATSRING), a directory; a network namespace, in which every port is free. Out: a verdict.

`cargo test --test guides` compares the configs and answers in the pages with the old proxies; this test runs them as printed.
"""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

from backends import Backend, BareSocket, wait_until
from machine import main_with_signals
from processes import Process, wait_for_settled
from verdict import ROOT, Verdict, owners, program_under_test

NAMES = [b"foo", b"foo.bar", b"api.requests", b"statsd.test.counter", b"gorets", b"glork", b"gaugor", b"uniques", b"apple",
         b"banana", b"orange", b"lemon"]
ADMIN = 8126
SEEN_S = 20


def sections():
    """Title and config of every page that has one."""
    for page in sorted((ROOT / "docs/src/migrating").glob("*.md")):
        text = page.read_text()
        config = re.search(r"\n```json\n(.*?)\n```", text, re.DOTALL)
        if config:
            yield text.partition("\n")[0].removeprefix("# "), config[1]


def start_backends(config):
    """A socket for each backend of the config, with an admin port where it names one."""
    seen = {}
    for node in config["nodes"]:
        name = f"{node['host']}:{node['port']}"
        if name in seen:
            continue
        subprocess.run(["ip", "address", "replace", f"{node['host']}/32", "dev", "lo"], check=True)
        if "adminport" in node:
            seen[name] = Backend(node["host"], node["port"], node["adminport"]).start()
        else:
            seen[name] = BareSocket(node["host"], node["port"])
    return seen


def send(port, lines):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"\n".join(lines), ("127.0.0.1", port))


def is_up(answer, names):
    """Whether all of them are up."""
    rows = [line.split("\t") for line in answer.decode().splitlines()[1:]]
    return {row[0] for row in rows if "up" in row} >= names


def follow(verdict, program, title, text, folder):
    """Runs the guide's config and sends metrics."""
    config, file = json.loads(text), Path(folder) / "statsring.json"
    file.write_text(text)
    backends = start_backends(config)
    lines = [name + b":1|c" for name in NAMES]
    with Process("statsring", [program, "-f", file], config["port"], ADMIN, folder) as proxy:
        wait_until(f"{title}: backends up", SEEN_S, lambda: is_up(proxy.ask(b"backends\n"), set(backends)))
        send(config["port"], lines)
        wait_for_settled(config["port"], SEEN_S)
        proxy.stop()
    for backend in backends.values():
        backend.stop()
    expected = dict(zip(lines, owners(program, file, NAMES)))
    got = {line: name for name, backend in backends.items() for line in backend.lines()}
    verdict.check(f"{title}: runs as printed, {len(lines)} metrics arrive where `where` says", got == expected, f"expected {expected}, found {got}")


def main():
    program, folder = program_under_test(), sys.argv[1]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    verdict = Verdict("guides-test")
    for title, text in sections():
        follow(verdict, program, title, text, folder)
    verdict.check("every guide was tested", verdict.passed == 5, f"{verdict.passed} of 5")
    return verdict.end()


main_with_signals("guides-test", main)
