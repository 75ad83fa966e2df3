"""The real Prometheus watches the real proxy. scripts/prometheus-test.sh says what is held against what.

In: nothing. Out: a line for each thing that was held, and a verdict.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "flood"))
import expressions  # noqa: E402
from prometheus import Prometheus  # noqa: E402
from proxy import EXIT_BAD, ROOT, Proxy, free_ports, program, run_script, say  # noqa: E402

MONITORING = ROOT / "docs/src/monitoring"
# Metrics of the first load: each datagram has two, and every tenth a malformed line.
DATAGRAMS = 2000
# More datagrams than a small receive buffer holds.
OVERFLOW = 3000
# Panels that show nothing as long as nothing is wrong.
SILENT_PANELS = {"Dropped by reason", "annotation Starts"}
# Alerts that have their cause from the start: a tenth of the lines is malformed; the host may grant small buffers; and on a
# busy host what is measured in seconds here may be late.
CAUSED = {"StatsringMalformedMetrics", "StatsringReceiveBufferSmall", "StatsringDegraded", "StatsringSlow", "StatsringDown"}


def done(words):
    print(f"ok    {words}", flush=True)


def must(is_so, words):
    if not is_so:
        raise AssertionError(words)


def promtool(*arguments, text=None, folder=MONITORING):
    run = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, cwd=folder)
    must(run.returncode == 0 and "error" not in run.stderr.lower(), f"promtool {' '.join(arguments)}:\n{run.stdout}{run.stderr}")
    return run.stdout + run.stderr


def get(port, path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def send(port, datagrams):
    """Sends a few at a time, so that no buffer has a reason to overflow."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number, datagram in enumerate(datagrams):
            sender.sendto(datagram, ("127.0.0.1", port))
            if number % 50 == 49:
                time.sleep(0.02)


def load():
    for number in range(DATAGRAMS):
        yield b"watch.%d:1|c\nwatch.%d:2|ms\n" % (number % 97, number % 89) + (b"junk\n" if number % 10 == 0 else b"")


class Backends:
    """StatsD servers of the program's own kind, with an admin port each; each can be killed."""

    def __init__(self, path, count):
        ports = free_ports(2 * count)
        self.nodes = [{"host": "127.0.0.1", "port": port, "adminport": health}
                      for port, health in zip(ports[::2], ports[1::2])]
        self.processes = [
            subprocess.Popen([path, "sink", "--listen", str(node["port"]), "--health", str(node["adminport"]),
                              "--idle", "100000", "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for node in self.nodes
        ]

    def name(self, index):
        return f"127.0.0.1:{self.nodes[index]['port']}"

    def kill(self, index):
        self.processes[index].kill()
        self.processes[index].wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def check_files():
    promtool("check", "rules", "alerts.yaml")
    done("the alert rules are valid")
    promtool("test", "rules", "alerts_test.yaml")
    done("their unit tests pass")
    # The tests can fail: a rule that is turned around must not pass them.
    with tempfile.TemporaryDirectory() as folder:
        rules = (MONITORING / "alerts.yaml").read_text()
        wrong = rules.replace("sum by (job, instance) (statsring_backend_up) == 0", "sum by (job, instance) (statsring_backend_up) > 0")
        must(wrong != rules, "rule no longer exists: update this test")
        Path(folder, "alerts.yaml").write_text(wrong)
        Path(folder, "alerts_test.yaml").write_text((MONITORING / "alerts_test.yaml").read_text())
        run = subprocess.run(["promtool", "test", "rules", "alerts_test.yaml"], cwd=folder, capture_output=True)
        must(run.returncode != 0, "a rule was turned around, and its tests pass all the same")
    alerts = {line.split(": ")[1] for line in rules.splitlines() if line.strip().startswith("- alert: ")}
    tests = (MONITORING / "alerts_test.yaml").read_text()
    for alert in alerts:
        must(f'ALERTS{{alertname="{alert}"' in tests, f"{alert} has no unit test")
    words = (MONITORING / "alerts.md").read_text()
    for alert in alerts:
        must(f"| `{alert}` |" in words, f"{alert} is not in docs/src/monitoring/alerts.md")
    done(f"each of {len(alerts)} alerts has a test that it fires, and a line in the documentation")


def check_scrape(text):
    words = promtool("check", "metrics", text=text)
    must(not words.strip(), f"promtool check metrics says:\n{words}")
    done(f"promtool check metrics has nothing to say on {len(text.splitlines())} lines")
    names = expressions.scraped_names(text)
    found = expressions.of_dashboard(MONITORING / "dashboard.json")
    used = {name for _, expression in found for name in expressions.names(expression)}
    used |= expressions.names((MONITORING / "alerts.yaml").read_text())
    must(len(used) > 30, f"only {len(used)} metrics are used")
    must(used <= names, f"no scrape has {sorted(used - names)}")
    done(f"the {len(used)} metrics that the dashboard and the rules use are in the scrape")


def check_totals(watcher, proxy):
    send(proxy.port, load())
    metrics, malformed = 2 * DATAGRAMS + DATAGRAMS // 10, DATAGRAMS // 10
    total = "sum(statsring_{}_total)".format
    watcher.until("Prometheus shows what was sent",
                  lambda: watcher.value(total("metrics_received")) == metrics
                  and watcher.value("sum(statsring_metrics_pending)") == 0)
    shown = {
        "datagrams received": (watcher.value(total("datagrams_received")), DATAGRAMS),
        "metrics sent": (watcher.value(total("metrics_sent")), metrics - malformed),
        "of all backends": (watcher.value(total("backend_metrics_sent")), metrics - malformed),
        "malformed": (watcher.value('sum(statsring_metrics_dropped_total{reason="malformed"})'), malformed),
        "dropped": (watcher.value(total("metrics_dropped")), malformed),
        "unaccounted": (watcher.value("statsring_metrics_unaccounted"), 0),
        # The histograms tell every metric once, where it was measured from; malformed ones are not sent.
        "in the histograms": (watcher.value("sum(statsring_latency_seconds_count)"), watcher.value("statsring_residence_seconds_count")),
        "in their largest bucket": (watcher.value('sum(statsring_latency_seconds_bucket{le="+Inf"})'), watcher.value("sum(statsring_latency_seconds_count)")),
        "up": (watcher.value('up{job="statsring"}'), 1),
    }
    for what, (is_so, wanted) in shown.items():
        must(is_so == wanted, f"{what}: Prometheus shows {is_so}, not {wanted}")
    must(watcher.value("sum(statsring_latency_seconds_count)") > 0, "no latency was recorded")
    done(f"Prometheus shows {metrics} metrics received, {metrics - malformed} sent, {malformed} malformed, as sent")


def check_panels(watcher, proxy):
    """Each expression is understood, and those that show something in quiet times do."""
    send(proxy.port, load())
    found = expressions.of_dashboard(MONITORING / "dashboard.json")
    for title, expression in found:
        if title in SILENT_PANELS:
            watcher.query(expression)
        else:
            watcher.until(f"{title}: {expression}", lambda: watcher.query(expression))
    done(f"the dashboard's {len(found)} expressions give figures")
    must(not watcher.rule_errors(), f"{watcher.rule_errors()}")


def has_fired(watcher, alert, **labels):
    wanted = {"alertname": alert, **labels}
    return any(wanted.items() <= each.items() for each in watcher.firing())


def check_alerts(watcher, proxy, backends):
    fired = {each["alertname"] for each in watcher.firing()} - CAUSED
    must(not fired, f"alerts without a cause: {fired}")
    done("no alert fires without a cause")

    backends.kill(0)
    watcher.until("a killed backend", lambda: has_fired(watcher, "StatsringBackendDown", backend=backends.name(0)))
    must(not has_fired(watcher, "StatsringNoBackend"), "StatsringNoBackend fires with a living backend")
    done("a backend is killed: StatsringBackendDown fires, and names it")

    os.kill(proxy.process.pid, signal.SIGSTOP)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(OVERFLOW):
                sender.sendto(b"overflow:1|c" + b"x" * 200, ("127.0.0.1", proxy.port))
    finally:
        os.kill(proxy.process.pid, signal.SIGCONT)
    watcher.until("a receive buffer that overflowed", lambda: has_fired(watcher, "StatsringKernelDrops"))
    drops = watcher.value("sum(statsring_kernel_drops_total)")
    own = proxy.stats()
    received = own["datagrams_received"] - 2 * DATAGRAMS
    must(drops == own["kernel_drops"] and received + drops == OVERFLOW,
         f"{OVERFLOW} were sent: {received} received, {own['kernel_drops']} dropped by the kernel, {drops} as Prometheus shows")
    done(f"a receive buffer overflows by {drops:.0f} datagrams: StatsringKernelDrops fires")

    backends.kill(1)
    watcher.until("no backend", lambda: has_fired(watcher, "StatsringNoBackend"))
    send(proxy.port, [b"nobody:1|c"] * 500)
    watcher.until("metrics without a backend", lambda: has_fired(watcher, "StatsringDropsMetrics", reason="no_backend"))
    done("no backend is left: StatsringNoBackend and StatsringDropsMetrics fire")

    must(proxy.ask("health down") == "health: down\n", "health down was refused")
    watcher.until("health down", lambda: has_fired(watcher, "StatsringNotReady"))
    done("health is set to down: StatsringNotReady fires")

    proxy.process.terminate()
    proxy.process.wait(20)
    watcher.until("the end of the proxy", lambda: has_fired(watcher, "StatsringDown"))
    done("the proxy ends: StatsringDown fires")


def main(_arguments):
    path = program()
    try:
        check_files()
        with Backends(path, 2) as backends:
            keys = {"nodes": backends.nodes, "workers": 2, "receiveBuffer": 65536,
                    "checkInterval": 3000, "checkTimeout": 3000, "checkFast": 200}
            rules = expressions.shortened((MONITORING / "alerts.yaml").read_text())
            with Proxy(path, **keys) as proxy, Prometheus(proxy.admin, rules) as watcher:
                check_scrape(get(proxy.admin, "/metrics"))
                json.loads(get(proxy.admin, "/stats.json"))
                watcher.until("the first scrape", lambda: watcher.value('up{job="statsring"}') == 1)
                watcher.until("both backends are up", lambda: watcher.value("sum(statsring_backend_up)") == 2)
                check_totals(watcher, proxy)
                check_panels(watcher, proxy)
                check_alerts(watcher, proxy, backends)
    except (AssertionError, ValueError) as wrong:
        say(f"BAD   {wrong}")
        return EXIT_BAD
    print("GOOD: Prometheus shows what was, and what is lost does not stay unseen")
    return 0


run_script("prometheus-test", main)
