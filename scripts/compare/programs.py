"""Installation, configuration and start of the compared programs.

In: ports, a directory, the requested receive buffer. Out: a running process. Next: measure.py.

They come from package registries in the versions below, except for the C program, which is built from its repository.
crates.io's statsrelay 3.0.1 is left out: it does not read its UDP port.
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
# Sources of its Makefile.am, optimised as by autoconf.
HIT9_FLAGS = ["-std=c99", "-D_GNU_SOURCE", "-O2", "-w", "-pthread"]
HIT9_SOURCES = "buf cfg config ctx event ketama log md5 parser proxy statsd-proxy"


class Missing(Exception):
    """A program that is not available, and why."""


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "statsring-compare"


@dataclass
class Ports:
    """Ports of one run, all on 127.0.0.1."""

    listen: int
    admin: int
    nodes: list
    health: list

    def node_list(self):
        """Without admin ports if there are no health checks."""
        nodes = [{"host": "127.0.0.1", "port": port} for port in self.nodes]
        return [node | {"adminport": health} for node, health in zip(nodes, self.health)] if self.health else nodes


@dataclass
class Program:
    """A compared program; `name` is shown in tables."""

    name: str
    version: str = ""
    # A remark for the report.
    note: str = ""

    def install(self):
        """Installs it. Raises `Missing`."""

    def command(self, ports, folder, granted):
        """The command line; `granted` is the receive buffer to be granted by the kernel, or None for the default."""
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
        raise Missing(f"{what} failed to install")


def output_of(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def release(name):
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    return target.absolute() / "release" / name


@dataclass
class Statsring(Program):
    path: Path = field(default_factory=lambda: Path(os.environ.get("STATSRING") or release("statsring")).absolute())
    # Additional config keys.
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
    """The minimum cost of any program: a few system calls, and no code of statsring."""

    # Forwards without parsing; otherwise forwards nothing.
    blindly: bool = False
    # Wakes for each datagram instead of sleeping.
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
            "flat out it gets the rate that statsring got in the same round",
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
    """StatsD's proxy.js."""

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
    """Sentry's statsdproxy, in Rust."""

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
        self.note = "supports one upstream only, so there is no placement"

    def command(self, ports, folder, granted):
        return [str(self.path), "--listen", f"127.0.0.1:{ports.listen}", "--upstream", f"127.0.0.1:{ports.nodes[0]}"]


@dataclass
class Hit9(Program):
    """hit9's statsd-proxy, in C; batches, and places by ketama."""

    def install(self):
        git, compiler = shutil.which("git"), shutil.which("cc")
        if not git or not compiler:
            raise Missing("git or a C compiler is not installed")
        folder = cache_folder() / f"hit9-{HIT9_COMMIT[:12]}"
        self.path = folder / "statsd-proxy-built"
        log = cache_folder() / "hit9.log"
        if not self.path.exists():
            shutil.rmtree(folder, ignore_errors=True)
            run_or_missing([git, "clone", "--quiet", HIT9, str(folder)], "statsd-proxy from its repository", log)
            run_or_missing([git, "-C", str(folder), "checkout", "--quiet", HIT9_COMMIT], "statsd-proxy (checkout)", log)
            sources = [str(folder / "src" / f"{name}.c") for name in HIT9_SOURCES.split()]
            run_or_missing([compiler, *HIT9_FLAGS, *sources, "-o", str(self.path)], "statsd-proxy (build)", log)
        self.version = f"github.com/hit9/statsd-proxy at {HIT9_COMMIT[:12]}, cc -O2"
        self.note = "num_threads 1 (default 4), otherwise its example config"

    def command(self, ports, folder, granted):
        lines = [f"port {ports.listen}", "num_threads 1", "flush_interval 10"]
        lines += [f"node 127.0.0.1:{port}:1" for port in ports.nodes]
        path = folder / "statsd-proxy.cfg"
        path.write_text("\n".join(lines) + "\n")
        return [str(self.path), "-f", str(path)]


def known():
    """All programs, by option name."""
    return {
        "statsring": Statsring("statsring"),
        "portable": Statsring("statsring, portable engine", config={"engine": "portable"}),
        "prompt": Statsring("statsring, flushInterval 0", config={"flushInterval": 0}),
        "floor": Floor("receive floor"),
        "forward": Floor("forward floor", blindly=True),
        "proxy.js": ProxyJs("proxy.js"),
        "statsdproxy": StatsdProxy("statsdproxy"),
        "hit9": Hit9("statsd-proxy (C)"),
    }


def chosen(names, variants=(), builds=()):
    """Installs the programs of a comma-separated list. Returns them, and the missing ones with reasons."""
    every = known()
    for text in variants:
        name, _, keys = text.partition("=")
        try:
            config = json.loads("{" + keys + "}")
        except ValueError as error:
            raise Usage(f"--variant {text!r}: expected NAME=\"key\": value, ... ({error})") from error
        every[name] = Statsring(name, config=config)
    for text in builds:
        name, _, path = text.partition("=")
        every[name] = Statsring(name, path=Path(path).absolute())
    # Variants and builds are always included.
    selected = list(every) if names is None else [*names.split(","), *(name for name in every if name not in known())]
    unknown = [name for name in selected if name not in every]
    if unknown:
        raise Usage(f"unknown program {unknown[0]!r}: expected some of {', '.join(every)}")
    cache_folder().mkdir(parents=True, exist_ok=True)
    programs, missing = [], []
    for name in selected:
        try:
            every[name].install()
            programs.append(every[name])
        except Missing as reason:
            missing.append((name, str(reason)))
            say(f"left out: {name}: {reason}")
    return programs, missing
