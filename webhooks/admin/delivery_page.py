"""The page of one delivery: its verdict, the change, the timeline, the lane, and one attempt at a time."""

from __future__ import annotations

import json
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import payloads, permissions, redaction
from webhooks.admin import actions, highlight
from webhooks.admin.change_context import change_context
from webhooks.admin.curl import curl
from webhooks.admin.display import pill, state_word, when
from webhooks.admin.lists import deliveries_url
from webhooks.db import index_plans
from webhooks.models import Attempt, BodyKind, Delivery, Event
from webhooks.models.attempt import sent_bodies
from webhooks.models.queue import HEAD_STATES, OPEN_STATES, State
from webhooks.operations.counts import EACH_CAP, capped
from webhooks.operations.wording import exact_time, number
from webhooks.redaction import Redaction, explain

# The timeline shows this many attempts, the newest.
MAX_ATTEMPTS = 50

# The lane names this many deliveries that wait behind.
NAMED_BEHIND = 5

# A body with more characters is folded.
LONG_BODY = 5000

# Characters of an answer next to the remedy.
ANSWER_SHOWN = 300

# Events of the object in which the page looks for the delivery before and after.
NEIGHBOURS = 100


def delivery_context(delivery: Delivery, user: Any, number_asked: str) -> dict[str, Any]:
    """The context of the template. ``number_asked`` is the number of the attempt to show; default: the last one."""
    webhook, redacted = delivery.webhook, Redaction(user)
    sees_payload = permissions.may_view_payloads(user, delivery.event)
    visible = permissions.visible_deliveries(user)
    row = Delivery.objects.filter(pk=delivery.pk)
    attempts = list(delivery.attempts.order_by("-pk").defer("response_body", "response_headers")[: MAX_ATTEMPTS + 1])
    shown = _shown_attempt(delivery, attempts, number_asked)
    last = attempts[0] if attempts else None
    return {
        "delivery": delivery,
        "event": delivery.event,
        "webhook": webhook,
        "state_pill": pill(delivery.state, state_word(delivery.state)),
        "verdict": verdict(delivery, redacted.error(webhook.pk, delivery.reason, delivery.error_kind)),
        "explanation": explain(_kind_explained(delivery), webhook.payload_url),
        "answer": _answer(last, redacted, sees_payload),
        "may_see_webhook": permissions.may_view_webhooks(user),
        "may_see_event": permissions.may_view_events(user),
        "url": redacted.url(webhook.pk, webhook.payload_url),
        "sees_all": redacted.sees_all(webhook.pk),
        "who_sees_all": redaction.WHO_SEES_ALL,
        "sees_payload": sees_payload,
        "who_sees_payloads": redaction.WHO_SEES_PAYLOADS,
        "may_retry": actions.may(user, "retry", delivery) and row.retriable().exists(),
        "may_resend": actions.may(user, "resend", delivery) and row.resendable().exists(),
        "may_discard": actions.may(user, "discard", delivery) and row.discardable().exists(),
        "created": when(delivery.created),
        "lane": lane_context(delivery, visible, redacted),
        "timeline": timeline(delivery, attempts[:MAX_ATTEMPTS], shown),
        "has_more_attempts": len(attempts) > MAX_ATTEMPTS,
        "attempt": attempt_context(delivery, shown, redacted, sees_payload) if shown else None,
        "payload": _payload(delivery) if sees_payload and not shown else "",
        **_neighbours(delivery, visible),
        **change_context(delivery.event, user, payloads.as_sent_to(delivery.event, webhook.pk), sees_payload),
    }


# What became of it


def verdict(delivery: Delivery, reason: str) -> SafeString | str:
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
        text = _("It is due now.") if due is None or due <= timezone.now() else _("It is sent again later.")
        text = format_html("{} {}", text, _quiet(when(due)) if due else "")
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


def _quiet(text: SafeString | str) -> SafeString:
    return format_html('<span class="wh-quiet">{}</span>', text)


def _kind_explained(delivery: Delivery) -> str:
    """The kind of the error that the page explains. None after a success or a discard."""
    return "" if delivery.state in (State.SUCCEEDED, State.DISCARDED) else delivery.error_kind


def _answer(last: Attempt | None, redacted: Redaction, sees_payload: bool) -> str:
    """The beginning of what the receiver answered to the last attempt, if that failed."""
    if last is None or last.succeeded or not sees_payload or not redacted.sees_all(last.delivery.webhook_id):
        return ""
    body = Attempt.objects.filter(pk=last.pk).values_list("response_body", flat=True).first() or ""
    text = " ".join(body.split())
    return f"{text[:ANSWER_SHOWN]}…" if len(text) > ANSWER_SHOWN else text


def _payload(delivery: Delivery) -> SafeString:
    """The payload that will be sent, until an attempt shows the sent one."""
    body = payloads.json_body(payloads.as_sent_to(delivery.event, delivery.webhook_id)).decode()
    return _body(body, _("Payload"))


def _neighbours(delivery: Delivery, visible: QuerySet[Delivery]) -> dict[str, Delivery | None]:
    """The deliveries of the events before and after, of the same object to the same webhook."""
    event = delivery.event
    if not event.object_type:
        return {"previous": None, "following": None}
    same = Event.objects.filter(object_type=event.object_type, object_id=event.object_id)
    found = {}
    with index_plans(Event.objects.db):
        for name, events, order in (
            ("previous", same.filter(pk__lt=event.pk), "-"),
            ("following", same.filter(pk__gt=event.pk), ""),
        ):
            keys = list(events.order_by(f"{order}pk").values_list("pk", flat=True)[:NEIGHBOURS])
            rows = visible.filter(event__in=keys, webhook=delivery.webhook_id).order_by().select_related("event")
            found[name] = min(rows, key=lambda one: abs(one.event_id - event.pk), default=None) if keys else None
    return found


# Who waits behind whom


def lane_context(delivery: Delivery, deliveries: QuerySet[Delivery], redacted: Redaction) -> dict[str, Any]:
    """The place of a delivery in its lane. The number of queries does not depend on the length of the lane."""
    if delivery.lane is None or not delivery.in_lane:
        return {"is_ordered": False}
    lane = deliveries.filter(queued__webhook=delivery.webhook_id, queued__lane=delivery.lane)
    lane = lane.select_related("event", "queued")
    waiting = lane.filter(queued__state=State.WAITING).order_by("queued__event_id")
    head = lane.filter(queued__state__in=HEAD_STATES, queued__in_lane=True).first()
    is_open = delivery.state in OPEN_STATES
    position, behind, names = 0, 0, list[Delivery]()
    if is_open:
        ahead = waiting.filter(queued__event_id__lt=delivery.event_id).order_by()
        position = 1 + (capped(ahead, EACH_CAP).count() + 1 if head and head.pk != delivery.pk else 0)
        after = waiting.filter(queued__event_id__gt=delivery.event_id)
        names, behind = list(after[:NAMED_BEHIND]), capped(after.order_by(), EACH_CAP).count()
    event = delivery.event
    return {
        "is_ordered": True,
        "is_open": is_open,
        "head": head if head and head.pk != delivery.pk else None,
        "head_reason": redacted.error(head.webhook_id, head.reason, head.error_kind) if head else "",
        "head_time": when(head.event.timestamp) if head else "",
        "head_pill": pill(head.state, state_word(head.state)) if head else "",
        "between": max(0, position - 2),
        "between_text": number(max(0, position - 2), EACH_CAP),
        "place": number(position, EACH_CAP) if is_open else "",
        "behind": [{"row": one, "time": when(one.event.timestamp)} for one in names],
        "behind_count": max(behind, len(names)),
        "behind_text": number(max(behind, len(names)), EACH_CAP),
        "has_more_behind": behind > len(names),
        "all_url": deliveries_url(
            webhook=delivery.webhook_id, object_type=event.object_type, object_id=event.object_id, state="open"
        ),
    }


# The attempts


def _shown_attempt(delivery: Delivery, attempts: list[Attempt], number_asked: str) -> Attempt | None:
    """The attempt with this number, with all its columns, or else the last one."""
    chosen = next((one for one in attempts if str(one.number) == number_asked), attempts[0] if attempts else None)
    if number_asked.isdecimal() and len(number_asked) < 9 and (chosen is None or str(chosen.number) != number_asked):
        older = delivery.attempts.filter(number=int(number_asked)).order_by("-pk").first()
        if older is not None:
            return older
    return delivery.attempts.filter(pk=chosen.pk).first() if chosen else None


def timeline(delivery: Delivery, attempts: list[Attempt], shown: Attempt | None) -> list[dict[str, Any]]:
    """What happened to it, the oldest first: the change, the attempts, and the end or the next attempt."""
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


def attempt_context(delivery: Delivery, attempt: Attempt, redacted: Redaction, sees_payload: bool) -> dict[str, Any]:
    """One attempt as a user may see it: the request as it was sent, and the response."""
    webhook, sees_all = delivery.webhook, redacted.sees_all(delivery.webhook_id)
    body = sent_bodies(delivery, [attempt]).get(attempt.body_sha256) if sees_payload else None
    hides_body = not sees_payload or (attempt.body_kind == BodyKind.TEMPLATE and not sees_all)
    request_body = None if body is None or hides_body else body.decode(errors="replace")
    url = redacted.url(webhook.pk, attempt.url)
    changed = json.loads(delivery.event.changed) if delivery.event.changed else ()
    response_body = attempt.response_body if sees_all and sees_payload else ""
    return {
        "row": attempt,
        "pill": pill("succeeded" if attempt.succeeded else "failed", str(attempt.status or _("no answer"))),
        "time": exact_time(attempt.started_at),
        "reason": redacted.error(webhook.pk, attempt.reason, attempt.error_kind),
        # The page says what to do about the last failure already.
        "explanation": None if attempt.error_kind == _kind_explained(delivery) else explain(attempt.error_kind, url),
        "url": url,
        "headers": highlight.headers_block(attempt.request_headers, _("Headers of the request")) if sees_all else "",
        "hides_body": hides_body,
        "is_from_template": attempt.body_kind == BodyKind.TEMPLATE,
        "is_body_known": request_body is not None,
        "body": _body(request_body or "", _("Body of the request"), changed),
        "body_size": _size(len(body or b"")),
        "is_long": len(request_body or "") > LONG_BODY,
        "response_headers": (
            highlight.headers_block(attempt.response_headers, _("Headers of the response"))
            if sees_all and attempt.response_headers
            else ""
        ),
        "response_body": _body(response_body, _("Body of the response")) if response_body else "",
        "response_size": _size(len(response_body.encode())),
        "is_response_long": len(response_body) > LONG_BODY,
        "curl": curl(attempt.method, url, attempt.request_headers, request_body) if sees_all and attempt.url else "",
        "older": _next_number(delivery, attempt, "-"),
        "newer": _next_number(delivery, attempt, ""),
    }


def _body(text: str, label: str, marked: Any = ()) -> SafeString:
    return highlight.block(highlight.json_text(text, marked), label)


def _size(count: int) -> str:
    return ngettext("%(count)s byte", "%(count)s bytes", count) % {"count": number(count)}


def _next_number(delivery: Delivery, attempt: Attempt, order: str) -> int | None:
    rows = delivery.attempts.filter(**{"pk__lt" if order else "pk__gt": attempt.pk})
    return rows.order_by(f"{order}pk").values_list("number", flat=True).first()
