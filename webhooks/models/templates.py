"""What is wrong with the templates of a webhook, told when it is saved."""

from __future__ import annotations

import re

from webhooks import rendering
from webhooks.network import destinations, dialling
from webhooks.rendering import TemplateError

# A URL up to where its path begins, and what may come before the first tag of a template that gives the rest.
_HOST = re.compile(r"(https?://[^/?#]+[/?#])", re.IGNORECASE)
_BEGINNING = re.compile(r"\s*(h(t(t(p(s)?(:(/(/.*)?)?)?)?)?)?)?", re.IGNORECASE)
_TAG = re.compile(r"\{[{%#]")


def problems(url: str, is_sent: bool, headers: str, body: str) -> dict[str, str]:
    """The fields of a webhook whose templates are refused, each with the reason and its line. ``is_sent`` judges where
    the URL leads, too: whoever finds that nothing may be sent there any more can still disable the webhook."""
    found = {"payload_url": _of_url(url, is_sent)}
    for field, kind, source in (("additional_headers", "headers", headers), ("body_template", "body", body)):
        found[field] = _refusal(kind, source) if source else ""  # type: ignore[arg-type]
    return {field: reason for field, reason in found.items() if reason}


def _of_url(url: str, is_sent: bool) -> str:
    judge = dialling.objection if is_sent else destinations.misspelt
    if not url or not rendering.is_template(url):
        return judge(url) if url else ""
    if reason := _refusal("url", url):
        return reason
    beginning = _TAG.split(url)[0]
    if host := _HOST.match(beginning):
        return judge(host[1])
    return "" if _BEGINNING.fullmatch(beginning) else "Enter an http:// or https:// URL."


def _refusal(kind: rendering.Kind, source: str) -> str:
    try:
        rendering.check(kind, source)
    except TemplateError as error:
        return f"{str(error)[:1].upper()}{str(error)[1:].rstrip('.')}."
    return ""
