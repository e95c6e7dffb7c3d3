"""How the admin shows states, times, figures and objects. Text is escaped here or in a template."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.formats import localize, number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from webhooks import text as texts
from webhooks.models import Action, Event, Skip, State, Webhook
from webhooks.models.event import PING_OBJECT_TYPE
from webhooks.operations.statistics import Times
from webhooks.operations.wording import exact_time, span

EMPTY = "\N{EN DASH}"

Response = TypeVar("Response")


def pill(state: str, label: str = "") -> SafeString:
    """A state as a small coloured label."""
    return format_html('<span class="wh-pill wh-{}">{}</span>', state, label or state)


def state_word(state: str) -> str:
    """A state of a delivery, in the reader's language."""
    return str(State(state).label)


def action_word(action: str) -> str:
    """What happened to the object, in the reader's language. The names of custom events stay as they are."""
    return str(Action(action).label) if action in Action.values else action


def webhook_state(webhook: Webhook) -> SafeString:
    """A webhook's state as a label: enabled, failing, paused or disabled."""
    if not webhook.enabled:
        return pill("discarded", _("disabled"))
    if webhook.is_paused:
        return pill("paused", _("paused"))
    return pill("failed", _("failing")) if webhook.failures_in_a_row else pill("succeeded", _("enabled"))


def when(moment: datetime | None) -> SafeString | str:
    """The distance of a moment from now, "3 min ago" or "in 3 min", with the exact time as a tooltip."""
    if moment is None:
        return EMPTY
    seconds = (timezone.now() - moment).total_seconds()
    words = (_("%(span)s ago") if seconds >= 0 else _("in %(span)s")) % {"span": span(abs(seconds))}
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact_time(moment), words)


def short(text: str, length: int = 80) -> SafeString | str:
    """The first ``length`` characters of a text, with the rest as a tooltip."""
    if len(text) <= length:
        return text or EMPTY
    return format_html('<span title="{}">{}</span>', text[:2000], Truncator(text).chars(length))


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


def percent(share: float | None) -> str:
    """ "100 %" or "99.2 %"."""
    return EMPTY if share is None else f"{localize(int(share) if share.is_integer() else share)} %"


def object_name(event: Event | Skip) -> SafeString:
    """The event's object: its name, then its type and id. A ping has no object."""
    address = "" if event.object_type == PING_OBJECT_TYPE else f"{event.object_type} {event.object_id}"
    name = event.object_repr or event.object_id
    return format_html('<span class="wh-object">{}</span> <span class="wh-quiet">{}</span>', name, address)


def page(request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
    """A page without invisible characters."""
    return escape_invisible(TemplateResponse(request, template, context))


def escape_invisible(response: Response) -> Response:
    """Write invisible characters of a page as escapes, such as ``\\u202e``.

    Names and answers come from other people, and one such character can reverse a whole line.
    """

    def escape(rendered: HttpResponse) -> None:
        rendered.content = texts.escape_invisible(rendered.content.decode()).encode()

    if isinstance(response, TemplateResponse):
        response.add_post_render_callback(escape)
    return response


def part(request: HttpRequest, template: str, context: dict[str, Any]) -> SafeString:
    """A part of a page, without invisible characters. For pages with a form, which must keep such characters."""
    shown = texts.escape_invisible(render_to_string(template, context, request))
    return mark_safe(shown)  # noqa: S308 # nosec B308 B703 # the template has escaped it


class EscapeInvisibleMixin:
    """Escape invisible characters on the pages of a ModelAdmin that are not forms."""

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().changelist_view(request, *args, **kwargs))  # type: ignore[misc]

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().history_view(request, *args, **kwargs))  # type: ignore[misc]

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().delete_view(request, *args, **kwargs))  # type: ignore[misc]
