"""Tests the metrics, alert rules and dashboard with a real Prometheus; see scripts/prometheus-test.sh.

In: nothing. Out: a line per check, and a verdict.
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
from proxy import EXIT_FAIL, ROOT, Proxy, free_ports, program, run_script, say  # noqa: E402

MONITORING = ROOT / "docs/src/monitoring"
# Datagrams of the first load: each has two metrics, every tenth a malformed line.
DATAGRAMS = 2000
# More datagrams than a small receive buffer can hold.
OVERFLOW = 3000
# Panels without data in normal operation.
SILENT_PANELS = {"Dropped by reason", "annotation Starts"}
# Alerts that are expected from the start: malformed lines, small granted buffers, and delays on a busy host because minutes are
# shortened to seconds.
CAUSED = {"StatsringMalformedMetrics", "StatsringReceiveBufferSmall", "StatsringDegraded", "StatsringSlow", "StatsringDown"}


def passed(text):
    print(f"ok    {text}", flush=True)


def must(ok, message):
    if not ok:
        raise AssertionError(message)


def promtool(*arguments, text=None, folder=MONITORING):
    run = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, cwd=folder)
    must(run.returncode == 0 and "error" not in run.stderr.lower(), f"promtool {' '.join(arguments)}:\n{run.stdout}{run.stderr}")
    return run.stdout + run.stderr


def get(port, path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def send(port, datagrams):
    """Sends in small batches, so that no buffer overflows."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number, datagram in enumerate(datagrams):
            sender.sendto(datagram, ("127.0.0.1", port))
            if number % 50 == 49:
                time.sleep(0.02)


def load():
    for number in range(DATAGRAMS):
        yield b"watch.%d:1|c\nwatch.%d:2|ms\n" % (number % 97, number % 89) + (b"junk\n" if number % 10 == 0 else b"")


class Backends:
    """`statsring sink` processes as StatsD servers with admin ports; each can be killed."""

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
    passed("the alert rules are valid")
    promtool("test", "rules", "alerts_test.yaml")
    passed("their unit tests pass")
    # Check that the tests can fail: an inverted rule must not pass.
    with tempfile.TemporaryDirectory() as folder:
        rules = (MONITORING / "alerts.yaml").read_text()
        wrong = rules.replace("sum by (job, instance) (statsring_backend_up) == 0", "sum by (job, instance) (statsring_backend_up) > 0")
        must(wrong != rules, "rule no longer exists: update this test")
        Path(folder, "alerts.yaml").write_text(wrong)
        Path(folder, "alerts_test.yaml").write_text((MONITORING / "alerts_test.yaml").read_text())
        run = subprocess.run(["promtool", "test", "rules", "alerts_test.yaml"], cwd=folder, capture_output=True)
        must(run.returncode != 0, "the tests pass with an inverted rule")
    alerts = {line.split(": ")[1] for line in rules.splitlines() if line.strip().startswith("- alert: ")}
    tests = (MONITORING / "alerts_test.yaml").read_text()
    for alert in alerts:
        must(f'ALERTS{{alertname="{alert}"' in tests, f"{alert} has no unit test")
    text_of_page = (MONITORING / "alerts.md").read_text()
    for alert in alerts:
        must(f"| `{alert}` |" in text_of_page, f"{alert} is missing in docs/src/monitoring/alerts.md")
    passed(f"each of the {len(alerts)} alerts has a unit test and is documented")


def check_scrape(text):
    errors = promtool("check", "metrics", text=text)
    must(not errors.strip(), f"promtool check metrics:\n{errors}")
    passed(f"promtool check metrics accepts {len(text.splitlines())} lines")
    names = expressions.scraped_names(text)
    found = expressions.of_dashboard(MONITORING / "dashboard.json")
    used = {name for _, expression in found for name in expressions.names(expression)}
    used |= expressions.names((MONITORING / "alerts.yaml").read_text())
    must(len(used) > 30, f"expected more than 30 metrics, found {len(used)}")
    must(used <= names, f"missing in the scrape: {sorted(used - names)}")
    passed(f"all {len(used)} metrics used by the dashboard and the rules are in the scrape")


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
        # The histograms count every metric once; malformed ones are not sent.
        "in the histograms": (watcher.value("sum(statsring_latency_seconds_count)"), watcher.value("statsring_residence_seconds_count")),
        "in their largest bucket": (watcher.value('sum(statsring_latency_seconds_bucket{le="+Inf"})'), watcher.value("sum(statsring_latency_seconds_count)")),
        "up": (watcher.value('up{job="statsring"}'), 1),
    }
    for what, (found, expected) in shown.items():
        must(found == expected, f"{what}: expected {expected}, Prometheus shows {found}")
    must(watcher.value("sum(statsring_latency_seconds_count)") > 0, "no latency was recorded")
    passed(f"Prometheus shows {metrics} metrics received, {metrics - malformed} sent, {malformed} malformed, as sent")


def check_panels(watcher, proxy):
    """All expressions are valid, and all have data except those of SILENT_PANELS."""
    send(proxy.port, load())
    found = expressions.of_dashboard(MONITORING / "dashboard.json")
    for title, expression in found:
        if title in SILENT_PANELS:
            watcher.query(expression)
        else:
            watcher.until(f"{title}: {expression}", lambda: watcher.query(expression))
    passed(f"all {len(found)} expressions of the dashboard are valid")
    must(not watcher.rule_errors(), f"{watcher.rule_errors()}")


def has_fired(watcher, alert, **labels):
    expected = {"alertname": alert, **labels}
    return any(expected.items() <= each.items() for each in watcher.firing())


def check_alerts(watcher, proxy, backends):
    fired = {each["alertname"] for each in watcher.firing()} - CAUSED
    must(not fired, f"unexpected alerts: {fired}")
    passed("no unexpected alert fires")

    backends.kill(0)
    watcher.until("a killed backend", lambda: has_fired(watcher, "StatsringBackendDown", backend=backends.name(0)))
    must(not has_fired(watcher, "StatsringNoBackend"), "StatsringNoBackend fires although a backend is up")
    passed("a backend is killed: StatsringBackendDown fires for it")

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
         f"{OVERFLOW} were sent: {received} received, {own['kernel_drops']} dropped by the kernel, Prometheus shows {drops}")
    passed(f"a receive buffer overflows by {drops:.0f} datagrams: StatsringKernelDrops fires")

    backends.kill(1)
    watcher.until("no backend", lambda: has_fired(watcher, "StatsringNoBackend"))
    send(proxy.port, [b"nobody:1|c"] * 500)
    watcher.until("metrics without a backend", lambda: has_fired(watcher, "StatsringDropsMetrics", reason="no_backend"))
    passed("no backend is up: StatsringNoBackend and StatsringDropsMetrics fire")

    must(proxy.ask("health down") == "health: down\n", "health down was refused")
    watcher.until("health down", lambda: has_fired(watcher, "StatsringNotReady"))
    passed("health is set to down: StatsringNotReady fires")

    proxy.process.terminate()
    proxy.process.wait(20)
    watcher.until("the exit of the proxy", lambda: has_fired(watcher, "StatsringDown"))
    passed("the proxy exits: StatsringDown fires")


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
        say(f"FAIL  {wrong}")
        return EXIT_FAIL
    print("PASS: Prometheus totals are exact, and every loss raises an alert")
    return 0


run_script("prometheus-test", main)
