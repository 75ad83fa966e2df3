"""Information from the kernel about processes, sockets and this machine.

In: process ids, ports. Out: numbers from /proc and from ss. Next: measure.py reads them before, during and after a load.
"""

import argparse
import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

RMEM_DEFAULT = Path("/proc/sys/net/core/rmem_default")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


EXIT_USAGE, EXIT_SYSTEM = 64, 71
# Options that name output files.
OUTPUTS = ("--json", "--csv", "--svg", "--from-json")


class Failure(Exception):
    """Ends the script with this message."""

    code = EXIT_SYSTEM


class Usage(Failure):
    """A usage error."""

    code = EXIT_USAGE


class Parser(argparse.ArgumentParser):
    """Uses this project's exit code for usage errors."""

    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def command_line(script):
    """The command line of this run, without output options."""
    kept, arguments = [], iter(sys.argv[1:])
    for argument in arguments:
        if argument in OUTPUTS:
            next(arguments, None)
        elif not argument.startswith(tuple(f"{name}=" for name in OUTPUTS)):
            kept.append(argument)
    return shlex.join([f"scripts/{script}", *kept])


def say(text):
    print(text, file=sys.stderr, flush=True)


def main_with_signals(name, main):
    """Runs `main`. Signals raise an exception, so that children are ended and settings restored."""

    def stop(number, _frame):
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    try:
        sys.exit(main())
    except Failure as failure:
        say(f"{name}: {failure}")
        sys.exit(failure.code)
    except KeyboardInterrupt:
        sys.exit(130)


def read(path):
    """Contents of a file in /proc; empty if the process has exited."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def tree(pid):
    """A process and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # The command name is in parentheses and may contain any character.
            fields = read(entry / "stat").rpartition(")")[2].split()
            if len(fields) > 1:
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found += parents.get(parent, [])
    return found


def tasks(pid):
    """The /proc folders of all threads of a process and its descendants."""
    for member in tree(pid):
        with contextlib.suppress(OSError):
            yield from Path(f"/proc/{member}/task").iterdir()


def cpu_ns(pid):
    """Time on a CPU, kernel and user, of all threads of a process and its descendants."""
    return sum(int((read(task / "schedstat").split() or ["0"])[0]) for task in tasks(pid))


def status_sum(folders, key):
    """Sum of a field of /proc/*/status."""
    found = (re.search(rf"^{key}:\s+(\d+)", read(folder / "status"), re.M) for folder in folders)
    return sum(int(match[1]) for match in found if match)


def resident_kib(pid):
    return status_sum([Path(f"/proc/{member}") for member in tree(pid)], "VmRSS")


def switches(pid):
    """Context switches of all threads of the process."""
    threads = list(tasks(pid))
    return status_sum(threads, "voluntary_ctxt_switches") + status_sum(threads, "nonvoluntary_ctxt_switches")


def core_busy_ns(core):
    """Non-idle time of a core, with the kernel's tick resolution."""
    fields = re.search(rf"^cpu{core} (.*)$", read("/proc/stat"), re.M)[1].split()
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) * TICK_NS


def inodes(pid):
    """Inodes of the sockets of a process and its descendants."""
    found = set()
    for member in tree(pid):
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{member}/fd").iterdir():
                with contextlib.suppress(OSError):
                    match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
                    if match:
                        found.add(int(match[1]))
    return found


def udp_sockets():
    """This host's UDP sockets: port, bytes queued to be read and to be sent, inode, datagrams dropped."""
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        for line in read(table).splitlines()[1:]:
            fields = line.split()
            queued = fields[4].split(":")
            yield {
                "port": int(fields[1].rpartition(":")[2], 16),
                "queued": int(queued[0], 16) + int(queued[1], 16),
                "inode": int(fields[9]),
                "drops": int(fields[-1]),
            }


def drops_at(port):
    return sum(entry["drops"] for entry in udp_sockets() if entry["port"] == port)


def is_bound(port):
    return any(entry["port"] == port for entry in udp_sockets())


def queued_bytes(owned):
    """Kernel memory queued in these sockets."""
    return sum(entry["queued"] for entry in udp_sockets() if entry["inode"] in owned)


def granted_bytes(port, owned):
    """Receive buffer of the socket at `port`, and the limit of all buffers of the sockets; None without ss."""
    if not shutil.which("ss"):
        return None, None
    text = subprocess.run(["ss", "-uanmeH"], capture_output=True, text=True, check=False).stdout
    receive, everything = None, 0
    for entry in re.split(r"\n(?=\S)", text):
        inode = re.search(r"ino:(\d+)", entry)
        limits = re.search(r"skmem:\(r\d+,rb(\d+),t\d+,tb(\d+)", entry)
        if not inode or not limits or int(inode[1]) not in owned:
            continue
        everything += int(limits[1]) + int(limits[2])
        if entry.split()[3].endswith(f":{port}"):
            receive = int(limits[1])
    return receive, everything


def free_ports(count):
    """Free ports of 127.0.0.1, UDP and TCP, below the ephemeral range."""
    found = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        if port in found:
            continue
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
                udp.bind(("127.0.0.1", port))
                tcp.bind(("127.0.0.1", port))
        except OSError:
            continue
        found.append(port)
    return found


def host_receive_default():
    return int(RMEM_DEFAULT.read_text())


def may_set_receive_default():
    return os.access(RMEM_DEFAULT, os.W_OK)


@contextlib.contextmanager
def receive_default(bytes_):
    """Context manager: sets the default receive buffer of all sockets."""
    before = host_receive_default()
    if bytes_ in (None, before):
        yield
        return
    try:
        RMEM_DEFAULT.write_text(str(bytes_))
    except OSError as error:
        raise Failure(f"net.core.rmem_default cannot be set ({error}): run it as root") from error
    try:
        yield
    finally:
        RMEM_DEFAULT.write_text(str(before))


def describe():
    """Describes this machine in one line."""
    model = re.search(r"^model name\s*:\s*(.*)$", read("/proc/cpuinfo"), re.M)
    memory = re.search(r"^MemTotal:\s*(\d+)", read("/proc/meminfo"), re.M)
    gib = int(memory[1]) / (1 << 20) if memory else 0
    name = re.sub(r"\s+", " ", model[1]) if model else os.uname().machine
    virtual = ", virtual machine" if "hypervisor" in read("/proc/cpuinfo") else ""
    return f"{name}, {os.cpu_count()} CPUs, {gib:.0f} GiB{virtual}, Linux {os.uname().release}"
