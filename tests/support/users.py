"""Users with some permissions, their browsers, and their clients of the REST API."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Permission
from django.db.models import Q
from django.test import Client
from rest_framework.test import APIClient

from users.models import User

ALL_PERMISSIONS = (
    "view_webhook", "change_webhook", "add_webhook", "delete_webhook", "view_delivery", "view_event", "view_skip",
    "retry_delivery", "resend_delivery", "discard_delivery", "replay_event", "read_payload_event",
)  # fmt: skip


def make_user(*permissions: str, sees_objects: bool = True, **fields: Any) -> User:
    """A staff user with these permissions, such as ``view_delivery``, and to view the host's objects."""
    user = User.objects.create_user(f"user {User.objects.count()}", is_staff=True, **fields)
    given = Q(codename__in=permissions)
    assert Permission.objects.filter(given).count() == len(permissions)
    if sees_objects:
        given |= Q(codename__startswith="view_") & ~Q(content_type__app_label="rq_webhooks")
    user.user_permissions.add(*Permission.objects.filter(given))
    return user


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def api_client(user: User) -> APIClient:
    client = APIClient()
    client.force_authenticate(user)
    return client
