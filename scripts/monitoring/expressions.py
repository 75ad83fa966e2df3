"""Expressions and metric names of the dashboard and the alert rules.

In: the files of docs/src/monitoring. Out: strings. Next: watch.py compares them with a real scrape.
"""

import json
import re

# Prefixes of our metric names, as opposed to PromQL functions and labels.
NAME = re.compile(r"\b((?:statsring|process)_[a-z0-9_]+)\b")
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


def of_dashboard(path):
    """Each expression of each panel, with Grafana's variables replaced, by the panel's title."""
    dashboard = json.loads(path.read_text())
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            found.append((panel["title"], filled(target["expr"])))
    found += [("annotation " + each["name"], filled(each["expr"])) for each in dashboard["annotations"]["list"]]
    return found


def filled(expression):
    for variable, value in (("$__rate_interval", "10s"), ("$job", ".*"), ("$instance", ".*")):
        expression = expression.replace(variable, value)
    if "$" in expression:
        raise ValueError(f"unknown variable: {expression}")
    return expression


def names(text):
    """The metric names in an expression."""
    return set(NAME.findall(QUOTED.sub('""', text)))


def scraped_names(text):
    """The metric names in a scrape."""
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line and not line.startswith("#")}


def shortened(rules):
    """The alert rules with seconds instead of minutes."""
    rules = re.sub(r"\[(\d+)m\]", lambda found: f"[{max(10, int(found[1]))}s]", rules)
    return re.sub(r"for: \d+m", "for: 1s", rules)
