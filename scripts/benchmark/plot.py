"""Line charts as plain SVG, readable on light and on dark pages. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, PANEL_HEIGHT = 720, 210
LEFT, RIGHT, TOP, BOTTOM = 60, 24, 52, 34

# The dashes show which line is which, also without colours.
STYLES = (("#2b7de9", ""), ("#e8590c", "7 4"))

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #57606a; }
.title { font-weight: 600; fill: #1f2328; }
.grid { stroke: #8b949e; stroke-opacity: 0.35; }
@media (prefers-color-scheme: dark) { text { fill: #9da7b1; } .title { fill: #e6edf3; } }
"""


@dataclass(frozen=True)
class Panel:
    """A chart with one line for each name. The axes begin at zero."""

    title: str
    lines: Mapping[str, Points]


def draw(panels: Sequence[Panel], x_title: str, description: str) -> str:
    """An SVG document with the panels, one below the other."""
    height = PANEL_HEIGHT * len(panels)
    body = [line for number, panel in enumerate(panels) for line in _panel(panel, PANEL_HEIGHT * number, x_title)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            ' role="img">',
            f"<title>{escape(', '.join(panel.title for panel in panels))}</title>",
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
