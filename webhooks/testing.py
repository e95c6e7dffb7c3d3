"""Help for the tests of a host project: what would be sent, and sending it.

A ``TestCase`` runs each test, with what ``setUpTestData`` made, in one transaction that never commits. There
all changes of one object are one Event, and no worker is ever woken. These helpers part the test from what went
before it, and do a worker's work::

    with capture() as events:
        self.client.patch(f"/api/dcim/sites/{site.pk}/", {"name": "Headquarters"}, "application/json")
    [event] = events
    assert (event.action, event.object_type, event.data["name"]) == ("updated", "dcim.site", "Headquarters")

    [attempt] = deliver()  # to the URL of a Webhook that the test defined
    assert attempt.succeeded

``WEBHOOKS["ENABLED"]`` must be true when the tests start: without it no model is listened to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from webhooks import registry
from webhooks.capture import recording, subscriptions, transaction
from webhooks.capture.subscriptions import Demand
from webhooks.conf import conf
from webhooks.delivery.worker import Drain, has_more
from webhooks.models import Action, Attempt, Event, Webhook
from webhooks.workers import jobs

# Stands in an Event for the test that wants it. No row has this key, so nothing is delivered to it.
NOBODY = 0


@dataclass(frozen=True)
class CapturedEvent:
    """An Event as it was recorded. ``data`` is what the serializer gave, parsed; None if it raised, and ``error``
    then has the traceback. ``webhooks`` are the names of those that are defined and want it. ``snapshots`` and
    ``changed`` are what the payload has under these names, parsed."""

    action: str
    object_type: str
    object_id: str
    data: Any
    webhooks: list[str]
    username: str
    request_id: str
    error: str
    snapshots: Any
    changed: list[str] | None


@contextmanager
def capture(subscribe: Iterable[str] | None = None, prechange: bool = False) -> Iterator[list[CapturedEvent]]:
    """Collect the Events of the changes in this block. The list is filled when the block ends.

    The block counts as a transaction of its own: an object that was there before it is ``updated`` in it, and
    several changes of one object in it are one Event. Take two blocks for what would be two requests.

    Changes of every registered model and custom events are collected, whether or not a webhook is defined for them;
    ``subscribe`` narrows that to labels such as ``["dcim.site"]``, and ``[]`` to what the webhooks in the database
    want. With ``prechange`` the state before updates is read, one query for each object, so that ``snapshots`` and
    ``changed`` tell of it. Nothing is sent, and Redis is not asked. Raises LookupError for a label that is not
    registered.
    """
    _demand_enabled()
    labels = _labels(subscribe)
    last = _last(Event)
    captured: list[CapturedEvent] = []
    announced = list(registry.custom_events()) if subscribe is None else []
    with (
        _subscribed(labels, announced, prechange),
        mock.patch.object(jobs, "wake_up"),
        _own_scope(recording.database()),
    ):
        yield captured
    names = dict(Webhook.objects.values_list("pk", "name"))
    captured += [_captured(event, names) for event in Event.objects.filter(pk__gt=last).order_by("pk")]


def deliver(seconds: float = 30) -> list[Attempt]:
    """Do what a worker would do now, in this process: send whatever is due, over real HTTP.

    Returns the attempts that were made, in order. A delivery that fails is tried again only when it is due again,
    as RETRY_SCHEDULE says. Raises TimeoutError when there is something left to send after ``seconds``.
    """
    _demand_enabled()
    last = _last(Attempt)
    drain = Drain("webhooks.testing")
    try:
        drain.run(seconds)
        drain.finish()
    finally:
        drain.close(grace=0)
    if has_more():
        raise TimeoutError(f"There are deliveries left to send after {seconds:g} seconds.")
    made = Attempt.objects.filter(pk__gt=last).order_by("pk")
    return list(made.select_related("delivery__event", "delivery__webhook"))


def _last(model: Any) -> int:
    return model.objects.order_by("-pk").values_list("pk", flat=True).first() or 0


def _demand_enabled() -> None:
    if not conf.enabled:
        raise ImproperlyConfigured('Webhooks are off. Set WEBHOOKS["ENABLED"] = True in the settings of the tests.')


def _labels(subscribe: Iterable[str] | None) -> list[str]:
    registered = [registration.label for registration in registry.registrations()]
    labels = registered if subscribe is None else [label.lower() for label in subscribe]
    if unknown := sorted(set(labels) - set(registered)):
        raise LookupError(f"No model is registered as {', '.join(unknown)}. These are: {', '.join(registered)}.")
    return labels


@contextmanager
def _subscribed(labels: list[str], custom_events: list[str], prechange: bool) -> Iterator[None]:
    """Let every change of these be wanted, besides what the defined webhooks want."""
    real = subscriptions.current
    demands = {NOBODY: Demand(NOBODY, prechange=True)} if prechange else {}

    def current(using: str, enabled_only: bool = True) -> subscriptions.Subscriptions:
        wanted = real(using, enabled_only)
        mine = [(label, action) for label in labels for action in Action]
        everything = {change: [NOBODY, *wanted.matching(*change)] for change in mine}
        announced = {name: [NOBODY, *wanted.listening(name)] for name in custom_events}
        return replace(
            wanted,
            by_change=wanted.by_change | everything,
            by_event=wanted.by_event | announced,
            demands=wanted.demands | demands,
        )

    with mock.patch.object(subscriptions, "current", current):
        yield


@contextmanager
def _own_scope(using: str) -> Iterator[None]:
    """Let the open transaction forget, for this block, what it has recorded so far."""
    connection = connections[using]
    if not connection.in_atomic_block:
        yield
        return
    earlier = transaction.existing(using)
    transaction.go_on_with(using, None)
    try:
        yield
    finally:
        connection.run_on_commit = [
            entry
            for entry in connection.run_on_commit
            if entry[1] is earlier or not isinstance(entry[1], transaction.Scope)
        ]
        transaction.go_on_with(using, earlier)


def _captured(event: Event, names: dict[int, str]) -> CapturedEvent:
    same = ("action", "object_type", "object_id", "username", "request_id", "error")
    return CapturedEvent(
        data=json.loads(event.data) if event.data else None,
        snapshots=json.loads(event.snapshots or "null"),
        changed=json.loads(event.changed or "null"),
        webhooks=[names[pk] for pk in event.webhook_ids if pk in names],
        **{name: getattr(event, name) for name in same},
    )
