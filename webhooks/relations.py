"""A relation to many, as it is edited from one of its sides: which objects hold it, and which of them have changed."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q

from webhooks import keys, registry
from webhooks.holdings import Holder
from webhooks.registration import Registration

# What is known of an object that is not read: its key, and what else the model between refers to.
Columns = dict[str, Any]


class Relation:
    """The relation of the model ``through``, whose field objects of the model ``holders`` hold. ``reverse``: it is
    edited from the side that the field points to."""

    def __init__(self, through: Any, holders: type[models.Model], reverse: bool) -> None:
        # One, but for fields that share their ``through``: Django does not tell which of them is edited.
        self.fields = [one for one in holders._meta.many_to_many if one.remote_field.through is through]
        self.holders = holders
        # The fields of the holders that the model between refers to: their key, mostly.
        self._known_by = {one.m2m_target_field_name() for one in self.fields}
        self._reverse = reverse
        self._is_symmetrical = not reverse and any(map(_is_symmetrical, self.fields))

    def changed(
        self, instance: models.Model, action: str, pk_set: set[Any] | None, using: str
    ) -> dict[Registration, list[Holder]]:
        """The objects whose relation changes, by the registrations of the models that hold the field, from what Django
        signals of it."""
        touched = [one for one in registry.registrations_touched(self.holders) if self.names(one)]
        is_clearing = action.endswith("_clear")
        if not touched or not (is_clearing or pk_set):
            return {}
        others: list[Columns] = []
        if self._reverse or self._is_symmetrical:
            others = self._cleared(instance, action, using) if is_clearing else self._referred(pk_set or set(), using)
        own = None if self._reverse else instance
        return {registration: self._holders(registration.model, own, others, using) for registration in touched}

    @property
    def _model(self) -> type[models.Model]:
        """The model that has the field itself."""
        return self.fields[0].model

    def _referred(self, referred: set[Any], using: str) -> list[Columns]:
        """What is known of objects that the model between refers to, which may be by another field than their key."""
        field: Any = self.fields[0]
        name = field.m2m_target_field_name() if self._reverse else field.m2m_reverse_target_field_name()
        pk = self._model._meta.pk
        if {pk.name} == {name, *self._known_by}:
            return [{pk.attname: key} for key in referred]
        return self._read(self._model, Q((f"{name}__in", referred)), using)

    def _holders(
        self, model: type[models.Model], instance: models.Model | None, others: list[Columns], using: str
    ) -> list[Holder]:
        """The objects as those of one of the models that hold the field. One that inherits it may have keys of its
        own."""
        pk, key_there = model._meta.pk, self._model._meta.pk
        if others and not keys.is_shared(pk, key_there):
            condition = Q((f"{key_there.name}__in", [columns[key_there.attname] for columns in others]))
            others = self._read(model, condition, using)
        known = [*others] if instance is None else [self._of(instance, model), *others]
        found = {}
        for columns in known:
            key = pk.to_python(columns.get(pk.attname, columns.get(key_there.attname)))
            found[key] = Holder(key, columns)
        return [found[key] for key in sorted(found)]  # so that two who change the same lock them in one order

    def _of(self, instance: models.Model, model: type[models.Model]) -> Columns:
        columns = {name: getattr(instance, name) for name in self._names(model)}
        pk = model._meta.pk
        if keys.is_shared(pk, instance._meta.pk):
            columns[pk.attname] = instance.pk
        # An instance that was made by its key alone does not have the one of the row that it inherits.
        return {name: value for name, value in columns.items() if value is not None}

    def _read(self, model: type[models.Model], condition: Q, using: str) -> list[Columns]:
        found = model._base_manager.using(using).filter(condition).order_by()
        return list(found.values(*self._names(model)))

    def _names(self, model: type[models.Model]) -> list[str]:
        """What the key of a model is called, and the other columns that the model between refers to."""
        names = {model._meta.pk.name, *self._known_by}
        return [column.attname for column in model._meta.concrete_fields if column.name in names]

    def _cleared(self, instance: models.Model, action: str, using: str) -> list[Columns]:
        if action == "post_clear":
            pointing: list[Columns] = instance.__dict__.pop("_webhooks_cleared", [])
        else:
            # After the clearing nobody can tell which objects had pointed here.
            pointing = self._read(self._model, self._pointing_at(instance), using)
            instance._webhooks_cleared = pointing  # type: ignore[attr-defined]
        return pointing

    def _pointing_at(self, target: models.Model) -> Q:
        return Q(*((field.name, target) for field in self.fields), _connector=Q.OR)

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
