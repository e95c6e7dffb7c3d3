"""Test helpers for host projects: collect events, and send them.

A ``TestCase`` runs each test in one transaction that never commits, together with ``setUpTestData``. In it, all changes
of an object are one event, and no worker is ever woken. These helpers separate the block under test from earlier
changes, and do a worker's work::

    with capture_webhooks() as events:
        self.client.patch(f"/api/dcim/sites/{site.pk}/", {"name": "Headquarters"}, "application/json")
    [event] = events
    assert (event.action, event.object_type, event.data["name"]) == ("updated", "dcim.site", "Headquarters")

    [attempt] = deliver()  # to the URL of a Webhook that the test created
    assert attempt.succeeded

With pytest, the fixture ``webhook_events`` has the events of a test.

``WEBHOOKS["ENABLED"]`` must be true when the tests start: otherwise no signal receiver is connected.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import override_settings

from webhooks.capture import subscriptions
from webhooks.capture.subscriptions import Filters, Subscriptions
from webhooks.capture.transaction import TransactionState, current_state, set_current
from webhooks.delivery import sweep, wake_up
from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.db import in_block
from webhooks.ground.text import short_repr
from webhooks.models import Action, Attempt, Event, Webhook
from webhooks.workers import receiver_rate
from webhooks.workers.network.receiver import LOOPBACK, Receive, ReceivedRequest, serving
from webhooks.workers.runner import DeliveryRunner, has_more

# ``capture_webhooks`` subscribes with this webhook id. No row has it, so nothing is delivered.
CAPTURE_ID = 0


@dataclass(frozen=True)
class CapturedEvent:
    """A recorded event."""

    action: str
    object_type: str
    object_id: str
    data: Any
    """The serializer's output, parsed; None if it raised."""
    webhooks: list[str]
    """The names of the webhooks in the database that want the event."""
    username: str
    request_id: str
    error: str
    """The traceback if the serializer raised."""
    snapshots: Any
    """As in the payload, parsed."""
    changed: list[str] | None
    """As in the payload, parsed."""

    @property
    def differences(self) -> dict[str, tuple[Any, Any]]:
        """The values before and after of each field of the snapshots that differs. Empty for an update without
        ``prechange``."""
        before, after = ((self.snapshots or {}).get(name) or {} for name in ("prechange", "postchange"))
        if self.action == Action.UPDATED and not before:
            return {}
        names = [*before, *(name for name in after if name not in before)]
        return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}

    def __str__(self) -> str:
        """Such as "updated dcim.site 5: name 'Oslo' → 'Oslo OSL1'", as far as the snapshots say."""
        changes = ", ".join(f"{name} {before!r} → {after!r}" for name, (before, after) in self.differences.items())
        details = self.error.strip().rpartition("\n")[2] or (changes if self.action == Action.UPDATED else "")
        return f"{self.action} {self.object_type} {self.object_id}".strip() + (f": {details}" if details else "")


class CapturedEvents(Sequence[CapturedEvent]):
    """The events of a block so far, in their order. After the block, they stay."""

    def __init__(self) -> None:
        self._last = Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        self._found: list[CapturedEvent] | None = None

    def _read(self) -> list[CapturedEvent]:
        if self._found is not None:
            return self._found
        names = dict(Webhook.objects.values_list("pk", "name"))
        return [_captured(event, names) for event in Event.objects.filter(pk__gt=self._last).order_by("pk")]

    def _end(self) -> None:
        self._found = self._read()

    def __getitem__(self, index: Any) -> Any:
        return self._read()[index]

    def __len__(self) -> int:
        return len(self._read())

    def __eq__(self, other: object) -> bool:
        return self._read() == (other._read() if isinstance(other, CapturedEvents) else other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        """One line for each event, so that a failed assertion can be read."""
        return "\n".join(["[", *(f"  {event}" for event in self._read()), "]"])


@contextmanager
def capture_webhooks(subscribe: Iterable[str] | None = None, prechange: bool = False) -> Iterator[CapturedEvents]:
    """Collect the events of the changes in this block. They can be read in the block and after it.

    The block counts as one transaction. An object that existed before it is ``updated``. Several changes of one object
    are one event. Use two blocks for two requests. Nothing is sent, and Redis is not used. In ``webhooks.batch()``, the
    events are there when the batch ends.

    By default, it collects changes of all registered models and custom events, even without a webhook for them.
    ``subscribe`` limits that to labels such as ``["dcim.site"]``; ``[]`` means only what the webhooks in the database
    want. ``prechange`` reads the state before updates for ``snapshots``, ``changed`` and ``differences``, with a query
    for each object.

    Raises LookupError for a label that is not registered.
    """
    _require_enabled()
    labels = _labels(subscribe)
    captured = CapturedEvents()
    custom_events = list(registry.custom_events()) if subscribe is None else []
    with _subscribed(labels, custom_events, prechange), mock.patch.object(wake_up.wanted, "send"), _own_state():
        yield captured
    captured._end()


def deliver(seconds: float = 30) -> list[Attempt]:
    """Send everything that is due, over real HTTP, as a worker would. Returns the attempts in order.

    A failed delivery is only sent again when its retry is due (``RETRY_SCHEDULE``). No hook learns of problems. Raises
    TimeoutError if deliveries are left after ``seconds``.
    """
    _require_enabled()
    before = set(Attempt.objects.values_list("delivery", "number"))
    runner = DeliveryRunner("webhooks.testing")
    # The thread that looks for problems would not see the transaction of the test, and write outside it. And no test
    # waits for the rest of a receiver that answers 429.
    with mock.patch.object(sweep, "check_problems"), mock.patch.object(receiver_rate, "LONGEST_REST", 0.0):
        try:
            runner.run(seconds)
            runner.finish()
        finally:
            runner.close(grace=0)
    if has_more():
        raise TimeoutError(f"There are deliveries left to send after {seconds:g} seconds.")
    sent = Attempt.objects.order_by("started_at", "delivery").select_related("delivery__event", "delivery__webhook")
    return [attempt for attempt in sent if (attempt.delivery_id, attempt.number) not in before]


def deliver_to(receive: Receive, seconds: float = 30) -> list[Attempt]:
    """As ``deliver``, but all requests go to ``receive``, whatever the URLs of the webhooks. It returns the status of
    the answer; None is 204. It is called in another thread.

    The requests are real: signed, over a socket of this machine. The URLs keep their paths, and templates in URLs their
    text. If ``receive`` raises, the answer is 500, and so is the attempt; the exception is raised at the end. Raises
    TypeError if it returns something else.
    """
    raised: list[BaseException] = []

    def receive_and_note(request: ReceivedRequest) -> int | None:
        try:
            status: Any = receive(request)
            if not (status is None or (isinstance(status, int) and 200 <= status <= 599)):
                raise TypeError(f"A receiver returns a status from 200 to 599, or None, not {short_repr(status)}.")
        except BaseException as error:  # pytest.fail() raises no Exception
            raised.append(error)
            return 500
        return status

    with serving(receive_and_note) as origin, _redirected(origin):
        attempts = deliver(seconds)
    if raised:
        raise raised[0]
    return attempts


@contextmanager
def _redirected(origin: str) -> Iterator[None]:
    """Send the requests of all webhooks to this origin on the same machine."""
    before = dict(Webhook.objects.values_list("pk", "payload_url"))
    kept = {key: value for key, value in settings.WEBHOOKS.items() if not conf.is_destination(key)}
    changed = {**kept, "ALLOW_NETWORKS": [LOOPBACK]}
    try:
        for pk, url in before.items():
            Webhook.objects.filter(pk=pk).update(payload_url=f"{origin}/{url.partition('://')[2].partition('/')[2]}")
        with override_settings(WEBHOOKS=changed):
            yield
    finally:
        for pk, url in before.items():
            Webhook.objects.filter(pk=pk).update(payload_url=url)


def _require_enabled() -> None:
    if not conf.enabled:
        raise ImproperlyConfigured('Webhooks are off. Set WEBHOOKS["ENABLED"] = True in the settings of the tests.')


def _labels(subscribe: Iterable[str] | None) -> list[str]:
    registered = list(registry.registered_models())
    labels = registered if subscribe is None else [label.lower() for label in subscribe]
    if unknown := sorted(set(labels) - set(registered)):
        raise LookupError(f"No model is registered as {', '.join(unknown)}. These are: {', '.join(registered)}.")
    return labels


@contextmanager
def _subscribed(labels: list[str], custom_events: list[str], prechange: bool) -> Iterator[None]:
    """Subscribe to every change of these, in addition to the webhooks in the database."""
    real = subscriptions.current
    filters = {CAPTURE_ID: Filters(CAPTURE_ID, prechange=True)} if prechange else {}
    mine = [(label, str(action)) for label in labels for action in Action] + [("", name) for name in custom_events]

    def with_mine(using: str) -> Subscriptions:
        wanted = real(using)
        by_change = {change: [CAPTURE_ID, *wanted.subscribers(*change)] for change in mine}
        return replace(wanted, by_change=wanted.by_change | by_change, filters=wanted.filters | filters)

    with mock.patch.object(subscriptions, "current", with_mine):
        yield


@contextmanager
def _own_state() -> Iterator[None]:
    """Hide the earlier events of the open transaction from this block."""
    using = Event.objects.db
    if not in_block(using):
        yield
        return
    earlier = current_state(using)
    set_current(using, None)
    try:
        yield
    finally:
        # Django's run_on_commit: only a rollback removes callbacks, and the events of the block stay.
        connection: Any = connections[using]
        connection.run_on_commit = [
            entry
            for entry in connection.run_on_commit
            if entry[1] is earlier or not isinstance(entry[1], TransactionState)
        ]
        set_current(using, earlier)


def _captured(event: Event, names: dict[int, str]) -> CapturedEvent:
    same = ("action", "object_type", "object_id", "username", "request_id", "error")
    return CapturedEvent(
        data=json.loads(event.data) if event.data else None,
        snapshots=json.loads(event.snapshots or "null"),
        changed=json.loads(event.changed or "null"),
        webhooks=[names[pk] for pk in event.webhook_ids if pk in names],
        **{name: getattr(event, name) for name in same},
    )
