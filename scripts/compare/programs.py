"""The programs that are compared: how each is installed, configured and started.

In: ports, a folder, the receive buffer asked for. Out: a running process. Next: measure.py puts load on it.

They come from package registries in the versions written below, but for the one in C, which is in none and is built from
its repository. Of those that were looked at, crates.io's statsrelay 3.0.1 is left out: it reads no byte of what comes to
its UDP port.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from machine import Failure, Usage, say

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STATSD, HASHRING, STATSDPROXY = "0.9.0", "3.2.0", "0.4.1"
HIT9 = "https://github.com/hit9/statsd-proxy"
HIT9_COMMIT = "f448eaee0ae3d908c59a50db64b3b811d3c975a7"
# As its Makefile.am has them, optimised as autoconf does.
HIT9_FLAGS = ["-std=c99", "-D_GNU_SOURCE", "-O2", "-w", "-pthread"]
HIT9_SOURCES = "buf cfg config ctx event ketama log md5 parser proxy statsd-proxy"


class Missing(Exception):
    """A program that cannot be had here, and why."""


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "statsring-compare"


@dataclass
class Ports:
    """Of one run, all on 127.0.0.1."""

    listen: int
    admin: int
    nodes: list
    health: list

    def node_list(self):
        """Without admin ports if there are none to ask."""
        nodes = [{"host": "127.0.0.1", "port": port} for port in self.nodes]
        return [node | {"adminport": health} for node, health in zip(nodes, self.health)] if self.health else nodes


@dataclass
class Program:
    """One that is compared; `name` stands in the tables."""

    name: str
    version: str = ""
    # What a reader has to know about how it takes part.
    note: str = ""

    def install(self):
        """Makes it ready to start. Raises `Missing`."""

    def command(self, ports, folder, granted):
        """The command line; `granted` is the receive buffer that the kernel shall grant, or nothing for its default."""
        raise NotImplementedError

    @property
    def is_floor(self):
        return False

    @property
    def forwards(self):
        """Whether it needs backends."""
        return True


def run_or_missing(command, what, log):
    say(f"installing {what} (once)")
    with open(log, "w", encoding="utf-8") as out:
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    if code != 0:
        say(f"{what}: see {log}")
        raise Missing(f"{what} could not be installed")


def output_of(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def release(name):
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    return target.absolute() / "release" / name


@dataclass
class Statsring(Program):
    path: Path = field(default_factory=lambda: Path(os.environ.get("STATSRING") or release("statsring")).absolute())
    # Further keys of its config.
    config: dict = field(default_factory=dict)

    def install(self):
        if not os.access(self.path, os.X_OK):
            raise Failure(f"no program at {self.path}")
        commit = output_of(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])
        version = output_of([str(self.path), "--version"]).removeprefix("statsring ")
        self.version = version + (f" ({commit})" if commit and "STATSRING" not in os.environ else "")
        if self.config:
            self.note = "with " + json.dumps(self.config)[1:-1]

    def command(self, ports, folder, granted):
        config = {
            "host": "127.0.0.1", "port": ports.listen,
            "managementHost": "127.0.0.1", "managementPort": ports.admin,
            "workers": 1, "nodes": ports.node_list(),
        }
        if granted:
            config["receiveBuffer"] = granted // 2
        config.update(self.config)
        path = folder / "statsring.json"
        path.write_text(json.dumps(config))
        return [str(self.path), "-f", str(path)]


@dataclass
class Floor(Program):
    """What any program pays at the least: a few system calls, and nothing of statsring's."""

    # Forwards blindly, rather than nothing.
    blindly: bool = False
    # Sleeps not at all, but wakes for each datagram.
    each: bool = False

    @property
    def path(self):
        return release("examples/" + ("forward_floor" if self.blindly else "receive_floor"))

    def install(self):
        self.version = f"examples/{self.path.name}.rs"
        does = [
            "waits for each datagram" if self.each else "sleeps for up to 5 ms while traffic flows",
            "drains the socket by recvmmsg, reads every byte",
            "sends every byte on in full packets, to the backends in turn, with GSO" if self.blindly
            else "forwards nothing",
            "flat out it is offered what statsring was offered in the same round",
        ]
        self.note = "; ".join(does)
        if not os.access(self.path, os.X_OK):
            raise Failure(f"no program at {self.path}")

    def command(self, ports, folder, granted):
        command = [str(self.path), "--listen", f"127.0.0.1:{ports.listen}"]
        if self.blindly:
            command += [part for port in ports.nodes for part in ("--to", f"127.0.0.1:{port}")]
        if granted:
            command += ["--receive-buffer", str(granted // 2)]
        return command + (["--period-us", "0"] if self.each else [])

    @property
    def is_floor(self):
        return True

    @property
    def forwards(self):
        return self.blindly


@dataclass
class ProxyJs(Program):
    """StatsD's own."""

    def install(self):
        node, npm = shutil.which("node"), shutil.which("npm")
        if not node or not npm:
            raise Missing("node and npm are not installed")
        self.folder = cache_folder() / "npm"
        if not all((self.folder / "node_modules" / part / "package.json").exists() for part in ("statsd", "hashring")):
            self.folder.mkdir(parents=True, exist_ok=True)
            packages = [f"statsd@{STATSD}", f"hashring@{HASHRING}"]
            run_or_missing(
                [npm, "install", "--prefix", str(self.folder), "--no-audit", "--no-fund", "--omit=optional", *packages],
                "proxy.js from npm", cache_folder() / "npm.log")
        self.version = f"npm statsd {STATSD}, hashring {HASHRING}, node {output_of([node, '--version'])}"
        self.node = node

    def command(self, ports, folder, granted):
        config = {
            "nodes": ports.node_list(), "server": "./servers/udp",
            "address": "127.0.0.1", "port": ports.listen,
            "mgmt_address": "127.0.0.1", "mgmt_port": ports.admin,
        }
        path = folder / "proxyConfig.js"
        path.write_text(json.dumps(config))
        return [self.node, str(self.folder / "node_modules/statsd/proxy.js"), str(path)]


@dataclass
class StatsdProxy(Program):
    """Sentry's, in Rust."""

    def install(self):
        cargo = shutil.which("cargo")
        if not cargo:
            raise Missing("cargo is not installed")
        root = cache_folder() / "cargo"
        self.path = root / "bin" / "statsdproxy"
        if not self.path.exists():
            root.mkdir(parents=True, exist_ok=True)
            run_or_missing(
                [cargo, "install", "--locked", "--root", str(root), "--version", STATSDPROXY, "statsdproxy"],
                "statsdproxy from crates.io", cache_folder() / "statsdproxy.log")
        self.version = f"crates.io statsdproxy {STATSDPROXY}"
        self.note = "has one upstream only, so it sends everything to one backend and chooses none"

    def command(self, ports, folder, granted):
        return [str(self.path), "--listen", f"127.0.0.1:{ports.listen}", "--upstream", f"127.0.0.1:{ports.nodes[0]}"]


@dataclass
class Hit9(Program):
    """hit9's, in C; packs, and chooses by ketama."""

    def install(self):
        git, compiler = shutil.which("git"), shutil.which("cc")
        if not git or not compiler:
            raise Missing("git and a C compiler are needed and not installed")
        folder = cache_folder() / f"hit9-{HIT9_COMMIT[:12]}"
        self.path = folder / "statsd-proxy-built"
        log = cache_folder() / "hit9.log"
        if not self.path.exists():
            shutil.rmtree(folder, ignore_errors=True)
            run_or_missing([git, "clone", "--quiet", HIT9, str(folder)], "statsd-proxy from its repository", log)
            run_or_missing([git, "-C", str(folder), "checkout", "--quiet", HIT9_COMMIT], "statsd-proxy's commit", log)
            sources = [str(folder / "src" / f"{name}.c") for name in HIT9_SOURCES.split()]
            run_or_missing([compiler, *HIT9_FLAGS, *sources, "-o", str(self.path)], "statsd-proxy, built,", log)
        self.version = f"github.com/hit9/statsd-proxy at {HIT9_COMMIT[:12]}, cc -O2"
        self.note = "with num_threads 1, of 4 by default; the rest as in its example"

    def command(self, ports, folder, granted):
        lines = [f"port {ports.listen}", "num_threads 1", "flush_interval 10"]
        lines += [f"node 127.0.0.1:{port}:1" for port in ports.nodes]
        path = folder / "statsd-proxy.cfg"
        path.write_text("\n".join(lines) + "\n")
        return [str(self.path), "-f", str(path)]


def known():
    """Every program, by the name it is chosen by."""
    return {
        "statsring": Statsring("statsring"),
        "portable": Statsring("statsring, portable engine", config={"engine": "portable"}),
        "floor": Floor("receive floor"),
        "forward": Floor("forward floor", blindly=True),
        "proxy.js": ProxyJs("proxy.js"),
        "statsdproxy": StatsdProxy("statsdproxy"),
        "hit9": Hit9("statsd-proxy (C)"),
    }


def chosen(names, variants=(), builds=()):
    """The programs of a comma list, installed; beside them why others are missing."""
    every = known()
    for text in variants:
        name, _, keys = text.partition("=")
        try:
            config = json.loads("{" + keys + "}")
        except ValueError as error:
            raise Usage(f"--variant {text!r}: give NAME=\"key\": value, ... ({error})") from error
        every[name] = Statsring(name, config=config)
    for text in builds:
        name, _, path = text.partition("=")
        every[name] = Statsring(name, path=Path(path).absolute())
    # A variant and a build are wanted, or they would not have been given.
    wanted = list(every) if names is None else [*names.split(","), *(name for name in every if name not in known())]
    unknown = [name for name in wanted if name not in every]
    if unknown:
        raise Usage(f"unknown program {unknown[0]!r}: give some of {', '.join(every)}")
    cache_folder().mkdir(parents=True, exist_ok=True)
    programs, missing = [], []
    for name in wanted:
        try:
            every[name].install()
            programs.append(every[name])
        except Missing as reason:
            missing.append((name, str(reason)))
            say(f"left out: {name}: {reason}")
    return programs, missing
