"""Webhooks as a file that a project keeps in its repository: read it, plan its changes, apply them, and write it.

Each webhook in the file has an identifier and settings by their names. Settings that it leaves out get their defaults,
as with a PUT of the REST API. Only secrets and ``enabled`` stay as they are: a worker may have disabled the webhook.
Secrets are not in the file. It names the environment variables that hold them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models, transaction
from django.utils import translation
from django.utils.text import slugify

from webhooks.ground import registry
from webhooks.ground.registry import label_of
from webhooks.ground.security.encryption import Secret
from webhooks.ground.text import clean
from webhooks.ground.text.json_text import json_equal
from webhooks.models import Webhook
from webhooks.models.webhook import CONFLICT, SETTINGS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS
from webhooks.operations import edits
from webhooks.operations.webhooks import StaleSettings, check_webhook, delete_webhooks, save_webhook

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
    problems: dict[str, str] = field(default_factory=dict)
    """What is wrong with its settings, by their names. Such a setting has its default in ``values``."""


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


def _read(document: Any, environment: Mapping[str, str], problems: list[str]) -> list[Declared]:
    """The webhooks of a parsed file that have an identifier. Adds the mistakes of the others to ``problems``. Raises
    InvalidFile if the document has no list of webhooks."""
    if not isinstance(document, dict) or not isinstance(document.get(WEBHOOKS), list) or len(document) > 1:
        raise InvalidFile([f"The file must be an object with one key, “{WEBHOOKS}”, and a list of webhooks in it."])
    found = []
    for number, item in enumerate(document[WEBHOOKS], 1):
        identifier = item.get("identifier") if isinstance(item, dict) else None
        if isinstance(identifier, str) and identifier:
            found.append(_declared(item, identifier, environment))
        else:
            problems.append(f"Webhook {number} of the file needs an identifier, such as “cmdb-sync”.")
    reserved = {one.identifier: registry.reserved_for(one.identifier) for one in found}
    problems += [f"{identifier}: {one.problem}" for identifier, one in reserved.items() if one]
    problems += [f"{one}: two webhooks have this identifier." for one in _repeated([one.identifier for one in found])]
    problems += [f"{one}: two webhooks have this name." for one in _repeated([one.values["name"] for one in found])]
    return found


def _repeated(texts: Sequence[str]) -> list[str]:
    return sorted({one for one in texts if one and texts.count(one) > 1})


def _declared(item: dict[Any, Any], identifier: str, environment: Mapping[str, str]) -> Declared:
    one = Declared(identifier, {name: value for name, value in _defaults().items() if name not in KEPT}, [])
    for name, given in item.items():
        try:
            if name == "object_types":
                one.labels = [label.lower() for label in _typed(given, list)]
            else:
                one.values[name] = _value(name, given, environment)
        except ValueError as error:
            one.problems[name] = str(error)
    return one


def _value(name: str, given: Any, environment: Mapping[str, str]) -> Any:
    """A setting as the model has it. Raises ValueError with the reason why it cannot be one."""
    if name not in SETTINGS:
        nearest = get_close_matches(name, SETTINGS, n=1)
        raise ValueError(f"there is no such setting. {f'Did you mean {nearest[0]}?' if nearest else 'See the docs.'}")
    if name in CREDENTIAL_FIELDS:
        return _secret(given, environment)
    if given is None and _column(name).null:
        return None
    return _typed(given, _type_of(name))


def _secret(given: Any, environment: Mapping[str, str]) -> Secret:
    if given == "":
        return Secret()
    variable = given.get(ENVIRONMENT) if isinstance(given, dict) and len(given) == 1 else None
    if not isinstance(variable, str):
        raise ValueError(f"write {{{ENVIRONMENT}: NAME}} with the name of an environment variable, or “” for none.")
    text = environment.get(variable, "").strip()  # as in a form: a file of a secret ends with a line break
    if not text:
        raise ValueError(f"the environment variable {variable} is not set, or empty.")
    if clean(text) != text:
        raise ValueError(f"the environment variable {variable} is not UTF-8.")
    return Secret(text)


def _typed(given: Any, kind: type) -> Any:
    is_right = isinstance(given, kind) and not (kind is int and isinstance(given, bool))
    if not is_right or (kind is list and not all(isinstance(one, str) for one in given)):
        raise ValueError(f"it must be {NAMES[kind]}.")
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


def plan(document: Any, user: Any, prunes: bool = False, environment: Mapping[str, str] = os.environ) -> list[Change]:
    """What to change, so that the stored webhooks are as a parsed file says. Empty if they are.

    A webhook without an identifier gets the declared one if it has the same name. With ``prunes``, webhooks with other
    identifiers are removed first; those without one, or with a reserved one, never. Raises InvalidFile with all
    mistakes.
    """
    problems: list[str] = []
    declared = _read(document, environment, problems)
    kept = [one.identifier for one in declared]
    others = Webhook.objects.exclude(identifier=None).exclude(identifier__in=kept).order_by("name") if prunes else ()
    removed = [webhook for webhook in others if not registry.reserved_for(webhook.identifier)]
    changes = [Change("remove", webhook, tag=edits.settings_tag(webhook)) for webhook in removed]
    free = {webhook.name for webhook in removed} | _given_up(declared)
    with translation.override("en"):
        for one in declared:
            try:
                if change := _change(one, user, free):
                    changes.append(change)
            except ValidationError as error:
                found = {name: " ".join(messages) for name, messages in error.message_dict.items()}
                if one.problems:  # a setting that cannot be read has its default, from which these may follow
                    found = {name: problem for name, problem in found.items() if name != NON_FIELD_ERRORS}
                one.problems = found | one.problems
            problems += [f"{one.identifier}: {name}: {problem}" for name, problem in one.problems.items()]
    if problems:
        raise InvalidFile(problems)
    return changes


def _given_up(declared: Sequence[Declared]) -> set[str]:
    """The names of stored webhooks that get another one."""
    names = {one.identifier: one.values["name"] for one in declared}
    stored = Webhook.objects.filter(identifier__in=names).values_list("identifier", "name")
    return {name for identifier, name in stored if names[str(identifier)] != name}


def _change(one: Declared, user: Any, free: Collection[str]) -> Change | None:
    """What makes the stored webhook as declared. ``free`` are names of webhooks that are removed or renamed before."""
    stored = Webhook.objects.filter(identifier=one.identifier).first()
    stored = stored or Webhook.objects.filter(identifier=None, name=one.values.get("name", "")).first()
    object_types = _types(one, stored)
    if stored is None:
        values = check_webhook(Webhook(), one.values, object_types, user, free)
        return Change("create", Webhook(), values, object_types)
    has_same_models = {each.pk for each in object_types} == {each.pk for each in stored.object_types.all()}
    wanted = Webhook(**one.values)
    wanted.normalize()
    values = {name: getattr(wanted, name) for name in one.values}
    differing = {name: value for name, value in values.items() if not _is_same(value, getattr(stored, name))}
    if has_same_models and not differing:
        return None
    given = None if has_same_models else object_types
    values = check_webhook(stored, differing, given, user, free)
    return Change("change", stored, values, given, edits.settings_tag(stored))


def _is_same(value: Any, stored: Any) -> bool:
    if isinstance(value, Secret):
        return not stored.problem and _is_same(value.reveal(), stored.reveal())
    return json_equal(value, stored) or edits.is_posted_back(value, stored)


def _types(one: Declared, stored: Webhook | None) -> list[ContentType]:
    """The content types of the declared models. Adds unknown ones to the problems of the webhook."""
    kept = stored.object_types.all() if stored else ()
    try:
        return registry.object_types_of(one.labels, kept)
    except registry.Unregistered as error:
        one.problems["object_types"] = f"Not registered: {error}."
        return registry.object_types_of([label for label in one.labels if label not in error.labels], kept)


# Applying


def apply(changes: Iterable[Change], user: Any) -> None:
    """Make all changes, or none. Raises what ``save_webhook`` raises: ChangedMeanwhile if a webhook is no longer as it
    was when the plan was made."""
    with transaction.atomic(Webhook.objects.db):
        left = []
        for change in changes:
            if change.verb == "remove":
                _lock(change)
                delete_webhooks(Webhook.objects.filter(pk=change.webhook.pk), user)
            else:
                left.append(change)
        while left:
            holders = {change.webhook.name: change for change in left if change.webhook.pk}
            ready = (one for one in left if holders.get(one.values.get("name", ""), one) is one)
            if (one := next(ready, None)) is None:  # the names go in a circle
                _give_up_name(left[0])
                continue
            left.remove(one)
            tags = [one.tag] if one.tag else None
            # Checked by the plan, and not again: workers wait for the rows that are locked by now.
            save_webhook(one.webhook, one.values, one.object_types, user, tags=tags, is_checked=True)


def _lock(change: Change) -> Webhook:
    """The stored webhook of a change. Raises StaleSettings if it is no longer as it was when the plan was made."""
    rows = Webhook.objects.filter(pk=change.webhook.pk)
    stored = rows.select_for_update(no_key=True, of=("self",)).first()
    if stored is None or edits.settings_tag(stored) != change.tag:
        raise StaleSettings(str(CONFLICT))
    return stored


def _give_up_name(change: Change) -> None:
    """Let another webhook have the name before this one gets its new one."""
    stored = _lock(change)
    stored.name = change.webhook.name = f"{stored.name[:100]} ({stored.pk})"
    Webhook.objects.filter(pk=stored.pk).update(name=stored.name)
    change.tag = edits.settings_tag(stored)


# Writing


def document(webhooks: Iterable[Webhook]) -> dict[str, Any]:
    """These webhooks for a file, but for reserved identifiers. It leaves out defaults, and has names of environment
    variables for their secrets."""
    taken = {*Webhook.objects.exclude(identifier=None).values_list("identifier", flat=True)}
    items, variables = [], set[str]()
    for webhook in webhooks:
        if registry.reserved_for(webhook.identifier):
            continue
        identifier = webhook.identifier or f"webhook-{slugify(webhook.name) or webhook.pk}"[:80]
        if not webhook.identifier and identifier in taken:
            identifier = f"{identifier}-{webhook.pk}"
        taken.add(identifier)
        items.append(_item(webhook, identifier, variables))
    return {WEBHOOKS: items}


def _item(webhook: Webhook, identifier: str, variables: set[str]) -> dict[str, Any]:
    """A webhook for a file. Adds the names of its environment variables to those of the others."""
    item: dict[str, Any] = {"name": webhook.name, "identifier": identifier}
    for name, default in _defaults().items():
        value = getattr(webhook, name)
        if name in CREDENTIAL_FIELDS:
            if value:
                variable = f"{identifier}_{name}".upper().replace("-", "_")
                if variable in variables:  # of “a-b” and “a_b”
                    variable = f"{variable}_{webhook.pk}"
                variables.add(variable)
                item[name] = {ENVIRONMENT: variable}
        elif name not in item and value != default:
            item[name] = value.replace("\r\n", "\n") if isinstance(value, str) else value  # a form has \r\n
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
