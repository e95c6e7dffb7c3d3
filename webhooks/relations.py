"""A relation to many, as it is edited from one of its sides: which objects hold it, and which of them have changed."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q

from webhooks import registry
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

    def changed(self, instance: models.Model, action: str, pk_set: set[Any] | None, using: str) -> list[Any]:
        """The keys of the objects that hold the field and whose relation changes, from what Django signals of it."""
        is_clearing = action.endswith("_clear")
        if not is_clearing and not pk_set:
            return []
        others: list[Any] = []
        if self._reverse or self._is_symmetrical:
            others = self._cleared(instance, action, using) if is_clearing else list(pk_set or ())
        keys = set(map(self.holders._meta.pk.to_python, others if self._reverse else [instance.pk, *others]))
        return sorted(keys)  # so that two who change the same objects lock them in one order

    def _cleared(self, instance: models.Model, action: str, using: str) -> list[Any]:
        if action == "post_clear":
            pointing: list[Any] = instance.__dict__.pop("_webhooks_cleared", [])
        else:
            # After the clearing nobody can tell which objects had pointed here.
            pointing = self._pointing_at(instance, using)
            instance._webhooks_cleared = pointing  # type: ignore[attr-defined]
        return pointing

    def _pointing_at(self, target: models.Model, using: str) -> list[Any]:
        if not registry.registrations_touched(self.holders):
            return []
        pointing = Q(*((field.name, target) for field in self.fields), _connector=Q.OR)
        found = self.holders._base_manager.using(using).filter(pointing)
        return list(found.values_list("pk", flat=True).distinct())

    def mirror(self, instance: models.Model, pks: set[Any], using: str) -> None:
        """Write the other direction of what was added to a symmetrical relation: Django signals the addition before it
        does so, and then adds what is missing. Written here already, it is in what the other ends send."""
        [field, *_] = self.fields
        through: Any = field.remote_field.through
        if self._is_symmetrical and through._meta.auto_created:
            names = (field.m2m_field_name(), field.m2m_reverse_field_name())
            here, there = (f"{name}_id" for name in names)
            rows = [through(**{here: pk, there: instance.pk}) for pk in pks]
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
