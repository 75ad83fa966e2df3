"""Generates docs/src/performance/report.md, the README's performance section, and all results as JSON.

In: the steps' results. Out: text. Pure, except for reading the load curve's CSV.
"""

import os

import burst
import costs
import curve
import optimisations
import report
from machine import Failure
from report import OURS, names_of

BEGIN, END = "<!-- performance -->\n", "<!-- /performance -->"


def machine_of(found):
    """Machine and date of each step, merged where equal."""
    machines = []
    for name, run in found.items():
        if name != "load-curve" and run["machine"] not in machines:
            machines.append(run["machine"])
    return "; ".join(machines)


def commands(found, notes, own):
    """How and when each part was measured, and with which build."""
    builds = {note.get("build") for note in notes.values()}
    body = [[name, note.get("date", "–"), f"{note.get('took_s', 0) // 60} min {note.get('took_s', 0) % 60} s",
             f"`{note.get('build', '–')}`"] for name, note in notes.items()]
    text = [f"One command measures all of it, and continues where it was interrupted:\n\n    {own}",
            report.table(["step", "measured", "took", "build of statsring"], body)]
    if len(builds) > 1:
        text.append("**The steps were not measured with the same build.** `--again STEPS` repeats them.")
    missing = [name for name in ("compare", "load-curve", "burst", "costs", "optimisations") if name not in found]
    if missing:
        text.append(f"Not measured: {', '.join(missing)}.")
    return text


def curve_part(path):
    lines, remarks = curve.read_csv(path)
    body = [[line["program"], f"{int(line['rate']):,}", loss(line), f"{float(line['cores_median']):.3f}",
             f"{float(line['us_per_received']):.2f}"] for line in lines]
    head = ["program", "datagrams/s", "metrics lost, median", "cores used", "µs CPU per datagram received"]
    return ["## Loss and CPU against the rate", "![Loss and CPU against the rate](load-curve.svg)", " ".join(remarks),
            "The figures are in [load-curve.csv](load-curve.csv).", report.table(head, body)]


def loss(line):
    if line["delivered_median"] in ("", None):
        return "–"
    lost = 1 - float(line["delivered_median"])
    return "none" if lost <= 0 else f"{lost:.2%}" if lost >= 0.0001 else "less than 0.01 %"


def report_page(found, notes, own):
    """docs/src/performance/report.md"""
    parts = [
        "# Measurements",
        "Written by `scripts/performance.sh`; do not edit. Results of different machines or hours are not comparable; ratios "
        "measured in one run do. CPU is kernel and user time of all of a process's threads (`/proc/PID/task/*/schedstat`).",
        f"Machine: {machine_of(found)}." if machine_of(found) else "",
    ]
    if "compare" in found:
        run = found["compare"]
        parts.append(report.markdown(run | {"summary": report.summary(run)}).rstrip())
    if "load-curve" in found:
        parts += curve_part(found["load-curve"])
    for name, module in (("burst", burst), ("costs", costs), ("optimisations", optimisations)):
        if name in found:
            parts.append(module.markdown(found[name]).rstrip())
    parts += ["## How it was made", *commands(found, notes, own)]
    return "\n\n".join(part for part in parts if part) + "\n"


def figures(found, notes, own):
    """performance.json: medians and spreads of all results, and how they were measured."""
    steps = {}
    for name, run in found.items():
        if name == "load-curve":
            lines, remarks = curve.read_csv(run)
            steps[name] = {"remarks": remarks, "lines": lines}
            continue
        kept = {key: value for key, value in run.items() if key not in ("rows", "tables", "summary")}
        if name == "compare":
            # A program's error output may contain local paths.
            kept["failed"] = [entry | {"why": entry["why"].splitlines()[0].rstrip(":")} for entry in run.get("failed", [])]
            kept["summary"] = report.summary(run)
        elif name == "burst":
            kept["rows"] = run["rows"]
        else:
            kept["summary"] = report.summarize(run["rows"])
        steps[name] = kept
    return {"command": own, "notes": notes, "steps": steps}


def readme_section(found, own, docs, root):
    """Ratios, the plot, and a link to the report."""
    where = os.path.relpath(docs, root)
    parts = []
    if "compare" in found:
        parts += short_comparison(found["compare"])
    if "load-curve" in found:
        parts.append(f"![Loss and CPU against the rate]({where}/load-curve.svg)")
    parts.append(f"[All measurements]({where}/report.md): latency, memory, bursts, the cost as work grows, what each optimisation "
                 f"gains. `{own}` measures them on your machine.")
    return "\n\n".join(parts) + "\n\n"


def short_comparison(run):
    entries = report.summary(run)["tables"].get("default") or report.summary(run)["tables"].get("equal") or []
    if not any(entry["program"] == OURS for entry in entries):
        return []
    worst_share, many, all_ = report.foreign(run)
    disturbed = f" {many} of {all_} runs were disturbed, by {worst_share:.0%} of a core at worst." if many else ""
    programs = names_of([entry for entry in entries if entry["program"] not in (report.DIRECT, OURS, report.PROMPT)],
                        "program")
    body = []
    for load in names_of(entries, "load"):
        own = {entry["program"]: entry for entry in entries if entry["load"] == load}
        if OURS in own:
            body.append([load, f"1 ({report.middle(own[OURS]['figures']['us_per_received'])} µs)"]
                        + [short_ratio(own.get(name)) for name in programs])
    return [
        "CPU per datagram received, relative to statsring:",
        report.table(["load", OURS, *programs], body),
        f"Each program with its defaults; in brackets the share of metrics that arrived, if not all. The {report.FLOOR} receives and "
        f"reads every byte; the {report.FORWARD} also sends every byte on, blindly in full packets: what any proxy must pay. "
        f"{run['machine']}, {run['date'].split()[0]}.{disturbed}",
    ]


def short_ratio(entry):
    if entry is None or not entry["ratio_to_statsring"]:
        return "–"
    delivered = entry["figures"].get("delivered")
    text = f"{report.number(entry['ratio_to_statsring']['median'], None)} ×"
    if delivered and delivered["median"] < 0.9995:
        text += f" ({delivered['median']:.1%} arrived)"
    return text


def put_section(path, text):
    page = path.read_text()
    if BEGIN not in page or END not in page:
        raise Failure(f"{path} has no {BEGIN.strip()} and {END}")
    path.write_text(page.split(BEGIN, 1)[0] + BEGIN + text + END + page.split(END, 1)[1])
