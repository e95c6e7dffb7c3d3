"""A miniature of NetBox's object permissions: constraints, a queryset that keeps to them, and a backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.db.models import Model, Q, QuerySet, prefetch_related_objects

from webhooks.models.permissions.restriction import found_restrictions


def constraints_of(user: Any, permission: str) -> list[Q]:
    """What the objects must be like that this permission of the user is for: one of these. As in NetBox, the
    permissions are read once for each instance of the user. ``EXEMPT_VIEW_PERMISSIONS`` gives every user some."""
    app_label, _dot, codename = permission.partition(".")
    action, _underscore, model = codename.partition("_")
    if action == "view" and {"*", f"{app_label}.{model}"} & {*getattr(settings, "EXEMPT_VIEW_PERMISSIONS", ())}:
        return [Q()]
    if not (user.is_active and user.pk):
        return []
    prefetch_related_objects([user], "object_permissions")
    return [Q(**one.constraints) for one in user.object_permissions.all() if one.permission == permission]


class RestrictedQuerySet(QuerySet[Any]):
    def restrict(self, user: Any, action: str = "view") -> QuerySet[Any]:
        if user.is_superuser:
            return self
        fitting = constraints_of(user, f"{self.model._meta.app_label}.{action}_{self.model._meta.model_name}")
        if not fitting:
            return self.none()
        # A permission without constraints is for all objects, whatever the others are.
        wanted = Q() if Q() in fitting else Q(*fitting, _connector=Q.OR)
        return self.filter(pk__in=self.model.objects.filter(wanted))


@contextmanager
def restricting(*chosen: type[Model], querysets: type[QuerySet[Any]] = RestrictedQuerySet) -> Iterator[None]:
    """Give these models ``restrict()``. Most tests are about hosts in which no model has it."""
    former = {model: model._default_manager for model in chosen}
    for model in chosen:
        manager: Any = querysets.as_manager()
        manager.model, model._meta.default_manager = model, manager
    found_restrictions.cache_clear()
    yield
    for model, manager in former.items():
        model._meta.default_manager = manager
    found_restrictions.cache_clear()


class ObjectPermissionBackend(ModelBackend):
    def get_all_permissions(self, user_obj: Any, obj: Any = None) -> set[str]:
        return set(user_obj.object_permissions.values_list("permission", flat=True)) if user_obj.pk else set()

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        fitting = constraints_of(user_obj, perm)
        if obj is None:
            return bool(fitting)
        return any(type(obj)._default_manager.filter(one, pk=obj.pk).exists() for one in fitting)
