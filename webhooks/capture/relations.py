"""Which registered objects an edit of a many-to-many relation changes."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q

from webhooks import registry
from webhooks.db import savepoint
from webhooks.registry.registration import Registration, is_same_pk


class Relation:
    """The many-to-many relation of the model ``through``, with its field on the model ``holders``. ``reverse``: the
    edit comes from the other side, which the field points to."""

    def __init__(self, through: Any, holders: type[models.Model], reverse: bool) -> None:
        # Several only if fields share their ``through``: Django does not say which of them is edited.
        self.fields = [one for one in holders._meta.many_to_many if one.remote_field.through is through]
        self.holders = holders
        self._reverse = reverse
        self._is_symmetrical = not reverse and any(map(_joins_both_ends, self.fields))

    def changed(
        self, instance: models.Model, action: str, pk_set: set[Any] | None, using: str
    ) -> dict[Registration, list[Any]]:
        """The primary keys of the changed objects by registration, from the arguments of ``m2m_changed``."""
        touched = [one for one in registry.registrations_touched(self.holders) if self.names(one)]
        if not touched or not (pk_set or action.endswith("_clear")):
            return {}
        own = None if self._reverse else instance
        has_others = self._reverse or self._is_symmetrical
        others = self._others(instance, action, pk_set or set(), using) if has_others else []
        return {registration: self._pks(registration.model, own, others, using) for registration in touched}

    def names(self, registration: Registration) -> list[str]:
        """The names of the relation's fields on a registered model. A parent may lack a field of its child."""
        held = {one.name for one in registration.model._meta.many_to_many}
        return [field.name for field in self.fields if field.name in held]

    def mirror(self, instance: models.Model, pks: set[Any], using: str) -> None:
        """Write the other direction of an addition to a symmetrical relation.

        Django signals the addition first, and writes the other direction afterwards. So the payloads of the other ends
        would lack it."""
        [field, *_] = self.fields
        through: Any = field.remote_field.through
        if self._is_symmetrical and through._meta.auto_created:
            names = (field.m2m_field_name(), field.m2m_reverse_field_name())
            here, there = (f"{name}_id" for name in names)
            key = getattr(instance, self._model._meta.pk.attname)
            rows = [through(**{here: pk, there: key}) for pk in pks]
            with savepoint(using):
                through._base_manager.using(using).bulk_create(rows, ignore_conflicts=True)

    @property
    def _model(self) -> type[models.Model]:
        """The model that declares the field."""
        return self.fields[0].model

    def _others(self, instance: models.Model, action: str, pk_set: set[Any], using: str) -> list[Any]:
        """The primary keys of the objects that point to ``instance``, or did or will. Before a clearing they are read:
        afterwards it is too late."""
        if action == "post_clear":
            return list(instance.__dict__.pop("_webhooks_cleared", ()))
        if action == "pre_clear":
            pointing_here = Q(*((field.name, instance) for field in self.fields), _connector=Q.OR)
            pks = self._read_pks(self._model, pointing_here, using)
            instance._webhooks_cleared = pks  # type: ignore[attr-defined]
            return pks
        field: Any = self.fields[0]
        # The through model may refer to another field than the primary key.
        name = field.m2m_target_field_name() if self._reverse else field.m2m_reverse_target_field_name()
        if name == self._model._meta.pk.name:
            return list(pk_set)
        return self._read_pks(self._model, Q((f"{name}__in", pk_set)), using)

    def _pks(
        self, model: type[models.Model], instance: models.Model | None, others: list[Any], using: str
    ) -> list[Any]:
        """The primary keys of the same objects in ``model``: a child may have another key than its parent."""
        pk, pk_of_field = model._meta.pk, self._model._meta.pk
        if others and not is_same_pk(pk, pk_of_field):
            others = self._read_pks(model, Q((f"{pk_of_field.name}__in", others)), using)
        own = []
        if instance is not None:
            # An instance that was created from its key alone lacks the key of the row that it inherits.
            own = [instance.pk if is_same_pk(pk, instance._meta.pk) else getattr(instance, pk.attname)]
        # Sorted, so that two transactions lock the same objects in the same order.
        return sorted({pk.to_python(key) for key in [*own, *others]})

    def _read_pks(self, model: type[models.Model], condition: Q, using: str) -> list[Any]:
        with savepoint(using):
            found = model._base_manager.using(using).filter(condition).order_by()
            return list(found.values_list("pk", flat=True))


def _joins_both_ends(field: models.ManyToManyField[Any, Any]) -> bool:
    """Whether both ends have the relation. django-taggit says so for all its relations, so compare the models too."""
    ends = (field.model, field.related_model)
    first, second = (end._meta.concrete_model for end in ends)
    return first is second and bool(getattr(field.remote_field, "symmetrical", False))
