"""Uses each proxy as the other's backend: health checks pass at the other's admin port, and metrics pass through both.

In: the program, how to start proxy.js, a backend. Out: checks. Next: the verdict.
"""

import json
import socket

import machine
from backends import wait_until
from processes import Process

SEEN_S, CHECK_MS = 30, 1000


def statsring(program, node, adminport, folder):
    port, admin = machine.free_ports(2)
    host, _, node_port = node.rpartition(":")
    config = folder / "chain.json"
    config.write_text(json.dumps({
        "nodes": [{"host": host, "port": int(node_port), "adminport": adminport}],
        "host": "127.0.0.1", "port": port, "managementHost": "127.0.0.1", "managementPort": admin,
        "hashing": "jump", "checkInterval": CHECK_MS, "checkFall": 1, "checkRise": 1,
    }))
    return Process("statsring in a chain", [program, "-f", config], port, admin, folder)


def through_proxy_js(start, node, adminport, folder):
    port, admin = machine.free_ports(2)
    host, _, node_port = node.rpartition(":")
    config = folder / "chain.js"
    config.write_text(
        f"{{nodes: [{{host: '{host}', port: {node_port}, adminport: {adminport}}}], address: '127.0.0.1', port: {port},"
        f" mgmt_address: '127.0.0.1', mgmt_port: {admin}, checkInterval: {CHECK_MS}}}")
    return start(config, port, admin, folder)


def arrives(proxy, backend, line):
    """Whether the line arrives at the backend; resent, because UDP may lose it."""
    def is_there():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(line, ("127.0.0.1", proxy.port))
        return line in backend.lines()

    wait_until(f"{line!r} to arrive through {proxy.what}", SEEN_S, is_there, 0.2)
    return True


def test_order(verdict, first, second, backend, is_up):
    """Metrics go from `first` to `second` to the backend; `is_up` returns whether `first` considers `second` healthy."""
    what = f"{second.what} as backend of {first.what}"
    line = f"chain.{first.what.replace(' ', '_')}:1|c|#a:b".encode()
    wait_until(f"{what}: up", SEEN_S, is_up)
    verdict.check(f"{what}: a metric passes through both", arrives(first, backend, line))
    for state, expected in (("down", False), ("up", True)):
        second.ask(f"health {state}\n".encode())
        wait_until(f"{what}: {state}", SEEN_S, lambda expected=expected: is_up() == expected)
    verdict.check(f"{what}: health down takes it out, health up brings it back", arrives(first, backend, line + b"2"))


def test(verdict, program, start_proxy_js, backend, folder):
    with statsring(program, backend.name, backend.admin, folder) as last:
        node = f"127.0.0.1:{last.port}"
        with through_proxy_js(start_proxy_js, node, last.admin, folder) as first:
            test_order(verdict, first, last, backend, lambda: node.encode() in first.ask(b"status"))
    with through_proxy_js(start_proxy_js, backend.name, backend.admin, folder) as last:
        node = f"127.0.0.1:{last.port}"
        with statsring(program, node, last.admin, folder) as first:
            test_order(verdict, first, last, backend, lambda: b"\tup\t" in first.ask(b"backends\n"))
