"""The HTTP request for an Event and a Webhook: URL, headers, signatures and body, plain or from templates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from webhooks import hooks
from webhooks.ground import headers, payloads
from webhooks.ground.conf import conf
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.headers import DEPTH, REDELIVERY, TEST
from webhooks.ground.payloads import Bodies, Unsendable, templates
from webhooks.ground.payloads.templates import Renderer, TemplateError
from webhooks.ground.security import signing, url_policy
from webhooks.ground.security.encryption import Unreadable
from webhooks.models import BodyKind, Webhook
from webhooks.models.attempt import STORED_BODIES
from webhooks.models.webhook import TEMPLATE_FIELDS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS
from webhooks.workers.network.attempt import Refused, Request
from webhooks.workers.network.auth import Credentials, authenticate

T = TypeVar("T")

_url_problem = functools.lru_cache(maxsize=1024)(url_policy.problem)
_parse_headers = functools.lru_cache(maxsize=256)(templates.header_lines)


def compose(
    webhook: Webhook,
    event: Bodies,
    message_id: str,
    renderer: Renderer,
    now: Callable[[], datetime],
    is_redelivery: bool = False,
    is_test: bool = False,
    number: int = 1,
) -> Request:
    """The request of an attempt, signed with the time that ``now`` returns.

    ``is_redelivery``: a user or a command asked for it. ``is_test``: no change caused it. ``number``: 1 for the first
    attempt of the delivery.

    Raises Refused if the webhook's templates or secrets do not work, or the project's code for credentials.
    """
    event = event.adding(webhook.static_data)
    url, (body_kind, body) = url_of(webhook, event, renderer), body_of(webhook, event, renderer)
    additional = tuple(headers_of(webhook, event, renderer).items())
    fields = _merged(webhook.content_type, conf.user_agent, additional)
    moment = now()
    try:
        secret, previous = webhook.secret.reveal(), webhook.overlapping_secret(moment)
        signatures = signing.headers(secret, message_id, int(moment.timestamp()), body, previous=previous)
    except (ValueError, Unreadable) as error:
        raise _unusable(webhook, "secret", error) from None
    # Only the sender may set these headers, so the webhook has no other ones of their names.
    fields = {**fields, **signatures, DEPTH: str(event.depth)}
    if is_redelivery:
        fields[REDELIVERY] = "true"
    if is_test:
        fields[TEST] = "true"
    request = Request(
        url,
        fields,
        body,
        timeout=webhook.timeout or conf.timeout,
        verify=(webhook.ca_file_path or True) if webhook.ssl_verification else False,
        keep=conf.response_bytes,
        method=webhook.http_method,
        body_kind=body_kind,
        stores_body=body_kind in STORED_BODIES,
    )
    for hook in hooks.listed("request_prepared"):
        is_first = number == 1 and not is_redelivery
        prepared = hooks.PreparedRequest(
            webhook.pk, webhook.name, message_id, request.method, url, dict(request.headers), body, is_test,
            event.trace, webhook.send_trace, is_first, number,
        )  # fmt: skip
        request = _prepared_by(hook, request, prepared)
    try:
        return authenticate(request, credentials(webhook, url))
    except (ValueError, Unreadable) as error:
        raise _unusable(webhook, "secret headers", error) from None


def credentials(webhook: Webhook, url: str) -> Credentials:
    """The credentials of a request to this URL, which may come from a template."""
    return Credentials(url, webhook.secret_headers.reveal, webhook.ssl_verification)


def has_templates(webhook: Webhook) -> bool:
    return any(templates.is_template(getattr(webhook, name)) for name in TEMPLATE_FIELDS)


def _unusable(webhook: Webhook, part: str, error: ValueError | Unreadable) -> Refused:
    """For a secret that was saved without validation, or that no key decrypts. In words only: an error report would
    show the secret."""
    kind = ErrorKind.SECRET if isinstance(error, Unreadable) else ErrorKind.INVALID_SECRET
    return Refused(f"the {part} of webhook “{webhook}” cannot be used: {error}", kind)


def _prepared_by(hook: hooks.Hook, request: Request, prepared: hooks.PreparedRequest) -> Request:
    """The request with the headers that a hook sets. Raises Refused for a veto. A hook that fails sets none."""

    def prepare(prepared: hooks.PreparedRequest) -> Request:
        hook.method(prepared)
        changed = headers.changed_lines(request.headers, prepared.headers)
        return replace(request, headers=headers.merged(request.headers, changed))

    try:
        return hooks.Hook(hook.name, prepare).call(prepared) or request
    except hooks.Veto as veto:
        raise Refused(f"{hook.name}: {veto}", ErrorKind.VETOED) from None


@functools.lru_cache(maxsize=256)
def _merged(content_type: str, user_agent: str, additional: Collection[tuple[str, str]]) -> dict[str, str]:
    """The headers that do not depend on the event, cached: do not change them. A later one replaces an earlier one of
    its name, in upper or lower case."""
    fields = [("Content-Type", content_type), ("User-Agent", user_agent), *additional]
    return dict({name.lower(): (name, value) for name, value in fields}.values())


def body_of(webhook: Webhook, event: Bodies, renderer: Renderer) -> tuple[BodyKind, bytes]:
    """Raises Refused if the template fails or writes too much."""
    if template := webhook.body_template:
        text = _rendered("body", lambda: renderer.body(template, event.context, webhook.pk))
        # A template can make lone surrogates, and UTF-8 has none.
        kind, body = BodyKind.TEMPLATE, text.encode(errors="replace")
    elif webhook.static_data:
        kind, body = BodyKind.STATIC, event.body(as_form=webhook.is_form)
    elif webhook.is_form:
        kind, body = BodyKind.FORM, event.body(as_form=True)
    else:
        return BodyKind.PAYLOAD, event.body(as_form=False)  # its size was checked when the event was recorded
    try:
        payloads.refuse_too_large("the body", len(body))
    except Unsendable as error:
        raise Refused(str(error), ErrorKind.BODY_TOO_LARGE) from None
    return kind, body


def headers_of(webhook: Webhook, event: Bodies, renderer: Renderer) -> dict[str, str]:
    """The additional headers. Raises Refused if the template fails or writes something else than headers."""
    lines = webhook.additional_headers
    if not templates.is_template(lines):
        return _rendered("headers", lambda: _parse_headers(lines)) if lines else {}
    return _rendered("headers", lambda: renderer.headers(lines, event.context, webhook.pk))


def url_of(webhook: Webhook, event: Bodies, renderer: Renderer) -> str:
    """Raises Refused if the template fails, or if the URL is none that the app sends to."""
    url = webhook.payload_url
    if templates.is_template(url):
        url = _rendered("URL", lambda: renderer.url(url, event.context, webhook.pk)).strip().replace(" ", "%20")
        if reason := url_policy.problem(url):
            raise Refused(f"the URL came out as {url[:200]!r}: {reason}", ErrorKind.TEMPLATE)
    elif reason := _url_problem(url):  # code can save a webhook without validation
        raise Refused(f"the URL cannot be sent to: {reason}", ErrorKind.INVALID_URL)
    return url


def _rendered(part: str, render: Callable[[], T]) -> T:
    try:
        return render()
    except TemplateError as error:
        raise Refused(f"the {part} could not be rendered: {error}", ErrorKind.TEMPLATE) from error


# The fields of a webhook that a request is made of, without its secrets.
_PARTS: dict[str, Callable[[Webhook, Bodies, Renderer], object]] = {
    "payload_url": url_of,
    "additional_headers": headers_of,
    "body_template": body_of,
}


def problems_by_field(webhook: Webhook, event: Bodies, renderer: Renderer) -> dict[str, str]:
    """Why ``compose`` refuses, for each field of the webhook that does not work. Empty if it is another reason."""
    found, event = {}, event.adding(webhook.static_data)
    for name, make in _PARTS.items():
        try:
            make(webhook, event, renderer)
        except Refused as error:
            found[name] = str(error)
    for name in CREDENTIAL_FIELDS:
        if problem := getattr(webhook, name).problem:
            found[name] = problem
    return found
