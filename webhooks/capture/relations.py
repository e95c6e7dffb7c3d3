"""Which registered objects an edit of a many-to-many relation changes."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q

from webhooks import registry
from webhooks.db import savepoint
from webhooks.registry.keys import is_same_pk
from webhooks.registry.registration import Registration


class RelationEdit:
    """An edit of the many-to-many relation of the model ``through``, as ``m2m_changed`` describes it.

    The model ``holders`` has the field. ``reverse``: the edit comes from the other side, which the field points to."""

    def __init__(
        self, through: Any, holders: type[models.Model], instance: models.Model, reverse: bool, using: str
    ) -> None:
        # Several only if fields share their ``through``: Django does not say which of them is edited.
        self._fields: list[Any] = [one for one in holders._meta.many_to_many if one.remote_field.through is through]
        self._declared_by = self._fields[0].model
        self._holders = holders
        self._instance = instance
        self._reverse = reverse
        self._using = using
        self._is_symmetrical = not reverse and any(map(_joins_both_ends, self._fields))

    def changed(self, action: str, pk_set: set[Any] | None) -> dict[Registration, list[Any]]:
        """The primary keys of the changed objects by registration."""
        touched = [one for one in registry.registrations_touched(self._holders) if self.names(one)]
        is_empty = pk_set is not None and not pk_set  # None: all are cleared, or a sender by hand does not say which
        if not touched or is_empty:
            return {}
        has_others = self._reverse or self._is_symmetrical
        others = self._others(action, pk_set or set()) if has_others else []
        return {registration: self._pks(registration.model, others) for registration in touched}

    def names(self, registration: Registration) -> list[str]:
        """The names of the relation's fields on a registered model. A parent may lack a field of its child."""
        held = {one.name for one in registration.model._meta.many_to_many}
        return [field.name for field in self._fields if field.name in held]

    def mirror(self, pks: set[Any]) -> None:
        """Write the other direction of an addition to a symmetrical relation.

        Django signals the addition first, and writes the other direction afterwards. So the payloads of the other ends
        would lack it."""
        field, through = self._fields[0], self._fields[0].remote_field.through
        if self._is_symmetrical and through._meta.auto_created:
            here, there = f"{field.m2m_field_name()}_id", f"{field.m2m_reverse_field_name()}_id"
            key = getattr(self._instance, self._declared_by._meta.pk.attname)
            rows = [through(**{here: pk, there: key}) for pk in pks]
            with savepoint(self._using):
                through._base_manager.using(self._using).bulk_create(rows, ignore_conflicts=True)

    def _others(self, action: str, pk_set: set[Any]) -> list[Any]:
        """The primary keys of the objects that point to the instance, or did or will. Before a clearing they are read:
        afterwards it is too late."""
        if action == "post_clear":
            return list(self._instance.__dict__.pop("_webhooks_cleared", ()))
        if action == "pre_clear":
            pointing_here = Q(*((field.name, self._instance) for field in self._fields), _connector=Q.OR)
            pks = self._read_pks(self._declared_by, pointing_here)
            self._instance._webhooks_cleared = pks  # type: ignore[attr-defined]
            return pks
        field = self._fields[0]
        # The through model may refer to another field than the primary key.
        name = field.m2m_target_field_name() if self._reverse else field.m2m_reverse_target_field_name()
        if name == self._declared_by._meta.pk.name:
            return list(pk_set)
        return self._read_pks(self._declared_by, Q((f"{name}__in", pk_set)))

    def _pks(self, model: type[models.Model], others: list[Any]) -> list[Any]:
        """The primary keys of the changed objects in ``model``: a child may have another key than its parent."""
        pk, pk_of_field = model._meta.pk, self._declared_by._meta.pk
        if others and not is_same_pk(pk, pk_of_field):
            others = self._read_pks(model, Q((f"{pk_of_field.name}__in", others)))
        own = []
        if not self._reverse:
            # An instance that was created from its key alone lacks the key of the row that it inherits.
            is_same = is_same_pk(pk, self._instance._meta.pk)
            own = [self._instance.pk if is_same else getattr(self._instance, pk.attname)]
        keys = {pk.to_python(key) for key in [*own, *others]}  # an instance may have its key as text
        return sorted(keys)  # so that two transactions lock the same objects in the same order

    def _read_pks(self, model: type[models.Model], condition: Q) -> list[Any]:
        with savepoint(self._using):
            found = model._base_manager.using(self._using).filter(condition).order_by()
            return list(found.values_list("pk", flat=True))


def _joins_both_ends(field: models.ManyToManyField[Any, Any]) -> bool:
    """Whether both ends have the relation. django-taggit says so for all its relations, so compare the models too."""
    ends = (field.model, field.related_model)
    first, second = (end._meta.concrete_model for end in ends)
    return first is second and bool(getattr(field.remote_field, "symmetrical", False))
