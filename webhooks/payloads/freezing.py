"""An object as JSON texts: read again, serialized, without what is secret."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone, translation

from webhooks.db import in_chunks
from webhooks.payloads import snapshots
from webhooks.payloads.body import Unsendable, refuse_too_large
from webhooks.payloads.snapshots import PreviousState
from webhooks.registry.registration import Registration
from webhooks.registry.serializer_context import serializer_context
from webhooks.text import NotJSONSerializable, dumps


@dataclass(frozen=True)
class Frozen:
    """An object as it is and as it was: JSON texts. ``before`` and ``changed`` are empty where the state
    before is not known."""

    data: str
    state: str
    before: str = ""
    changed: str = ""


def reread_all(
    registration: Registration, pks: Sequence[Any], using: str, lock: bool = False
) -> dict[str, models.Model]:
    """The rows of these keys as the transaction sees them now, by their keys as text; those that are gone are not
    among them.

    The instances at hand may be stale: another transaction may have changed other columns since they were
    loaded. ``lock`` takes the lock that an UPDATE would hold, and so waits for those who change the rows.
    """
    found: dict[str, models.Model] = {}
    for some in in_chunks(using, pks):
        found |= _reread(registration, some, using, lock)
    return found


def _reread(registration: Registration, pks: Sequence[Any], using: str, lock: bool) -> dict[str, models.Model]:
    model = registration.model
    said = registration.queryset or model._base_manager.all
    rows = said().using(using)
    if lock:
        every: models.QuerySet[models.Model] = models.QuerySet(model, using=using)
        plain = every.select_for_update(no_key=True, of=("self",))
        if registration.queryset or model._meta.base_manager_name:
            # Annotations may group its rows, and PostgreSQL locks no groups.
            list(plain.filter(pk__in=pks).order_by("pk").values_list("pk"))
        else:
            rows = plain
    # The order is that of the locks, and costs a fifth more where there is a single row.
    found = rows.filter(pk=pks[0]).order_by() if len(pks) == 1 else rows.filter(pk__in=pks).order_by("pk")
    return registration.by_pk(found)


def freeze(
    registration: Registration, instance: models.Model, serializer: str = "", before: PreviousState | None = None
) -> Frozen:
    """Serialize an object with the project's own serializer, of a name or the default one; in the language and time
    zone of the settings, whoever makes the change. Raises whatever that raises, and Unsendable."""
    with translation.override(settings.LANGUAGE_CODE), timezone.override(None):
        return _frozen(registration, instance, serializer, before)


def _frozen(
    registration: Registration, instance: models.Model, serializer: str, before: PreviousState | None
) -> Frozen:
    writer = registration.serializer_class(serializer)(instance, context=serializer_context())
    data = writer.data
    after = snapshots.snapshot_of(writer, data, instance)
    earlier = snapshots.previous_snapshot(writer, data, after, before) if before else None
    what = f"the payload of {registration.label} {instance.pk}"
    try:
        frozen = Frozen(_without_secrets(registration, data), _without_secrets(registration, after, is_exact=True))
        if earlier is not None:
            frozen = _compared(frozen, _without_secrets(registration, earlier, is_exact=True))
    except NotJSONSerializable as error:
        raise Unsendable(f"{what} cannot be written as JSON: {error}") from error
    refuse_too_large(what, len(frozen.data) + len(frozen.state) + len(frozen.before))
    return frozen


def _compared(frozen: Frozen, before: str) -> Frozen:
    # As JSON: what the receiver cannot tell apart has not changed.
    changed = snapshots.changed_fields(json.loads(before), json.loads(frozen.state))
    return replace(frozen, before=before, changed=dumps(changed))


def _without_secrets(registration: Registration, data: Any, is_exact: bool = False) -> str:
    """JSON text of what may be sent of an object."""
    if isinstance(data, Mapping):
        data = {key: value for key, value in data.items() if not registration.is_left_out(str(key))}
    return dumps(data, registration.is_sensitive, is_exact)
