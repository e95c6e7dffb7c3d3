"""``webhooks.WebhookManager``: bulk operations of a model's querysets as Events, which Django does not signal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from operator import or_
from typing import Any, TypeVar

from django.db import connections, models, transaction
from django.db.models.deletion import Collector

from webhooks import registry
from webhooks.capture import recording
from webhooks.capture.changes import Change
from webhooks.conf import conf
from webhooks.db import in_chunks
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models import Action
from webhooks.registry.registration import Registration, is_same_pk, normalize_pk

logger = get_logger(__name__)

M = TypeVar("M", bound=models.Model)

# Objects that one query looks for by several fields: SQLite takes expressions a thousand deep.
COMPARED = 200


class TrackedQuerySet(models.QuerySet[M]):
    """Mix it into a queryset of your own, before ``QuerySet``. ``bulk_update`` needs nothing: it calls ``update``."""

    def bulk_create(
        self,
        objs: Iterable[M],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Collection[str] | None = None,
        unique_fields: Collection[str] | None = None,
    ) -> list[M]:
        """Also records that each object was created; with ``update_conflicts``, that those were updated which had the
        same ``unique_fields``, or all where these are not given. Nothing with ``ignore_conflicts``: the database does
        not say then which rows are new."""
        self._for_write = True  # as Django does: it decides which database this is about
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
            there = self._there(objs, unique_fields or ()) if update_conflicts else set()
            created = insert(objs)
            for instance in created:
                is_new = there is not None and self._key(instance.pk) not in there
                action = Action.CREATED if is_new else Action.UPDATED
                self._record({registration: [instance.pk] for registration in self._registrations()}, action)
        return created

    def update(self, **kwargs: Any) -> int:
        """Also records that each row was updated."""
        self._for_write = True
        if self._is_refused() or not self._registrations() or not self._is_wanted():
            return super().update(**kwargs)
        with recording.batch(self.db):
            # Which rows these are may depend on the very columns that change.
            pks = self._locked()
            keys = {registration: self._keys_of(registration, pks) for registration in self._registrations()}
            recording.snapshot_before(keys, self.db, guarded=not registry.save_locks_row(self.model))
            rows = sum(models.QuerySet.update(some, **kwargs) for some in self._parts(pks))
            self._record(keys, Action.UPDATED)
        self._result_cache = None
        return rows

    def delete(self) -> tuple[int, dict[str, int]]:
        """Also records that each row was deleted, as a plain delete does, but reads them all at once."""
        self._for_write = True
        if self._is_undeletable() or not self._registrations() or not self._is_wanted():
            return super().delete()
        with recording.batch(self.db):
            recording.prepare_deletion(list(self._doomed()), self.db)
            return super().delete()

    delete.queryset_only = True  # type: ignore[attr-defined]  # as Django's: a manager would delete every row

    def _is_refused(self) -> bool:
        """Whether Django neither updates nor deletes such a queryset, and says so itself."""
        return bool(self.query.is_sliced or self.query.combinator)

    def _is_undeletable(self) -> bool:
        return bool(self._is_refused() or self.query.distinct_fields or self._fields is not None)  # type: ignore[attr-defined]

    def _locked(self) -> list[Any]:
        """The keys of the rows that this queryset has, locked where the database locks rows."""
        chosen = self.order_by()
        # An update regards neither.
        chosen.query.select_for_update, chosen.query.distinct, chosen.query.distinct_fields = False, False, ()
        parts: list[models.QuerySet[M]] = [chosen]
        if self._locks_rows():
            # Not the queryset itself: PostgreSQL locks no groups and no distinct rows.
            rows = self.model._base_manager.using(self.db).filter(pk__in=chosen.values("pk")).order_by("pk")
            locked = list(rows.select_for_update(no_key=True, of=("self",)).values_list("pk", flat=True))
            # Another transaction may have changed some until it gave their locks back.
            parts = [chosen.filter(pk__in=some) for some in in_chunks(self.db, locked)]
        return list(dict.fromkeys(pk for part in parts for pk in part.values_list("pk", flat=True)))

    def _keys_of(self, registration: Registration, pks: list[Any]) -> list[Any]:
        """The keys of rows that these ones are or inherit, which may have keys of their own."""
        pk = registration.model._meta.pk
        if is_same_pk(pk, self.model._meta.pk):
            return pks
        rows = self.model._base_manager.using(self.db)
        parts = in_chunks(self.db, pks)
        return [key for some in parts for key in rows.filter(pk__in=some).values_list(pk.name, flat=True)]

    def _parts(self, pks: list[Any]) -> list[models.QuerySet[M]]:
        """The rows of these keys, in parts of which one statement takes all."""
        if not self._locks_rows():
            return [self.order_by()]  # nobody else writes in the meantime
        # One at least: it is Django that says what cannot be updated.
        return [self.order_by().filter(pk__in=some) for some in list(in_chunks(self.db, pks)) or [[]]]

    def _locks_rows(self) -> bool:
        return bool(connections[self.db].features.has_select_for_update)

    def _there(self, objs: Sequence[M], unique_fields: Collection[str]) -> set[Any] | None:
        """The keys of the rows that these objects will update; None where that is not known."""
        if not unique_fields or not self._is_wanted():
            return None
        try:
            with transaction.atomic(self.db):
                there = list(self._stored(objs, unique_fields))
        except Exception as error:
            reraise_job_timeout(error)
            logger.exception("Which rows of %s are there already cannot be read", self.model._meta.label_lower)
            return None
        recording.snapshot_before(dict.fromkeys(self._registrations(), there), self.db, guarded=False)
        return {self._key(pk) for pk in there}

    def _key(self, given: Any) -> Any:
        return normalize_pk(self.model._meta.pk, given)

    def _stored(self, objs: Sequence[M], unique_fields: Collection[str]) -> Iterator[Any]:
        meta = self.model._meta
        fields: list[Any] = [meta.pk if name == "pk" else meta.get_field(name) for name in unique_fields]
        names = [field.attname for field in fields]
        keys = ({name: getattr(instance, name) for name in names} for instance in objs)
        known = [key for key in keys if None not in key.values()]  # null conflicts with nothing
        for start in range(0, len(known), COMPARED):
            some = reduce(or_, (models.Q(**key) for key in known[start : start + COMPARED]))
            yield from self.model._base_manager.using(self.db).filter(some).values_list("pk", flat=True)

    def _doomed(self) -> Iterable[Change]:
        collector = Collector(using=self.db, origin=self)
        collector.collect(self.order_by())
        for model, instances in collector.data.items():
            registration = registry.registration_of(model)
            if registration:
                yield from (Change(registration, one.pk, Action.DELETED, lock=True) for one in instances)

    def _registrations(self) -> list[Registration]:
        return registry.registrations_touched(self.model) if conf.enabled else []

    def _is_wanted(self) -> bool:
        return recording.wants(self.model, self.db)

    def _record(self, keys: Mapping[Registration, Collection[Any]], action: Action) -> None:
        for registration, pks in keys.items():
            for pk in pks:
                recording.record(registration, pk, action, self.db)


WebhookManager = models.Manager.from_queryset(TrackedQuerySet)
