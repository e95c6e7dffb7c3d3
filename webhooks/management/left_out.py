"""Which fields of an object a webhook never sends, because they are sensitive or excluded, and what reads them.

NetBox and Nautobot send them, so a webhook that is imported from there may send less than its original.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.db import models
from django.db.models.functions import Cast

from webhooks.ground.payloads.snapshots import has_json_keys
from webhooks.ground.registry.framework import framework
from webhooks.ground.registry.registration import Registration
from webhooks.ground.registry.sources import written_fields
from webhooks.models import Event

Path = tuple[str, ...]
"""The names that lead to a field of the data, such as ("custom_fields", "api_key")."""

ROWS = 10_000  # of a table, the newest ones: their JSON may have sensitive keys

# Part of the text of all JSON with a sensitive key.
_SUSPICIOUS = "pass|secret|token|credential|key|psk|pwd"

# What Jinja evaluates in a template.
_EVALUATED = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
# A template that uses one of these as a whole may use all fields in it.
_WHOLE = ("data", "snapshots", "prechange", "postchange")
# Not followed by the name of a single member. The methods of a dictionary are no members.
_ONE_MEMBER = r"""(?!\s*\.\s*(?!(?:items|values|keys|get|copy)\b)\w|\s*\[\s*(["'])[^"']*\1\s*\])"""


def left_out(registration: Registration) -> list[Path]:
    """The paths in the data of an object that its default serializer writes, and that are never sent, sorted.

    Keys in JSON are among them if a stored row has them. Raises what the serializer raises.
    """
    model, paths = registration.model, set[Path]()
    shown = framework().json_shown(model)
    for path, is_hidden, column in written_fields(registration, registration.build_serializer(""), model):
        if is_hidden:
            paths.add(path)
            continue
        if len(path) == 1:
            paths.update(_sensitive_keys(registration, shown.get(path[0], ()), path))
        if column is not None and column.concrete and has_json_keys(column):
            paths.update(_sensitive_keys(registration, _suspicious_values(column), path))
    columns = framework().snapshot_columns(model)
    return sorted(paths.union((name,) for name in columns if not registration.sends(name, name)))


def _suspicious_values(column: models.Field[Any, Any]) -> Iterable[Any]:
    """The JSON of the newest rows that may have a sensitive key."""
    rows = column.model._base_manager.using(Event.objects.db).alias(text=Cast(column.name, models.TextField()))
    places: Iterable[Any] = (
        rows.filter(text__iregex=_SUSPICIOUS).order_by("-pk").values_list(column.name, flat=True)[:ROWS]
    )
    return places


def _sensitive_keys(registration: Registration, value: Any, path: Path) -> Iterator[Path]:
    """The paths of the sensitive keys in JSON. Members of a list have the path of the list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            own = (*path, str(key))
            if registration.is_sensitive(str(key)):
                yield own
            else:
                yield from _sensitive_keys(registration, item, own)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for item in value:
            yield from _sensitive_keys(registration, item, path)


def read_by_template(paths: Iterable[Path], source: str) -> list[Path]:
    """Return the ``paths`` that a template may read. A template that reads a whole object reads all its fields."""
    evaluated = " ".join(_EVALUATED.findall(source))

    def uses(name: str, *, as_a_whole: bool = False) -> bool:
        pattern = rf"(?<!\w){re.escape(name)}(?!\w){_ONE_MEMBER if as_a_whole else ''}"
        return bool(re.search(pattern, evaluated))

    is_whole = any(uses(name, as_a_whole=True) for name in _WHOLE)
    return [
        path for path in paths if is_whole or uses(path[-1]) or any(uses(name, as_a_whole=True) for name in path[:-1])
    ]


def read_by_conditions(paths: Iterable[Path], conditions: Any) -> list[Path]:
    """Return the ``paths`` that conditions judge, by themselves or as a part of a field."""
    attributes = [_data_path(attr) for attr in _attributes(conditions)]
    return [path for path in paths if any(all(map(str.__eq__, path, read)) for read in attributes)]


def _attributes(conditions: Any) -> Iterator[str]:
    if isinstance(conditions, dict):
        if isinstance(conditions.get("attr"), str):
            yield conditions["attr"]
        conditions = list(conditions.values())
    if isinstance(conditions, list):
        for condition in conditions:
            yield from _attributes(condition)


def _data_path(attr: str) -> Path:
    names = tuple(attr.split("."))
    return names[2:] if names[0] == "snapshots" else names
