"""Bar charts as plain SVG, readable on light and on dark pages. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape

WIDTH = 720

# Where the bars begin and the longest one ends, and the height of a title and of a bar with its gap.
BARS_LEFT, BARS_RIGHT = 250, WIDTH - 70
TITLE_HEIGHT, BAR_HEIGHT = 34, 24

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #57606a; }
.title { font-weight: 600; fill: #1f2328; }
.bar { fill: #8b949e; }
.first { fill: #2b7de9; }
@media (prefers-color-scheme: dark) { text { fill: #9da7b1; } .title { fill: #e6edf3; } }
"""


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
