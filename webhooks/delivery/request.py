"""The HTTP request for an Event and a Webhook: URL, headers, signatures and body, plain or from templates."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TypeVar

from webhooks import payloads
from webhooks.conf import conf
from webhooks.models import Webhook
from webhooks.network import headers, url_policy
from webhooks.network.headers import DEPTH
from webhooks.network.outcome import Refused
from webhooks.network.transport import Request
from webhooks.payloads import Bodies, Unsendable, templates
from webhooks.payloads.templates import Renderer, TemplateError
from webhooks.security import signing
from webhooks.security.encryption import Unreadable

T = TypeVar("T")

_url_problem = functools.lru_cache(maxsize=1024)(url_policy.problem)
_parse_headers = functools.lru_cache(maxsize=256)(templates.header_lines)


def compose(webhook: Webhook, event: Bodies, message_id: str, renderer: Renderer) -> Request:
    """The request of an attempt that is made now. Raises Refused if the webhook's templates or secrets do not work."""
    url, body = url_of(webhook, event, renderer), body_of(webhook, event, renderer)
    fields = {"Content-Type": webhook.content_type, "User-Agent": conf.user_agent}
    if lines := webhook.additional_headers:
        is_template = templates.is_template(lines)
        fields |= _rendered(
            "headers",
            lambda: renderer.headers(lines, event.context, webhook.pk) if is_template else _parse_headers(lines),
        )
    part = "secret headers"
    try:
        secret_lines = webhook.secret_headers.reveal()
        secret_fields = headers.parse(secret_lines)
        part = "secret"
        secret, previous = webhook.secret.reveal(), webhook.overlapping_secret()
        signatures = signing.headers(secret, message_id, int(time.time()), body, previous=previous)
    except (ValueError, Unreadable) as error:
        # Saved without validation, or no key decrypts it. In words only: an error report would show the secret.
        raise Refused(f"the {part} of webhook “{webhook}” cannot be used: {error}") from None
    # A secret header replaces another one of its name, in upper or lower case.
    replaced = {name.lower() for name in secret_fields}
    fields = {name: value for name, value in fields.items() if name.lower() not in replaced}
    fields |= secret_fields | signatures | {DEPTH: str(event.depth)}
    verify: bool | str = webhook.ca_file_path or True if webhook.ssl_verification else False
    timeout, hidden = webhook.timeout or conf.timeout, headers.secrets_in(secret_lines)
    return Request(url, fields, body, timeout, verify, conf.response_bytes, webhook.http_method, hidden)


def body_of(webhook: Webhook, event: Bodies, renderer: Renderer) -> bytes:
    """Raises Refused if the template fails or writes too much."""
    if template := webhook.body_template:
        text = _rendered("body", lambda: renderer.body(template, event.context, webhook.pk))
        body = text.encode(errors="replace")  # a template can make lone surrogates, and UTF-8 has none
    else:
        body = event.body(webhook.is_form)
        if not webhook.is_form:
            return body  # its size was checked when the event was recorded
    try:
        payloads.refuse_too_large("the body", len(body))
    except Unsendable as error:
        raise Refused(str(error)) from None
    return body


def url_of(webhook: Webhook, event: Bodies, renderer: Renderer) -> str:
    """Raises Refused if the template fails, or if the URL is none that the app sends to."""
    url = webhook.payload_url
    if templates.is_template(url):
        url = _rendered("URL", lambda: renderer.url(url, event.context, webhook.pk)).strip().replace(" ", "%20")
        if reason := url_policy.problem(url):
            raise Refused(f"the URL came out as {url[:200]!r}: {reason}")
    elif reason := _url_problem(url):  # code can save a webhook without validation
        raise Refused(f"the URL cannot be sent to: {reason}")
    return url


def _rendered(part: str, render: Callable[[], T]) -> T:
    try:
        return render()
    except TemplateError as error:
        raise Refused(f"the {part} could not be rendered: {error}") from error
