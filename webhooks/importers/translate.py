"""Webhooks as NetBox and Nautobot know them, as webhooks of this app; and what of them has no equal here. Pure.

NetBox has event rules, each with one webhook: one webhook here for each rule. A webhook of Nautobot, or of NetBox
before 3.7, says itself what it wants.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from webhooks import conditions
from webhooks.conditions import ConditionError
from webhooks.conf import MAX_TIMEOUT
from webhooks.importers import headers
from webhooks.importers.source import Answers, Item
from webhooks.models import Webhook
from webhooks.text import clean

ACTIONS = {"object_created": "on_created", "object_updated": "on_updated", "object_deleted": "on_deleted"}
FLAGS = {"type_create": "on_created", "type_update": "on_updated", "type_delete": "on_deleted"}
LEFT_OUT = ("description", "owner", "tags", "custom_fields", "action_data")

ESCAPING = (
    "Nautobot escapes HTML in templates (& becomes &amp;), and this app does not: write {{ … | e }} where the receiver "
    "relies on it"
)

_USER = re.compile(r"(https?://)([^/?#@{}\s]*)@", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """A webhook to make: ``fields`` of the model, labels of models, and what has no equal, in words."""

    origin: str
    fields: dict[str, Any]
    object_types: tuple[str, ...]
    unequal: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.fields["name"])


@dataclass(frozen=True)
class Skipped:
    """What is not made of something, with the reason."""

    origin: str
    reason: str


class _Unfit(Exception):
    pass


def plans(answers: Answers, registered: Collection[str]) -> Iterator[Plan | Skipped]:
    """What becomes of everything that was read. ``registered`` are the labels of the models that may have webhooks."""
    webhooks = {webhook["id"]: webhook for webhook in answers.webhooks}
    used = set()
    for rule in answers.rules:
        if _choice(rule, "action_type") == "webhook":
            used.add(_target(rule))
        translate = partial(_of_rule, rule, webhooks.get(_target(rule)), registered)
        yield _planned(_called("event rule", rule), translate)
    for pk, webhook in webhooks.items():
        origin = _called("webhook", webhook)
        if _subscribes(webhook):
            yield _planned(origin, partial(_plan, origin, webhook, webhook, registered))
        elif pk not in used:
            yield Skipped(origin, "no event rule uses it")


def _planned(origin: str, translate: Callable[[], Plan]) -> Plan | Skipped:
    try:
        return translate()
    except _Unfit as error:
        return Skipped(origin, str(error))


def _target(rule: Item) -> int | str:
    pk = rule.get("action_object_id")
    return pk if isinstance(pk, int | str) else ""


def _subscribes(webhook: Item) -> bool:
    return any(key in webhook for key in ("content_types", "object_types", *FLAGS))


def _of_rule(rule: Item, webhook: Item | None, registered: Collection[str]) -> Plan:
    kind = _choice(rule, "action_type")
    if kind != "webhook":
        raise _Unfit(f"its action is a {kind or 'nothing'}: only webhooks have an equal here")
    if webhook is None:
        raise _Unfit(f"its webhook {rule.get('action_object_id')} is not among those that were read")
    origin = f"{_called('event rule', rule)} with {_called('webhook', webhook)}"
    return _plan(origin, rule, webhook, registered)


def _plan(origin: str, rule: Item, webhook: Item, registered: Collection[str]) -> Plan:
    unequal: list[str] = []
    object_types = _object_types(rule, registered, unequal)
    fields = {
        "name": _text(rule, "name"),
        "enabled": _flag(rule, "enabled", True),
        **_actions(rule, unequal),
        **_request(webhook, unequal),
        "conditions": _conditions(rule.get("conditions")),
        # There every webhook gets the state before; here only those that ask for it.
        "prechange": True,
    }
    if not fields["body_template"]:
        unequal += _differences_of_the_payload(webhook, fields)
    if _is_of_nautobot(webhook) and any("{{" in fields[name] for name in ("body_template", "additional_headers")):
        unequal.append(ESCAPING)
    unequal += _left_out(rule, webhook)
    return Plan(origin, fields, object_types, tuple(unequal))


def _differences_of_the_payload(webhook: Item, fields: dict[str, Any]) -> Iterator[str]:
    """What of the payload differs where no template writes it."""
    if _is_of_nautobot(webhook):
        yield "snapshots.differences: only templates have it, and this one sends the plain payload"
    if Webhook(content_type=fields["content_type"]).is_form:
        yield (
            "its payload is JSON there, whatever the content type says, and a form here: choose another content type, "
            "or write a body template"
        )


def _is_of_nautobot(webhook: Item) -> bool:
    return isinstance(webhook["id"], str)  # a UUID; NetBox's are numbers


def _object_types(rule: Item, registered: Collection[str], unequal: list[str]) -> tuple[str, ...]:
    given = rule.get("object_types") or rule.get("content_types") or []
    if not isinstance(given, list):
        raise _Unfit("its models are no list")
    labels = sorted({str(label).lower() for label in given})
    if not labels:
        raise _Unfit("it names no models")
    known, unknown = [one for one in labels if one in registered], [one for one in labels if one not in registered]
    if not known:
        raise _Unfit(f"none of its models is registered here: {', '.join(unknown)}")
    if unknown:
        unequal.append(f"not registered here: {', '.join(unknown)}")
    return tuple(known)


def _actions(rule: Item, unequal: list[str]) -> dict[str, bool]:
    given = rule.get("event_types")
    if given is None:
        wanted = {action: _flag(rule, flag, False) for flag, action in FLAGS.items()}
        others = [flag for flag in ("type_job_start", "type_job_end") if rule.get(flag)]
    elif isinstance(given, list):
        wanted = {action: name in given for name, action in ACTIONS.items()}
        others = sorted({str(name) for name in given} - ACTIONS.keys())
    else:
        raise _Unfit("its event types are no list")
    if not any(wanted.values()):
        raise _Unfit(f"none of its event types has an equal here: {', '.join(others) or 'there are none'}")
    if others:
        unequal.append(f"event types: {', '.join(others)}")
    return wanted


def _request(webhook: Item, unequal: list[str]) -> dict[str, Any]:
    url, credentials = _without_user(_text(webhook, "payload_url"))
    lines = "\n".join(_text(webhook, "additional_headers").splitlines())
    additional, secret = headers.split(lines, credentials, unequal)
    verify = _flag(webhook, "ssl_verification", True)
    if webhook.get("secret") is None:
        unequal.append("its secret is not in the answer: set it by hand if it has one")
    return {
        "payload_url": url,
        "http_method": _choice(webhook, "http_method") or "POST",
        "content_type": _text(webhook, "http_content_type") or "application/json",
        "additional_headers": additional,
        "secret_headers": secret,
        "body_template": _text(webhook, "body_template"),
        "secret": _text(webhook, "secret"),
        "ssl_verification": verify,
        "ca_file_path": _text(webhook, "ca_file_path"),
        "timeout": _timeout(webhook, unequal),
    }


def _without_user(url: str) -> tuple[str, str]:
    """A URL without its user and password, and those as ``requests`` would send them."""
    found = _USER.match(url)
    if not found:
        return url, ""
    credentials = base64.b64encode(unquote_to_bytes(found[2] if ":" in found[2] else f"{found[2]}:")).decode()
    return found[1] + url[found.end() :], credentials


def _timeout(webhook: Item, unequal: list[str]) -> int | None:
    seconds = webhook.get("timeout")
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        return None
    if seconds > MAX_TIMEOUT:
        unequal.append(f"its timeout of {seconds} s: {MAX_TIMEOUT} s are the most here")
    return min(seconds, MAX_TIMEOUT)


def _conditions(wanted: Any) -> Any:
    if not wanted:
        return None
    try:
        conditions.parse(wanted)
    except ConditionError as error:
        raise _Unfit(f"its conditions are refused: {error}") from error
    return wanted


def _left_out(*items: Item) -> list[str]:
    names = [name.replace("_", " ") for name in LEFT_OUT if any(_says(item.get(name)) for item in items)]
    return [f"left out: {', '.join(names)}"] if names else []


def _says(value: Any) -> bool:
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _called(kind: str, item: Item) -> str:
    return f'{kind} "{item.get("name") or item["id"]}"'


def _text(item: Item, key: str) -> str:
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Unfit(f"its {key} is no text")
    return clean(value.strip())


def _choice(item: Item, key: str) -> str:
    """The value of a choice, which some versions write with its label beside it."""
    value = item.get(key)
    return str((value.get("value") if isinstance(value, dict) else value) or "")


def _flag(item: Item, key: str, default: bool) -> bool:
    value = item.get(key)
    return value if isinstance(value, bool) else default
