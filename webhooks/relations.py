"""A relation to many, as it is edited from one of its sides: which objects hold it, and which of them have changed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import models
from django.db.models import Q

from webhooks import keys, registry
from webhooks.registration import Registration


class Relation:
    """The relation of the model ``through``, whose field objects of the model ``holders`` hold. ``reverse``: it is
    edited from the side that the field points to."""

    def __init__(self, through: Any, holders: type[models.Model], reverse: bool) -> None:
        # One, but for fields that share their ``through``: Django does not tell which of them is edited.
        self.fields = [one for one in holders._meta.many_to_many if one.remote_field.through is through]
        self.holders = holders
        self._reverse = reverse
        self._is_symmetrical = not reverse and any(map(_is_symmetrical, self.fields))

    def changed(
        self, instance: models.Model, action: str, pk_set: set[Any] | None, using: str
    ) -> dict[Registration, list[Any]]:
        """The keys of the objects whose relation changes, by the registrations of the models that hold the field, from
        what Django signals of it."""
        touched = [one for one in registry.registrations_touched(self.holders) if self.names(one)]
        is_clearing = action.endswith("_clear")
        if not touched or not (is_clearing or pk_set):
            return {}
        others: list[Any] = []
        if self._reverse or self._is_symmetrical:
            others = self._cleared(instance, action, using) if is_clearing else self._keys(pk_set or set(), using)
        own = None if self._reverse else instance
        return {registration: self._keys_of(registration.model, own, others, using) for registration in touched}

    @property
    def _model(self) -> type[models.Model]:
        """The model that has the field itself, by whose keys others are known that hold it."""
        return self.fields[0].model

    def _keys(self, referred: set[Any], using: str) -> list[Any]:
        """The keys of objects that the model between refers to, which may be by another field of theirs."""
        field: Any = self.fields[0]
        name = field.m2m_target_field_name() if self._reverse else field.m2m_reverse_target_field_name()
        if name == self._model._meta.pk.name:
            return list(referred)
        return self._looked_up(self._model, name, referred, using)

    def _keys_of(
        self, model: type[models.Model], instance: models.Model | None, others: list[Any], using: str
    ) -> list[Any]:
        """The keys of rows of one of the models that hold the field. One that inherits it may have keys of its own."""
        pk = model._meta.pk
        if others and not keys.is_shared(pk, self._model._meta.pk):
            others = self._looked_up(model, self._model._meta.pk.name, others, using)
        own = [getattr(instance, pk.attname)] if instance is not None else []
        return sorted(set(map(pk.to_python, [*own, *others])))  # so that two who change the same lock them in one order

    def _looked_up(self, model: type[models.Model], name: str, values: Collection[Any], using: str) -> list[Any]:
        rows = model._base_manager.using(using).filter(**{f"{name}__in": values})
        return list(rows.values_list("pk", flat=True))

    def _cleared(self, instance: models.Model, action: str, using: str) -> list[Any]:
        if action == "post_clear":
            pointing: list[Any] = instance.__dict__.pop("_webhooks_cleared", [])
        else:
            # After the clearing nobody can tell which objects had pointed here.
            pointing = self._pointing_at(instance, using)
            instance._webhooks_cleared = pointing  # type: ignore[attr-defined]
        return pointing

    def _pointing_at(self, target: models.Model, using: str) -> list[Any]:
        pointing = Q(*((field.name, target) for field in self.fields), _connector=Q.OR)
        found = self._model._base_manager.using(using).filter(pointing)
        return list(found.values_list("pk", flat=True).distinct())

    def mirror(self, instance: models.Model, pks: set[Any], using: str) -> None:
        """Write the other direction of what was added to a symmetrical relation: Django signals the addition before it
        does so, and then adds what is missing. Written here already, it is in what the other ends send."""
        [field, *_] = self.fields
        through: Any = field.remote_field.through
        if self._is_symmetrical and through._meta.auto_created:
            names = (field.m2m_field_name(), field.m2m_reverse_field_name())
            here, there = (f"{name}_id" for name in names)
            key = getattr(instance, self._model._meta.pk.attname)
            rows = [through(**{here: pk, there: key}) for pk in pks]
            through._base_manager.using(using).bulk_create(rows, ignore_conflicts=True)

    def names(self, registration: Registration) -> list[str]:
        """What the fields are called, of those that objects of a registered model hold: a parent whose rows the holders
        inherit may have none such."""
        held = {one.name for one in registration.model._meta.many_to_many}
        return [field.name for field in self.fields if field.name in held]


def _is_symmetrical(field: models.ManyToManyField[Any, Any]) -> bool:
    """Whether both its ends hold it. django-taggit says so of every relation to tags."""
    ends = (field.model, field.related_model)
    first, second = (end._meta.concrete_model for end in ends)
    return first is second and bool(getattr(field.remote_field, "symmetrical", False))
