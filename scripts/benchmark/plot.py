"""Line charts and bar charts as plain SVG, readable on light and on dark pages. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, PANEL_HEIGHT = 720, 210
LEFT, RIGHT, TOP, BOTTOM = 60, 24, 52, 34

# The dashes show which line is which, also without colours.
STYLES = (("#2b7de9", ""), ("#e8590c", "7 4"))

# Of bar charts: where the bars begin and the longest one ends, and the height of a title and of a bar with its gap.
BARS_LEFT, BARS_RIGHT = 250, WIDTH - 70
TITLE_HEIGHT, BAR_HEIGHT = 34, 24

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #57606a; }
.title { font-weight: 600; fill: #1f2328; }
.grid { stroke: #8b949e; stroke-opacity: 0.35; }
.bar { fill: #8b949e; }
.first { fill: #2b7de9; }
@media (prefers-color-scheme: dark) { text { fill: #9da7b1; } .title { fill: #e6edf3; } }
"""


@dataclass(frozen=True)
class Panel:
    """A chart with one line for each name. The axes begin at zero."""

    title: str
    lines: Mapping[str, Points]


def draw_lines(panels: Sequence[Panel], x_title: str, description: str) -> str:
    """An SVG document with the panels, one below the other."""
    body = [line for number, panel in enumerate(panels) for line in _panel(panel, PANEL_HEIGHT * number, x_title)]
    return _document(", ".join(panel.title for panel in panels), description, PANEL_HEIGHT * len(panels), body)


def draw_bars(title: str, groups: Mapping[str, Mapping[str, float]], description: str) -> str:
    """An SVG document with groups of bars, one below the other: by the title of each group, the bars by their names.

    All bars have one scale. The first one of each group stands out.
    """
    longest = max(value for bars in groups.values() for value in bars.values())
    body = [f'<text class="title" x="{BARS_LEFT}" y="22">{escape(title)}</text>']
    y = 0
    for name, bars in groups.items():
        body.append(f'<text class="title" x="12" y="{y + 22}">{escape(name)}</text>')
        y += TITLE_HEIGHT
        for number, (label, value) in enumerate(bars.items()):
            body += _bar(label, value, value / longest, y, "bar" if number else "first")
            y += BAR_HEIGHT
    return _document(title, description, y + 8, body)


def _bar(label: str, value: float, share: float, y: int, kind: str) -> Iterator[str]:
    length = max(1, (BARS_RIGHT - BARS_LEFT) * share)
    yield f'<text x="{BARS_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>'
    yield f'<rect class="{kind}" x="{BARS_LEFT}" y="{y + 1}" width="{length:.1f}" height="{BAR_HEIGHT - 6}"/>'
    yield f'<text x="{BARS_LEFT + length + 6:.1f}" y="{y + 14}">{value:,.{0 if value >= 10 else 1}f}</text>'


def _document(title: str, description: str, height: int, body: Iterable[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            ' role="img">',
            f"<title>{escape(title)}</title>",
            f"<desc>{escape(description)}</desc>",
            f"<style>{STYLE}</style>",
            *body,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, offset: int, x_title: str) -> Iterator[str]:
    every = [point for points in panel.lines.values() for point in points]
    furthest, y_ticks = max(x for x, _ in every), ticks(max(y for _, y in every))
    x_ticks = [tick for tick in ticks(furthest) if tick <= furthest]
    right, bottom, top = WIDTH - RIGHT, offset + PANEL_HEIGHT - BOTTOM, offset + TOP

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (right - LEFT) * x / furthest, bottom - (bottom - top) * y / y_ticks[-1]

    yield f'<text class="title" x="{LEFT}" y="{offset + 18}">{escape(panel.title)}</text>'
    for tick in y_ticks:
        y = at(0, tick)[1]
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,.10g}</text>'
    for tick in x_ticks:
        unit = f" {x_title}" if tick == x_ticks[-1] else ""
        yield f'<text x="{at(tick, 0)[0]:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:,.10g}{unit}</text>'
    x = LEFT
    for (name, points), (color, dashes) in zip(panel.lines.items(), STYLES, strict=False):
        stroke = f'fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dashes}"'
        drawn = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in points)
        yield f'<polyline {stroke} points="{drawn}"/>'
        yield f'<line {stroke} x1="{x}" x2="{x + 30}" y1="{offset + 35}" y2="{offset + 35}"/>'
        yield f'<text x="{x + 38}" y="{offset + 39}">{escape(name)}</text>'
        x += 60 + 8 * len(name)


def ticks(highest: float) -> list[float]:
    """Three to six round numbers from zero to at least ``highest``."""
    power = 10 ** math.floor(math.log10(highest / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if highest / (power * factor) <= 5)
    return [round(number * step, 10) for number in range(math.ceil(highest / step) + 1)]
