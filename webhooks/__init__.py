"""Webhooks for Django projects: every committed change of a registered model is sent to its webhooks' URLs.

A change takes one way through these packages, from top to bottom::

    capture        a change becomes an Event, in the transaction of the change
      signals        Django's signal receivers see the change
      prechange      how was the object before the change, if a webhook needs to know?
      events         records it: asks the four modules below in turn, then inserts or updates one Event
        transaction    what did this transaction do to the object before?
        subscriptions  which enabled webhooks want this model and action? If none: stop here
        serialize      the row is read again, through the project's serializer, as JSON. ``watch`` bounds it
        matching       which of these webhooks want it, by their conditions?
    (commit)       one wake-up for the transaction (delivery.wake_up), pushed by workers.jobs
                   ---- process boundary ----
    workers        an rqworker runs the wake-up, or looks by itself. runner is its loop; it asks ``delivery``
    delivery       the rows, and what is decided about them
      dispatch       new Events, in order: a Delivery for each webhook that matched
      claims         due Deliveries, each under a short lease
    workers
      compose        the request: the body, plain or from a template (ground.payloads), and its signatures
      sender         a thread that only does HTTP
      network        one request to a checked address: an Outcome (ground.outcome)
    delivery
      outcomes       the Attempt is recorded, and the next Delivery of the object released; asks the next module
      policy         when to send again, or give up; pauses, probes, resumes or disables the webhook, as after a 410

At named places of this way, ``hooks`` calls code of the host. The admin, the REST API and the management commands ask
``insight`` what they show, and act through ``operations``. ``pages`` has what the pages of the admin and of other
frameworks show, and their forms. ``ground`` is what everything else stands on.
``docs/how-it-works.md`` explains why.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webhooks.capture.batch import batch
    from webhooks.capture.bulk import TrackedQuerySet, WebhookManager
    from webhooks.capture.context import actor, silenced
    from webhooks.capture.custom_events import send
    from webhooks.ground.registry import register, register_event, unregister, unregister_event
    from webhooks.ground.security.signing import ReplayWindow, VerificationError, verify
    from webhooks.insight.why import why

__version__ = "0.1.0"

__all__ = [
    "ReplayWindow", "TrackedQuerySet", "VerificationError", "WebhookManager", "actor", "batch", "register",
    "register_event", "send", "silenced", "unregister", "unregister_event", "verify", "why",
]  # fmt: skip

_NAMES = {
    "webhooks.capture.batch": ("batch",),
    "webhooks.capture.bulk": ("TrackedQuerySet", "WebhookManager"),
    "webhooks.capture.context": ("actor", "silenced"),
    "webhooks.capture.custom_events": ("send",),
    "webhooks.insight.why": ("why",),
    "webhooks.ground.registry": ("register", "register_event", "unregister", "unregister_event"),
    "webhooks.ground.security.signing": ("ReplayWindow", "VerificationError", "verify"),
}


def __getattr__(name: str) -> Any:
    # Lazily: a project imports this package before its apps and models are ready.
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
