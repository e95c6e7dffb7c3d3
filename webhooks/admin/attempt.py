"""One attempt of a delivery as its page shows it: the request, the answer, and the request as a command of curl."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from webhooks import payloads
from webhooks.admin.display import headers_block, json_block, pill
from webhooks.admin.lists import as_key
from webhooks.models import Attempt, BodyKind, Delivery
from webhooks.models.attempt import sent_bodies
from webhooks.models.queue import State
from webhooks.operations.wording import count_of, exact_time
from webhooks.permissions.redaction import Redaction, explain
from webhooks.text import REDACTED

# A body with more characters is folded.
LONG_BODY = 5000

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
