"""Bar plots as SVG, readable on light and on dark ground."""

from xml.sax.saxutils import escape

LABELS = 230
BARS = 400
VALUES = 70
ROW = 30
TOP = 40
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.title{font-weight:600}.bar{fill:#8c959f}"
    ".own{fill:#1f6feb}.spread,.limit{stroke:#57606a;stroke-width:1.5}.limit{stroke-dasharray:4 3}"
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


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
