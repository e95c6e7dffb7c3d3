"""Users of NetBox with object permissions, and clients of its REST API with their tokens."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from rest_framework.test import APIClient
from users.constants import TOKEN_PREFIX

from core.models import ObjectType
from users.models import ObjectPermission, Token, User

BASE = "/api/plugins/webhooks/"


def make_user(*permissions: str, constraints: Any = None, **fields: Any) -> Any:
    """A user with these permissions, such as ``view_webhook`` of this app, or ``dcim.view_site``."""
    user = User.objects.create(username=f"user {User.objects.count()}", **fields)
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


def token_of(user: Any, **fields: Any) -> str:
    token = Token.objects.create(user=user, **fields)
    return f"{TOKEN_PREFIX}{token.key}.{token.token}"


def client_of(user: Any, **fields: Any) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token_of(user, **fields)}")
    return client
