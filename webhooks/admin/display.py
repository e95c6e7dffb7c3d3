"""How the admin shows states, times, counts and JSON. Text is escaped here or in a template."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from webhooks import text as texts
from webhooks.models import Event, Webhook
from webhooks.text import clean

EMPTY = "\N{EN DASH}"


def pill(state: str, label: str = "") -> SafeString:
    """A state as a small coloured label."""
    return format_html('<span class="wh-pill wh-{}">{}</span>', state, label or state)


def webhook_state(webhook: Webhook) -> SafeString:
    """A webhook's state as a label: enabled, failing, paused or disabled."""
    if not webhook.enabled:
        return pill("discarded", "disabled")
    if webhook.is_paused:
        return pill("paused")
    return pill("failed", "failing") if webhook.failures_in_a_row else pill("succeeded", "enabled")


def span(seconds: float) -> str:
    """A rough length of time: "42 s", "3 min", "5 h", "12 d"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def when(moment: datetime | None) -> SafeString | str:
    """The distance of a moment from now, "3 min ago" or "in 3 min", with the exact time as a tooltip."""
    if moment is None:
        return EMPTY
    seconds = (timezone.now() - moment).total_seconds()
    words = f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact_time(moment), words)


def exact_time(moment: datetime) -> str:
    """A moment to the second, in the site's time zone."""
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    return f"{date_format(local, 'Y-m-d H:i:s')} {local.tzname() or ''}".strip()


def short(text: str, length: int = 80) -> SafeString | str:
    """The first ``length`` characters of a text, with the rest as a tooltip."""
    if len(text) <= length:
        return text or EMPTY
    return format_html('<span title="{}">{}</span>', text[:2000], Truncator(text).chars(length))


def number(count: int, cap: int | None = None) -> str:
    """A count as text. A count above its cap is shown as "10,000+"."""
    return f"{cap:,}+" if cap is not None and count > cap else f"{count:,}"


def count_of(count: int, noun: str, plural: str = "", cap: int | None = None) -> str:
    """ "1 webhook", "12 webhooks"."""
    return f"{number(count, cap)} {noun if count == 1 else plural or noun + 's'}"


def deliveries(count: int, cap: int | None = None) -> str:
    return count_of(count, "delivery", "deliveries", cap)


def object_name(event: Event, action: str = "") -> SafeString:
    """The event's object: its name, then its type and id, then the action."""
    return format_html(
        '<span class="wh-object">{}</span> <span class="wh-quiet">{} {}{}</span>',
        event.object_repr or event.object_id, event.object_type, event.object_id, f", {action}" if action else "",
    )  # fmt: skip


def indented(text: str) -> str:
    """JSON text with line breaks and without escapes. Other text stays as it is."""
    try:
        return clean(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return text


def escape_invisible(response: Any) -> Any:
    """Write invisible characters of a page as escapes, such as ``\\u202e``.

    Names and answers come from other people, and one such character can reverse a whole line.
    """
    if isinstance(response, TemplateResponse):
        response.add_post_render_callback(_escape_content)
    return response


def _escape_content(response: HttpResponse) -> None:
    response.content = texts.escape_invisible(response.content.decode()).encode()


class EscapeInvisibleMixin:
    """Escape invisible characters on the pages of a ModelAdmin that are not forms."""

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().changelist_view(request, *args, **kwargs))  # type: ignore[misc]

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().history_view(request, *args, **kwargs))  # type: ignore[misc]

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().delete_view(request, *args, **kwargs))  # type: ignore[misc]
