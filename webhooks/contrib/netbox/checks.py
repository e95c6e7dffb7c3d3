"""The system checks in the words of NetBox: its admins have no Django settings, but ``configuration.py``."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any

from core.management.commands.rqworker import DEFAULT_QUEUES
from django.conf import settings
from django.core.checks import CheckMessage, Warning, register

from webhooks.contrib.netbox.worker import NETBOX_WORKER, WORKER
from webhooks.ground.conf import conf
from webhooks.management import checks

SETTINGS = 'PLUGINS_CONFIG["rq_webhooks"]'

LEFT_OUT = {
    # NetBox opens a transaction for each change of its pages and its REST API.
    "webhooks.W003",
    "webhooks.W013",
    # Models without a serializer, such as those that join two others, have no event rules in NetBox either.
    "webhooks.I001",
}

HINTS = {
    "webhooks.E001": f'NetBox has the queues {", ".join(DEFAULT_QUEUES)}. Name one of them in {SETTINGS}["QUEUE"].',
    "webhooks.W006": 'Start it, or correct REDIS["tasks"] in configuration.py. Without it, only workers of the class '
    f"{WORKER} deliver events: they look for them by themselves.",
    "webhooks.W012": 'Remove RQ["WORKER_CLASS"] from configuration.py. Then manage.py rqworker uses the class '
    f"{WORKER}, which inherits NetBox's own, {NETBOX_WORKER}. If you need a class of yours, let it inherit that one.",
    "webhooks.W014": 'Remove RQ["WORKER_CLASS"] and RQ["JOB_CLASS"] from configuration.py.',
}


def adapt(message: CheckMessage) -> CheckMessage | None:
    """A message of the app for an admin of NetBox. None if it says nothing to them."""
    if message.id in LEFT_OUT:
        return None
    adapted = copy(message)
    adapted.msg, adapted.hint = _in_netbox(message.msg), HINTS.get(str(message.id), _in_netbox(message.hint))
    return adapted


def _in_netbox(text: Any) -> str:
    return (
        str(text or "")
        .replace("The setting WEBHOOKS", f"The setting {SETTINGS}")
        .replace("WEBHOOKS[", f"{SETTINGS}[")
        .replace(" or in SECRET_KEY_FALLBACKS", "")  # NetBox has none
    )


def connect() -> None:
    """Word the messages of the app for NetBox, and add NetBox's own."""
    checks.adapt_messages(adapt)
    register(check_queue, "webhooks")


def check_queue(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    """A worker must listen to the queue. Those that NetBox's documentation starts listen to three."""
    if conf.enabled and conf.queue in settings.RQ_QUEUES and conf.queue not in DEFAULT_QUEUES:
        queues = " ".join(DEFAULT_QUEUES)
        yield Warning(
            f"NetBox's usual worker, manage.py rqworker {queues}, does not listen to the queue {conf.queue!r}, so it "
            "delivers nothing.",
            hint=f'Remove "QUEUE" from {SETTINGS}, or start manage.py rqworker {queues} {conf.queue}.',
            id="webhooks.W016",
        )
