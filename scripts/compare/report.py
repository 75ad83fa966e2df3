"""Tables of a comparison.

In: the results of compare.py. Out: medians and ratios as dicts, Markdown. Pure. Next: stdout, the README.

Ratios are computed per round; the median over the rounds is shown.
"""

from statistics import median

from measure import FOREIGN_SHARE_MAX

DIRECT = "no proxy"
OURS, FLOOR, FORWARD = "statsring", "receive floor", "forward floor"
# statsring that sends at once, and the peer that does: their cost at about the same latency.
PROMPT, PROMPT_PEER = "statsring, flushInterval 0", "statsdproxy"
# Each with the name of the ratio to it.
FLOORS = {FLOOR: "ratio_to_floor", FORWARD: "ratio_to_forward_floor"}
TITLES = {
    "default": "Each program with its defaults",
    "equal": "Equal receive buffers",
}
# Load, other program, maximum ratio of statsring to it.
TARGETS = [
    ("20,000/s, 1 metric each", "proxy.js", 1 / 15),
    ("20,000/s, 1 metric each", "statsdproxy", 1 / 5),
    ("20,000/s, 1 metric each", "statsd-proxy (C)", 1 / 4),
    ("20,000/s, 1 metric each", FLOOR, 1.35),
    ("20,000/s, 1 metric each", FORWARD, 1.15),
    ("100,000/s, 1 metric each", FLOOR, 1.15),
    ("100,000/s, 1 metric each", FORWARD, 1.10),
    ("flat out, 1 metric each", FLOOR, 1.25),
    ("flat out, 1 metric each", FORWARD, 1.15),
    ("20,000/s, 30 metrics each", "proxy.js", 1 / 10),
    ("20,000/s, 30 metrics each", "statsdproxy", 1 / 5),
    ("20,000/s, 30 metrics each", FLOOR, 2.0),
    ("20,000/s, 30 metrics each", FORWARD, 1.25),
]


# flushInterval plus the time for receiving and sending, in µs.
P99_US_MAX = 5_000 + 2_000
RESIDENT_KIB_MAX = 16 << 10
WAKE_UPS_MAX = 3


def spread(values):
    values = [value for value in values if value is not None]
    return {"median": median(values), "least": min(values), "most": max(values)} if values else None


def rows_of(rows, load, program):
    return [row for row in rows if row["load"] == load and row["program"] == program]


def names_of(rows, key):
    return list(dict.fromkeys(row[key] for row in rows))


def ratio(rows, load, program, other, key="us_per_received"):
    """`program` divided by `other`, per round."""
    others = {row["round"]: row[key] for row in rows_of(rows, load, other)}
    return spread(
        row[key] / others[row["round"]]
        for row in rows_of(rows, load, program)
        if others.get(row["round"])
    )


def summarize(rows):
    """Spreads and ratios for each load and program."""
    found = []
    for load in names_of(rows, "load"):
        for program in names_of(rows, "program"):
            own = rows_of(rows, load, program)
            if not own:
                continue
            figures = {
                key: spread(row.get(key) for row in own)
                for key in own[0] if key not in ("load", "program", "round")
            }
            entry = {"load": load, "program": program, "figures": figures}
            if program != DIRECT:
                entry["ratio_to_statsring"] = ratio(rows, load, program, OURS)
                for floor, key in FLOORS.items():
                    entry[key] = ratio(rows, load, program, floor)
            found.append(entry)
    return found


def summary(run):
    return {
        "tables": {name: summarize(rows) for name, rows in run["tables"].items()},
        "targets": targets(run),
        "promises": promises(run),
    }


def targets(run):
    rows = run["tables"].get("default") or run["tables"].get("equal") or []
    found = []
    for load, other, most in TARGETS:
        reached = ratio(rows, load, OURS, other)
        if reached:
            found.append({"load": load, "against": other, "most": most, "reached": reached,
                          "met": reached["median"] <= most})
    return found


def promises(run):
    """Targets other than ratios: required and measured values."""
    found = []
    for name, rows in run["tables"].items():
        for load in names_of(rows, "load"):
            delivered = spread(row.get("delivered") for row in rows_of(rows, load, OURS))
            if delivered:
                found.append(promise("delivered", f"all, {load}, {TITLES[name].lower()}", worst(delivered),
                                     delivered["least"] >= 1))
    rows = run["tables"].get("default") or run["tables"].get("equal") or []
    for load in names_of(rows, "load"):
        p99 = spread(row.get("p99_us") for row in rows_of(rows, load, OURS))
        if p99 and load.startswith("20,000/s"):
            beside = middle(spread(row.get("p99_us") for row in rows_of(rows, load, DIRECT)), 1e3)
            found.append(promise("p99 latency", f"≤ {P99_US_MAX / 1e3:g} ms (`flushInterval` + 2), {load}",
                                 f"{ranged_ms(p99)} ms; without a proxy {beside} ms", p99["median"] <= P99_US_MAX))
    resident = spread(row.get("resident_kib") for row in rows if row["program"] == OURS)
    if resident:
        found.append(promise("resident memory", f"≤ {RESIDENT_KIB_MAX >> 10} MiB, default settings, every load",
                             f"{number(resident['most'] / 1024, 1)} MiB at most", resident["most"] <= RESIDENT_KIB_MAX))
    idle = run.get("idle", {}).get(OURS)
    if idle:
        found.append(promise("idle", f"fewer than {WAKE_UPS_MAX} wake-ups a second, whole process",
                             number(idle["wake_ups_per_second"]), idle["wake_ups_per_second"] < WAKE_UPS_MAX))
    return found


def promise(what, asked, reached, met):
    return {"what": what, "asked": asked, "reached": reached, "met": met}


def promise_table(found):
    return table(["", "asked", "reached", "met"],
                 [[entry["what"], entry["asked"], entry["reached"], "yes" if entry["met"] else "**no**"]
                  for entry in found])


def ranged_ms(figures):
    return f"{middle(figures, 1e3)} ({number(figures['least'] / 1e3)} to {number(figures['most'] / 1e3)})"


def number(value, digits=2):
    """Formats with this many decimals; None chooses by magnitude."""
    if value is None:
        return "–"
    if digits is None:
        digits = 1 if value >= 3 else 2
    return f"{value:,.{digits}f}"


def ranged(figures, digits=2):
    if figures is None:
        return "–"
    return (f"{number(figures['median'], digits)} ({number(figures['least'], digits)} to "
            f"{number(figures['most'], digits)})")


def middle(figures, scale=1.0, digits=2):
    return number(figures["median"] / scale, digits) if figures else "–"


def worst(figures):
    """The minimum share that arrived; rounded down."""
    if figures is None:
        return "–"
    least = figures["least"]
    return "all" if least >= 1 else f"{int(least * 1e6) / 1e6:.6f}".rstrip("0")


def as_fraction(value):
    return f"1/{1 / value:.1f}".replace(".0", "") if value < 0.67 else number(value)


def table(head, body):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in body])


def ratio_table(entries):
    """One row per load: CPU per datagram, statsring = 1."""
    programs = [name for name in names_of(entries, "program") if name not in (DIRECT, OURS, *FLOORS)]
    floors = [name for name in FLOORS if any(entry["program"] == name for entry in entries)]
    body = []
    for load in names_of(entries, "load"):
        own = {entry["program"]: entry for entry in entries if entry["load"] == load}
        if OURS not in own:
            continue
        cells = [load, f"1 ({middle(own[OURS]['figures']['us_per_received'])} µs)"]
        cells += [ranged(own[OURS][FLOORS[name]]) for name in floors]
        cells += [ranged(own[name]["ratio_to_statsring"], None) if name in own else "–" for name in programs]
        body.append(cells)
    head = ["load", "statsring", *(f"statsring / {name}" for name in floors), *programs]
    return table(head, body)


def latency_table(run):
    """CPU and latency of the two programs that send at once, statsring divided by the peer."""
    rows = run["tables"].get("equal") or run["tables"].get("default") or []
    body = []
    for load in names_of(rows, "load"):
        against = ratio(rows, load, PROMPT, PROMPT_PEER)
        if not against:
            continue
        cells = [load, ranged(against)]
        for program in (PROMPT, PROMPT_PEER):
            own = rows_of(rows, load, program)
            cells += [f"{middle(spread(row.get('us_per_received') for row in own))} µs",
                      " / ".join(middle(spread(row.get(key) for row in own), 1e3) for key in ("p50_us", "p99_us"))]
        body.append(cells)
    if not body:
        return ""
    return table(["load", "CPU per datagram received, ratio", PROMPT, "its p50 / p99, ms", PROMPT_PEER, "its p50 / p99, ms"], body)


def detail_table(entries):
    head = ["load", "program", "datagrams/s", "µs CPU per datagram sent", "per datagram received", "cores used",
            "wake-ups/s", "not received", "delivered, least", "latency p50, ms", "p99, ms", "MiB resident",
            "receive buffer, KiB", "socket memory at most, KiB"]
    body = []
    for entry in entries:
        figures = entry["figures"]
        sent, received = figures.get("sent_datagrams"), figures.get("received_datagrams")
        lost = f"{1 - received['median'] / sent['median']:.4f}" if sent else "–"
        body.append([
            entry["load"], entry["program"],
            middle(figures.get("rate"), digits=0),
            ranged(figures.get("us_per_sent")), ranged(figures.get("us_per_received")),
            middle(figures.get("cores")), middle(figures.get("switches_per_second"), digits=0),
            lost, worst(figures.get("delivered")),
            middle(figures.get("p50_us"), 1e3), middle(figures.get("p99_us"), 1e3),
            middle(figures.get("resident_kib"), 1 << 10, 1),
            middle(figures.get("receive_buffer_bytes"), 1 << 10, 0),
            middle(figures.get("socket_bytes_peak"), 1 << 10, 0),
        ])
    return table(head, body)


def target_table(found):
    body = [
        [entry["load"], entry["against"], as_fraction(entry["most"]),
         as_fraction(entry["reached"]["median"]),
         f"{as_fraction(entry['reached']['least'])} to {as_fraction(entry['reached']['most'])}",
         "yes" if entry["met"] else "**no**"]
        for entry in found
    ]
    return table(["load", "against", "at most", "reached, median", "least to most", "met"], body)


def foreign(run):
    """The largest share of a core used by other processes."""
    shares = [row["foreign_share"] for rows in run["tables"].values() for row in rows]
    return max(shares, default=0), sum(share > FOREIGN_SHARE_MAX for share in shares), len(shares)


def conditions(run):
    worst_share, many, all_ = foreign(run)
    lines = [
        f"{run['machine']}; {run['date']}; {run['runs']} rounds of {run['seconds']:g} s after {run['warm_up']:g} s of the "
        f"same load; load and sinks on core {run['cores'].split(',')[0]}, the program on core "
        f"{run['cores'].split(',')[1]}; 3 backends, 1 worker; made by `{run['command']}`.",
    ]
    if many:
        lines.append(
            f"**The machine was not idle**: in {many} of {all_} runs other processes used more than {FOREIGN_SHARE_MAX:.0%} of one "
            f"of the two cores, {worst_share:.0%} at worst. Ratios are approximate; latencies and losses are not reliable.")
    return "\n\n".join(lines)


def programs_list(run):
    lines = [f"- {entry['name']}: {entry['version']}" + (f"; {entry['note']}" if entry["note"] else "")
             for entry in run["programs"]]
    lines += [f"- not measured: {entry['name']}: {entry['why']}" for entry in run["missing"]]
    lines += [f"- left out under {entry['load']}: {entry['why'].splitlines()[0].rstrip(':')}"
              for entry in run.get("failed", [])]
    return "\n".join(lines)


def how_equal(run):
    return (f"The kernel granted each listening socket {run['equal_bytes']:,} bytes: statsring and the floors requested it, "
            "the others got it through `net.core.rmem_default`. Only these losses are comparable.")


def how_default(run):
    return ("The receive buffers differ, so losses are not comparable here: the default is "
            f"{run['receive_default']:,} bytes on this machine. Datagrams not received cost nothing: compare the "
            "CPU per datagram received.")


def idle_table(run):
    body = [[name, number(entry["wake_ups_per_second"]), number(entry["cpu_us_per_second"], 0)]
            for name, entry in run["idle"].items()]
    return table(["idle", "wake-ups a second", "µs CPU a second"], body)


def markdown(run):
    parts = ["## Comparison with other StatsD proxies", conditions(run), programs_list(run)]
    found, kept = run["summary"]["targets"], run["summary"]["promises"]
    for name, entries in run["summary"]["tables"].items():
        parts += [
            f"### {TITLES[name]}: CPU per datagram received, statsring = 1",
            "Median of the rounds' ratios (minimum to maximum).",
            ratio_table(entries),
        ]
    if found:
        parts += ["### Targets", target_table(found)]
    if kept:
        parts += [] if found else ["### Targets"]
        parts.append(promise_table(kept))
    for name, entries in run["summary"]["tables"].items():
        parts += [
            f"### {TITLES[name]}: all figures",
            how_equal(run) if name == "equal" else how_default(run),
            detail_table(entries),
        ]
    prompt = latency_table(run)
    if prompt:
        parts += [
            "### At equal latency",
            f"By default statsring holds metrics for up to 5 ms to send full packets. With `flushInterval` 0 it sends at once, as "
            f"{PROMPT_PEER} does.",
            prompt,
        ]
    if "idle" in run:
        parts += ["### Idle", idle_table(run)]
    return "\n\n".join(parts) + "\n"
