"""The page of one delivery: verdict, change, timeline, lane, and one attempt."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import payloads, permissions
from webhooks.admin.attempt import attempt_context, explained_kind, shown_attempt
from webhooks.admin.display import delivery_state, json_block, when
from webhooks.admin.lists import list_url
from webhooks.admin.what_changed import change_context
from webhooks.db import index_plans
from webhooks.models import Attempt, Delivery, Event
from webhooks.models.event import LARGE_FIELDS
from webhooks.models.queue import HEAD_STATES, OPEN_STATES, State
from webhooks.operations.counts import EACH_CAP, capped
from webhooks.operations.wording import number
from webhooks.permissions import redaction
from webhooks.permissions.redaction import Redaction, explain

# The timeline shows this many attempts, the newest.
MAX_ATTEMPTS = 50

# Characters of an answer next to the remedy.
ANSWER_SHOWN = 300

# The lane names this many deliveries that wait behind.
NAMED_BEHIND = 5

# An attempt that is due in this time is waited for.
IMMINENT = timedelta(seconds=10)

# Until the attempt has ended, the page refreshes itself after so many seconds, at least and at most.
REFRESH_AFTER = 2, 60

# To find the delivery before and after, the page reads this many events of the object each way.
NEIGHBOURS = 100


def delivery_context(delivery: Delivery, user: Any, number_asked: str) -> dict[str, Any]:
    """The context of the template. ``number_asked`` is the number of the attempt to show; default: the last one."""
    webhook, redacted = delivery.webhook, Redaction(user)
    sees_payload = permissions.may_view_payloads(user, delivery.event)
    visible = permissions.visible_deliveries(user)
    row = Delivery.objects.filter(pk=delivery.pk)
    attempts = list(delivery.attempts.order_by("-pk").defer("response_body", "response_headers")[: MAX_ATTEMPTS + 1])
    shown = shown_attempt(delivery, number_asked) if attempts else None
    return {
        "delivery": delivery,
        "event": delivery.event,
        "webhook": webhook,
        "state_pill": delivery_state(delivery.state),
        "verdict": state_sentence(delivery, redacted.error(webhook.pk, delivery.reason, delivery.error_kind)),
        "explanation": explain(explained_kind(delivery), webhook.payload_url),
        "answer": failed_answer(attempts) if sees_payload and redacted.may_change(webhook.pk) else "",
        "may_see_webhook": permissions.may_view_webhooks(user),
        "waits_for_webhook": delivery.state in OPEN_STATES and not webhook.is_sendable,
        "refresh_after": refresh_after(delivery),
        "may_see_event": permissions.may_view_events(user),
        "url": redacted.url(webhook.pk, webhook.payload_url),
        "sees_all": redacted.may_change(webhook.pk),
        "who_sees_all": redaction.WHO_SEES_ALL,
        "sees_payload": sees_payload,
        "who_sees_payloads": redaction.WHO_SEES_PAYLOADS,
        "may_retry": permissions.may(user, "retry", delivery) and row.retriable().exists(),
        "may_resend": permissions.may(user, "resend", delivery) and row.resendable().exists(),
        "may_discard": permissions.may(user, "discard", delivery) and row.discardable().exists(),
        "created": when(delivery.created),
        "lane": lane_context(delivery, visible, redacted),
        "timeline": timeline(delivery, attempts[:MAX_ATTEMPTS], shown),
        "has_more_attempts": len(attempts) > MAX_ATTEMPTS,
        "attempt": attempt_context(delivery, shown, redacted, sees_payload) if shown else None,
        "payload_use": payload_use(delivery),
        "payload": _payload(delivery) if sees_payload and not shown else "",
        **_neighbours(delivery, visible),
        **change_context(delivery.event, user, payloads.as_sent_to(delivery.event, webhook.pk), sees_payload),
    }


# State and timeline


def state_sentence(delivery: Delivery, reason: str) -> SafeString | str:
    """The state in one sentence. ``reason`` is why the last attempt failed, as far as the user may see it."""
    webhook, ended, count = delivery.webhook, when(delivery.finished_at), delivery.attempt_count
    match delivery.state:
        case State.FAILED:
            text = ngettext("Failed after %(count)s attempt", "Failed after %(count)s attempts", count)
            return format_html("{}: <strong>{}</strong> {}", text % {"count": number(count)}, reason, _quiet(ended))
        case State.SUCCEEDED:
            return format_html("{} {}", _("Succeeded at attempt %(count)s.") % {"count": number(count)}, _quiet(ended))
        case State.DISCARDED:
            return format_html("{} {}", _("Discarded. It will not be sent."), _quiet(ended))
        case State.SENDING:
            return _("A worker is sending it.")
    if not webhook.enabled:
        text = _("It waits because the webhook is disabled.")
    elif delivery.state == State.WAITING:
        text = _("It waits behind an earlier change of its object.")
    elif webhook.is_paused:
        text = _("It waits because the webhook is paused.")
    else:
        due = delivery.next_attempt_at
        is_due = due is None or due <= timezone.now()
        text = _("It is due now.") if is_due else format_html(_("It is sent again {time}."), time=when(due))
    if reason:
        text = format_html("{} {} <strong>{}</strong>", text, _("The last attempt failed:"), reason)
    if lost := delivery.lost_leases:
        more = ngettext(
            "%(count)s worker ended or stalled while sending it. After 3, the attempt counts as failed.",
            "%(count)s workers ended or stalled while sending it. After 3, the attempt counts as failed.",
            lost,
        )
        text = format_html("{} {}", text, more % {"count": lost})
    return text


def failed_answer(attempts: list[Attempt]) -> str:
    """The beginning of the answer to the last attempt, if that failed. The newest attempt is the first."""
    if not attempts or attempts[0].succeeded:
        return ""
    body = Attempt.objects.filter(pk=attempts[0].pk).values_list("response_body", flat=True).first() or ""
    return Truncator(" ".join(body.split())).chars(ANSWER_SHOWN)


def refresh_after(delivery: Delivery) -> int | None:
    """The seconds until the page refreshes itself: more if the attempt is long due, as without a worker.

    None if no worker sends it now or in a few seconds.
    """
    now, due = timezone.now(), delivery.next_attempt_at
    is_due = due is not None and due <= now + IMMINENT and delivery.webhook.is_sendable
    if delivery.state != State.SENDING and not is_due:
        return None
    shortest, longest = REFRESH_AFTER
    late = (now - (delivery.queued.due_at or delivery.created)).total_seconds()
    return min(max(int(late) // 10, shortest), longest)


def _quiet(text: SafeString | str) -> SafeString:
    return format_html('<span class="wh-quiet">{}</span>', text)


def payload_use(delivery: Delivery) -> str:
    """What becomes of the payload, in a sentence about a delivery without an attempt."""
    match delivery.state == State.DISCARDED, bool(delivery.webhook.body_template):
        case True, True:
            return _("It was discarded before an attempt. The template would have made the body from this payload:")
        case True, False:
            return _("It was discarded before an attempt. This was not sent:")
        case _, True:
            return _("There was no attempt yet. The template will make the body from this payload:")
    return _("There was no attempt yet. This will be sent:")


def _payload(delivery: Delivery) -> SafeString:
    """The payload before an attempt, as it would be sent or as the body template would get it."""
    webhook, bodies = delivery.webhook, payloads.Bodies(payloads.as_sent_to(delivery.event, delivery.webhook_id))
    body = bodies.body(as_form=webhook.is_form and not webhook.body_template)
    return json_block(body.decode(), _("Payload"))


def _neighbours(delivery: Delivery, visible: QuerySet[Delivery]) -> dict[str, UUID | None]:
    """The ids of the deliveries of the events before and after, of the same object to the same webhook."""
    event = delivery.event
    if not event.object_type:
        return {"previous": None, "following": None}
    same = Event.objects.filter(object_type=event.object_type, object_id=event.object_id)
    earlier, later = same.filter(pk__lt=event.pk).order_by("-pk"), same.filter(pk__gt=event.pk).order_by("pk")
    found: dict[str, UUID | None] = {}
    with index_plans(Event.objects.db):
        for name, events in (("previous", earlier), ("following", later)):
            keys = list(events.values_list("pk", flat=True)[:NEIGHBOURS])
            rows = visible.filter(event__in=keys, webhook=delivery.webhook_id).order_by().values_list("event_id", "pk")
            _, found[name] = min(rows, key=lambda row: abs(row[0] - event.pk), default=(None, None))
    return found


def timeline(delivery: Delivery, attempts: list[Attempt], shown: Attempt | None) -> list[dict[str, Any]]:
    """The steps of a delivery, the oldest first: the change, the attempts, and the end or the next attempt."""
    event = delivery.event
    steps: list[dict[str, Any]] = [{"word": _("changed"), "kind": "created", "time": when(event.timestamp)}]
    steps += [
        {
            "number": one.number,
            "word": str(one.status or _("no answer")),
            "kind": "succeeded" if one.succeeded else "failed",
            "time": when(one.started_at),
            "is_shown": shown is not None and one.pk == shown.pk,
            "by": one.requested_by,
        }
        for one in reversed(attempts)
    ]
    match delivery.state:
        case State.FAILED:
            steps.append({"word": _("given up"), "kind": "failed", "time": when(delivery.finished_at)})
        case State.DISCARDED:
            steps.append({"word": _("discarded"), "kind": "discarded", "time": when(delivery.discarded_at)})
        case State.PENDING:
            steps.append({"word": next_attempt(delivery), "kind": "pending", "time": ""})
        case State.WAITING:
            steps.append({"word": _("waits for its turn"), "kind": "waiting", "time": ""})
        case State.SENDING:
            steps.append({"word": _("being sent"), "kind": "sending", "time": ""})
    return steps


def next_attempt(delivery: Delivery) -> SafeString | str:
    """When a pending delivery is sent. Empty if it is not pending."""
    if delivery.next_attempt_at is None:
        return ""
    if not delivery.webhook.enabled:
        return _("next when enabled")
    if delivery.webhook.is_paused:
        return _("next when resumed")
    if delivery.next_attempt_at <= timezone.now():
        return _("due now")
    return format_html("{} {}", _("next"), when(delivery.next_attempt_at))


# Who waits behind whom


def lane_context(delivery: Delivery, deliveries: QuerySet[Delivery], redacted: Redaction) -> dict[str, Any]:
    """The place of a delivery in its lane. The number of queries does not depend on the length of the lane."""
    if delivery.lane is None or not delivery.in_lane:
        return {"is_ordered": False}
    lane = deliveries.filter(queued__webhook=delivery.webhook_id, queued__lane=delivery.lane)
    lane = lane.select_related("event", "queued").defer(*(f"event__{name}" for name in LARGE_FIELDS))
    head = lane.filter(queued__state__in=HEAD_STATES, queued__in_lane=True).exclude(pk=delivery.pk).first()
    shown: dict[str, Any] = {"is_ordered": True, "is_open": delivery.state in OPEN_STATES, "head": head}
    if head is not None:
        shown["head_reason"] = redacted.error(head.webhook_id, head.reason, head.error_kind)
        shown["head_time"], shown["head_pill"] = when(head.event.timestamp), delivery_state(head.state)
    if delivery.state not in OPEN_STATES:
        return shown
    waiting = lane.filter(queued__state=State.WAITING)
    ahead = waiting.filter(queued__event_id__lt=delivery.event_id).order_by()
    between = capped(ahead, EACH_CAP).count() if delivery.state == State.WAITING else 0
    after = waiting.filter(queued__event_id__gt=delivery.event_id).order_by("queued__event_id")
    behind, behind_count = list(after[:NAMED_BEHIND]), capped(after.order_by(), EACH_CAP).count()
    event = delivery.event
    same = {"webhook": delivery.webhook_id, "object_type": event.object_type, "object_id": event.object_id}
    return shown | {
        "between": between,
        "between_text": number(between, EACH_CAP),
        "place": number(between + (2 if head else 1), EACH_CAP),
        "behind": [{"row": one, "time": when(one.event.timestamp)} for one in behind],
        "behind_count": behind_count,
        "behind_text": number(behind_count, EACH_CAP),
        "has_more_behind": behind_count > len(behind),
        "all_url": list_url("delivery", **same, state="open"),
    }
