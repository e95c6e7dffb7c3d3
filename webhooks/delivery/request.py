"""The request that a webhook makes of an Event: URL, headers and body, written plainly or by templates."""

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
from webhooks.security.encryption import Secret, Unreadable

T = TypeVar("T")


def compose(webhook: Webhook, event: Bodies, message_id: str, renderer: Renderer) -> Request:
    """The request of an attempt that is made now. Raises Refused where the templates give none."""
    url, body = url_of(webhook, event, renderer), body_of(webhook, event, renderer)
    fields = {"Content-Type": webhook.content_type, "User-Agent": conf.user_agent}
    if webhook.additional_headers:
        fields |= _headers_of(webhook, event, renderer)
    secret_headers = _secret_headers(webhook)
    # Whatever their case: what is secret is what is sent.
    secret_names = {name.lower() for name in secret_headers}
    fields = {name: value for name, value in fields.items() if name.lower() not in secret_names}
    fields |= secret_headers | _signatures(webhook, message_id, body)
    fields[DEPTH] = str(event.depth)
    verify: bool | str = webhook.ca_file_path or True if webhook.ssl_verification else False
    timeout = webhook.timeout or conf.timeout
    hidden = headers.secrets_in(_revealed(webhook, "secret_headers"))
    return Request(url, fields, body, timeout, verify, conf.response_bytes, webhook.http_method, hidden)


def _secret_headers(webhook: Webhook) -> dict[str, str]:
    try:
        return headers.parse(_revealed(webhook, "secret_headers"))
    except ValueError as error:
        # Saved by code that judged nothing, or by an older version. Said here and in words: a report of an error would
        # have the variables of this call in it.
        raise Refused(f"the secret headers of webhook “{webhook}” cannot be used: {error}") from None


def _signatures(webhook: Webhook, message_id: str, body: bytes) -> dict[str, str]:
    secret, previous = _revealed(webhook, "secret"), webhook.overlapping_secret()
    try:
        return signing.headers(secret, message_id, int(time.time()), body, previous=previous)
    except ValueError as error:
        raise Refused(f"the secret of webhook “{webhook}” cannot be used: {error}") from None


def _revealed(webhook: Webhook, name: str) -> str:
    secret: Secret = getattr(webhook, name)
    try:
        return secret.reveal()
    except Unreadable as error:
        raise Refused(f"the {name.replace('_', ' ')} of webhook “{webhook}” cannot be used: {error}") from None


def body_of(webhook: Webhook, event: Bodies, renderer: Renderer) -> bytes:
    """Raises Refused where the template fails, or writes too much."""
    if not webhook.body_template and not webhook.is_form:
        return event.body(as_form=False)  # whose size was judged when it happened
    body = _written_body(webhook, event, renderer)
    try:
        payloads.refuse_too_large("the body", len(body))
    except Unsendable as error:
        raise Refused(str(error)) from None
    return body


def _written_body(webhook: Webhook, event: Bodies, renderer: Renderer) -> bytes:
    if not webhook.body_template:
        return event.body(as_form=True)
    # Half of a surrogate pair, which a template can make and UTF-8 cannot carry, is written as a question mark.
    text = _rendered("body", lambda: renderer.body(webhook.body_template, event.context, webhook.pk))
    return text.encode(errors="replace")


def url_of(webhook: Webhook, event: Bodies, renderer: Renderer) -> str:
    """Raises Refused where the template fails, or makes what is no URL to send to."""
    url = webhook.payload_url
    if not templates.is_template(url):
        if reason := _misspelt(url):  # saved by code that judged nothing
            raise Refused(f"the URL cannot be sent to: {reason}")
        return url
    rendered = _rendered("URL", lambda: renderer.url(url, event.context, webhook.pk)).strip().replace(" ", "%20")
    if reason := url_policy.problem(rendered):
        raise Refused(f"the URL came out as {rendered[:200]!r}: {reason}")
    return rendered


_misspelt = functools.lru_cache(maxsize=1024)(url_policy.problem)


def _headers_of(webhook: Webhook, event: Bodies, renderer: Renderer) -> dict[str, str]:
    lines = webhook.additional_headers
    if templates.is_template(lines):
        return _rendered("headers", lambda: renderer.headers(lines, event.context, webhook.pk))
    return _rendered("headers", lambda: _plain_headers(lines))


_plain_headers = functools.lru_cache(maxsize=256)(templates.header_lines)


def _rendered(what: str, render: Callable[[], T]) -> T:
    try:
        return render()
    except TemplateError as error:
        raise Refused(f"the {what} could not be rendered: {error}") from error
