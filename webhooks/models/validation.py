"""What is wrong with a webhook, told when it is saved: all of it at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.text import capfirst

from webhooks import conditions, registry
from webhooks.conditions import ConditionError
from webhooks.logs import get_logger
from webhooks.network import connect, url_policy
from webhooks.payloads import snapshots, templates
from webhooks.payloads.templates import Renderer, TemplateError
from webhooks.registry import event_names
from webhooks.registry.object_types import label_of

if TYPE_CHECKING:
    from webhooks.models.webhook import Webhook

logger = get_logger(__name__)

# A URL up to where its path begins, and what may come before the first tag of a template that gives the rest.
_HOST = re.compile(r"(https?://[^/?#]+[/?#])", re.IGNORECASE)
_BEGINNING = re.compile(r"\s*(h(t(t(p(s)?(:(/(/.*)?)?)?)?)?)?)?", re.IGNORECASE)
_TAG = re.compile(r"\{[{%#]")

NO_MODEL = "Choose at least one model."
NO_NAMES = 'Must be a list of names of fields, such as ["status", "tags"].'
UNWRITABLE = "They hold what no database takes as JSON: NaN, infinity, the character U+0000 or half of a pair."
CONFLICT = (
    "Somebody saved another webhook of this name, or settings that do not go with these, meanwhile: look at it again."
)
NO_USE_OF_CA_FILE = "A CA file has no effect while TLS verification is off: clear one of the two."


def objections(webhook: Webhook) -> dict[str, str]:
    """The fields that are refused, each with the reason, and its place or line where it has some."""
    picked = webhook.picked if webhook.picked is not None else webhook.object_types.all() if webhook.pk else ()
    labels = [label_of(one) for one in picked]
    with Renderer() as renderer:
        found = _found(webhook, labels, renderer)
    return {field: reason for field, reason in found.items() if reason}


def _found(webhook: Webhook, labels: Sequence[str], renderer: Renderer) -> dict[str, str]:
    return {
        "object_types": _to_no_model(webhook),
        "custom_events": event_names.unknown_events(webhook.custom_events),
        "serializer": _to_serializer(webhook.serializer, labels),
        "conditions": _to_conditions(webhook.conditions),
        "changed_fields": _to_names(webhook.changed_fields, labels, webhook.serializer),
        "payload_url": _to_url(webhook.payload_url, webhook.enabled, renderer),
        "additional_headers": _to_template("headers", webhook.additional_headers, renderer),
        "body_template": _to_template("body", webhook.body_template, renderer),
        "ca_file_path": NO_USE_OF_CA_FILE if webhook.ca_file_path and not webhook.ssl_verification else "",
    }


def _to_no_model(webhook: Webhook) -> str:
    is_without = webhook.picked is not None and not webhook.picked
    return NO_MODEL if is_without and (webhook.actions or not webhook.custom_events) else ""


def _to_serializer(name: str, labels: Sequence[str]) -> str:
    without = registry.without_serializer(name, labels)
    return f"There is no serializer called “{name}” of {', '.join(without)}." if without else ""


def _to_conditions(wanted: Any) -> str:
    try:
        conditions.parse(wanted)
    except ConditionError as error:
        return f"{error if error.place else capfirst(str(error))}."
    return _to_unwritable(wanted)


def _to_unwritable(value: Any) -> str:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return UNWRITABLE
    return UNWRITABLE if "\\u0000" in json.dumps(value) else ""


# The names of changed fields


def _to_names(names: Any, labels: Sequence[str], serializer: str) -> str:
    """A name may go on behind a dot, into JSON that the field holds: "custom_fields.zone". Where a serializer cannot be
    asked, nothing is wrong."""
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        return NO_NAMES
    if unwritable := _to_unwritable(names):
        return unwritable
    known = _known_fields(labels, serializer) if names and labels else None
    return "" if known is None else _unshown(names, known) or _without_names(names, known)


def _known_fields(labels: Sequence[str], serializer: str) -> dict[str, bool] | None:
    """The fields that some of these models show with this serializer, and whether there are names in what they hold;
    None where it cannot be told."""
    known: dict[str, bool] | None = None
    for registration in filter(None, map(registry.registration_by_label, labels)):
        try:
            shown = snapshots.shown(registration, serializer)
        except ImproperlyConfigured:
            continue  # told elsewhere: of the serializer, or by a check
        except Exception:
            logger.exception("The serializer of %s cannot be asked for its fields", registration.label)
            return None
        known = known or {}
        for name, field in shown.items():
            known[name] = known.get(name, False) or snapshots.holds_names(field)
    return known


def _unshown(names: Sequence[str], known: Mapping[str, bool]) -> str:
    unknown = [name for name in names if name.partition(".")[0] not in known]
    if not unknown:
        return ""
    return (
        f"No chosen model has {', '.join(map(repr, unknown))} in its payload, or it is no field that is stored. "
        f"There are: {', '.join(sorted(known)) or 'none'}."
    )


def _without_names(names: Sequence[str], known: Mapping[str, bool]) -> str:
    for name in names:
        field, dot, _ = name.partition(".")
        if dot and not known[field]:
            return (
                f"{name!r} would never change: {field!r} is compared as it is "
                f"stored, without names in it. Write {field!r}."
            )
    return ""


# Templates


def _to_url(url: str, is_sent: bool, renderer: Renderer) -> str:
    """``is_sent`` judges where it leads, too: whoever finds that nothing may be sent there any more can still disable
    the webhook."""
    judge = connect.why_blocked if is_sent else url_policy.problem
    if not url or not templates.is_template(url):
        return judge(url) if url else ""
    if reason := _to_template("url", url, renderer):
        return reason
    beginning = _TAG.split(url)[0]
    if host := _HOST.match(beginning):
        return judge(host[1])
    return "" if _BEGINNING.fullmatch(beginning) else "Enter an http:// or https:// URL."


def _to_template(kind: templates.Kind, source: str, renderer: Renderer) -> str:
    try:
        if source:
            renderer.check(kind, source)
    except TemplateError as error:
        return f"{capfirst(str(error)).rstrip('.')}."
    return ""
