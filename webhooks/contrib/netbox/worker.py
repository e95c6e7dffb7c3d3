"""The worker class of the app that also is NetBox's: ``manage.py rqworker`` uses it, see ``use``."""

from __future__ import annotations

from django.conf import settings
from utilities.rqworker import NetBoxRQWorker

from webhooks.workers import WebhookWorker

NETBOX_WORKER = "utilities.rqworker.NetBoxRQWorker"
WORKER = "webhooks.contrib.netbox.worker.NetBoxWebhookWorker"


class NetBoxWebhookWorker(WebhookWorker, NetBoxRQWorker):
    """Runs NetBox's jobs as NetBox's own class does, and delivers between them."""


def use() -> None:
    """Let ``manage.py rqworker`` use it, unless NetBox's configuration names another class than NetBox's own."""
    if settings.RQ.get("WORKER_CLASS") == NETBOX_WORKER:
        settings.RQ["WORKER_CLASS"] = WORKER
