"""What is wrong with the demands of a webhook, told when it is saved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from webhooks import conditions, registry, snapshots
from webhooks.conditions import ConditionError
from webhooks.logs import logger_of

logger = logger_of(__name__)

UNWRITABLE = "They hold what no database takes as JSON: NaN, infinity, the character U+0000 or half of a pair."


def problems(wanted: Any, changed_fields: Any) -> dict[str, str]:
    """The fields of a webhook that are refused, each with the reason and its place."""
    found = {"conditions": _of_conditions(wanted), "changed_fields": _of_names(changed_fields)}
    return {field: reason for field, reason in found.items() if reason}


def _of_conditions(wanted: Any) -> str:
    try:
        conditions.parse(wanted)
        json.dumps(wanted, allow_nan=False, ensure_ascii=False).encode()
    except ConditionError as error:
        return f"{str(error)[:1].upper()}{str(error)[1:]}." if not error.place else f"{error}."
    except ValueError:
        return UNWRITABLE
    return UNWRITABLE if "\\u0000" in json.dumps(wanted) else ""


def _of_names(given: Any) -> str:
    if not isinstance(given, list) or not all(isinstance(name, str) and name.strip() for name in given):
        return 'Must be a list of names of fields, such as ["status", "tags"].'
    return ""


def unknown_fields(names: Sequence[str], labels: Sequence[str], serializer: str) -> str:
    """What is wrong with names of fields that no model among these, such as "dcim.site", shows with this serializer.

    A name may go on behind a dot, into JSON that the field holds: "custom_fields.zone". Where a serializer cannot be
    asked, nothing is wrong."""
    if not names or not labels:
        return ""
    known: dict[str, bool] = {}
    for registration in filter(None, map(registry.registration_by_label, labels)):
        try:
            for name, field in snapshots.shown(registration, serializer).items():
                known[name] = known.get(name, False) or snapshots.holds_names(field)
        except ImproperlyConfigured:
            continue  # told elsewhere: of the serializer, or by a check
        except Exception:
            logger.exception("The serializer of %s cannot be asked for its fields", registration.label)
            return ""
    return _unshown(names, known) or _without_names(names, known)


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
