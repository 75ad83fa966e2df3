"""Plots losses and CPU against the rate, as SVG with two panels.

In: points of each program. Out: SVG text. It has its own background, light or dark by the reader's
preference. Pure.
"""

import math
import textwrap
from dataclasses import dataclass
from html import escape

WIDTH, PANEL, TOP, GAP, LEFT, RIGHT, BOTTOM = 860, 230, 96, 78, 66, 132, 54
# Colours for colour-blind readers, with distinct markers. The floors are not proxies: grey and dashed.
STYLES = {
    "statsring": ("#0b63ce", "circle", ""),
    "proxy.js": ("#c2410c", "square", ""),
    "statsdproxy": ("#0f7b55", "diamond", ""),
    "statsd-proxy (C)": ("#7c3aed", "circle", ""),
    "receive floor": ("#6b7280", "none", "5 4"),
    "forward floor": ("#6b7280", "none", "2 3"),
}
SPARE = [("#a16207", "square", ""), ("#be185d", "diamond", "")]
INK, FAINT, GRID, PAPER, EDGE = "#1f2937", "#5b6472", "#e5e7eb", "#ffffff", "#d1d5db"
# The dark-mode counterpart of each colour.
DARK = {
    "#0b63ce": "#58a6ff", "#c2410c": "#ff9b5e", "#0f7b55": "#3fcf8e", "#6b7280": "#9aa4b2",
    "#7c3aed": "#b794f6", "#a16207": "#e3b341", "#be185d": "#ff7eb6",
    INK: "#e6edf3", FAINT: "#9da7b3", GRID: "#2a313c", PAPER: "#0d1117", EDGE: "#30363d",
}
LABEL_GAP = 15
NOTE_CHARACTERS = 128


@dataclass(frozen=True)
class Point:
    """One rate: median, minimum and maximum of the rounds."""

    rate: float
    median: float
    least: float
    most: float


class Panel:
    """One pair of axes; the rate is logarithmic."""

    def __init__(self, top, title, low, high, ticks, rates):
        self.top, self.title, self.low, self.high, self.ticks, self.rates = top, title, low, high, ticks, rates

    def x(self, rate):
        low, high = math.log(self.rates[0]), math.log(self.rates[1])
        return LEFT + (math.log(rate) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.top + PANEL * (1 - share)

    def axes(self):
        right = WIDTH - RIGHT
        yield text(LEFT, self.top - 12, self.title, "start", INK, weight="600")
        for value, label in self.ticks:
            y = self.y(value)
            yield line(LEFT, y, right, y, GRID)
            yield text(LEFT - 8, y + 4, label, "end", FAINT)
        for rate in rate_ticks(*self.rates):
            x = self.x(rate)
            yield line(x, self.top + PANEL, x, self.top + PANEL + 5, FAINT)
            yield text(x, self.top + PANEL + 20, f"{rate // 1000}k", "middle", FAINT)
        yield line(LEFT, self.top + PANEL, right, self.top + PANEL, FAINT)

    def curve(self, points, style):
        colour, mark, dashes = style
        path = " ".join(f"{self.x(p.rate):.1f},{self.y(p.median):.1f}" for p in points)
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        width = 3 if colour == STYLES["statsring"][0] else 2
        yield (f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round" '
               f'stroke-linecap="round"{dash}/>')
        for p in points:
            x = self.x(p.rate)
            if abs(self.y(p.least) - self.y(p.most)) > 3:
                yield line(x, self.y(p.least), x, self.y(p.most), colour, 1.2)
            yield marker(x, self.y(p.median), mark, colour)

    def labels(self, series, styles):
        """Curve names at their ends, moved apart to avoid overlap."""
        placed = sorted([self.y(points[-1].median), name] for name, points in series.items() if points)
        lowest = -math.inf
        for entry in placed:
            entry[0] = lowest = max(entry[0], lowest + LABEL_GAP)
        highest = self.top + PANEL + LABEL_GAP
        for entry in reversed(placed):
            entry[0] = highest = min(entry[0], highest - LABEL_GAP)
        for y, name in placed:
            yield text(WIDTH - RIGHT + 12, y + 4, name, "start", styles[name][0], weight="600")


def rate_ticks(low, high):
    steps = [m * 10**e for e in range(3, 8) for m in (1, 2, 4)]
    return [rate for rate in steps if low * 0.999 <= rate <= high * 1.001]


def line(x1, y1, x2, y2, colour, width=1.0):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def text(x, y, content, anchor, colour, size=13, weight="400"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}" '
            f'font-weight="{weight}">{escape(content)}</text>')


def marker(x, y, kind, colour):
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{colour}" stroke="{PAPER}" stroke-width="1.2"/>'
    if kind == "square":
        return f'<rect x="{x - 3.3:.1f}" y="{y - 3.3:.1f}" width="6.6" height="6.6" fill="{colour}" stroke="{PAPER}" stroke-width="1.2"/>'
    if kind == "diamond":
        return f'<path d="M{x:.1f} {y - 4.6:.1f}l4.6 4.6l-4.6 4.6l-4.6-4.6z" fill="{colour}" stroke="{PAPER}" stroke-width="1.2"/>'
    return ""


def styles_of(names):
    spare = iter(SPARE)
    return {name: STYLES.get(name) or next(spare, SPARE[-1]) for name in names}


def nice_top(value):
    """Top of the CPU axis and its ticks."""
    top = next((t for t in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.6, 2.0, 4.0) if value <= t), math.ceil(value))
    return top, [(top * i / 4, f"{top * i / 4:g}") for i in range(5)]


def share_top(value):
    """Top of the loss axis and its ticks."""
    top = next((t for t in (0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 1.0) if value <= t), 1.0)
    return top, [(top * i / 4, f"{top * i * 25:g} %") for i in range(5)]


def dark_style():
    """CSS rules that override the light colours in dark mode."""
    rules = "".join(f'[fill="{light}"]{{fill:{dark}}}[stroke="{light}"]{{stroke:{dark}}}' for light, dark in DARK.items())
    return f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"


def svg(lost, cores, title, axis_title, notes):
    """`lost` and `cores`: points by program name."""
    notes = [part for note in notes for part in textwrap.wrap(note, NOTE_CHARACTERS)]
    names = list(cores)
    styles = styles_of(names)
    all_points = [p for points in (*lost.values(), *cores.values()) for p in points]
    rates = min(p.rate for p in all_points), max(p.rate for p in all_points)
    top, ticks = nice_top(max(p.most for points in cores.values() for p in points))
    most_lost, shares = share_top(max((p.most for points in lost.values() for p in points), default=0))
    panels = [
        (Panel(TOP, "Metrics lost", 0, most_lost, shares, rates), lost),
        (Panel(TOP + PANEL + GAP, "CPU used, in cores", 0, top, ticks, rates), cores),
    ]
    height = TOP + 2 * PANEL + GAP + BOTTOM + 18 * len(notes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>{escape(title)}</title>", dark_style(),
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="{PAPER}" stroke="{EDGE}"/>',
        text(20, 34, title, "start", INK, size=18, weight="600"),
        text(20, 56, "Lower is better in both.", "start", FAINT),
    ]
    for panel, series in panels:
        parts += panel.axes()
        for name in sorted(series, key=lambda name: name == "statsring"):
            if series[name]:
                parts += panel.curve(series[name], styles[name])
        parts += panel.labels(series, styles)
    axis = TOP + 2 * PANEL + GAP
    for bottom in (TOP + PANEL, axis):
        parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 40, axis_title, "middle", INK))
    parts += [text(20, axis + 46 + 18 * (i + 1), note, "start", FAINT, size=11.5) for i, note in enumerate(notes)]
    return "\n".join(parts) + "\n</svg>\n"
