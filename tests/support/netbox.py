"""In the real NetBox: a webhook of the app with NetBox's own event rule next to it, and what each of both sends."""

from __future__ import annotations

import json
from typing import Any

from core.events import OBJECT_CREATED, OBJECT_DELETED, OBJECT_UPDATED
from django.apps import apps
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from extras.models import EventRule
from extras.models import Webhook as OwnWebhook
from netbox.models.features import has_feature
from packaging.version import Version
from rest_framework.test import APIClient
from rest_framework.utils.encoders import JSONEncoder
from users.constants import TOKEN_PREFIX

from users.models import Token, User
from webhooks.ground.registry import registered_models
from webhooks.models import Webhook

NETBOX = Version(settings.RELEASE.version)
IS_OLDER = Version("4.7") > NETBOX

GET_QUEUE = "extras.events.get_queue" if IS_OLDER else "extras.event_rules.get_queue"
"""Where NetBox's own action gets the queue of its jobs."""

ACTIONS = {OBJECT_CREATED: "created", OBJECT_UPDATED: "updated", OBJECT_DELETED: "deleted"}


def content_types(labels: tuple[str, ...]) -> list[ContentType]:
    """Those of these models, or of all that NetBox's own event rules may have."""
    models = map(apps.get_model, labels) if labels else registered_models().values()
    return [ContentType.objects.get_for_model(one) for one in models if labels or has_feature(one, "event_rules")]


def watch(*labels: str, **fields: Any) -> Webhook:
    """A webhook for all changes of these models, or of all."""
    given = {"name": "Beside", "payload_url": "https://receiver.example/", **fields}
    webhook = Webhook.objects.create(on_created=True, on_updated=True, on_deleted=True, **given)
    webhook.object_types.set(content_types(labels))
    return webhook


class OwnRule:
    """NetBox's own rule for all changes of these models. Its jobs stay here instead of in Redis."""

    def __init__(self, monkeypatch: Any, *labels: str) -> None:
        self.jobs: list[dict[str, Any]] = []
        monkeypatch.setattr(GET_QUEUE, lambda name: self)
        webhook = OwnWebhook.objects.create(name="Own", payload_url="https://receiver.example/")
        rule = EventRule.objects.create(
            name="Own",
            event_types=list(ACTIONS),
            action_object_type=ContentType.objects.get_for_model(OwnWebhook),
            action_object_id=webhook.pk,
        )
        rule.object_types.set(content_types(labels))

    def enqueue(self, function: str, **params: Any) -> None:
        self.jobs.append(params)

    def sent(self) -> dict[tuple[str, str, int], dict[str, Any]]:
        """The data and snapshots of what it sends, by action, model and key."""
        found = {}
        for job in self.jobs:
            label = ".".join(job["object_type"].natural_key())
            body = json.loads(json.dumps({name: job[name] for name in ("data", "snapshots")}, cls=JSONEncoder))
            found[(ACTIONS[job["event_type"]], label, body["data"]["id"])] = body
        return found


def as_sent(events: list[Any]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The same of events of ``webhooks.testing.capture``."""
    return {
        (one.action, one.object_type, int(one.object_id)): {"data": one.data, "snapshots": one.snapshots}
        for one in events
    }


def api_client(user: Any) -> APIClient:
    """A client of the REST API with a token of this user."""
    token = Token.objects.create(user=user)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {TOKEN_PREFIX}{token.key}.{token.token}")
    return client


def admin(name: str = "admin") -> Any:
    return User.objects.create_superuser(username=name)
