"""The page of one delivery: verdict, change, timeline, lane, and one attempt, also as a command of curl."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import payloads, permissions
from webhooks.admin.display import delivery_state, headers_block, json_block, pill, when
from webhooks.admin.lists import as_key, list_url
from webhooks.admin.what_changed import change_context
from webhooks.db import index_plans
from webhooks.models import Attempt, BodyKind, Delivery, Event
from webhooks.models.attempt import sent_bodies
from webhooks.models.queue import HEAD_STATES, OPEN_STATES, State
from webhooks.operations.counts import EACH_CAP, capped
from webhooks.operations.wording import count_of, exact_time, number
from webhooks.permissions import redaction
from webhooks.permissions.redaction import Redaction, explain
from webhooks.text import REDACTED

# The timeline shows this many attempts, the newest.
MAX_ATTEMPTS = 50

# The lane names this many deliveries that wait behind.
NAMED_BEHIND = 5

# An attempt that is due in this time is waited for.
IMMINENT = timedelta(seconds=10)

# To find the delivery before and after, the page reads this many events of the object each way.
NEIGHBOURS = 100

# A body with more characters is folded.
LONG_BODY = 5000

# Characters of an answer next to the remedy.
ANSWER_SHOWN = 300

# Linux takes no longer argument than 128 KiB.
MAX_ARGUMENT = 100_000

# The command reads a body from this file if it is too long, or if the user may not see it.
BODY_FILE = "body.json"

# curl sets these headers itself.
SET_BY_CURL = {"content-length", "host", "connection", "transfer-encoding"}


def delivery_context(delivery: Delivery, user: Any, number_asked: str) -> dict[str, Any]:
    """The context of the template. ``number_asked`` is the number of the attempt to show; default: the last one."""
    webhook, redacted = delivery.webhook, Redaction(user)
    sees_payload = permissions.may_view_payloads(user, delivery.event)
    visible = permissions.visible_deliveries(user)
    row = Delivery.objects.filter(pk=delivery.pk)
    attempts = list(delivery.attempts.order_by("-pk").defer("response_body", "response_headers")[: MAX_ATTEMPTS + 1])
    last = attempts[0] if attempts else None
    shown = shown_attempt(delivery, number_asked) if last else None
    return {
        "delivery": delivery,
        "event": delivery.event,
        "webhook": webhook,
        "state_pill": delivery_state(delivery.state),
        "verdict": verdict(delivery, redacted.error(webhook.pk, delivery.reason, delivery.error_kind)),
        "explanation": explain(explained_kind(delivery), webhook.payload_url),
        "answer": answer_of(last, redacted, sees_payload),
        "may_see_webhook": permissions.may_view_webhooks(user),
        "waits_for_webhook": delivery.state in OPEN_STATES and (webhook.is_paused or not webhook.enabled),
        "is_imminent": is_imminent(delivery),
        "may_see_event": permissions.may_view_events(user),
        "url": redacted.url(webhook.pk, webhook.payload_url),
        "sees_all": redacted.sees_all(webhook.pk),
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


def is_imminent(delivery: Delivery) -> bool:
    """Whether a worker sends it now or in a few seconds."""
    webhook, due = delivery.webhook, delivery.next_attempt_at
    waits = webhook.is_paused or not webhook.enabled
    is_due = due is not None and due <= timezone.now() + IMMINENT and not waits
    return delivery.state == State.SENDING or is_due


def _quiet(text: SafeString | str) -> SafeString:
    return format_html('<span class="wh-quiet">{}</span>', text)


def _payload(delivery: Delivery) -> SafeString:
    """The payload that will be sent, until an attempt shows the sent one."""
    body = payloads.json_body(payloads.as_sent_to(delivery.event, delivery.webhook_id)).decode()
    return json_block(body, _("Payload"))


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
        "head_pill": delivery_state(head.state) if head else "",
        "between": max(0, position - 2),
        "between_text": number(max(0, position - 2), EACH_CAP),
        "place": number(position, EACH_CAP) if is_open else "",
        "behind": [{"row": one, "time": when(one.event.timestamp)} for one in names],
        "behind_count": max(behind, len(names)),
        "behind_text": number(max(behind, len(names)), EACH_CAP),
        "has_more_behind": behind > len(names),
        "all_url": list_url(
            "delivery",
            webhook=delivery.webhook_id,
            object_type=event.object_type,
            object_id=event.object_id,
            state="open",
        ),
    }


# One attempt


def shown_attempt(delivery: Delivery, number_asked: str) -> Attempt | None:
    """The attempt with this number, or else the last one."""
    newest_first = delivery.attempts.order_by("-pk")
    asked = newest_first.filter(number=as_key(number_asked)).first() if number_asked else None
    return asked or newest_first.first()


def attempt_context(delivery: Delivery, attempt: Attempt, redacted: Redaction, sees_payload: bool) -> dict[str, Any]:
    """One attempt as a user may see it: the request as it was sent, and the response."""
    webhook, sees_all = delivery.webhook, redacted.sees_all(delivery.webhook_id)
    body = sent_bodies(delivery, [attempt]).get(attempt.body_sha256) if sees_payload else None
    hides_body = not sees_payload or (attempt.body_kind == BodyKind.TEMPLATE and not sees_all)
    request_body = None if body is None or hides_body else body.decode(errors="replace")
    url = redacted.url(webhook.pk, attempt.url)
    changed = payloads.as_sent_to(delivery.event, webhook.pk).changed
    response_body = attempt.response_body if sees_all and sees_payload else ""
    return {
        "row": attempt,
        "pill": pill("succeeded" if attempt.succeeded else "failed", f"HTTP {attempt.status}"),
        "time": exact_time(attempt.started_at),
        "reason": redacted.error(webhook.pk, attempt.reason, attempt.error_kind),
        # The page says what to do about the last failure already.
        "explanation": None if attempt.error_kind == explained_kind(delivery) else explain(attempt.error_kind, url),
        "url": url,
        "headers": headers_block(attempt.request_headers, _("Headers of the request")) if sees_all else "",
        "hides_body": hides_body,
        "is_body_known": request_body is not None,
        "body": json_block(request_body or "", _("Body of the request"), json.loads(changed) if changed else ()),
        "body_size": count_of(len(body or b""), "byte"),
        "is_long": len(request_body or "") > LONG_BODY,
        "response_headers": (
            headers_block(attempt.response_headers, _("Headers of the response"))
            if sees_all and attempt.response_headers
            else ""
        ),
        "response_body": json_block(response_body, _("Body of the response")) if response_body else "",
        "response_size": count_of(len(response_body.encode()), "byte"),
        "is_response_long": len(response_body) > LONG_BODY,
        "curl": curl(attempt.method, url, attempt.request_headers, request_body) if sees_all and attempt.url else "",
        "older": _next_number(delivery, attempt, "-"),
        "newer": _next_number(delivery, attempt, ""),
    }


def _next_number(delivery: Delivery, attempt: Attempt, order: str) -> int | None:
    rows = delivery.attempts.filter(**{"pk__lt" if order else "pk__gt": attempt.pk})
    return rows.order_by(f"{order}pk").values_list("number", flat=True).first()


def answer_of(last: Attempt | None, redacted: Redaction, sees_payload: bool) -> str:
    """The beginning of what the receiver answered to the last attempt, if that failed."""
    if last is None or last.succeeded or not sees_payload or not redacted.sees_all(last.delivery.webhook_id):
        return ""
    body = Attempt.objects.filter(pk=last.pk).values_list("response_body", flat=True).first() or ""
    text = " ".join(body.split())
    return f"{text[:ANSWER_SHOWN]}…" if len(text) > ANSWER_SHOWN else text


def explained_kind(delivery: Delivery) -> str:
    """The kind of the error that the page explains. Empty after a success or a discard."""
    return "" if delivery.state in (State.SUCCEEDED, State.DISCARDED) else delivery.error_kind


def curl(method: str, url: str, headers: Mapping[str, Any], body: str | None) -> str:
    """A stored request as a command of curl, for a shell, one option a line. ``body`` is None if it is unknown.

    A redacted value becomes a variable, such as ``${AUTHORIZATION}``: no secret is in the command.
    """
    parts = [f"curl --request {shlex.quote(method)}", f"--url {shlex.quote(url)}"]
    sent = {name: str(value) for name, value in headers.items() if name.lower() not in SET_BY_CURL}
    parts += [f"--header {_header(name, value)}" for name, value in sent.items()]
    is_inline = body is not None and len(body.encode()) <= MAX_ARGUMENT
    # Other options would take a body that begins with @ as the name of a file.
    parts.append(f"--data-raw {shlex.quote(body or '')}" if is_inline else f"--data-binary @{BODY_FILE}")
    return " \\\n  ".join(parts)


def _header(name: str, value: str) -> str:
    """A header as one word of the shell. Within double quotes, the shell replaces the variable."""
    before, redacted, after = value.partition(REDACTED)
    if not redacted:
        # curl leaves out a header without a value, unless a semicolon ends it.
        return shlex.quote(f"{name}: {value}" if value else f"{name};")
    variable = re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII).upper()  # no name begins with a digit
    return f'{shlex.quote(f"{name}: {before}")}"${{{variable}}}"{shlex.quote(after) if after else ""}'
