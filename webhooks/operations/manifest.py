"""Webhooks as a file that a project keeps in its repository: read it, plan what it changes, apply it, and write it.

Each webhook in the file has an identifier and settings by their names. Settings that it leaves out get their defaults,
as with a PUT of the REST API. Only secrets and ``enabled`` stay as they are: a worker may have disabled the webhook.
Secrets are not in the file. It names the environment variables that hold them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils import translation
from django.utils.text import slugify

from webhooks import registry
from webhooks.insight import history
from webhooks.models import Webhook
from webhooks.models.validation import CONFLICT
from webhooks.models.webhook import SETTINGS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS
from webhooks.operations import edits
from webhooks.operations.webhooks import StaleSettings, check_webhook, delete_webhooks, save_webhook
from webhooks.registry import label_of
from webhooks.security.encryption import Secret

WEBHOOKS = "webhooks"
"""The only key of a file: the list of its webhooks."""

ENVIRONMENT = "env"
"""The key of a secret in the file, with the name of an environment variable."""

# Stay as they are if the file leaves them out.
KEPT = {*CREDENTIAL_FIELDS, "enabled"}

NAMES = {str: "a text", bool: "true or false", int: "a whole number", list: "a list of texts", dict: "an object"}


class InvalidFile(Exception):
    """The file cannot be applied. ``problems`` has a sentence for each mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass
class Declared:
    """A webhook as the file declares it."""

    identifier: str
    values: dict[str, Any]
    labels: list[str]
    """Of its models, such as "dcim.site"."""


@dataclass
class Change:
    """What the file changes: it creates, changes or removes a webhook."""

    verb: str
    """ "create", "change" or "remove"."""
    webhook: Webhook
    values: dict[str, Any] = field(default_factory=dict)
    object_types: list[ContentType] | None = None
    """None keeps its models."""
    tag: str = ""
    """The tag of the settings that the plan is made from."""

    def __str__(self) -> str:
        """Such as "change cmdb-sync: name, timeout"."""
        title = self.values.get("identifier") or self.webhook.identifier or self.webhook.name
        given = {*self.values} if self.object_types is None else {*self.values, "object_types"}
        details = f": {', '.join(name for name in SETTINGS if name in given)}" if self.verb == "change" else ""
        return f"{self.verb} {title}{details}"


# Reading


def read(document: Any, environment: Mapping[str, str] = os.environ) -> list[Declared]:
    """The webhooks of a parsed file. Raises InvalidFile with all mistakes that need no database."""
    if not isinstance(document, dict) or not isinstance(document.get(WEBHOOKS), list) or len(document) > 1:
        raise InvalidFile([f"The file must be an object with one key, “{WEBHOOKS}”, and a list of webhooks in it."])
    problems: list[str] = []
    found = [_declared(item, number, environment, problems) for number, item in enumerate(document[WEBHOOKS], 1)]
    identifiers = [one.identifier for one in found if one.identifier]
    twice = sorted({one for one in identifiers if identifiers.count(one) > 1})
    problems += [f"{one}: two webhooks have this identifier." for one in twice]
    if problems:
        raise InvalidFile(problems)
    return found


def _declared(item: Any, number: int, environment: Mapping[str, str], problems: list[str]) -> Declared:
    identifier = item.get("identifier") if isinstance(item, dict) else None
    if not isinstance(identifier, str) or not identifier:
        problems.append(f"Webhook {number} of the file needs an identifier, such as “cmdb-sync”.")
        return Declared("", {}, [])
    values, labels = {name: value for name, value in _defaults().items() if name not in KEPT}, []
    for name, given in item.items():
        try:
            if name == "object_types":
                labels = [label.lower() for label in _typed(given, list)]
            else:
                values[name] = _value(name, given, environment)
        except ValueError as error:
            problems.append(f"{identifier}: {name}: {error}.")
    return Declared(identifier, values, labels)


def _value(name: str, given: Any, environment: Mapping[str, str]) -> Any:
    """A setting as the model has it. Raises ValueError with the reason why it cannot be one."""
    if name not in SETTINGS:
        nearest = get_close_matches(name, SETTINGS, n=1)
        raise ValueError(f"there is no such setting. {f'Did you mean {nearest[0]}' if nearest else 'See the docs'}")
    if name in CREDENTIAL_FIELDS:
        return _secret(given, environment)
    if given is None and _column(name).null:
        return None
    return _typed(given, _type_of(name))


def _secret(given: Any, environment: Mapping[str, str]) -> Secret:
    if given in ("", None):
        return Secret()
    variable = given.get(ENVIRONMENT) if isinstance(given, dict) and len(given) == 1 else None
    if not isinstance(variable, str):
        raise ValueError(f"write {{{ENVIRONMENT}: NAME}} with the name of an environment variable, or “” for none")
    if not environment.get(variable):
        raise ValueError(f"the environment variable {variable} is not set")
    return Secret(environment[variable])


def _typed(given: Any, kind: type) -> Any:
    is_right = isinstance(given, kind) and not (kind is int and isinstance(given, bool))
    if not is_right or (kind is list and not all(isinstance(one, str) for one in given)):
        raise ValueError(f"it must be {NAMES[kind]}")
    return given


def _column(name: str) -> Any:
    return Webhook._meta.get_field(name)


def _type_of(name: str) -> type:
    """The type of a setting in the file."""
    match _column(name):
        case models.ManyToManyField():
            return list
        case models.JSONField() as column:
            return list if column.default is list else dict
        case models.BooleanField():
            return bool
        case models.IntegerField():
            return int
    return str


def _defaults() -> dict[str, Any]:
    return {name: _column(name).get_default() for name in SETTINGS if name != "object_types"}


# Planning


def plan(declared: Iterable[Declared], user: Any, prunes: bool = False) -> list[Change]:
    """What to change, so that the stored webhooks are as declared. Empty if they are.

    A webhook without an identifier gets the declared one if it has the same name. With ``prunes``, webhooks with other
    identifiers are removed; those without one never. Raises InvalidFile with the mistakes of all webhooks.
    """
    declared, problems, changes = list(declared), [], []
    with translation.override("en"):
        for one in declared:
            try:
                if change := _change(one, user):
                    changes.append(change)
            except ValidationError as error:
                found = error.message_dict.items()
                problems += [f"{one.identifier}: {name}: {' '.join(messages)}" for name, messages in found]
    if problems:
        raise InvalidFile(problems)
    if prunes:
        kept = [one.identifier for one in declared]
        others = Webhook.objects.exclude(identifier=None).exclude(identifier__in=kept).order_by("name")
        changes += [Change("remove", webhook, tag=edits.settings_tag(webhook)) for webhook in others]
    return changes


def _change(one: Declared, user: Any) -> Change | None:
    stored = Webhook.objects.filter(identifier=one.identifier).first()
    stored = stored or Webhook.objects.filter(identifier=None, name=one.values.get("name", "")).first()
    object_types = _types(one, stored)
    if stored is None:
        check_webhook(Webhook(), one.values, object_types, user)
        return Change("create", Webhook(), one.values, object_types)
    has_same_models = {each.pk for each in object_types} == {each.pk for each in stored.object_types.all()}
    differing = {name: value for name, value in one.values.items() if not _is_same(value, getattr(stored, name))}
    if has_same_models and not differing:
        return None
    given = None if has_same_models else object_types
    check_webhook(stored, differing, given, user)
    return Change("change", stored, differing, given, edits.settings_tag(stored))


def _is_same(value: Any, stored: Any) -> bool:
    if isinstance(value, Secret):
        return not stored.problem and bool(value.reveal() == stored.reveal())
    return value == stored or edits.is_posted_back(value, stored)


def _types(one: Declared, stored: Webhook | None) -> list[ContentType]:
    """The content types of the declared models. Raises ValidationError for unknown ones."""
    registered, missing = registry.registered_models(), registry.unregistered(one.labels)
    own = {label_of(each): each for each in stored.object_types.all()} if stored else {}
    if refused := [label for label in missing if label not in own]:
        raise ValidationError({"object_types": f"Not registered: {', '.join(refused)}."})
    known = ContentType.objects.get_for_models(*(registered[label] for label in one.labels if label in registered))
    return [*known.values(), *(own[label] for label in missing)]


# Applying


def apply(changes: Iterable[Change], user: Any) -> None:
    """Make all changes, or none. Raises what ``save_webhook`` raises: ChangedMeanwhile if a webhook is no longer as it
    was when the plan was made."""
    with transaction.atomic(Webhook.objects.db):
        for change in changes:
            if change.verb == "remove":
                _remove(change, user)
            else:
                tags = [change.tag] if change.tag else None
                save_webhook(change.webhook, change.values, change.object_types, user, tags=tags)


def _remove(change: Change, user: Any) -> None:
    rows = Webhook.objects.filter(pk=change.webhook.pk)
    stored = rows.select_for_update(no_key=True, of=("self",)).first()
    if stored is None or edits.settings_tag(stored) != change.tag:
        raise StaleSettings(str(CONFLICT))
    history.record(user, [stored], history.DELETION)
    delete_webhooks(rows)


# Writing


def document(webhooks: Iterable[Webhook]) -> dict[str, Any]:
    """These webhooks for a file. It leaves out defaults, and has names of environment variables for their secrets."""
    return {WEBHOOKS: [_item(webhook) for webhook in webhooks]}


def _item(webhook: Webhook) -> dict[str, Any]:
    identifier = webhook.identifier or f"webhook-{slugify(webhook.name) or webhook.pk}"[:100]
    item: dict[str, Any] = {"name": webhook.name, "identifier": identifier}
    for name, default in _defaults().items():
        value = getattr(webhook, name)
        if name in CREDENTIAL_FIELDS:
            if value:
                item[name] = {ENVIRONMENT: f"{identifier}_{name}".upper().replace("-", "_")}
        elif name not in item and value != default:
            item[name] = value
    item["object_types"] = sorted(map(label_of, webhook.object_types.all()))
    return {name: item[name] for name in SETTINGS if item.get(name, "") not in ("", [])}


SCHEMA_TYPES = {str: "string", bool: "boolean", int: "integer", list: "array", dict: "object"}


def schema() -> dict[str, Any]:
    """The JSON Schema of a file, for editors."""
    with translation.override("en"):
        item = {name: _schema_of(name) for name in SETTINGS}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Webhooks of django-rq-webhooks",
        "type": "object",
        "required": [WEBHOOKS],
        "additionalProperties": False,
        "properties": {
            WEBHOOKS: {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["identifier", "name", "payload_url"],
                    "additionalProperties": False,
                    "properties": item,
                },
            }
        },
    }


def _schema_of(name: str) -> dict[str, Any]:
    column = _column(name)
    about: dict[str, Any] = {"description": str(column.help_text)}
    if name in CREDENTIAL_FIELDS:
        variable = {
            "type": "object",
            "required": [ENVIRONMENT],
            "additionalProperties": False,
            "properties": {ENVIRONMENT: {"type": "string", "description": "The name of an environment variable."}},
        }
        return {**about, "anyOf": [variable, {"const": ""}]}
    kind: Any = SCHEMA_TYPES[_type_of(name)]
    if kind == "array":
        about["items"] = {"type": "string"}
    if kind == "string" and column.max_length:
        about["maxLength"] = column.max_length
    if column.choices:
        about["enum"] = [value for value, _label in column.choices]
    return {**about, "type": [kind, "null"] if column.null and name != "identifier" else kind}
