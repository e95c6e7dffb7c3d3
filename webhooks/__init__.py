"""Webhooks for Django projects: every committed change of a registered model reaches its URLs.

A change goes one way through these rooms, from above to below::

    receivers        a Django signal receiver sees the change
    capture          the change becomes an Event, in its own transaction
      outbox           what has the transaction come to, for this object?
      scopes           what the transaction did so far
      subscriptions    which enabled webhooks want this model and action; nobody: stop here
      readings         the row, read again, through the project's own serializer (payloads) -> JSON
      selection        which of them want the object as it is
      settling         INSERT or UPDATE of one Event; one wake-up when it commits
                     ---- process boundary ----
    jobs, workers    an rqworker is woken, or looks by itself
    delivery         the Event goes to the webhooks
      drain            one worker's slice of work
      dispatch         Events -> Deliveries, in the order of their lanes
      courier          claim -> hand over -> collect -> record -> renew
      attempts         what is sent for a Delivery, and what becomes of it
      composing        the request, plain or from templates (in a child process)
      senders          threads that only send
    network          one request, to addresses that were judged -> an Outcome
    delivery
      backoff          an Outcome -> when to try again, or never
      health           pause, probe, resume, disable

``docs/how-it-works.md`` tells why.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webhooks.capture.bulk import TrackedQuerySet, WebhookManager
    from webhooks.capture.context import actor
    from webhooks.capture.custom import send
    from webhooks.capture.recording import batch
    from webhooks.registry import register, register_event, unregister, unregister_event
    from webhooks.security.signing import ReplayWindow, VerificationError, verify

__version__ = "0.1.0"

__all__ = [
    "ReplayWindow", "TrackedQuerySet", "VerificationError", "WebhookManager", "actor", "batch", "register",
    "register_event", "send", "unregister", "unregister_event", "verify",
]  # fmt: skip

_HOMES = {
    "ReplayWindow": "webhooks.security.signing",
    "TrackedQuerySet": "webhooks.capture.bulk",
    "VerificationError": "webhooks.security.signing",
    "WebhookManager": "webhooks.capture.bulk",
    "actor": "webhooks.capture.context",
    "batch": "webhooks.capture.recording",
    "register": "webhooks.registry",
    "register_event": "webhooks.registry",
    "send": "webhooks.capture.custom",
    "unregister": "webhooks.registry",
    "unregister_event": "webhooks.registry",
    "verify": "webhooks.security.signing",
}


def __getattr__(name: str) -> Any:
    # Lazily: a project imports this package long before its apps, and thereby the models, are ready.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
