"""Users of NetBox with object permissions."""

from __future__ import annotations

import itertools
from typing import Any

from django.apps import apps
from django.test import Client

from core.models import ObjectType
from users.models import ObjectPermission, User

_numbers = itertools.count(1)


def make_user(*permissions: str, constraints: Any = None, **fields: Any) -> Any:
    """A user with these permissions, such as ``view_webhook`` of this app, or ``dcim.view_site``."""
    user = User.objects.create(username=f"user {next(_numbers)}", **fields)
    grant(user, *permissions, constraints=constraints)
    return user


def grant(user: Any, *permissions: str, constraints: Any = None) -> None:
    for permission in permissions:
        app_label, _dot, codename = permission.rpartition(".")
        action, model = codename.rsplit("_", 1)
        given = ObjectPermission.objects.create(
            name=f"{user.username} {permission}", actions=[action], constraints=constraints
        )
        given.users.add(user)
        given.object_types.add(ObjectType.objects.get_for_model(apps.get_model(app_label or "rq_webhooks", model)))


def browser(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client
