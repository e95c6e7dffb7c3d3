"""How pages show states, times, figures, objects, JSON and charts: filters for templates of any framework.

Text is escaped here or in a template. Classes alone give the colours, as a CSP asks for: no style and no script.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django import template
from django.utils import timezone
from django.utils.formats import localize, number_format
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from pygments.lexers.data import JsonLexer
from pygments.token import STANDARD_TYPES

from webhooks.ground import text as texts
from webhooks.insight import counts
from webhooks.insight.alarms import silent_alarms
from webhooks.insight.statistics import Times
from webhooks.insight.why import Cause
from webhooks.insight.wording import clock_time, count_of, exact_time, number, span
from webhooks.models import Delivery, Event, Run, RunState, Skip, State, Webhook
from webhooks.models.event import PING_OBJECT_TYPE, label_of_action
from webhooks.models.permissions.redaction import label_of_kind, last_failure
from webhooks.operations import runs
from webhooks.pages import delivery as delivery_page
from webhooks.pages.event import outcomes_in_order
from webhooks.pages.links import Link

register = template.Library()
for function in (
    clock_time, count_of, exact_time, number, span, label_of_action, label_of_kind, texts.last_line, runs.time_left,
):  # fmt: skip
    register.filter(function)

EMPTY = "\N{EN DASH}"

# Characters. Longer texts are shown without colours: each token becomes an element of the page.
MAX_HIGHLIGHTED = 50_000

# Indentation may make a longer text this many times longer. A deep one would have a hundred megabytes.
MAX_INDENTATION = 4

# Pygments' short names: a key, texts, numbers, and true, false or null. Brackets and spaces stay plain.
COLOURED = {"nt", "s", "s2", "mi", "mf", "kc"}

GAP = 0.2  # of the width of a column of a chart

# A cell names at most this many models of a webhook.
MAX_NAMES = 3


@register.filter
def up_to_total(count: int) -> str:
    """A count of all rows, which stops at a cap: "12", or "10,000+"."""
    return number(count, counts.TOTAL_CAP)


@register.filter
def up_to_each(count: int) -> str:
    """A count for one webhook or one lane, which stops at a lower cap."""
    return number(count, counts.EACH_CAP)


def pill(state: str, label: str = "") -> SafeString:
    """A state as a small coloured label."""
    return format_html('<span class="wh-pill wh-{}">{}</span>', state, label or state)


@register.filter
def state_word(state: str) -> str:
    """A state of a delivery, in the reader's language."""
    return str(State(state).label)


@register.filter
def delivery_state(state: str, superseded: bool = False) -> SafeString:
    """A state of a delivery as a label. ``superseded`` says that its receiver has a later state of the object."""
    label = pill(state, state_word(state))
    return format_html('{} <span class="wh-quiet">{}</span>', label, _("superseded")) if superseded else label


# The labels of failed events, by kind of failure.
FAILURES = {
    "loop_protection": gettext_lazy("loop protection"),
    "filter_error": gettext_lazy("filters failed"),
    "payload_error": gettext_lazy("payload failed"),
}


@register.filter
def event_state(event: Event, outcomes: Mapping[str, int]) -> SafeString:
    """What became of an event, as labels: why it failed, or its deliveries by outcome: "1 failed", "6 succeeded"."""
    if event.error:
        is_open = event.replayed_at is None
        return pill("failed", str(FAILURES[event.failure])) if is_open else pill("waiting", _("replayed"))
    pills = []
    for outcome, count in outcomes_in_order(outcomes):
        shown = number(count)
        text = f"{shown} {state_word(outcome)}" if outcome else _("%(count)s not sent yet") % {"count": shown}
        pills.append((pill(outcome or State.PENDING, text),))
    return format_html_join(" ", "{}", pills) if pills else pill("created", _("recorded"))


@register.filter
def cause_pill(cause: Cause) -> SafeString:
    """The cause of a verdict as a label."""
    return pill(cause.colour, str(cause.label))


@register.filter
def webhook_state(webhook: Webhook) -> SafeString:
    """A webhook's state as a label: enabled, failing, paused or disabled."""
    if not webhook.enabled:
        return pill("discarded", _("disabled"))
    if webhook.is_paused:
        return pill("paused", _("paused"))
    return pill("failed", _("failing")) if webhook.failures_in_a_row else pill("succeeded", _("enabled"))


@register.filter
def when(moment: datetime | None) -> SafeString | str:
    """The distance of a moment from now, "3 min ago" or "in 3 min", with the exact time as a tooltip."""
    if moment is None:
        return EMPTY
    seconds = (timezone.now() - moment).total_seconds()
    words = (_("%(span)s ago") if seconds >= 0 else _("in %(span)s")) % {"span": span(abs(seconds))}
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact_time(moment), words)


@register.filter
def listed_state(webhook: Any) -> SafeString:
    """The state, and what the webhook sends and is not registered, with the alarm about it as a tooltip.

    ``silence.read_unregistered`` has given its ``silence``.
    """
    shown = webhook_state(webhook)
    for alarm in silent_alarms(webhook, webhook.silence):
        text = _("not registered: %(names)s") % {
            "names": first_names([*webhook.silence.models, *webhook.silence.events])
        }
        shown += format_html(
            ' <span class="wh-bad wh-below wh-break" title="{} {}">{}</span>', alarm.text, alarm.remedy, text
        )
    return shown


@register.filter
def first_names(names: Sequence[str]) -> str:
    """The first ``MAX_NAMES``: "dcim.site, dcim.device and 4 more"."""
    shown, others = ", ".join(names[:MAX_NAMES]), len(names) - MAX_NAMES
    text = ngettext("%(models)s and %(count)s more", "%(models)s and %(count)s more", others)
    return text % {"models": shown, "count": others} if others > 0 else shown


@register.filter
def last_result(webhook: Webhook) -> SafeString | str:
    """When the receiver accepted the last request, or why it did not."""
    if webhook.failures_in_a_row and webhook.last_failure_at:
        return format_html("{} {}", short(last_failure(webhook), 40), when(webhook.last_failure_at))
    if not webhook.last_success_at:
        return EMPTY
    return format_html(_("accepted {time}"), time=when(webhook.last_success_at))


@register.filter
def next_attempt(delivery: Delivery) -> SafeString | str:
    """When a pending delivery is sent: "due now", or "next in 3 min". Empty if it is not pending."""
    word, at = delivery_page.next_attempt(delivery)
    return format_html("{} {}", word, when(at)) if at else word


@register.filter
def short(text: str, length: int = 80) -> SafeString | str:
    """The first ``length`` characters of a text, with the rest as a tooltip."""
    if len(text) <= length:
        return text or EMPTY
    return format_html('<span title="{}">{}</span>', text[:2000], Truncator(text).chars(length))


@register.filter
def duration(times: Times, share: float) -> str:
    """The time that this share of times does not exceed: "90 ms", "1.2 s", "3 min", "over 1 h"."""
    time, limit = times.quantile(share), times.histogram.bounds[-1]
    if time is None:
        return EMPTY
    if time < 1000:
        text = f"{time:.0f} ms"
    else:
        text = f"{number_format(round(time / 1000, 1), 1)} s" if time < 10_000 else span(time / 1000)
    return _("over %(time)s") % {"time": text} if time >= limit else text


@register.filter
def percent(share: float | None) -> str:
    """ "100 %" or "99.2 %"."""
    return EMPTY if share is None else f"{localize(int(share) if share.is_integer() else share)} %"


@register.filter
def rate(a_minute: float) -> str:
    """Attempts a minute, with a decimal if there are few."""
    decimals = 1 if 0 < a_minute < 10 else 0
    return number_format(round(a_minute, decimals), decimals, force_grouping=True)


@register.filter
def run_line(run: Run) -> str:
    """A run with its user: "Run 14 by admin: retry of deliveries of CMDB sync"."""
    text = _("Run %(number)s by %(user)s: %(summary)s")
    return text % {"number": run.pk, "user": run.requested_by or EMPTY, "summary": runs.summary(run)}


# The colours of the states of runs, by the state of a delivery that has the same one.
RUN_COLOURS = {
    RunState.RUNNING: State.SENDING,
    RunState.PAUSED: "paused",
    RunState.DONE: State.SUCCEEDED,
    RunState.CANCELLED: State.DISCARDED,
    RunState.FAILED: State.FAILED,
}


@register.filter
def run_state(run: Run) -> SafeString:
    """The state of a run as a label."""
    return pill(RUN_COLOURS[RunState(run.state)], run.get_state_display())


@register.filter
def run_bar(run: Run) -> SafeString:
    """The progress of a run as a bar. Without a value while the rows are being counted."""
    label = _("Progress of run %(number)s") % {"number": run.pk}
    value = format_html(' value="{}"', run.percent) if run.percent is not None else ""
    return format_html('<progress class="wh-progress" max="100"{} aria-label="{}"></progress>', value, label)


@register.filter
def object_name(event: Event | Skip) -> SafeString:
    """The event's object: its name, then its type and id. A ping has no object."""
    address = "" if event.object_type == PING_OBJECT_TYPE else f"{event.object_type} {event.object_id}"
    name = event.object_repr or event.object_id
    return format_html('<span class="wh-object">{}</span> <span class="wh-quiet">{}</span>', name, address)


# Addresses. The framework of the page knows them: the context has its function ``address_of``, which takes a ``Link``.


@register.simple_tag(takes_context=True)
def address_of(context: Any, link: Link) -> str:
    """The address that a link opens or posts to."""
    return str(context["address_of"](link))


@register.simple_tag(takes_context=True)
def page_of(context: Any, model: str, key: Any = None, act: str = "", **filters: Any) -> str:
    """The address of the page of a row, of a page of the model, such as "add", or of a list with these filters."""
    return address_of(context, Link("", model, key, act, filters))


# JSON and headers


def json_text(text: str, marked: Collection[str] = ()) -> SafeString:
    """JSON text with line breaks, without escapes, and highlighted. Other text is only escaped.

    ``marked`` has the names of changed fields: their keys are marked.
    """
    try:
        indented = texts.clean(indent(text))
    except (ValueError, RecursionError):
        return escape(text)
    if len(indented) > MAX_HIGHLIGHTED:
        return escape(indented)
    tokens = ((STANDARD_TYPES.get(kind, ""), text) for kind, text in JsonLexer().get_tokens(indented))
    elements = "".join(_token(name, text, marked) for name, text in tokens)
    return mark_safe(elements)  # noqa: S308 # nosec B308 B703 # each token is escaped


@register.filter
def indent(text: str) -> str:
    """JSON text with line breaks, or on one line if indentation would make it too long. Raises ValueError and
    RecursionError."""
    value, pieces, room = json.loads(text), [], max(MAX_HIGHLIGHTED, MAX_INDENTATION * len(text))
    for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            return json.dumps(value, ensure_ascii=False)
    return "".join(pieces)


def _token(name: str, text: str, marked: Collection[str]) -> str:
    if name not in COLOURED:
        return escape(text)
    tag = "mark" if name == "nt" and text.strip('"') in marked else "span"
    return f'<{tag} class="{name}">{escape(text)}</{tag}>'


def block(content: SafeString | str, label: str) -> SafeString:
    """A block of code that scrolls, for the keyboard too. ``label`` names it to screen readers."""
    return format_html('<pre class="wh-pre" tabindex="0" role="region" aria-label="{}">{}</pre>', label, content)


@register.simple_tag
def json_block(text: str, label: str, marked: Collection[str] = ()) -> SafeString:
    """JSON text as a highlighted block."""
    return block(json_text(text, marked), label)


@register.simple_tag
def headers_block(headers: Mapping[str, Any], label: str) -> SafeString:
    """HTTP headers, one a line with a highlighted name, as a block."""
    return block(format_html_join("\n", '<span class="wh-name">{}</span>: {}', headers.items()), label)


# Charts: pictures for screen readers. Each has a label that says the main thing, and needs a table nearby.

Column = tuple[int, int]  # one span of time: how many attempts succeeded, and how many failed
Part = tuple[float, float]


@register.filter
def hour(start: datetime, later: int = 0) -> str:
    """The beginning of an hour, or of one some hours later, in the site's time zone: "02:00". Statistics are in UTC."""
    return f"{timezone.localtime(start + timedelta(hours=later)):%H:%M}"


@register.filter
def day_chart(columns: Mapping[datetime, Column]) -> SafeString:
    """The attempts of 24 hours, by the beginnings of the hours: successes, with the failures in red on top."""
    width, height = 960, 48
    title = _("%(hour)s to %(until)s: %(succeeded)s succeeded, %(failed)s failed")
    bars = SafeString("")
    for (start, column), (x, wide, good, bad) in zip(
        columns.items(), _bars(list(columns.values()), width, height), strict=True
    ):
        # The hidden rectangle catches the mouse above a low column.
        bars += format_html(
            '<g><title>{}</title><path d="M{} 0h{}v{}h-{}z" fill="none" pointer-events="all"/>{}{}</g>',
            title % {"hour": hour(start), "until": hour(start, 1), **_in_words([column])},
            f"{x:.2f}", f"{wide:.2f}", height, f"{wide:.2f}",
            _path("good", [(x, wide, *good)]), _path("bad", [(x, wide, *bad)]),
        )  # fmt: skip
    label = _("Attempts of the last 24 hours, by hour: %(succeeded)s succeeded, %(failed)s failed.")
    return format_html(
        '<svg class="wh-chart" role="img" aria-label="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">'
        '{}<line x1="0" x2="{}" y1="{}" y2="{}"/></svg>',
        label % _in_words(columns.values()), width, height, bars, width, height, height,
    )  # fmt: skip


@register.filter
def sparkline(columns: Sequence[Column]) -> SafeString:
    """The same, small enough for a line of a table: a page may have hundreds."""
    width, height = 96, 20
    bars = list(_bars(columns, width, height))
    return format_html(
        '<svg class="wh-spark" role="img" aria-label="{}" width="{}" height="{}" viewBox="0 0 {} {}">{}{}</svg>',
        _("24 hours: %(succeeded)s succeeded, %(failed)s failed") % _in_words(columns),
        width, height, width, height,
        _path("good", [(x, wide, *part) for x, wide, part, _bad in bars]),
        _path("bad", [(x, wide, *part) for x, wide, _good, part in bars]),
    )  # fmt: skip


def _in_words(columns: Collection[Column]) -> dict[str, str]:
    return {"succeeded": number(sum(good for good, _ in columns)), "failed": number(sum(bad for _, bad in columns))}


def _bars(columns: Sequence[Column], width: int, height: int) -> Iterator[tuple[float, float, Part, Part]]:
    """The left edge and the width of each column, and for successes and failures the upper edge and the length.

    A part that is not zero is at least one pixel long: one failure must be seen among thousands.
    """
    highest = max(map(sum, columns), default=0)
    each = width / max(len(columns), 1)
    for place, column in enumerate(columns):
        green, red = (max(part / highest * height, 1) if part else 0 for part in column)
        green = min(green, height - red)
        yield (place + GAP / 2) * each, each * (1 - GAP), (height - green, green), (height - green - red, red)


def _path(name: str, rectangles: Iterable[tuple[float, float, float, float]]) -> SafeString:
    """Rectangles as one path, without the empty ones."""
    drawn = "".join(f"M{x:.2f} {y:.2f}h{wide:.2f}v{long:.2f}h-{wide:.2f}z" for x, wide, y, long in rectangles if long)
    return format_html('<path class="wh-bar-{}" d="{}"/>', name, drawn) if drawn else SafeString("")
