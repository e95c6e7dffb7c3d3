"""Querysets that record what Django does not signal: ``bulk_create()``, ``update()``, and a faster ``delete()``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from django.db import connections, models, transaction
from django.db.models.deletion import Collector

from webhooks import registry
from webhooks.capture import events, serialize
from webhooks.capture.batch import batch
from webhooks.capture.prechange import read_prechange
from webhooks.capture.transaction import Change, current_state, may_be_wanted
from webhooks.conf import conf
from webhooks.db import can_lock, in_chunks
from webhooks.errors import log_errors
from webhooks.models import Action, Event
from webhooks.registry.registration import Registration, is_same_pk, normalize_pk

M = TypeVar("M", bound=models.Model)

# Objects that one query looks for by several fields: SQLite allows expressions up to a depth of 1,000.
MAX_COMPARED = 200


class TrackedQuerySet(models.QuerySet[M]):
    """Add it to the bases of your own queryset, before ``QuerySet``. ``bulk_update`` calls ``update``."""

    def bulk_create(
        self,
        objs: Iterable[M],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Collection[str] | None = None,
        unique_fields: Collection[str] | None = None,
    ) -> list[M]:
        """Also records that each object was created.

        With ``update_conflicts``, the objects that had the same ``unique_fields`` were updated; without
        ``unique_fields`` all were. With ``ignore_conflicts`` nothing is recorded: the database does not say which rows
        are new."""
        self._for_write = True  # as Django does: it decides which database ``self.db`` is
        options = (batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields)
        if not self._registrations() or ignore_conflicts:
            return super().bulk_create(objs, *options)
        with batch(self.db):
            objs = list(objs)
            existing = self._existing(objs, unique_fields or ()) if update_conflicts else set()
            created = super().bulk_create(objs, *options)
            for instance in created:
                is_new = existing is not None and normalize_pk(self.model._meta.pk, instance.pk) not in existing
                objects = {registration: [instance.pk] for registration in self._registrations()}
                events.record(objects, Action.CREATED if is_new else Action.UPDATED, self.db)
        return created

    def update(self, **kwargs: Any) -> int:
        """Also records that each row was updated."""
        self._for_write = True
        if self._is_refused() or not self._has_subscribers():
            return super().update(**kwargs)
        with batch(self.db):
            # First, because the filter may use the columns that change.
            pks = self._lock_rows()
            objects = {registration: self._keys_of(registration, pks) for registration in self._registrations()}
            read_prechange(objects, self.db, in_savepoint=not registry.save_locks_row(self.model))
            # At least one chunk, so that Django itself refuses what cannot be updated.
            chunks = [self.order_by().filter(pk__in=chunk) for chunk in list(in_chunks(self.db, pks)) or [[]]]
            count = sum(models.QuerySet.update(chunk, **kwargs) for chunk in chunks)
            events.record(objects, Action.UPDATED, self.db)
        self._result_cache = None
        return count

    def delete(self) -> tuple[int, dict[str, int]]:
        """Also serializes all objects together before they are deleted."""
        self._for_write = True
        is_refused = self._is_refused() or self.query.distinct_fields or self._fields is not None  # type: ignore[attr-defined]
        if is_refused or not self._has_subscribers():
            return super().delete()
        with batch(self.db):
            collector = Collector(using=self.db, origin=self)
            collector.collect(self.order_by())
            _prepare_deletion(collector, self.db)
            return super().delete()

    delete.queryset_only = True  # type: ignore[attr-defined]  # as Django's: a manager would delete every row

    def _is_refused(self) -> bool:
        """Whether Django refuses to update or delete such a queryset."""
        return bool(self.query.is_sliced or self.query.combinator)

    def _registrations(self) -> list[Registration]:
        is_here = conf.enabled and self.db == Event.objects.db
        return registry.registrations_touched(self.model) if is_here else []

    def _has_subscribers(self) -> bool:
        return bool(self._registrations()) and may_be_wanted(self.model, self.db, look_up=True)

    def _lock_rows(self) -> list[Any]:
        """The keys of the rows of this queryset, locked if the database locks rows."""
        chosen = self.order_by()
        # An update ignores these.
        chosen.query.select_for_update, chosen.query.distinct, chosen.query.distinct_fields = False, False, ()
        chunks: list[models.QuerySet[M]] = [chosen]
        if connections[self.db].features.has_select_for_update and can_lock(self.db, self.model):
            # Not the queryset itself: PostgreSQL locks no groups and no distinct rows.
            rows = self.model._base_manager.using(self.db).filter(pk__in=chosen.values("pk")).order_by("pk")
            locked = list(rows.select_for_update(no_key=True, of=("self",)).values_list("pk", flat=True))
            # Another transaction may have changed some before it released their locks.
            chunks = [chosen.filter(pk__in=chunk) for chunk in in_chunks(self.db, locked)]
        return list(dict.fromkeys(pk for chunk in chunks for pk in chunk.values_list("pk", flat=True)))

    def _keys_of(self, registration: Registration, pks: list[Any]) -> list[Any]:
        """The keys of the same objects in a parent's table, which may differ from the keys of the child."""
        pk = registration.model._meta.pk
        if is_same_pk(pk, self.model._meta.pk):
            return pks
        rows = self.model._base_manager.using(self.db)
        chunks = in_chunks(self.db, pks)
        return [key for chunk in chunks for key in rows.filter(pk__in=chunk).values_list(pk.name, flat=True)]

    def _existing(self, objs: Sequence[M], unique_fields: Collection[str]) -> set[Any] | None:
        """The keys of the rows that these objects will update. None if they are not known."""
        if not unique_fields or not self._has_subscribers():
            return None
        meta, rows = self.model._meta, self.model._base_manager.using(self.db)
        pks: list[Any] = []
        with log_errors(self.db, "The existing rows of %s cannot be read", meta.label_lower):
            fields: list[Any] = [meta.pk if name == "pk" else meta.get_field(name) for name in unique_fields]
            names = [field.attname for field in fields]
            values = [{name: getattr(instance, name) for name in names} for instance in objs]
            known = [models.Q(**one) for one in values if None not in one.values()]  # null conflicts with nothing
            with transaction.atomic(self.db):
                for start in range(0, len(known), MAX_COMPARED):
                    condition = models.Q(*known[start : start + MAX_COMPARED], _connector=models.Q.OR)
                    pks += rows.filter(condition).values_list("pk", flat=True)
            read_prechange(dict.fromkeys(self._registrations(), pks), self.db)
            return {normalize_pk(meta.pk, pk) for pk in pks}
        return None


def _prepare_deletion(collector: Collector, using: str) -> None:
    """Serialize the objects of a deletion together. If that fails, each is serialized when its signal arrives."""
    state = current_state(using)
    if not state or state.batch is None:
        return
    changes = [
        Change(registration, registration.normalize_pk(instance.pk), Action.DELETED, needs_lock=True)
        for model, instances in collector.data.items()
        if (registration := registry.registration_of(model)) and state.subscriptions.has_subscribers(model)
        for instance in instances
    ]
    message = "%d objects to delete cannot be serialized together"
    with log_errors(using, message, len(changes)), transaction.atomic(using):
        found = serialize.serialize_all(state, changes)
        state.serialized_for_deletion.update({key: serialized for key, serialized in found.items() if serialized})


WebhookManager = models.Manager.from_queryset(TrackedQuerySet)
