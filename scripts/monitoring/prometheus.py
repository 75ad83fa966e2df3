"""Starts a Prometheus on a free port with a temporary data directory, queries its HTTP API, and ends it.

In: its targets and rules. Out: API results. Next: watch.py.
"""

import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from proxy import Failure, free_ports

CONFIG = """
global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: statsring
    static_configs: [{{ targets: ["127.0.0.1:{target}"] }}]
"""


class Prometheus:
    """A running Prometheus."""

    def __init__(self, target, rules):
        self.folder = tempfile.TemporaryDirectory()
        self.port, = free_ports(1)
        folder = Path(self.folder.name)
        (folder / "rules.yaml").write_text(rules)
        (folder / "prometheus.yml").write_text(CONFIG.format(target=target))
        self.log_path = folder / "log"
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--storage.tsdb.retention.time=1h", "--log.level=warn"],
                stdout=log, stderr=log, cwd=folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def _get(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            # Prometheus is still starting.
            if error.code == 503:
                raise ConnectionError(error) from None
            raise ValueError(f"{path} {parameters}: {error.read().decode()}") from None
        except OSError as error:
            if self.process.poll() is not None:
                raise Failure(f"Prometheus exited:\n{self.log_path.read_text()}") from None
            raise ConnectionError(error) from None

    def query(self, expression):
        """The current series of an expression: labels and value."""
        return [(each["metric"], float(each["value"][1])) for each in self._get("query", query=expression)["result"]]

    def value(self, expression):
        """The single value of an expression; None if there is none."""
        values = [value for _, value in self.query(expression)]
        if len(values) > 1:
            raise ValueError(f"{expression}: expected one value, found {len(values)}")
        return values[0] if values else None

    def firing(self):
        """The labels of firing alerts."""
        return [each["labels"] for each in self._get("alerts")["alerts"] if each["state"] == "firing"]

    def rule_errors(self):
        """Errors of rules that Prometheus failed to evaluate."""
        groups = self._get("rules")["groups"]
        return [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")]

    def until(self, what, condition, patience_s=90):
        """Waits until a condition holds and returns its value."""
        end = time.monotonic() + patience_s
        while True:
            try:
                if result := condition():
                    return result
            except ConnectionError:
                pass
            if time.monotonic() > end:
                raise AssertionError(f"timed out after {patience_s} s: {what}; firing: {self.firing()}")
            time.sleep(0.3)
