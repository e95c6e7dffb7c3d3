"""Querysets that record what Django does not signal: ``bulk_create()``, ``update()``, and a faster ``delete()``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from django.core.exceptions import EmptyResultSet, FullResultSet, ValidationError
from django.db import connections, models, transaction

# Django's Collector and sql: nothing documented says what a deletion or an UPDATE will change.
from django.db.models.deletion import Collector
from django.db.models.sql import UpdateQuery

from webhooks.capture import events, serialize
from webhooks.capture.batch import batch
from webhooks.capture.prechange import read_prechange
from webhooks.capture.serialize import SerializedObject
from webhooks.capture.transaction import Change, Key, current_state, may_be_wanted
from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.db import in_block
from webhooks.ground.db.django_internals import reading_from
from webhooks.ground.db.host_rows import AmongKeys, can_lock, in_chunks, written_keys
from webhooks.ground.errors import is_aborted, log_errors
from webhooks.ground.registry.keys import is_same_pk, key_text, with_pks
from webhooks.ground.registry.registration import Registration
from webhooks.models.event import Action, Event

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
        self._begin_writing()
        options = (batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields)
        if not self._registrations() or ignore_conflicts:
            return super().bulk_create(objs, *options)
        with _batch_like_django(self.db):
            existing: dict[str, Any] | None = {}
            if update_conflicts:
                objs = objs and list(objs)  # Django returns an empty collection as it is
                existing = self._existing(objs, unique_fields or ())
            created = super().bulk_create(objs, *options)
            for instance in created:
                is_new = existing is not None and existing.pop(self._key(instance.pk), None) is None
                self._record(instance.pk, Action.CREATED if is_new else Action.UPDATED)
            # The other rows were updated by instances with other keys.
            for pk in (existing or {}).values():
                self._record(pk, Action.UPDATED)
        return created

    def update(self, **kwargs: Any) -> int:
        """Also records that each row was updated. A row with a new primary key was deleted and created."""
        self._begin_writing()
        if not self._has_subscribers():
            return super().update(**kwargs)
        # Here Django refuses what it cannot update. For no rows it runs no query.
        count = models.QuerySet.update(self.none(), **kwargs)
        with _batch_like_django(self.db):
            # First, because the filter may use the columns that change. And only once: its result may be random.
            pks = self._lock_rows(kwargs)
            if pks is None:
                return count
            objects = {registration: self._keys_of(registration, pks) for registration in self._registrations()}
            columns = {self.model._meta.get_field(name) for name in kwargs}
            moved = [registered for registered in objects if not columns.isdisjoint(registered.model._meta.pk_fields)]
            deleted = {registered: objects.pop(registered) for registered in moved}
            read_prechange(objects, self.db, in_savepoint=not registry.save_locks_row(self.model))
            with _serialized_together(((registered, pk) for registered, pks in deleted.items() for pk in pks), self.db):
                events.record(deleted, Action.DELETED, self.db)
            with written_keys([registered.model for registered in moved], self.db) as written:
                count = super(TrackedQuerySet, self._by_keys(pks)).update(**kwargs)
            for registration, keys in deleted.items():
                for pk in keys:
                    events.finish_deletion(registration, pk, self.db)
            # An object that kept its key was deleted and created in one transaction: it was updated.
            events.record({registered: written[registered.model] for registered in moved}, Action.CREATED, self.db)
            events.record(objects, Action.UPDATED, self.db)
        self._result_cache = None  # Django's _result_cache: its update() empties it, too
        return count

    def delete(self) -> tuple[int, dict[str, int]]:
        """Also serializes all objects together before they are deleted."""
        self._begin_writing()
        is_refused = (
            self.query.is_sliced or self.query.combinator or self.query.distinct_fields or self._fields is not None  # type: ignore[attr-defined]
        )
        if is_refused or not self._has_subscribers():
            return super().delete()
        with _batch_like_django(self.db):
            rows = self.all()
            # A deletion ignores these.
            rows.query.select_for_update, rows.query.select_related = False, False
            rows.query.clear_ordering(force=True)
            collector = Collector(using=self.db, origin=self)
            collector.collect(rows)
            with _serialized_together(_wanted_deletions(collector, self.db), self.db):
                return super().delete()

    delete.queryset_only = True  # type: ignore[attr-defined]  # as Django's: a manager would delete every row

    def _begin_writing(self) -> None:
        self._for_write = True  # Django's _for_write: as in its own methods, it decides which database ``self.db`` is

    def _registrations(self) -> list[Registration]:
        is_here = conf.enabled and self.db == Event.objects.db
        return registry.registrations_touched(self.model) if is_here else []

    def _has_subscribers(self) -> bool:
        return bool(self._registrations()) and may_be_wanted(self.model, self.db, look_up=True)

    def _lock_rows(self, values: Mapping[str, Any]) -> list[Any] | None:
        """The keys of the rows that Django's update would change, locked if the database locks rows. None if Django
        needs no query to see that it changes none.

        The statement has the very condition of Django's UPDATE. So it also waits for other transactions in the same
        way, and raises the same errors."""
        # Django's UpdateQuery, get_compiler and pre_sql_setup: no documented name has the condition of an UPDATE.
        update: Any = self.query.chain(UpdateQuery)
        update.add_update_values(values)
        if not update.values and not update.related_updates:
            return None
        update.clear_select_clause()
        with transaction.atomic(self.db, savepoint=False):  # an error dooms the open transaction, as in Django's update
            compiler = update.get_compiler(self.db)
            compiler.pre_sql_setup()
            rows: models.QuerySet[M] = models.QuerySet(self.model, using=self.db).order_by("pk")
            try:
                condition, parameters = compiler.compile(update.where)
                rows = rows.extra(where=[condition], params=parameters)  # noqa: S610 # nosec B610 # by Django
            except FullResultSet:
                pass
            except EmptyResultSet:
                return None
            if connections[self.db].features.has_select_for_update and can_lock(self.db, self.model):
                rows = rows.select_for_update(no_key=True)
            return list(rows.values_list("pk", flat=True))

    def _by_keys(self, pks: list[Any]) -> TrackedQuerySet[M]:
        """These rows, with the annotations of this queryset, but without its filters and joins."""
        chosen = self.all()
        query: Any = chosen.query
        query.clear_where()
        query.reset_refcounts({query.get_initial_alias(): 1})
        query.group_by = None
        return chosen.filter(AmongKeys(pks))

    def _keys_of(self, registration: Registration, pks: list[Any]) -> list[Any]:
        """The keys of the same objects in a parent's table, which may differ from the keys of the child."""
        pk = registration.model._meta.pk
        if is_same_pk(pk, self.model._meta.pk):
            return pks
        rows: models.QuerySet[Any] = models.QuerySet(self.model, using=self.db)
        chunks = in_chunks(self.db, pks)
        return [
            key for chunk in chunks for key in rows.filter(with_pks(self.model, chunk)).values_list(pk.name, flat=True)
        ]

    def _key(self, pk: Any) -> str:
        """A primary key as text."""
        try:
            return key_text(registry.registration_or_default(self.model).normalize_pk(pk))
        except ValidationError:
            return str(pk)  # an expression, which only the database evaluates

    def _record(self, pk: Any, action: Action) -> None:
        events.record({registration: [pk] for registration in self._registrations()}, action, self.db)

    def _existing(self, objs: Iterable[M], unique_fields: Collection[str]) -> dict[str, Any] | None:
        """The keys of the rows that these objects will update, by their texts. None if they are not known."""
        if not unique_fields or not self._has_subscribers():
            return None
        meta = self.model._meta
        rows: models.QuerySet[Any] = models.QuerySet(self.model, using=self.db)
        pks: list[Any] = []
        with log_errors(self.db, "The existing rows of %s cannot be read", meta.label_lower):
            fields: list[Any] = [meta.pk if name == "pk" else meta.get_field(name) for name in unique_fields]
            names = [field.attname for field in fields]
            values = [{name: getattr(instance, name) for name in names} for instance in objs]
            is_null_equal = any(
                isinstance(constraint, models.UniqueConstraint)
                and constraint.nulls_distinct is False
                and {*constraint.fields} == {field.name for field in fields}
                for constraint in meta.constraints
            )
            # Elsewhere, null conflicts with nothing.
            known = [models.Q(**lookup) for lookup in values if is_null_equal or None not in lookup.values()]
            with transaction.atomic(self.db):
                for start in range(0, len(known), MAX_COMPARED):
                    condition = models.Q(*known[start : start + MAX_COMPARED], _connector=models.Q.OR)
                    pks += rows.filter(condition).values_list("pk", flat=True)
            read_prechange(dict.fromkeys(self._registrations(), pks), self.db)
            return {self._key(pk): pk for pk in pks}
        return None


@contextmanager
def _batch_like_django(using: str) -> Iterator[None]:
    """A batch whose errors leave the open transaction as Django alone leaves it.

    Django mostly lets it do nothing but roll back. The savepoint of a batch would let it go on."""
    is_broken = False
    try:
        with batch(using):
            try:
                yield
            except BaseException:
                is_broken = is_aborted(using)
                raise
    except BaseException:
        if is_broken and in_block(using):
            transaction.set_rollback(True, using)
        raise


def _wanted_deletions(collector: Collector, using: str) -> list[tuple[Registration, Any]]:
    """The objects of a deletion that a webhook may want, with their keys."""
    state = current_state(using)
    return [
        (registration, instance.pk)
        for model, instances in collector.data.items()
        if state and (registration := registry.registration_of(model)) and state.subscriptions.has_subscribers(model)
        for instance in instances
    ]


@contextmanager
def _serialized_together(objects: Iterable[tuple[Registration, Any]], using: str) -> Iterator[None]:
    """Serialize the objects that this block deletes together. If that fails, the deletion of each serializes it."""
    state, serialized = current_state(using), dict[Key, SerializedObject | None]()
    changes = [Change(registration, pk, Action.DELETED, needs_lock=True) for registration, pk in objects]
    if state and state.batch is not None and changes:
        with (
            log_errors(using, "%d objects to delete cannot be serialized together", len(changes)),
            transaction.atomic(using),
            reading_from(using),
        ):
            serialized = serialize.serialize_all(state, changes)
            state.serialized_for_deletion.update({key: item for key, item in serialized.items() if item})
    yield
    for key in serialized:  # the block did not delete these
        state.serialized_for_deletion.pop(key, None)  # type: ignore[union-attr]


WebhookManager = models.Manager.from_queryset(TrackedQuerySet)
