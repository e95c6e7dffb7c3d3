"""``webhooks.WebhookManager``: bulk operations of a model's querysets as Events, which Django does not signal."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypeVar

from django.db import models
from django.db.models.deletion import Collector

from webhooks import registry
from webhooks.capture import outbox
from webhooks.capture.scopes import Change
from webhooks.conf import conf
from webhooks.models import Action
from webhooks.registry import Registration

M = TypeVar("M", bound=models.Model)


class TrackedQuerySet(models.QuerySet[M]):
    """Mix it into a queryset of your own, before ``QuerySet``. ``bulk_update`` needs nothing: it calls ``update``."""

    def bulk_create(self, objs: Iterable[M], *args: Any, **kwargs: Any) -> list[M]:
        """Also records that each object was created; with ``update_conflicts``, that it was updated. Nothing with
        ``ignore_conflicts``: the database does not say then which rows are new."""
        if not self._registrations() or kwargs.get("ignore_conflicts"):
            return super().bulk_create(objs, *args, **kwargs)
        action = Action.UPDATED if kwargs.get("update_conflicts") else Action.CREATED
        with outbox.batch(self.db):
            created = super().bulk_create(objs, *args, **kwargs)
            self._record([instance.pk for instance in created], action)
        return created

    def update(self, **kwargs: Any) -> int:
        """Also records that each row was updated."""
        if not self._registrations() or not self._is_wanted():
            return super().update(**kwargs)
        with outbox.batch(self.db):
            # Which rows these are may depend on the very columns that change.
            pks = list(self.order_by().select_for_update(no_key=True, of=("self",)).values_list("pk", flat=True))
            outbox.foresee(dict.fromkeys(self._registrations(), pks), self.db)
            changed = self.model._base_manager.using(self.db).filter(pk__in=pks)
            rows = models.QuerySet.update(changed, **kwargs)
            self._record(pks, Action.UPDATED)
        return rows

    def delete(self) -> tuple[int, dict[str, int]]:
        """Also records that each row was deleted, as a plain delete does, but reads them all at once."""
        if not self._registrations() or not self._is_wanted():
            return super().delete()
        with outbox.batch(self.db):
            outbox.prepare_deletion(list(self._doomed()), self.db)
            return super().delete()

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
        return outbox.wants(self.model, self.db)

    def _record(self, pks: Collection[Any], action: Action) -> None:
        for registration in self._registrations():
            for pk in pks:
                outbox.record(registration, pk, action, self.db)


WebhookManager = models.Manager.from_queryset(TrackedQuerySet)
