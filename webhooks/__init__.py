"""Webhooks for Django projects: every committed change of a registered model reaches its URLs.

A change goes one way through these modules::

    receivers      a Django signal receiver sees the change
    subscriptions  which enabled webhooks want it
    payloads       the row, re-read, through the project's own serializer -> JSON
    outbox         one Event, in the transaction of the change; one wake-up when it commits
                   ---- process boundary ----
    jobs, workers  an rqworker is woken, or looks by itself
    drain          one worker's slice of work
    dispatch       Events -> Deliveries, in the order of their lanes
    delivery       claim -> send -> record -> promote
    transport      one POST -> an Outcome
    backoff        an Outcome -> when to try again, or never

``docs/how-it-works.md`` tells why.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webhooks.context import actor
    from webhooks.custom_events import send
    from webhooks.outbox import batch
    from webhooks.querysets import TrackedQuerySet, WebhookManager
    from webhooks.registry import register, register_event, unregister, unregister_event
    from webhooks.verifying import ReplayWindow, VerificationError, verify

__all__ = [
    "ReplayWindow", "TrackedQuerySet", "VerificationError", "WebhookManager", "actor", "batch", "register",
    "register_event", "send", "unregister", "unregister_event", "verify",
]  # fmt: skip

_HOMES = {
    "ReplayWindow": "webhooks.verifying",
    "TrackedQuerySet": "webhooks.querysets",
    "VerificationError": "webhooks.verifying",
    "WebhookManager": "webhooks.querysets",
    "actor": "webhooks.context",
    "batch": "webhooks.outbox",
    "register": "webhooks.registry",
    "register_event": "webhooks.registry",
    "send": "webhooks.custom_events",
    "unregister": "webhooks.registry",
    "unregister_event": "webhooks.registry",
    "verify": "webhooks.verifying",
}


def __getattr__(name: str) -> Any:
    # Lazily: a project imports this package long before its apps, and thereby the models, are ready.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
