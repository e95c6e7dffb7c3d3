"""The lists of events and of skipped changes, the page of one event, and replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from functools import partialmethod
from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, QuerySet, Value
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from webhooks import payloads, permissions
from webhooks.admin.delivery_sections import next_attempt
from webhooks.admin.filters import EventFilterForm, SkipFilterForm
from webhooks.admin.lists import ReadOnlyAdmin, list_url, page_url
from webhooks.admin.run_start import may_begin
from webhooks.admin.what_changed import change_context
from webhooks.db import to_db_time, to_utc
from webhooks.insight.paging import Found, find_events, find_skips
from webhooks.insight.why.rows import near, skip_ids_around
from webhooks.insight.wording import number, skip_reason
from webhooks.models import Delivery, Event, RunKind, Skip, State
from webhooks.models.event import EventQuerySet, label_of_action
from webhooks.operations import replays
from webhooks.permissions.redaction import WHO_SEES_PAYLOADS, Redaction
from webhooks.templatetags.webhooks_display import (
    delivery_state,
    json_block,
    object_name,
    pill,
    short,
    state_word,
    when,
)
from webhooks.text import last_line

# The labels of failed events, by kind of failure.
FAILURES = {
    "loop_protection": gettext_lazy("loop protection"),
    "filter_error": gettext_lazy("filters failed"),
    "payload_error": gettext_lazy("payload failed"),
}

# The page of an event shows this many deliveries, and this many skips.
MAX_DELIVERIES = 100

# The result of a replay names this many events that could not be replayed.
MAX_NAMED = 5


class ChangeColumns:
    """The columns that lists of events and of skips share."""

    @admin.display(description=gettext_lazy("object"))
    def object(self, row: Event | Skip) -> SafeString:
        return object_name(row)

    @admin.display(description=gettext_lazy("action"))
    def action_word(self, row: Event | Skip) -> str:  # "action" would be the stored value
        return label_of_action(row.action)

    @admin.display(description=gettext_lazy("user"), empty_value="")
    def user(self, row: Event | Skip) -> SafeString | str | None:
        return short(row.username, 24) if row.username else None

    @admin.display(description=gettext_lazy("time"))
    def time(self, row: Event | Skip) -> SafeString | str:
        return when(row.timestamp)


@admin.register(Event)
class EventAdmin(ChangeColumns, ReadOnlyAdmin):
    list_display = ("object", "action_word", "state", "user", "request_shown", "time")
    list_display_links = ("object",)
    filter_form = EventFilterForm
    noun = "event"
    change_form_template = "rq_webhooks/admin/event.html"
    actions = ("replay_chosen",)
    buttons = ("replay",)
    run_kinds = {"replay_chosen": RunKind.REPLAY}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        return permissions.visible_events(request.user, super().get_queryset(request))

    # The list

    def rows_of_list(self, rows: Any) -> Any:
        return rows.for_list()

    def find(self, request: HttpRequest, filters: dict[str, Any], before: str) -> Found:
        return find_events(filters, request.user, before, self.list_per_page)

    def prepare(self, request: HttpRequest, rows: list[Event]) -> None:
        """Count the deliveries of each event by outcome. One that is not sent yet has none."""
        deliveries = permissions.visible_deliveries(request.user, Delivery.objects.filter(event__in=rows))
        outcomes: dict[int, dict[str, int]] = {event.pk: {} for event in rows}
        counted = deliveries.order_by().values_list("event", "outcome").annotate(count=Count("pk"))
        for pk, outcome, count in counted:
            outcomes[pk][outcome] = count
        for event in rows:
            event.outcomes = outcomes[event.pk]  # type: ignore[attr-defined]

    @admin.display(description=gettext_lazy("request"), empty_value="")
    def request_shown(self, event: Event) -> SafeString | str | None:
        return short(event.request_id, 9) if event.request_id else None

    @admin.display(description=gettext_lazy("state"))
    def state(self, event: Any) -> SafeString:
        if not event.error:
            return _outcomes(event.outcomes) or pill("created", _("recorded"))
        if event.replayed_at is None:
            return pill("failed", str(FAILURES[event.failure]))
        return pill("waiting", _("replayed"))

    # Replay

    has_replay_permission = partialmethod(ReadOnlyAdmin.has_act_permission, "replay")

    def has_replay_listed_permission(self, request: HttpRequest) -> bool:
        # Failed events are replayed once, so nothing can be done with a list of replayed ones.
        return request.GET.get("state") != "replayed" and self.has_replay_permission(request)

    @admin.action(
        description=gettext_lazy("Replay the selected events with current data"), permissions=["replay_listed"]
    )
    def replay_chosen(self, request: HttpRequest, chosen: QuerySet[Event]) -> None:
        permitted: Any = permissions.allowed(request.user, "replay", chosen)
        replay(request, permitted)

    # One event

    def page_context(self, request: HttpRequest, obj: Event) -> dict[str, Any]:
        user = request.user
        sees_payload = permissions.may_view_payloads(user, obj)
        same = {"object_type": obj.object_type, "object_id": obj.object_id}
        replayed = Event.objects.filter(**same, pk__gt=obj.pk, replay_of=obj.pk).first() if obj.error else None
        deliveries = _deliveries(obj, user)

        def visible_id(pk: int | None) -> int | None:
            return pk if pk and permissions.visible_events(user, Event.objects.filter(pk=pk)).exists() else None

        return {
            "event": obj,
            "failure_label": FAILURES.get(obj.failure, ""),
            "last_error": last_line(obj.error),
            "is_replayed": replayed is not None,
            "replayed_as": visible_id(replayed.pk if replayed else None),
            "replay_of": visible_id(obj.replay_of),
            "may_see_deliveries": permissions.may_view_deliveries(user),
            "may_ask_why": permissions.may_view_webhooks(user),
            "may_replay": self.has_replay_permission(request, obj)
            and Event.objects.replayable().filter(pk=obj.pk).exists(),
            "is_dispatched": not hasattr(obj, "undispatched"),
            "sees_payload": sees_payload,
            "who_sees_payloads": WHO_SEES_PAYLOADS,
            "deliveries": deliveries,
            "outcomes": _outcomes(Counter(one["row"].outcome for one in deliveries)) or pill("created", _("recorded")),
            "skips": _skips(obj, user),
            "skips_url": list_url("skip", **same) if permissions.may_view_skips(user) else "",
            **(_payload_context(obj) if sees_payload else {}),
            **change_context(obj, user, obj, sees_payload),
        }


def _outcomes(counts: Mapping[str, int]) -> SafeString:
    """Such as "1 failed", "2 not sent yet", "6 succeeded": the deliveries of an event by outcome."""
    pills = []
    for outcome in (State.FAILED, "", State.SUCCEEDED, State.DISCARDED):
        if count := counts.get(outcome):
            shown = number(count)
            text = f"{shown} {state_word(outcome)}" if outcome else _("%(count)s not sent yet") % {"count": shown}
            pills.append((pill(outcome or State.PENDING, text),))
    return format_html_join(" ", "{}", pills)


def _deliveries(event: Event, user: Any) -> list[dict[str, Any]]:
    """The deliveries of the event, as far as the user may see them."""
    redacted = Redaction(user)
    rows = permissions.visible_deliveries(user, event.deliveries.for_list()).order_by("pk")[:MAX_DELIVERIES]
    return [
        {
            "row": one,
            "pill": delivery_state(one.state),
            "reason": short(redacted.error(one.webhook_id, one.reason, one.error_kind), 80),
            "next": next_attempt(one),
            "time": when(one.finished_at or one.created),
        }
        for one in rows
    ]


def _skips(event: Event, user: Any) -> list[dict[str, Any]]:
    """Which webhooks did not want the change, and why.

    An object and a time find the skips: they do not name the event. So another change may have left them. Each webhook
    shows its nearest one, and none if it got the event.
    """
    got = {*event.deliveries.order_by().values_list("webhook", flat=True)}
    if not event.is_loop_protected:  # such an event went to none of the webhooks that wanted it
        got |= {*event.webhook_ids}
    chosen = Skip.objects.filter(near(event), skip_ids_around([event])).exclude(webhook__in=got)
    rows = permissions.visible_skips(user, chosen).select_related("webhook")[:MAX_DELIVERIES]
    farthest_first = sorted(rows, key=lambda row: abs(row.timestamp - event.timestamp), reverse=True)
    nearest = {row.webhook_id: row for row in farthest_first}
    shows_actual = permissions.may_view_payloads(user)
    return [{"webhook": row.webhook, "reason": skip_reason(row, shows_actual)} for row in nearest.values()]


def _payload_context(event: Event) -> dict[str, Any]:
    names = payloads.webhooks_by_serializer(event) if event.serializers else []
    outputs = [(name, payloads.as_serialized_by(event, name).data) for name in names]
    return {
        "data": json_block(event.data, _("Data")) if event.data and not outputs else "",
        "serializer_outputs": [
            {"name": name or _("default"), "data": json_block(data, name or _("default"))} for name, data in outputs
        ],
        "snapshots": json_block(event.snapshots, _("Before and after")) if event.snapshots else "",
        "request_shown": json_block(event.request, _("Request")) if event.request else "",
    }


def replay(request: HttpRequest, chosen: EventQuerySet) -> None:
    """Replay events, oldest first, and show the result."""
    results = replays.replay(chosen.replayable().order_by("pk"), request.user, _opened(request))
    replayed = sum(one.event is not None for one in results)
    text = _("“%(event)s” was not replayed: %(problem)s.")
    problems = [text % {"event": one.original.name, "problem": one.problem} for one in results if not one.event]
    if replayed:
        text = ngettext("%(count)s event replayed.", "%(count)s events replayed.", replayed)
        messages.success(request, text % {"count": number(replayed)})
    for problem in problems[:MAX_NAMED]:
        messages.error(request, problem)
    if more := len(problems[MAX_NAMED:]):
        text = ngettext(
            "%(count)s more event could not be replayed.", "%(count)s more events could not be replayed.", more
        )
        messages.error(request, text % {"count": number(more)})
    if not results:
        messages.warning(request, _("Nothing to replay: these are tests, or failed events that were replayed."))


def _opened(request: HttpRequest) -> datetime | None:
    """When the page was opened that posts this form."""
    try:
        return to_db_time(to_utc(datetime.fromisoformat(request.POST.get("opened_at", ""))))
    except (ValueError, OverflowError):
        return None


# Skips


@admin.register(Skip)
class SkipAdmin(ChangeColumns, ReadOnlyAdmin):
    list_display = ("object", "action_word", "webhook_name", "reason", "user", "time")
    list_display_links = None
    filter_form = SkipFilterForm
    noun = "skipped change"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Skip]:
        skips = permissions.visible_skips(request.user, super().get_queryset(request)).select_related("webhook")
        return skips.annotate(shows_actual=Value(permissions.may_view_payloads(request.user)))

    def find(self, request: HttpRequest, filters: dict[str, Any], before: str) -> Found:
        return find_skips(filters, request.user, before, self.list_per_page)

    def describe_list(self, request: HttpRequest, context: dict[str, Any]) -> None:
        """Also link to the page that recovers the skipped changes of the webhook in the filters."""
        super().describe_list(request, context)
        chosen = context["cl"].form.chosen if context["cl"].form.is_valid() else {}
        webhook = permissions.visible_webhooks(request.user).filter(pk=chosen.get("webhook", 0)).first()
        if webhook and may_begin(request.user, RunKind.RECOVER_SKIPPED):
            since = {"since": request.GET["created_after"]} if "created_after" in chosen else {"hours": "168"}
            rule = {"rule": chosen["rule"]} if "rule" in chosen else {}
            context["recover_url"] = f"{page_url('recover_skipped', webhook)}?{urlencode(since | rule)}"

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> None:
        """The list shows all of a skip, so it has no page."""

    def prepare(self, request: HttpRequest, rows: list[Any]) -> None:
        # ``reverse`` for each row is slow.
        webhooks = (
            reverse("admin:rq_webhooks_webhook_changelist") if permissions.may_view_webhooks(request.user) else ""
        )
        for row in rows:
            row.webhook_url = webhooks and f"{webhooks}{row.webhook_id}/change/"

    @admin.display(description=gettext_lazy("webhook"))
    def webhook_name(self, skip: Any) -> SafeString | str:
        name = short(skip.webhook.name, 32)
        return format_html('<a href="{}">{}</a>', skip.webhook_url, name) if skip.webhook_url else name

    @admin.display(description=gettext_lazy("why it was not sent"))
    def reason(self, skip: Any) -> SafeString:
        return format_html('<span title="{0}">{0}</span>', skip_reason(skip, skip.shows_actual))
