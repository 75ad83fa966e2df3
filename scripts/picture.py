"""Renders terminal screens as SVG; scripts/picture.sh captures them.

In: files with the text of a screen and its colours (SGR sequences), one below the other in the picture. Out: the SVG.
"""

import re
import sys
from html import escape

COLUMN, ROW, FONT, MARGIN, BAR = 8.4, 19, 14, 18, 34
BACKGROUND, FOREGROUND, DIM, RULE = "#10151c", "#d7dde5", "#8593a3", "#2a3442"
COLOURS = {33: "#f0b950", 31: "#f26d6d", 32: "#6fcf8e", 34: "#6aa8ff", 35: "#c792ea", 36: "#5fd3d3"}
SGR = re.compile(r"\x1b\[([0-9;]*)m")


def runs(line):
    """Splits a line into runs of one style: column, text, style."""
    bold, dim, colour, column, place = False, False, None, 0, 0
    for match in [*SGR.finditer(line), None]:
        text = line[place : match.start() if match else len(line)]
        if text.strip():
            yield column, text.rstrip(), bold, dim, colour
        column += len(text)
        if match is None:
            return
        place = match.end()
        for code in [int(code or 0) for code in match[1].split(";")]:
            if code == 0:
                bold, dim, colour = False, False, None
            elif code == 1:
                bold = True
            elif code == 2:
                dim = True
            elif code == 22:
                bold, dim = False, False
            elif code == 39:
                colour = None
            elif code in COLOURS:
                colour = COLOURS[code]


def lines_of(path):
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    while lines and not SGR.sub("", lines[-1]).strip():
        lines.pop()
    return lines


def text(column, row, content, bold, dim, colour):
    """Places each word at its column, so that no font can shift a table."""
    style = f' fill="{colour or (DIM if dim else FOREGROUND)}"' + (' font-weight="bold"' if bold else "")
    baseline = BAR + MARGIN + row * ROW + FONT
    for word in re.finditer(r"\S+(?: \S+)*", content):
        x, width = MARGIN + (column + word.start()) * COLUMN, len(word[0]) * COLUMN
        yield f'<text x="{x:.1f}" y="{baseline}" textLength="{width:.1f}"{style}>{escape(word[0])}</text>'


def picture(screens):
    rows, body = 0, []
    for index, lines in enumerate(screens):
        if index:
            y = BAR + MARGIN + rows * ROW + ROW / 2
            body.append(f'<line x1="0" x2="100%" y1="{y}" y2="{y}" stroke="{RULE}" stroke-dasharray="4 5"/>')
            rows += 1
        for line in lines:
            for run in runs(line):
                body += text(run[0], rows, *run[1:])
            rows += 1
    columns = max(len(SGR.sub("", line).rstrip()) for lines in screens for line in lines)
    width, height = round(columns * COLUMN + 2 * MARGIN), BAR + 2 * MARGIN + rows * ROW
    buttons = "".join(f'<circle cx="{20 + 20 * n}" cy="{BAR / 2 + 2}" r="6" fill="{c}"/>' for n, c in enumerate(["#ff5f57", "#febc2e", "#28c840"]))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="A terminal running statsring demo" '
        f'font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,\'DejaVu Sans Mono\',monospace" font-size="{FONT}">\n'
        f'<rect width="{width}" height="{height}" rx="10" fill="{BACKGROUND}"/>\n{buttons}\n'
    )
    return head + "\n".join(body) + "\n</svg>\n"


screens = [lines_of(path) for path in sys.argv[1:]]
if len(screens) > 1:
    # Of the last screen, only what follows the table, which is already on the first one.
    begin = next((index for index, line in enumerate(screens[-1]) if SGR.sub("", line).startswith("Summary")), 0)
    screens[-1] = screens[-1][begin:]
sys.stdout.write(picture(screens))
