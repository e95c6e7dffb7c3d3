"""A relation to many, as it is edited from one of its sides: which objects hold it, and which have changed."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q

from webhooks import registry
from webhooks.db import savepoint
from webhooks.registry import keys
from webhooks.registry.registration import Registration


class Relation:
    """The relation of the model ``through``, whose field objects of the model ``holders`` hold. ``reverse``: it is
    edited from the side that the field points to."""

    def __init__(self, through: Any, holders: type[models.Model], reverse: bool) -> None:
        # One, but for fields that share their ``through``: Django does not say which is edited.
        self.fields = [one for one in holders._meta.many_to_many if one.remote_field.through is through]
        self.holders = holders
        self._reverse = reverse
        self._is_symmetrical = not reverse and any(map(_is_symmetrical, self.fields))

    def changed(
        self, instance: models.Model, action: str, pk_set: set[Any] | None, using: str
    ) -> dict[Registration, list[Any]]:
        """Return the keys of the objects that change, by the registrations of the models that hold the field. The
        arguments are those of Django's signal."""
        touched = [one for one in registry.registrations_touched(self.holders) if self.names(one)]
        is_clearing = action.endswith("_clear")
        if not touched or not (is_clearing or pk_set):
            return {}
        others: list[Any] = []
        if self._reverse or self._is_symmetrical:
            others = self._cleared(instance, action, using) if is_clearing else self._referred(pk_set or set(), using)
        own = None if self._reverse else instance
        return {registration: self._keys(registration.model, own, others, using) for registration in touched}

    @property
    def _model(self) -> type[models.Model]:
        """The model that has the field itself."""
        return self.fields[0].model

    def _referred(self, values: set[Any], using: str) -> list[Any]:
        """The keys of objects that the model between refers to, by their key or by another field."""
        field: Any = self.fields[0]
        name = field.m2m_target_field_name() if self._reverse else field.m2m_reverse_target_field_name()
        if name == self._model._meta.pk.name:
            return list(values)
        return self._read(self._model, Q((f"{name}__in", values)), using)

    def _keys(
        self, model: type[models.Model], instance: models.Model | None, others: list[Any], using: str
    ) -> list[Any]:
        """The keys of the same objects in one of the models that hold the field: a child may have its own key."""
        pk, key_there = model._meta.pk, self._model._meta.pk
        if others and not keys.is_shared(pk, key_there):
            others = self._read(model, Q((f"{key_there.name}__in", others)), using)
        own = [] if instance is None else [self._key(instance, model)]
        # Sorted, so that two transactions that change the same objects lock them in one order.
        return sorted({pk.to_python(key) for key in [*own, *others]})

    def _key(self, instance: models.Model, model: type[models.Model]) -> Any:
        pk = model._meta.pk
        # An instance with nothing but its own key lacks that of the row that it inherits.
        return instance.pk if keys.is_shared(pk, instance._meta.pk) else getattr(instance, pk.attname)

    def _read(self, model: type[models.Model], condition: Q, using: str) -> list[Any]:
        with savepoint(using):
            found = model._base_manager.using(using).filter(condition).order_by()
            return list(found.values_list("pk", flat=True))

    def _cleared(self, instance: models.Model, action: str, using: str) -> list[Any]:
        if action == "post_clear":
            return list(instance.__dict__.pop("_webhooks_cleared", ()))
        # After the clearing it is too late to ask which objects pointed here.
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
            with savepoint(using):
                through._base_manager.using(using).bulk_create(rows, ignore_conflicts=True)

    def names(self, registration: Registration) -> list[str]:
        """The names of the fields that objects of a registered model hold. A parent may lack a field of its child."""
        held = {one.name for one in registration.model._meta.many_to_many}
        return [field.name for field in self.fields if field.name in held]


def _is_symmetrical(field: models.ManyToManyField[Any, Any]) -> bool:
    """Whether both ends hold it. django-taggit claims that of every relation to tags, so the models are compared."""
    ends = (field.model, field.related_model)
    first, second = (end._meta.concrete_model for end in ends)
    return first is second and bool(getattr(field.remote_field, "symmetrical", False))
