"""The state of an object, as the columns of an Event that tell of it."""

from __future__ import annotations

import logging
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence

from django.db import models, transaction

from webhooks import payloads
from webhooks.models import Action
from webhooks.registry import Registration
from webhooks.scopes import Change, ObjectState, Scope
from webhooks.texts import clean

logger = logging.getLogger(__name__)


def read_all(scope: Scope, changes: Sequence[Change]) -> dict[tuple[str, str], ObjectState]:
    """The states of many objects, in one query for each model beside the serializer's own."""
    try:
        with transaction.atomic(scope.using):
            return dict(_at_once(scope, changes))
    except Exception as error:
        # One of them cannot be serialized: each by itself, so that the others can.
        logger.warning("%d objects cannot be read at once, and are read one by one: %s", len(changes), error)
        return {change.key: read_or_failed(scope, change) for change in changes}


def _at_once(scope: Scope, changes: Sequence[Change]) -> Iterator[tuple[tuple[str, str], ObjectState]]:
    by_model: dict[Registration, list[Change]] = defaultdict(list)
    for change in changes:
        by_model[change.registration].append(change)
    for registration, those in by_model.items():
        lock = any(change.lock for change in those)
        instances = payloads.reread_all(registration, [change.pk for change in those], scope.using, lock)
        for change in those:
            instance = instances.get(str(change.pk))
            yield change.key, _object_columns(change, instance) if instance else {}


def read_or_failed(scope: Scope, change: Change) -> ObjectState:
    try:
        with transaction.atomic(scope.using):
            return read(scope, change)
    except Exception as error:
        return failed(scope, change, error)


def read(scope: Scope, change: Change) -> ObjectState:
    """The object's columns of an Event; none when the object is gone. Raises whatever its serializer raises."""
    instances = payloads.reread_all(change.registration, [change.pk], scope.using, change.lock)
    return _object_columns(change, instances[str(change.pk)]) if instances else {}


def failed(scope: Scope, change: Change, error: Exception) -> ObjectState:
    """The columns of an Event whose payload cannot be made: an admin sees the traceback there."""
    logger.error("The payload of %s could not be made, its event stands as failed: %s", change, error)
    trace = clean("".join(traceback.format_exception(error)))
    return {"data": "", "snapshots": "", "object_repr": _name(scope, change), "error": trace}


def _name(scope: Scope, change: Change) -> str:
    """What the object is called, or nothing where that cannot be read either."""
    try:
        with transaction.atomic(scope.using):
            instances = payloads.reread_all(change.registration, [change.pk], scope.using)
            return clean(str(instances[str(change.pk)]), 200)
    except Exception as error:
        logger.warning("The name of %s cannot be read either: %s", change, error)
        return ""


def _object_columns(change: Change, instance: models.Model) -> ObjectState:
    frozen = payloads.freeze(change.registration, instance)
    before, after = (frozen.state, None) if change.action == Action.DELETED else (None, frozen.state)
    snapshots = payloads.snapshots(before, after)
    return {"data": frozen.data, "snapshots": snapshots, "object_repr": clean(frozen.name, 200), "error": ""}
