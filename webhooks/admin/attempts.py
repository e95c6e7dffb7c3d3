"""The attempts on the page of a delivery: the timeline, and one attempt as a user may see it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from webhooks.admin import highlight
from webhooks.admin.display import pill, when
from webhooks.admin.lists import as_key
from webhooks.models import Attempt, BodyKind, Delivery
from webhooks.models.attempt import sent_bodies
from webhooks.models.queue import State
from webhooks.operations.wording import count_of, exact_time
from webhooks.permissions.redaction import Redaction, explain
from webhooks.text import REDACTED

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


def shown_attempt(delivery: Delivery, number_asked: str) -> Attempt | None:
    """The attempt with this number, or else the last one."""
    newest_first = delivery.attempts.order_by("-pk")
    asked = newest_first.filter(number=as_key(number_asked)).first() if number_asked else None
    return asked or newest_first.first()


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
        "pill": pill("succeeded" if attempt.succeeded else "failed", f"HTTP {attempt.status}"),
        "time": exact_time(attempt.started_at),
        "reason": redacted.error(webhook.pk, attempt.reason, attempt.error_kind),
        # The page says what to do about the last failure already.
        "explanation": None if attempt.error_kind == explained_kind(delivery) else explain(attempt.error_kind, url),
        "url": url,
        "headers": highlight.headers_block(attempt.request_headers, _("Headers of the request")) if sees_all else "",
        "hides_body": hides_body,
        "is_body_known": request_body is not None,
        "body": highlight.json_block(request_body or "", _("Body of the request"), changed),
        "body_size": count_of(len(body or b""), "byte"),
        "is_long": len(request_body or "") > LONG_BODY,
        "response_headers": (
            highlight.headers_block(attempt.response_headers, _("Headers of the response"))
            if sees_all and attempt.response_headers
            else ""
        ),
        "response_body": highlight.json_block(response_body, _("Body of the response")) if response_body else "",
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
    """The kind of the error that the page explains. None after a success or a discard."""
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
    variable = re.sub(r"\W", "_", name, flags=re.ASCII).upper()
    return f'{shlex.quote(f"{name}: {before}")}"${{{variable}}}"{shlex.quote(after) if after else ""}'
