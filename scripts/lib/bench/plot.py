"""Plots as SVG, readable on light and on dark ground."""

import math
from xml.sax.saxutils import escape

LABELS = 230
BARS = 400
VALUES = 70
ROW = 30
TOP = 40
HEIGHT = 160
LEFT = 70
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.title{font-weight:600}.bar{fill:#8c959f}"
    ".own{fill:#1f6feb}.line{fill:none;stroke:#1f6feb;stroke-width:1.5}.axis{stroke:#8c959f}.spread,.limit{stroke:#57606a;stroke-width:1.5}.limit{stroke-dasharray:4 3}"
    "@media(prefers-color-scheme:dark){text{fill:#adbac7}.spread,.limit{stroke:#adbac7}}"
)


def bars(title, rows, limit=None):
    """Horizontal bars. A row is a label, a value, and the least and greatest value or None; `limit` is marked."""
    widest = max(max(value, *(spread or (0,))) for _, value, spread in rows) or 1
    width, height = LABELS + BARS + VALUES, TOP + ROW * len(rows) + 10

    def x(value):
        return round(LABELS + BARS * value / widest, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="10" y="22">{escape(title)}</text>',
    ]
    for index, (label, value, spread) in enumerate(rows):
        y = TOP + ROW * index
        kind = "bar own" if label.startswith("Lakeward") else "bar"
        end = x(max(value, *(spread or (0,))))
        parts.append(f'<text x="{LABELS - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="{kind}" x="{LABELS}" y="{y}" width="{x(value) - LABELS:.1f}" height="20" rx="2"/>')
        if spread:
            parts.append(f'<path class="spread" d="M{x(spread[0])} {y + 10}H{x(spread[1])}"/>')
        parts.append(f'<text x="{end + 6}" y="{y + 15}">{number(value)}</text>')
    if limit is not None:
        parts.append(f'<path class="limit" d="M{x(limit)} {TOP - 6}V{height - 6}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def line(title, points):
    """A line through points, from zero."""
    most = max(y for _, y in points) or 1
    last = max(x for x, _ in points) or 1

    def place(x, y):
        return f"{LEFT + (BARS + VALUES - 20) * x / last:.1f} {TOP + HEIGHT - HEIGHT * y / most:.1f}"

    end = f'<text x="{LEFT + BARS + VALUES - 20}" y="{TOP + HEIGHT + 20}" text-anchor="end">{number(last)}</text>'
    return chart(title, most, [end, path(place(x, y) for x, y in points)])


def curve(title, points, unit=str):
    """Points joined by a line over a logarithmic axis from zero up; `unit` says how a place on the axis is called."""
    most = max(y for _, y in points) or 1
    first, last = (math.log(edge) for edge in (min(x for x, _ in points), max(x for x, _ in points)))

    def place(x, y):
        across = (math.log(x) - first) / (last - first or 1)
        return round(LEFT + (BARS + VALUES - 40) * across, 1), round(TOP + HEIGHT - HEIGHT * y / most, 1)

    places = [place(x, y) for x, y in points]
    marks = [path(f"{x} {y}" for x, y in places)]
    for (x, y), (at, _) in zip(places, points):
        marks.append(f'<circle class="own" cx="{x}" cy="{y}" r="3"/>')
        marks.append(f'<text x="{x}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{escape(unit(at))}</text>')
    return chart(title, most, marks)


def chart(title, most, marks):
    """A frame with an axis from zero to the most, and what is drawn in it."""
    width, bottom = LEFT + BARS + VALUES, TOP + HEIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom + 30}"'
            f' viewBox="0 0 {width} {bottom + 30}" role="img" aria-label="{escape(title)}">',
            f"<style>{STYLE}</style>",
            f'<text class="title" x="10" y="22">{escape(title)}</text>',
            f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{width - 20}" fill="none"/>',
            f'<text x="{LEFT - 8}" y="{TOP + 5}" text-anchor="end">{number(most)}</text>',
            f'<text x="{LEFT - 8}" y="{bottom}" text-anchor="end">0</text>',
            *marks,
            "</svg>\n",
        ]
    )


def path(places):
    return f'<path class="line" d="M{"L".join(places)}"/>'


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
