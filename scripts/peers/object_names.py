"""Names that exist on every JavaScript object (`constructor`, `toString`, ...), which proxy.js's name cache mistakes for entries.

In: the program, how to start proxy.js and statsring, backends. Out: checks: with all backends up both proxies agree; after
one has stopped, statsring follows the ring, while proxy.js keeps sending to it, as documented. Next: the verdict.
"""

import json
import os
import socket
import subprocess

from backends import wait_until

NAMES = (
    "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString", "toString", "valueOf",
    "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__")
SEEN_S = 30

# Owners by hashring's ring, without its cache.
OWNERS = """
const HashRing = require('hashring');
const [nodes, gone, names] = JSON.parse(process.argv[1]);
const ring = new HashRing(Object.fromEntries(nodes.map((node) => [node, 100])), 'md5', {replicas: 0});
if (gone) ring.remove(gone);
console.log(JSON.stringify(names.map((name) => ring.ring[ring.find(ring.hashValue(name))].server)));
"""


def owners(backends, gone=None):
    """Owners by name in the real ring without the backend `gone`."""
    arguments = json.dumps([[backend.name for backend in backends], gone, NAMES])
    done = subprocess.run(
        ["node", "-e", OWNERS, arguments], capture_output=True, text=True, check=True,
        env=os.environ | {"NODE_PATH": os.environ["NODE_MODULES"]})
    return dict(zip(NAMES, json.loads(done.stdout)))


def send(port, *datagrams):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for datagram in datagrams:
            client.sendto(datagram.encode(), ("127.0.0.1", port))


def arrivals(backends):
    return {line.decode(): backend.name for backend in backends for line in backend.lines()}


def where(port, backends, mark, expected):
    """Sends each name once and waits for those in `expected`. Returns the receiving backend by name."""
    for backend in backends:
        backend.forget()
    send(port, *(f"{name}:1|c|{mark}" for name in NAMES))

    def found():
        arrived = arrivals(backends)
        return {name: arrived[f"{name}:1|c|{mark}"] for name in NAMES if f"{name}:1|c|{mark}" in arrived}

    wait_until(f"{mark}: {len(expected)} of the names to arrive", SEEN_S, lambda: expected.keys() <= found().keys())
    return found()


def test(verdict, start_proxies, backends, nodes_of):
    """`start_proxies` are functions that start proxy.js and statsring; `nodes_of` returns the nodes that a proxy uses."""
    home = owners(backends)
    gone = next(backend for backend in backends if backend.name == home["hasOwnProperty"])
    living = sorted(backend.name for backend in backends if backend is not gone)
    moved = owners(backends, gone.name)
    # proxy.js keeps sending these to the first backend.
    stuck = {name: owner for name, owner in home.items() if owner != gone.name}
    for start, expected in zip(start_proxies, (stuck, moved)):
        with start() as proxy:
            wait_until(f"{proxy.what}: all up", SEEN_S, lambda: len(nodes_of(proxy) or []) == len(backends), 0.1)
            first, again = (where(proxy.port, backends, mark, home) for mark in ("first", "again"))
            verdict.check(f"{proxy.what}: names of JavaScript objects follow the ring", first == again == home, first)
            gone.stop()
            wait_until(f"{proxy.what}: one stopped", SEEN_S, lambda: sorted(nodes_of(proxy) or []) == living, 0.1)
            found = where(proxy.port, backends, "stopped", expected)
            verdict.check(f"{proxy.what}: {len(expected)} of {len(NAMES)} of them arrive while one is stopped", found == expected, found)
            gone.start()
            wait_until(f"{proxy.what}: it is back", SEEN_S, lambda: len(nodes_of(proxy) or []) == len(backends), 0.1)


def test_prototype(verdict, start_proxies, backends):
    """The name `__proto__`, then a datagram of two lines."""
    lines = ("__proto__:1|c", "after.a:1|c", "after.b:1|c")
    for start, survives in zip(start_proxies, (False, True)):
        for backend in backends:
            backend.forget()
        with start() as proxy:
            send(proxy.port, lines[0])
            wait_until(f"{lines[0]} to arrive through {proxy.what}", SEEN_S, lambda: lines[0] in arrivals(backends))
            send(proxy.port, "\n".join(lines[1:]))
            if survives:
                wait_until("the lines after it to arrive", SEEN_S, lambda: set(lines) <= arrivals(backends).keys())
                verdict.check(f"{proxy.what}: survives the name __proto__", proxy.process.poll() is None)
            else:
                wait_until(f"{proxy.what} to end", SEEN_S, lambda: proxy.process.poll() is not None)
                ok = "TypeError" in proxy.text()
                verdict.check(f"{proxy.what}: crashes on the name __proto__, as documented", ok, proxy.text())
