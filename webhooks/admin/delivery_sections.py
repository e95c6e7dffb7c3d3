"""The sections of the page of a delivery: verdict, timeline, lane, and one attempt, also as a command of curl."""

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
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import payloads
from webhooks.admin.lists import as_key, list_url
from webhooks.insight.counts import EACH_CAP, capped
from webhooks.insight.wording import count_of, exact_time, number
from webhooks.models import Attempt, BodyKind, Delivery
from webhooks.models.attempt import sent_bodies
from webhooks.models.event import LARGE_FIELDS
from webhooks.models.queue import HEAD_STATES, OPEN_STATES, State
from webhooks.permissions.redaction import Redaction, explain
from webhooks.templatetags.webhooks_display import delivery_state, headers_block, json_block, pill, when
from webhooks.text import REDACTED

# Characters of an answer next to the remedy.
ANSWER_SHOWN = 300

# The lane names this many deliveries that wait behind.
NAMED_BEHIND = 5

# An attempt that is due in this time is waited for.
IMMINENT = timedelta(seconds=10)

# Until the attempt has ended, the page refreshes itself after so many seconds, at least and at most.
REFRESH_AFTER = 2, 60

# A body with more characters is folded.
LONG_BODY = 5000

# Linux takes no longer argument than 128 KiB.
MAX_ARGUMENT = 100_000

# The command reads a body from this file if it is too long, or if the user may not see it.
BODY_FILE = "body.json"

# curl sets these headers itself.
SET_BY_CURL = {"content-length", "host", "connection", "transfer-encoding"}


# State and timeline


def state_sentence(delivery: Delivery, reason: str) -> SafeString | str:
    """The state in one sentence. ``reason`` is why the last attempt failed, as far as the user may see it."""
    webhook, ended, count = delivery.webhook, when(delivery.finished_at), delivery.attempt_count
    match delivery.state:
        case State.FAILED:
            text = ngettext("Failed after %(count)s attempt", "Failed after %(count)s attempts", count)
            sentence = format_html("{}: <strong>{}</strong> {}", text % {"count": number(count)}, reason, _quiet(ended))
            if delivery.superseded:
                warning = _("The receiver has a later state of this object. If you send this, it ends with an old one.")
                sentence = format_html("{} {}", sentence, warning)
            return sentence
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
        return _("webhook is disabled")
    if delivery.webhook.is_paused:
        return _("webhook is paused")
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


# One attempt


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


def payload(delivery: Delivery) -> SafeString:
    """The payload before an attempt, as it would be sent or as the body template would get it."""
    webhook, bodies = delivery.webhook, payloads.Bodies(payloads.as_sent_to(delivery.event, delivery.webhook_id))
    body = bodies.body(as_form=webhook.is_form and not webhook.body_template)
    return json_block(body.decode(), _("Payload"))


def shown_attempt(delivery: Delivery, number_asked: str) -> Attempt | None:
    """The attempt with this number, or else the last one."""
    newest_first = delivery.attempts.order_by("-pk")
    asked = newest_first.filter(number=as_key(number_asked)).first() if number_asked else None
    return asked or newest_first.first()


def attempt_context(delivery: Delivery, attempt: Attempt, redacted: Redaction, sees_payload: bool) -> dict[str, Any]:
    """One attempt as a user may see it: the request as it was sent, and the response."""
    webhook, sees_all = delivery.webhook, redacted.may_change(delivery.webhook_id)
    body = sent_bodies(delivery, [attempt]).get(attempt.body_sha256) if sees_payload else None
    hides_body = not sees_payload or (attempt.body_kind == BodyKind.TEMPLATE and not sees_all)
    request_body = None if body is None or hides_body else body.decode(errors="replace")
    url = redacted.url(webhook.pk, attempt.url)
    changed = payloads.as_sent_to(delivery.event, webhook.pk).changed
    response_body = attempt.response_body if sees_all and sees_payload else ""
    numbers = delivery.attempts.order_by("pk").values_list("number", flat=True)
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
        "older": numbers.filter(pk__lt=attempt.pk).last(),
        "newer": numbers.filter(pk__gt=attempt.pk).first(),
    }


def explained_kind(delivery: Delivery) -> str:
    """The kind of the error that the page explains. Empty after a success or a discard."""
    return "" if delivery.state in (State.SUCCEEDED, State.DISCARDED) else delivery.error_kind


def curl(method: str, url: str, headers: Mapping[str, Any], body: str | None) -> str:
    """A stored request as a command of curl, for a shell, one option a line. ``body`` is None if it is unknown.

    A redacted value becomes a variable, such as ``${AUTHORIZATION}``: no secret is in the command.
    """
    parts = [f"curl --request {shlex.quote(method)}", f"--url {shlex.quote(url)}"]
    parts += ["--globoff"] if re.search(r"[][{}]", url) else []  # curl would take these for a range of URLs
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
