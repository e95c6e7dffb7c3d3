"""Validate a webhook as a whole before it is saved. All mistakes are reported at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.capture import conditions
from webhooks.capture.conditions import ConditionError
from webhooks.ground import headers, registry
from webhooks.ground.errors import get_logger
from webhooks.ground.payloads import snapshots, templates
from webhooks.ground.payloads.templates import Renderer, TemplateError
from webhooks.ground.registry import label_of
from webhooks.ground.security import signing, url_policy
from webhooks.ground.security.encryption import Secret
from webhooks.ground.text.json_text import MAX_JSON_DEPTH, json_depth
from webhooks.models import Webhook
from webhooks.models.validators import is_list_of_names
from webhooks.workers.network import connect

logger = get_logger(__name__)

MAX_DEPTH = MAX_JSON_DEPTH // 2  # of static data: it goes into the payload

NO_MODEL = gettext_lazy("Choose at least one model.")
NO_MODEL_OF_ACTIONS = gettext_lazy("Choose at least one model, or none of the actions.")
NO_NAMES = gettext_lazy('Must be a list of field names, such as ["status", "tags"].')
NOT_JSON = gettext_lazy(
    "Contains a value that databases do not store as JSON: NaN, infinity, U+0000 or a lone surrogate."
)
NO_OBJECT = gettext_lazy('Must be a JSON object, such as {"team": "noc"}.')
NO_USE_OF_CA_FILE = gettext_lazy("A CA file has no effect while TLS verification is off: clear one of the two.")

# The scheme and host of a URL, and what may precede a template tag that writes the host.
_HOST = re.compile(r"(https?://[^/?#]+[/?#])", re.IGNORECASE)
_BEGINNING = re.compile(r"\s*(h(t(t(p(s)?(:(/(/.*)?)?)?)?)?)?)?", re.IGNORECASE)
_TAG = re.compile(r"\{[{%#]")


def find_errors(webhook: Webhook) -> dict[str, str]:
    """The invalid fields of a webhook, each with the reason and, if known, the place or line."""
    chosen = webhook.new_object_types
    stored = webhook.object_types.all() if webhook.pk else ()
    labels = [label_of(one) for one in (stored if chosen is None else chosen)]
    needs_model = webhook.actions or not webhook.custom_events
    no_model = NO_MODEL_OF_ACTIONS if webhook.custom_events else NO_MODEL
    bare = registry.models_without_serializer(webhook.serializer, labels)
    without = _("There is no serializer “%(name)s” for %(models)s.")
    with Renderer() as renderer:
        errors = {
            "object_types": no_model if chosen is not None and not chosen and needs_model else "",
            "custom_events": registry.custom_events_problem(
                webhook.custom_events, registry.reserved_for(webhook.identifier)
            ),
            "serializer": without % {"name": webhook.serializer, "models": ", ".join(bare)} if bare else "",
            "conditions": _conditions_error(webhook.conditions),
            "changed_fields": _changed_fields_error(webhook.changed_fields, labels, webhook.serializer),
            "payload_url": _url_error(webhook.payload_url, webhook.enabled, renderer),
            "additional_headers": _template_error("headers", webhook.additional_headers, renderer),
            "body_template": _template_error("body", webhook.body_template, renderer),
            "static_data": _static_data_error(webhook.static_data),
            "secret": _secret_error(webhook.secret, _key_error),
            "secret_headers": _secret_error(webhook.secret_headers, headers.problem),
            "ca_file_path": NO_USE_OF_CA_FILE if webhook.ca_file_path and not webhook.ssl_verification else "",
        }
    return {field: str(reason) for field, reason in errors.items() if reason}


def _secret_error(secret: Secret, find_error: Callable[[str], str]) -> str:
    """One that no key decrypts was validated when it was entered."""
    return "" if secret.problem else find_error(secret.reveal())


def _key_error(secret: str) -> str:
    try:
        signing.key_of(secret)
    except ValueError:
        problem = _("A secret that begins with %(prefix)s must go on in base64, and with at least one byte.")
        return problem % {"prefix": signing.PREFIX}
    return ""


def _conditions_error(tree: Any) -> str:
    try:
        conditions.parse(tree)
    except ConditionError as error:
        return f"{error if error.place else capfirst(str(error))}."
    return _json_error(tree)


def _static_data_error(value: Any) -> str:
    if value is not None and not isinstance(value, dict):
        return str(NO_OBJECT)
    return _json_error(value) or (
        _("The data is nested too deep.") if json_depth(json.dumps(value)) > MAX_DEPTH else ""
    )


def _json_error(value: Any) -> str:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return str(NOT_JSON)
    return str(NOT_JSON) if "\\u0000" in json.dumps(value) else ""


def _changed_fields_error(names: Any, labels: Sequence[str], serializer: str) -> str:
    """A name may address a key in a JSON field: "custom_fields.zone"."""
    if not is_list_of_names(names):
        return str(NO_NAMES)
    if error := _json_error(names):
        return error
    known = _known_fields(labels, serializer) if names and labels else None
    if known is None:
        return ""
    if unknown := [name for name in names if name.partition(".")[0] not in known]:
        text = _("No chosen model has %(names)s in its payload as a stored field. Choose from: %(known)s.")
        return text % {"names": ", ".join(map(repr, unknown)), "known": ", ".join(sorted(known)) or _("none")}
    for name in names:
        field, dot, _key = name.partition(".")
        if dot and not known[field]:
            text = _("%(name)r would never change: %(field)r has no keys to address. Write %(field)r.")
            return text % {"name": name, "field": field}
    return ""


def _known_fields(labels: Sequence[str], serializer: str) -> dict[str, bool] | None:
    """The fields that this serializer shows of these models, and whether a key can address into each.

    None if a serializer cannot list its fields: then names are not checked.
    """
    known: dict[str, bool] | None = None
    for registration in filter(None, map(registry.registration_by_label, labels)):
        try:
            shown = snapshots.snapshot_fields(registration, serializer)
        except ImproperlyConfigured:
            continue  # reported for the field ``serializer``, or by a system check
        except Exception:
            logger.exception("Cannot list the fields of the serializer of %s", registration.label)
            return None
        known = known or {}
        for name, field in shown.items():
            known[name] = known.get(name, False) or snapshots.has_json_keys(field)
    return known


def _url_error(url: str, is_enabled: bool, renderer: Renderer) -> str:
    """The destination is checked for enabled webhooks only, so that a webhook to a forbidden one can be disabled."""
    check = connect.why_blocked if is_enabled else url_policy.problem
    if reason := _template_error("url", url, renderer) if templates.is_template(url) else "":
        return reason
    if fixed := fixed_part(url):
        return check(fixed)
    return "" if _BEGINNING.fullmatch(_TAG.split(url)[0]) else _("Enter an http:// or https:// URL.")


def fixed_part(url: str) -> str:
    """The URL. Of a template only the beginning up to the host, and nothing if the host depends on the data."""
    if not templates.is_template(url):
        return url
    host = _HOST.match(_TAG.split(url)[0])
    return host[1] if host else ""


def _template_error(kind: templates.Kind, source: str, renderer: Renderer) -> str:
    try:
        if source:
            renderer.check(kind, source)
    except TemplateError as error:
        problem = f"{capfirst(str(error)).rstrip('.')}."
        return _("The template is not valid. %(problem)s") % {"problem": problem}
    return ""
