"""The sections of the page of a webhook: its health on top, then the fields of the form, each with a line of how they
are set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import permissions
from webhooks.admin.lists import list_url, page_url, row_url
from webhooks.db import index_plans
from webhooks.forms.sections import FORM
from webhooks.insight import statistics
from webhooks.insight.alarms import Alarm, Problem, silent_alarms, webhook_alarms
from webhooks.insight.counts import EACH_CAP, open_count
from webhooks.insight.silence import read_silences
from webhooks.insight.statistics import Figures
from webhooks.insight.wording import number
from webhooks.models import Delivery, Webhook
from webhooks.models.queue import State
from webhooks.models.selection import rows_in_order
from webhooks.models.webhook import ACTION_FIELDS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS
from webhooks.operations.before_run import may_begin
from webhooks.operations.kinds import OF_WEBHOOK, RUN_KINDS
from webhooks.permissions import redaction
from webhooks.templatetags.webhooks_display import (
    EMPTY,
    day_chart,
    delivery_state,
    duration,
    percent,
    short,
    webhook_state,
    when,
)

# Deliveries at the top of the page, the newest.
LAST = 5

# The parameter of the form for a new webhook: the key of the one to copy.
DUPLICATE = "duplicate"

Fieldset = tuple[Any, dict[str, Any]]


# Health


def health(webhook: Any, user: Any, may_change: bool, may_copy: bool) -> dict[str, Any]:
    """The context of the top of the page. The webhook was read by ``with_counts``."""
    now, alarms = timezone.now(), _alarms(webhook)
    day, hours = statistics.recent([webhook.pk])[0].day, statistics.by_hour([webhook.pk])
    return {
        "state": webhook_state(webhook),
        "sentence": "" if alarms else _sentence(webhook),  # an alarm says the same, and more
        "alarms": [(alarm, " · ".join(alarm.facts(now)), _request_url(webhook, alarm.problem)) for alarm in alarms],
        "buttons": _buttons(webhook) if may_change else [],
        "links": _links(webhook, user, may_copy),
        "figures": _figures(webhook, user, day),
        "chart": day_chart(hours.together) if day.attempted else "",
        "last": _last(webhook, user) if permissions.may_view_deliveries(user) else None,
        "all_url": list_url("delivery", webhook=webhook.pk),
    }


def _alarms(webhook: Any) -> list[Alarm]:
    return [*silent_alarms(webhook, read_silences([webhook]).get(webhook.pk)), *webhook_alarms(webhook)]


def _request_url(webhook: Any, problem: Problem) -> str:
    """The delivery that shows why the attempts fail; empty if there is none."""
    shown = webhook.blocking or webhook.last_failed
    fails = problem in (Problem.PAUSED, Problem.FAILING, Problem.BLOCKED_LANES)
    return row_url("delivery", shown) if fails and shown else ""


def _sentence(webhook: Webhook) -> SafeString | str:
    """The state of the webhook as a sentence, with its time."""
    if not webhook.enabled:
        by = webhook.disabled_by
        text = _("Disabled {time} by {user}.") if by else _("Disabled {time}.")
        return format_html(text, time=when(webhook.disabled_at), user=by) if webhook.disabled_at else _("Disabled.")
    if webhook.paused_at:
        return format_html(_("Paused {time} by {user}."), time=when(webhook.paused_at), user=webhook.paused_by or EMPTY)
    if webhook.failures_in_a_row:
        count = webhook.failures_in_a_row
        text = ngettext("The last attempt failed {time}.", "{count} attempts failed in a row, the first {time}.", count)
        return format_html(text, count=number(count), time=when(webhook.failing_since or webhook.last_failure_at))
    if webhook.last_success_at:
        return format_html(_("The receiver accepted the last request {time}."), time=when(webhook.last_success_at))
    return _("Nothing was sent yet. Change an object of its models, or send a test.")


def _buttons(webhook: Webhook) -> list[tuple[str, str, str]]:
    """The address, the label and the tooltip of each button that makes sense now."""
    sends = _("Sends what has waited.")
    found = [("ping", _("Send a test"), _("Uses the saved settings."))]
    if not webhook.enabled:
        found = [("enable", _("Enable"), sends)]
    elif webhook.is_paused:
        found.insert(0, ("resume", _("Resume"), sends))
    else:
        found.append(("pause", _("Pause"), _("Changes are still stored, and sent after you resume.")))
    return [(page_url(name, webhook), label, hint) for name, label, hint in found]


def _links(webhook: Webhook, user: Any, may_copy: bool) -> list[tuple[str, str]]:
    """The addresses and labels of the pages that begin with this webhook, as far as the user may see them."""
    found = [(page_url(kind, webhook), str(RUN_KINDS[kind].link)) for kind in OF_WEBHOOK if may_begin(user, kind)]
    if may_copy:
        found.append((f"{reverse('admin:rq_webhooks_webhook_add')}?{DUPLICATE}={webhook.pk}", _("Duplicate")))
    with suppress(NoReverseMatch):  # the site may leave out webhooks.urls
        found.append((f"{reverse('webhooks_why')}?webhook={webhook.pk}", _("Why didn't it fire?")))
    return found


def _figures(webhook: Any, user: Any, day: Figures) -> list[tuple[str, str, str]]:
    """The labels of figures, their values, and the addresses of the lists with the rows; empty without one."""
    found = [(_("attempts in 24 h"), number(day.attempted), "")]
    if day.success_percent is not None:
        found = [
            (_("accepted in 24 h"), percent(day.success_percent), ""),
            *found,
            (_("half are faster"), duration(day.duration, 0.5), ""),
            (_("95 % are faster"), duration(day.duration, 0.95), ""),
        ]
    if permissions.may_view_deliveries(user):
        counts = ((_("not sent yet"), open_count(webhook), "open"), (_("failed"), webhook.failed, State.FAILED))
        found += [
            (label, number(count, EACH_CAP), list_url("delivery", webhook=webhook.pk, state=state))
            for label, count, state in counts
        ]
    if permissions.may_view_skips(user):
        found.append((_("skipped in 24 h"), number(day.skipped), list_url("skip", webhook=webhook.pk)))
    return found


def _last(webhook: Webhook, user: Any) -> list[dict[str, Any]]:
    """The newest deliveries that the user may view."""
    of_webhook = Delivery.objects.filter(webhook=webhook.pk)
    with index_plans(Delivery.objects.db):
        newest = permissions.visible_deliveries(user, of_webhook).order_by("-pk")
        keys = list(newest.values_list("pk", flat=True)[:LAST])
    return [_row(one) for one in rows_in_order(Delivery.objects.all(), keys)]


def _row(delivery: Delivery) -> dict[str, Any]:
    return {
        "row": delivery,
        "state": delivery_state(delivery.state),
        "name": short(str(delivery.event), 60),
        "result": redaction.label_of_kind(delivery.error_kind),
        "when": when(delivery.created),
    }


# The form


def fieldsets(left_out: Collection[str], url: str) -> list[Fieldset]:
    """All sections, closed, without the fields of ``left_out``. ``url`` is the field that shows the URL."""
    in_line = dict.fromkeys(ACTION_FIELDS, tuple(ACTION_FIELDS))
    found: list[Fieldset] = []
    for section in FORM:
        names = [name for name in section.fields if name not in left_out]
        shown = dict.fromkeys(url if name == "payload_url" else in_line.get(name, name) for name in names)
        options = {"fields": list(shown), "classes": ["collapse"] if section.summary else []}
        found.append((section.title or None, options))
    return found


def describe(sections: Sequence[Fieldset], webhook: Webhook) -> list[Fieldset]:
    """The sections with a line about the values of the webhook in each title. A section with a value that is not the
    default is open."""
    by_title = {section.title: section for section in FORM if section.summary}
    found: list[Fieldset] = []
    for title, options in sections:
        if section := by_title.get(title):
            shown = capfirst(", ".join(part for part in section.summary(webhook) if part))  # type: ignore[misc]
            if any(_is_changed(webhook, name) for name in options["fields"]):
                options = options | {"classes": []}
            changed = _("Changed and not saved yet")
            title = format_html('{} <span class="wh-summary" data-changed="{}">{}</span>', title, changed, shown)
        found.append((title, options))
    return found


def _is_changed(webhook: Webhook, name: str | tuple[str, ...]) -> bool:
    """Whether a field shows a value that is not its default."""
    column: Any = {field.name: field for field in Webhook._meta.fields}.get(name)  # type: ignore[arg-type]
    if column is None or name in CREDENTIAL_FIELDS:
        return False
    return (getattr(webhook, column.name) or None) != (column.get_default() or None)
