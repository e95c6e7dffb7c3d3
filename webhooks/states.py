"""The state of an object, as the columns of an Event that tell of it; and what it was before."""

from __future__ import annotations

import json
import logging
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import models, transaction

from webhooks import payloads, snapshots
from webhooks.models import Action
from webhooks.registry import Registration
from webhooks.scopes import Change, ObjectState, Scope
from webhooks.snapshots import Before
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
            yield change.key, _object_columns(scope, change, instance) if instance else {}


def read_or_failed(scope: Scope, change: Change) -> ObjectState:
    try:
        with transaction.atomic(scope.using):
            return read(scope, change)
    except Exception as error:
        return failed(scope, change, error)


def read(scope: Scope, change: Change) -> ObjectState:
    """The object's columns of an Event; none when the object is gone. Raises whatever its serializer raises."""
    instances = payloads.reread_all(change.registration, [change.pk], scope.using, change.lock)
    return _object_columns(scope, change, instances[str(change.pk)]) if instances else {}


def failed(scope: Scope, change: Change, error: Exception) -> ObjectState:
    """The columns of an Event whose payload cannot be made: an admin sees the traceback there."""
    logger.error("The payload of %s could not be made, its event stands as failed: %s", change, error)
    trace = clean("".join(traceback.format_exception(error)))
    return {"data": "", "snapshots": "", "changed": "", "object_repr": _name(scope, change), "error": trace}


def _name(scope: Scope, change: Change) -> str:
    """What the object is called, or nothing where that cannot be read either."""
    try:
        with transaction.atomic(scope.using):
            instances = payloads.reread_all(change.registration, [change.pk], scope.using)
            return clean(str(instances[str(change.pk)]), 200)
    except Exception as error:
        logger.warning("The name of %s cannot be read either: %s", change, error)
        return ""


def _object_columns(scope: Scope, change: Change, instance: models.Model) -> ObjectState:
    is_deleted = change.action == Action.DELETED
    frozen = payloads.freeze(change.registration, instance, before=_before(scope, change))
    before, after = (frozen.state, None) if is_deleted else (frozen.before, frozen.state)
    columns = {"data": frozen.data, "snapshots": payloads.snapshots(before, after), "changed": frozen.changed}
    if is_deleted:
        columns["changed"] = ""
        _keep_deleted(scope, change, frozen.before or frozen.state)
    return columns | {"object_repr": clean(frozen.name, 200), "error": ""}


def _before(scope: Scope, change: Change) -> Before | None:
    """The object as it was before the transaction, where that is known and it was there."""
    existed = scope.traces[change.key].existed if change.key in scope.traces else True
    return scope.before(change.key) if existed and scope.wanted.need_before(change.label) else None


def _keep_deleted(scope: Scope, change: Change, snapshot: str) -> None:
    """The object may be created anew in the same transaction, which is an update then."""
    if scope.wanted.need_before(change.label):
        known = scope.before(change.key)
        if known is None or known.deleted is None:
            scope.keep(change.key, Before(deleted=json.loads(snapshot)))


# Before the change


def remember(scope: Scope, registration: Registration, pks: Sequence[Any], relation: str = "") -> None:
    """Read objects that are about to change, in one query, where their state before is needed and not known yet; and
    in one more what their ``relation`` to many holds, if that is about to change."""
    if not pks or not scope.wanted.need_before(registration.label):
        return
    keys = {pk: (registration.label, str(pk)) for pk in pks}
    unknown = [pk for pk, key in keys.items() if _is_unknown(scope, key)]
    rows = snapshots.read(registration, unknown, scope.using, lock=True) if unknown else {}
    for pk in unknown:
        scope.keep(keys[pk], Before(rows.get(str(pk))))
    if relation:
        _remember_relation([known for key in keys.values() if (known := scope.before(key))], relation)


def _is_unknown(scope: Scope, key: tuple[str, str]) -> bool:
    trace = scope.traces.get(key)
    return scope.before(key) is None and (trace is None or trace.existed)


def _remember_relation(befores: Sequence[Before], relation: str) -> None:
    unread = [one for one in befores if relation not in one.relations]
    models.prefetch_related_objects([one.row for one in unread if one.row is not None], relation)
    for before in unread:
        before.relations.add(relation)
