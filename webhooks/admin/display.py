"""How states, times, counts and payloads look. Everything is escaped here or in a template."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Protocol, TypeVar

from django.http import HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from webhooks.models import Event
from webhooks.text import clean, escape_invisible

R = TypeVar("R", bound=HttpResponseBase)

EMPTY = "\N{EN DASH}"

UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def pill(state: str, label: str = "") -> SafeString:
    """A state as a small coloured label."""
    return format_html('<span class="wh-pill wh-{}">{}</span>', state, label or state)


class WebhookLike(Protocol):
    """What the state of a webhook is read from."""

    @property
    def enabled(self) -> bool: ...
    @property
    def is_paused(self) -> bool: ...
    @property
    def failures_in_a_row(self) -> int: ...


def webhook_state(webhook: WebhookLike) -> SafeString:
    """Whether a webhook is sent to: enabled, failing (but tried), paused or disabled."""
    if not webhook.enabled:
        return pill("discarded", "disabled")
    if webhook.is_paused:
        return pill("paused")
    return pill("failed", "failing") if webhook.failures_in_a_row else pill("succeeded", "enabled")


def span(seconds: float) -> str:
    """A length of time, roughly: "42 s", "3 min", "5 h", "12 d"."""
    for size, unit in UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def when(moment: datetime | None) -> SafeString | str:
    """A moment as a distance from now, "3 min ago" or "in 3 min", that tells the exact time when pointed at."""
    if moment is None:
        return EMPTY
    seconds = (timezone.now() - moment).total_seconds()
    words = f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exactly(moment), words)


def exactly(moment: datetime) -> str:
    """A moment to the second, in the time zone of the site."""
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    return f"{date_format(local, 'Y-m-d H:i:s')} {local.tzname() or ''}".strip()


def short(text: str, length: int = 80) -> SafeString | str:
    """The beginning of a text, the whole of which shows when pointed at."""
    if len(text) <= length:
        return text or EMPTY
    return format_html('<span title="{}">{}</span>', text[:2000], Truncator(text).chars(length))


def number(count: int, cap: int | None = None) -> str:
    """A count in words; one that was counted no further than ``cap`` says so: "10,000+"."""
    return f"{cap:,}+" if cap is not None and count > cap else f"{count:,}"


def count_of(count: int, noun: str, plural: str = "", cap: int | None = None) -> str:
    """ "1 delivery", "12 deliveries"."""
    return f"{number(count, cap)} {noun if count == 1 else plural or noun + 's'}"


def deliveries(count: int, cap: int | None = None) -> str:
    return count_of(count, "delivery", "deliveries", cap)


def named(event: Event, action: str = "") -> SafeString:
    """An object as people know it, and as the machine does; and what was done to it."""
    return format_html(
        '<span class="wh-object">{}</span> <span class="wh-quiet">{} {}{}</span>',
        event.object_repr or event.object_id, event.object_type, event.object_id, f", {action}" if action else "",
    )  # fmt: skip


def indented(text: str) -> str:
    """JSON text with line breaks and its characters readable; text that is no JSON as it is."""
    try:
        return clean(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return text


def undisguised(response: R) -> R:
    """A page on which nothing that cannot be seen deceives the reader: names, answers and reasons come from others, and
    one character turns the direction of a whole line around."""
    if isinstance(response, TemplateResponse):
        response.add_post_render_callback(_write_out)
    return response


def _write_out(response: HttpResponse) -> None:
    response.content = escape_invisible(response.content.decode()).encode()
