"""Charts as SVG from the server. Classes give the colours, attributes the sizes: no style, no script.

A chart is a picture for screen readers. So give it a label that says the main thing, and a table nearby.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from webhooks.operations.wording import number

GAP = 0.2  # of a column's width


@dataclass(frozen=True, slots=True)
class Column:
    """One span of time: how many succeeded, and how many failed."""

    succeeded: int
    failed: int
    title: str = ""
    """Shown under the mouse: "02:00 to 02:15: 41 succeeded, 3 failed"."""

    @property
    def total(self) -> int:
        return self.succeeded + self.failed


def hour_of(start: datetime) -> dict[str, str]:
    """The hour that begins then, "02:00" until "03:00", in the site's time zone. Statistics are in UTC."""
    until = start + timedelta(hours=1)
    return {"hour": f"{timezone.localtime(start):%H:%M}", "until": f"{timezone.localtime(until):%H:%M}"}


def day_chart(columns: Mapping[datetime, Column], *, width: int = 960, height: int = 56) -> SafeString:
    """The attempts of the last 24 hours, by the beginnings of the hours."""
    title = _("%(hour)s to %(until)s: %(succeeded)s succeeded, %(failed)s failed")
    titled = [
        replace(one, title=title % {**hour_of(start), "succeeded": number(one.succeeded), "failed": number(one.failed)})
        for start, one in columns.items()
    ]
    label = _("Attempts of the last 24 hours, by hour: %(succeeded)s succeeded, %(failed)s failed.") % {
        "succeeded": number(sum(one.succeeded for one in titled)),
        "failed": number(sum(one.failed for one in titled)),
    }
    return stacked_bars(titled, label, width=width, height=height)


def stacked_bars(columns: Sequence[Column], label: str, *, width: int = 960, height: int = 120) -> SafeString:
    """Columns of successes, with the failures in red on top. ``label`` is the text for screen readers."""
    titles = [format_html("<title>{}</title>", column.title) if column.title else "" for column in columns]
    # The hidden rectangle catches the mouse above a low column.
    bars = (
        f'<g>{title}<path d="M{x:.2f} 0h{wide:.2f}v{height}h-{wide:.2f}z" fill="none" pointer-events="all"/>'
        f"{_path('good', [(x, wide, *good)])}{_path('bad', [(x, wide, *bad)])}</g>"
        for title, (x, wide, good, bad) in zip(titles, _bars(columns, width, height), strict=True)
    )
    return format_html(
        '<svg class="wh-chart" role="img" aria-label="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">'
        '{}<line x1="0" x2="{}" y1="{}" y2="{}"/></svg>',
        label, width, height, mark_safe("".join(bars)), width, height, height,  # noqa: S308 # nosec B308 B703 # escaped
    )  # fmt: skip


def sparkline(columns: Sequence[Column], label: str, *, width: int = 96, height: int = 20) -> SafeString:
    """The same as :func:`stacked_bars`, small enough for a line of a table: a page may have hundreds."""
    bars = list(_bars(columns, width, height))
    good = _path("good", [(x, wide, *part) for x, wide, part, _ in bars])
    bad = _path("bad", [(x, wide, *part) for x, wide, _, part in bars])
    return format_html(
        '<svg class="wh-spark" role="img" aria-label="{}" width="{}" height="{}" viewBox="0 0 {} {}">{}{}</svg>',
        label, width, height, width, height, good, bad,
    )  # fmt: skip


Part = tuple[float, float]


def _bars(columns: Sequence[Column], width: int, height: int) -> Iterator[tuple[float, float, Part, Part]]:
    """The left edge and the width of each column, and for successes and failures the upper edge and the length.

    A part that is not zero is at least one pixel long: one failure must be seen among thousands.
    """
    highest = max((column.total for column in columns), default=0)
    each = width / max(len(columns), 1)
    for place, column in enumerate(columns):
        red, green = (max(part / highest * height, 1) if part else 0 for part in (column.failed, column.succeeded))
        green = min(green, height - red)
        yield (place + GAP / 2) * each, each * (1 - GAP), (height - green, green), (height - green - red, red)


def _path(name: str, rectangles: Iterable[tuple[float, float, float, float]]) -> SafeString:
    """Rectangles as one path, without the empty ones."""
    drawn = "".join(f"M{x:.2f} {y:.2f}h{wide:.2f}v{long:.2f}h-{wide:.2f}z" for x, wide, y, long in rectangles if long)
    return format_html('<path class="wh-bar-{}" d="{}"/>', name, drawn) if drawn else SafeString("")
