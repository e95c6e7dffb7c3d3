"""``webhooks.WebhookManager``: Events for bulk operations of querysets, which Django does not signal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from operator import or_
from typing import Any, TypeVar

from django.db import connections, models, transaction
from django.db.models.deletion import Collector

from webhooks import registry
from webhooks.capture import recording
from webhooks.capture.transaction import Change
from webhooks.conf import conf
from webhooks.db import in_chunks
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models import Action
from webhooks.registry.registration import Registration, is_same_pk, normalize_pk

logger = get_logger(__name__)

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
        insert = partial(
            super().bulk_create,
            batch_size=batch_size,
            ignore_conflicts=ignore_conflicts,
            update_conflicts=update_conflicts,
            update_fields=update_fields,
            unique_fields=unique_fields,
        )
        if not self._registrations() or ignore_conflicts:
            return insert(objs)
        with recording.batch(self.db):
            objs = list(objs)
            existing = self._existing(objs, unique_fields or ()) if update_conflicts else set()
            created = insert(objs)
            for instance in created:
                is_new = existing is not None and self._key(instance.pk) not in existing
                action = Action.CREATED if is_new else Action.UPDATED
                self._record({registration: [instance.pk] for registration in self._registrations()}, action)
        return created

    def update(self, **kwargs: Any) -> int:
        """Also records that each row was updated."""
        self._for_write = True
        if self._is_refused() or not self._has_subscribers():
            return super().update(**kwargs)
        with recording.batch(self.db):
            # First, because the filter may use the columns that change.
            pks = self._lock_rows()
            objects = {registration: self._keys_of(registration, pks) for registration in self._registrations()}
            recording.snapshot_before(objects, self.db, in_savepoint=not registry.save_locks_row(self.model))
            chunks = [self.order_by()]  # without locks there is no other writer
            if self._has_row_locks:
                # At least one chunk, so that Django itself refuses what cannot be updated.
                chunks = [self.order_by().filter(pk__in=chunk) for chunk in list(in_chunks(self.db, pks)) or [[]]]
            count = sum(models.QuerySet.update(chunk, **kwargs) for chunk in chunks)
            self._record(objects, Action.UPDATED)
        self._result_cache = None
        return count

    def delete(self) -> tuple[int, dict[str, int]]:
        """Also serializes all objects together before they are deleted."""
        self._for_write = True
        is_refused = self._is_refused() or self.query.distinct_fields or self._fields is not None  # type: ignore[attr-defined]
        if is_refused or not self._has_subscribers():
            return super().delete()
        with recording.batch(self.db):
            collector = Collector(using=self.db, origin=self)
            collector.collect(self.order_by())
            changes = [
                Change(registration, instance.pk, Action.DELETED, needs_lock=True)
                for model, instances in collector.data.items()
                if (registration := registry.registration_of(model))
                for instance in instances
            ]
            recording.prepare_deletion(changes, self.db)
            return super().delete()

    delete.queryset_only = True  # type: ignore[attr-defined]  # as Django's: a manager would delete every row

    def _is_refused(self) -> bool:
        """Whether Django refuses to update or delete such a queryset."""
        return bool(self.query.is_sliced or self.query.combinator)

    def _registrations(self) -> list[Registration]:
        return registry.registrations_touched(self.model) if conf.enabled else []

    def _has_subscribers(self) -> bool:
        return bool(self._registrations()) and recording.has_subscribers(self.model, self.db, look_up=True)

    @property
    def _has_row_locks(self) -> bool:
        return bool(connections[self.db].features.has_select_for_update)

    def _lock_rows(self) -> list[Any]:
        """The keys of the rows of this queryset, locked if the database locks rows."""
        chosen = self.order_by()
        # An update ignores these.
        chosen.query.select_for_update, chosen.query.distinct, chosen.query.distinct_fields = False, False, ()
        chunks: list[models.QuerySet[M]] = [chosen]
        if self._has_row_locks:
            # Not the queryset itself: PostgreSQL locks no groups and no distinct rows.
            rows = self.model._base_manager.using(self.db).filter(pk__in=chosen.values("pk")).order_by("pk")
            locked = list(rows.select_for_update(no_key=True, of=("self",)).values_list("pk", flat=True))
            # Another transaction may have changed some before it released their locks.
            chunks = [chosen.filter(pk__in=chunk) for chunk in in_chunks(self.db, locked)]
        return list(dict.fromkeys(pk for chunk in chunks for pk in chunk.values_list("pk", flat=True)))

    def _keys_of(self, registration: Registration, pks: list[Any]) -> list[Any]:
        """The keys of the same objects in a parent's table: rows that inherit others may have keys of their own."""
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
        try:
            with transaction.atomic(self.db):
                pks = list(self._find(objs, unique_fields))
        except Exception as error:
            reraise_job_timeout(error)
            logger.exception("The existing rows of %s cannot be read", self.model._meta.label_lower)
            return None
        recording.snapshot_before(dict.fromkeys(self._registrations(), pks), self.db)
        return {self._key(pk) for pk in pks}

    def _key(self, given: Any) -> Any:
        return normalize_pk(self.model._meta.pk, given)

    def _find(self, objs: Sequence[M], unique_fields: Collection[str]) -> Iterator[Any]:
        meta = self.model._meta
        fields: list[Any] = [meta.pk if name == "pk" else meta.get_field(name) for name in unique_fields]
        names = [field.attname for field in fields]
        values = ({name: getattr(instance, name) for name in names} for instance in objs)
        known = [one for one in values if None not in one.values()]  # null conflicts with nothing
        for start in range(0, len(known), MAX_COMPARED):
            condition = reduce(or_, (models.Q(**one) for one in known[start : start + MAX_COMPARED]))
            yield from self.model._base_manager.using(self.db).filter(condition).values_list("pk", flat=True)

    def _record(self, objects: Mapping[Registration, Collection[Any]], action: Action) -> None:
        for registration, pks in objects.items():
            for pk in pks:
                recording.record(registration, pk, action, self.db)


WebhookManager = models.Manager.from_queryset(TrackedQuerySet)
