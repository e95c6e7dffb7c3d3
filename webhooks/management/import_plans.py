"""Webhooks and event rules of NetBox and Nautobot as webhooks of this app: the differences, and their creation.

NetBox has event rules, and each uses one webhook: every rule becomes one webhook here. A webhook of Nautobot, or of
NetBox before 3.7, has its own models and actions.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db import transaction

from webhooks import registry
from webhooks.conf import MAX_TIMEOUT
from webhooks.errors import get_logger
from webhooks.management.import_source import Item, Responses
from webhooks.models import Webhook
from webhooks.models.webhook import COLUMNS
from webhooks.network import headers
from webhooks.operations.webhooks import check_webhook, save_webhook
from webhooks.payloads import templates
from webhooks.permissions import Operator
from webhooks.registry import label_of
from webhooks.registry.registration import is_sensitive

logger = get_logger(__name__)

OPERATOR = Operator("webhooks_import")

ACTIONS = {"object_created": "on_created", "object_updated": "on_updated", "object_deleted": "on_deleted"}
FLAGS = {"type_create": "on_created", "type_update": "on_updated", "type_delete": "on_deleted"}
LEFT_OUT = ("description", "owner", "tags", "custom_fields", "action_data")

ESCAPING = (
    "Nautobot escapes HTML in templates (& becomes &amp;), and this app does not: write {{ … | e }} where the receiver "
    "relies on it"
)

# A header with one of these words in its name contains credentials, in addition to sensitive names of fields.
SECRET_WORDS = {"auth", "authorization", "cookie", "key"}

_USER = re.compile(r"(https?://)([^/?#@{}\s]*)@", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """A webhook to create: fields and labels of models, and the differences from the original, each a clause."""

    origin: str
    fields: dict[str, Any]
    object_types: tuple[str, ...]
    differences: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.fields["name"])


@dataclass(frozen=True)
class Skipped:
    """A rule or webhook without an equivalent here, with the reason."""

    origin: str
    reason: str


@dataclass
class ImportPreview:
    """The result of an import before it changes anything."""

    new: list[Plan] = field(default_factory=list)
    existing: list[tuple[Plan, list[str]]] = field(default_factory=list)
    """Plans with the name of a stored webhook, and the fields that differ."""
    skipped: list[Skipped] = field(default_factory=list)


def preview(responses: Responses, disabled: bool = False) -> ImportPreview:
    """Translate and validate. ``disabled`` disables all new webhooks."""
    result, origins = ImportPreview(), dict[str, str]()
    for plan in translate(responses, registry.registered_models()):
        if isinstance(plan, Skipped):
            result.skipped.append(plan)
            continue
        plan.fields["enabled"] = plan.fields["enabled"] and not disabled
        if stored := Webhook.objects.filter(name=plan.name).first():
            result.existing.append((plan, _differing_fields(stored, plan)))
        elif problem := f"{origins[plan.name]} has the same name" if plan.name in origins else _problem(plan):
            result.skipped.append(Skipped(plan.origin, problem))
        else:
            origins[plan.name] = plan.origin
            result.new.append(plan)
    return result


def create(plans: Iterable[Plan]) -> None:
    """Create a webhook for each plan, or none. Raises ChangedMeanwhile if another user took one of the names."""
    with transaction.atomic(Webhook.objects.db):
        for plan in plans:
            webhook = save_webhook(Webhook(), plan.fields, _types_of(plan), OPERATOR, is_checked=True)
            logger.info("Webhook %s was imported from %s", webhook, plan.origin)


def _problem(plan: Plan) -> str:
    try:
        check_webhook(Webhook(), plan.fields, _types_of(plan), OPERATOR)
    except ValidationError as error:
        refused = [f"{name}: {' '.join(messages)}" for name, messages in error.message_dict.items()]
        return f"refused: {'; '.join(refused)}"
    return ""


def _types_of(plan: Plan) -> list[ContentType]:
    models = registry.registered_models()
    return list(ContentType.objects.get_for_models(*(models[label] for label in plan.object_types)).values())


def _differing_fields(stored: Webhook, plan: Plan) -> list[str]:
    planned = Webhook(**plan.fields)
    names = [name for name in COLUMNS if getattr(stored, name) != getattr(planned, name)]
    object_types = set(map(label_of, stored.object_types.all()))
    return names + (["object_types"] if object_types != set(plan.object_types) else [])


# The translation


class _NoEquivalent(Exception):
    pass


def translate(responses: Responses, registered: Collection[str]) -> Iterator[Plan | Skipped]:
    """A plan, or a reason against it, for each rule and webhook. ``registered`` are the labels of registered models."""
    webhooks, used = responses.webhooks, set()
    for rule in responses.rules.values():
        pk = rule.get("action_object_id")
        webhook = webhooks.get(pk) if isinstance(pk, int | str) else None
        if webhook and rule.choice("action_type") == "webhook":
            used.add(pk)
        yield _plan_or_skip(rule, webhook, registered)
    for pk, webhook in webhooks.items():
        if any(key in webhook for key in ("content_types", "object_types", *FLAGS)):
            yield _plan_or_skip(webhook, webhook, registered)
        elif pk not in used:
            yield Skipped(_title_of("webhook", webhook), "no event rule uses it")


def _title_of(kind: str, item: Item) -> str:
    return f'{kind} "{item.get("name") or item["id"]}"'


def _plan_or_skip(rule: Item, webhook: Item | None, registered: Collection[str]) -> Plan | Skipped:
    """``rule`` and ``webhook`` are the same for a webhook with its own models and actions."""
    origin = _title_of("webhook" if rule is webhook else "event rule", rule)
    kind = rule.choice("action_type") if rule is not webhook else "webhook"
    if kind != "webhook":
        action = f"is a {kind}" if kind else "is not given"
        return Skipped(origin, f"its action {action}: only webhooks have an equivalent here")
    if webhook is None:
        return Skipped(origin, f"its webhook {rule.get('action_object_id')} is missing in the responses")
    differences: list[str] = []
    try:
        object_types = _object_types(rule, registered, differences)
        fields = _webhook_fields(rule, webhook, differences)
    except _NoEquivalent as error:
        return Skipped(origin, str(error))
    if rule is not webhook:
        origin = f"{origin} with {_title_of('webhook', webhook)}"
    return Plan(origin, fields, object_types, tuple(differences))


def _webhook_fields(rule: Item, webhook: Item, differences: list[str]) -> dict[str, Any]:
    fields = {
        "name": rule.text("name"),
        "enabled": rule.flag("enabled", True),
        **_action_fields(rule, differences),
        **_request_fields(webhook, differences),
        "conditions": rule.get("conditions") or None,
        "prechange": True,  # always sent there
    }
    is_nautobot = isinstance(webhook["id"], str)  # a UUID; NetBox has numbers
    if not fields["body_template"]:
        if is_nautobot:
            differences.append("snapshots.differences: only templates have it, and this one sends the plain payload")
        if Webhook(content_type=fields["content_type"]).is_form:
            differences.append(
                "its payload is JSON there, whatever the content type says, and a form here: choose another content "
                "type, or write a body template"
            )
    if is_nautobot and any("{{" in fields[name] for name in ("body_template", "additional_headers")):
        differences.append(ESCAPING)
    if lost := [name for name in LEFT_OUT if _has_content(rule.get(name)) or _has_content(webhook.get(name))]:
        differences.append(f"left out: {', '.join(lost)}".replace("_", " "))
    return fields


def _has_content(value: Any) -> bool:
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _object_types(rule: Item, registered: Collection[str], differences: list[str]) -> tuple[str, ...]:
    labels = sorted({label.lower() for label in rule.texts("object_types") or rule.texts("content_types")})
    if not labels:
        raise _NoEquivalent("it names no models")
    known, unknown = [one for one in labels if one in registered], [one for one in labels if one not in registered]
    if not known:
        raise _NoEquivalent(f"none of its models is registered here: {', '.join(unknown)}")
    if unknown:
        differences.append(f"not registered here: {', '.join(unknown)}")
    return tuple(known)


def _action_fields(rule: Item, differences: list[str]) -> dict[str, bool]:
    if "event_types" in rule:
        given = rule.texts("event_types")
        chosen = {action: name in given for name, action in ACTIONS.items()}
        others = sorted({*given} - ACTIONS.keys())
    else:
        chosen = {action: rule.flag(flag, False) for flag, action in FLAGS.items()}
        others = [flag for flag in ("type_job_start", "type_job_end") if rule.get(flag)]
    if not any(chosen.values()):
        raise _NoEquivalent(f"none of its event types has an equivalent here: {', '.join(others) or 'there are none'}")
    if others:
        differences.append(f"event types: {', '.join(others)}")
    return chosen


def _request_fields(webhook: Item, differences: list[str]) -> dict[str, Any]:
    url, credentials = _without_user(webhook.text("payload_url"))
    lines = "\n".join(webhook.text("additional_headers").splitlines())
    additional, secret = _split_headers(lines, credentials, differences)
    if webhook.get("secret") is None:
        differences.append("its secret is not in the response: set it by hand if it has one")
    timeout = webhook.get("timeout")
    if not isinstance(timeout, int) or isinstance(timeout, bool):
        timeout = None
    elif timeout > MAX_TIMEOUT:
        differences.append(f"its timeout of {timeout} s: the maximum here is {MAX_TIMEOUT} s")
        timeout = MAX_TIMEOUT
    return {
        "payload_url": url,
        "http_method": webhook.choice("http_method") or "POST",
        "content_type": webhook.text("http_content_type") or "application/json",
        "additional_headers": additional,
        "secret_headers": secret,
        "body_template": webhook.text("body_template"),
        "secret": webhook.text("secret"),
        "ssl_verification": webhook.flag("ssl_verification", True),
        "ca_file_path": webhook.text("ca_file_path"),
        "timeout": timeout,
    }


def _without_user(url: str) -> tuple[str, str]:
    """A URL without user and password, and these encoded for Basic authentication, as ``requests`` sends them."""
    found = _USER.match(url)
    if not found:
        return url, ""
    credentials = base64.b64encode(unquote_to_bytes(found[2] if ":" in found[2] else f"{found[2]}:")).decode()
    return found[1] + url[found.end() :], credentials


def _split_headers(text: str, credentials: str, differences: list[str]) -> tuple[str, str]:
    """Additional and secret headers from header lines and the ``credentials`` of a URL, which take precedence.

    Appends to ``differences``, without any value.
    """
    additional: list[str] = []
    secret: dict[str, str] = {}
    lines = text.split("\n")
    in_block = _block(lines)
    for number, line in enumerate(lines):
        name = line.partition(":")[0].strip()
        is_plain = number not in in_block and not templates.is_template(line)
        if is_plain and line.strip() and ":" not in line:
            differences.append(f"line {number + 1} of its headers has no colon: left out, as it was not sent there")
        elif is_plain and _is_secret(name) and not headers.problem(line):
            secret[name.lower()] = line.strip()  # of two with one name, the later is sent
        else:
            additional.append(line)
    if secret:
        names = [line.partition(":")[0].strip() for line in secret.values()]
        differences.append(f"headers that become secret ones, which are not shown again: {', '.join(names)}")
    if credentials:
        secret["authorization"] = f"Authorization: Basic {credentials}"
        differences.append("the user and password in its URL: they become a secret header, Authorization")
    return "\n".join(additional).strip("\n"), "\n".join(secret.values())


def _block(lines: Sequence[str]) -> range:
    """The numbers of the lines from the first statement or comment of a template to the last."""
    found = [number for number, line in enumerate(lines) if any(mark in line for mark in ("{%", "%}", "{#", "#}"))]
    return range(found[0], found[-1] + 1) if found else range(0)


def _is_secret(name: str) -> bool:
    return is_sensitive(name) or not SECRET_WORDS.isdisjoint(re.split(r"[-_]", name.lower()))
