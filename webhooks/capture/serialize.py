"""The state of an object, as the columns of an Event that tell of it.

A state has what each serializer that somebody chose shows of the object (``shown``), or the traceback of why it shows
nothing (``spoilt``): one that fails takes nothing away from the webhooks that chose another.
"""

from __future__ import annotations

import json
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.db import models, transaction

from webhooks import payloads
from webhooks.capture.changes import Change, ObjectState
from webhooks.capture.prechange import needs_prechange
from webhooks.capture.transaction import Scope
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models import Action
from webhooks.payloads import Unsendable, snapshots
from webhooks.payloads.snapshots import PreviousState
from webhooks.registry.registration import Registration
from webhooks.text import clean

logger = get_logger(__name__)


def read_all(scope: Scope, changes: Sequence[Change]) -> dict[tuple[str, str], ObjectState]:
    """The states of many objects, as every serializer shows them that somebody chose for their models; in one query
    for each model beside the serializers' own."""
    try:
        with transaction.atomic(scope.using):
            return dict(_at_once(scope, changes))
    except Exception as error:
        reraise_job_timeout(error)
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
        names = scope.wanted.serializers(registration.label)
        for name in names if len(instances) > 1 else ():
            snapshots.prefetch_serialized(registration, name, list(instances.values()), scope.using)
        is_complete = instances.keys() <= {str(change.pk) for change in those}
        for change in those:
            instance = instances.get(str(change.pk))
            if instance:
                yield change.key, _state(change, instance, _all(scope, change, instance, names))
            else:
                # Gone, unless its field writes the key in a way of its own.
                yield change.key, {} if is_complete else read(scope, change, names)


def read_or_failed(scope: Scope, change: Change) -> ObjectState:
    try:
        with transaction.atomic(scope.using):
            return read(scope, change, scope.wanted.serializers(change.label))
    except Exception as error:
        reraise_job_timeout(error)
        return failed(scope, change, error)


def read(scope: Scope, change: Change, serializers: Sequence[str]) -> ObjectState:
    """The object as these serializers show it; nothing when it is gone. Raises what a serializer raises, unless
    another does not."""
    instance = _reread(scope, change, change.lock)
    return _one(scope, change, instance, serializers) if instance else {}


def _reread(scope: Scope, change: Change, lock: bool = False) -> models.Model | None:
    # Whatever it says that its key is: it was asked for by the one that is known.
    return next(iter(payloads.reread_all(change.registration, [change.pk], scope.using, lock).values()), None)


def failed(scope: Scope, change: Change, error: Exception) -> ObjectState:
    """The state of an object whose payload cannot be made: an admin sees the traceback there."""
    logger.error("The payload of %s could not be made, its event stands as failed: %s", change, error)
    return {"object_repr": _name(scope, change), "error": clean(_why(error)), "shown": {}, "spoilt": {}}


def _why(error: Exception) -> str:
    # What is refused in words needs no traceback.
    return f"{error}." if isinstance(error, Unsendable) else "".join(traceback.format_exception(error))


def _name(scope: Scope, change: Change) -> str:
    """What the object is called, or nothing where that cannot be read either."""
    try:
        with transaction.atomic(scope.using):
            instance = _reread(scope, change)
            return change.registration.name_of(instance) if instance else ""
    except Exception as error:
        reraise_job_timeout(error)
        logger.warning("The name of %s cannot be read either: %s", change, error)
        return ""


def _one(scope: Scope, change: Change, instance: models.Model, serializers: Sequence[str]) -> ObjectState:
    if len(serializers) == 1:
        return _state(change, instance, _all(scope, change, instance, serializers))
    try:
        with transaction.atomic(scope.using):
            return _state(change, instance, _all(scope, change, instance, serializers))
    except Exception as error:
        reraise_job_timeout(error)
        # One of them failed: each in a savepoint of its own, so that an error of the database spoils no other.
        return _each(scope, change, instance, serializers)


Shown = dict[str, dict[str, str]]


def _all(scope: Scope, change: Change, instance: models.Model, serializers: Sequence[str]) -> Shown:
    before = _before(scope, change)
    return {name: _shown(scope, change, instance, name, before) for name in serializers}


def _each(scope: Scope, change: Change, instance: models.Model, serializers: Sequence[str]) -> ObjectState:
    shown: Shown = {}
    spoilt: dict[str, str] = {}
    before = _before(scope, change)
    for name in serializers:
        try:
            with transaction.atomic(scope.using):
                shown[name] = _shown(scope, change, instance, name, before)
        except Exception as error:
            reraise_job_timeout(error)
            if len(spoilt) == len(serializers) - 1:
                raise
            called = name or "(default)"
            logger.error("The serializer %s of %s failed, those who chose it get nothing: %s", called, change, error)
            spoilt[name] = f"Serializer {called}: {_why(error)}\n"
    return _state(change, instance, shown, spoilt)


def _state(change: Change, instance: models.Model, shown: Shown, spoilt: dict[str, str] | None = None) -> ObjectState:
    name = change.registration.name_of(instance)
    return {"object_repr": name, "error": "", "shown": shown, "spoilt": spoilt or {}}


def _shown(
    scope: Scope, change: Change, instance: models.Model, serializer: str, before: PreviousState | None
) -> dict[str, str]:
    frozen = payloads.freeze(change.registration, instance, serializer, before)
    if change.action != Action.DELETED:
        compared = payloads.snapshots_json(frozen.before, frozen.state)
        return {"data": frozen.data, "snapshots": compared, "changed": frozen.changed}
    if frozen.before or before is None:
        _keep_deleted(scope, change, frozen.before or frozen.state)
    return {"data": frozen.data, "snapshots": payloads.snapshots_json(frozen.state, None), "changed": ""}


def columns(state: ObjectState, chosen: Mapping[str, list[int]]) -> dict[str, Any]:
    """The columns of an Event for webhooks that chose these serializers."""
    same = {name: state[name] for name in ("object_repr", "error")}
    return same | payloads.serializer_columns(chosen, state["shown"])


def _before(scope: Scope, change: Change) -> PreviousState | None:
    """The object as it was before the transaction, where that is known and it was there."""
    return scope.previous(change.key) if needs_prechange(scope, change.key) else None


def _keep_deleted(scope: Scope, change: Change, snapshot: str) -> None:
    """The object may be created anew in the same transaction, which is an update then."""
    if needs_prechange(scope, change.key):
        known = scope.previous(change.key)
        # Each serializer adds what it shows; of those that were there already, the first deletion counts.
        earlier = known.deleted if known and known.deleted else {}
        scope.keep(change.key, PreviousState(deleted=json.loads(snapshot) | earlier))
