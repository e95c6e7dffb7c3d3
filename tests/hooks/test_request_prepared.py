"""``request_prepared``: headers of the host, and vetoes."""

from __future__ import annotations

import sys
import threading
from asyncio import CancelledError
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.support.draining import drain, finished, states, sweep_step, work_for
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.waiting import until
from tests.testapp.models import Thing
from webhooks.delivery import sweep
from webhooks.ground.db import fetch_all
from webhooks.ground.error_kinds import ErrorKind
from webhooks.hooks import Hooks, PreparedRequest, Veto
from webhooks.models import Attempt, Delivery, QueuedDelivery, State, Webhook, Worker
from webhooks.operations import kinds, runs
from webhooks.workers import runner

pytestmark = [pytest.mark.one_database, pytest.mark.usefixtures("database")]

prepared: list[PreparedRequest] = []
released = threading.Event()


class Tracing(Hooks):
    def request_prepared(self, request: PreparedRequest) -> None:
        prepared.append(request)
        request.headers["X-Trace"] = request.message_id
        request.headers["x-a"] = "changed"


class Signing(Hooks):
    """Sets a header that belongs to the signature."""

    def request_prepared(self, request: PreparedRequest) -> None:
        request.headers["webhook-id"] = "another"


class Splitting(Hooks):
    def request_prepared(self, request: PreparedRequest) -> None:
        request.headers["X-B"] = "1\r\nX-C: 2"


class Raising(Hooks):
    def request_prepared(self, request: PreparedRequest) -> None:
        request.headers["X-B"] = "1"
        raise LookupError("no such thing")


class Exiting(Hooks):
    def request_prepared(self, request: PreparedRequest) -> None:
        request.headers["X-B"] = "1"
        sys.exit("gone")


class Cancelled(Hooks):
    """As code that waits for a task of asyncio."""

    def request_prepared(self, request: PreparedRequest) -> None:
        request.headers["X-B"] = "1"
        raise CancelledError


class Counting(Hooks):
    """Uses the database."""

    def request_prepared(self, request: PreparedRequest) -> None:
        request.headers["X-Count"] = str(Thing.objects.count())


class Frozen(Hooks):
    def request_prepared(self, request: PreparedRequest) -> None:
        if b'"id":"frozen"' in request.body.replace(b" ", b""):
            raise Veto("the network is frozen")


class Hanging(Hooks):
    def request_prepared(self, request: PreparedRequest) -> None:
        if "hangs" in request.url:
            released.wait(60)


@pytest.fixture
def listed(webhooks_settings: Any) -> Callable[..., None]:
    prepared.clear()
    released.clear()
    return lambda *classes: webhooks_settings(HOOKS=[f"{__name__}.{one.__name__}" for one in classes])


def test_headers_of_hooks_are_sent_and_stored(inbox: Inbox, listed: Any) -> None:
    listed(Tracing)
    webhook = make_webhook(
        Thing, url=inbox.url(), additional_headers="X-A: 1", secret_headers="Authorization: Bearer of-the-webhook"
    )
    make_event(webhook)
    drain()
    [received] = inbox.received()
    delivery = Delivery.objects.get()
    assert (received.headers["x-trace"], received.headers["x-a"]) == (str(delivery.pk), "changed")
    assert received.headers["authorization"] == "Bearer of-the-webhook"
    stored = Attempt.objects.get().request_headers
    assert (stored["X-Trace"], stored["x-a"]) == (str(delivery.pk), "changed")
    [request] = prepared
    assert "Authorization" not in request.headers, "secrets are not for hooks"
    assert (request.webhook_id, request.webhook_name, request.method) == (webhook.pk, webhook.name, "POST")
    assert (request.url, request.body, request.is_test) == (webhook.payload_url, received.body, False)


def test_a_hook_gets_the_number_of_the_attempt(inbox: Inbox, listed: Any, webhooks_settings: Any, redis: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600])
    listed(Tracing)
    delivery = make_delivery(make_webhook(Thing, url=inbox.url("status/503")), State.SENDING, lost_leases=2)
    Worker.objects.update(lease_until=timezone.now() - timedelta(minutes=1))
    sweep_step(sweep.expire_leases)  # the first attempt: the third worker ended
    QueuedDelivery.objects.update(due_at=timezone.now())
    drain()
    kinds.RETRY.perform(Delivery.objects.filter(pk=delivery.pk))
    drain()
    finished(runs.start("retry", {"state": ["failed"]}))
    make_event(delivery.webhook, object_id="2")
    drain()
    assert [(one.number, one.is_first) for one in prepared] == [(2, False), (3, False), (4, False), (1, True)]
    assert [*Attempt.objects.filter(delivery=delivery).order_by("number").values_list("number", flat=True)] == [
        1, 2, 3, 4,
    ]  # fmt: skip


@pytest.mark.parametrize("broken", [Signing, Splitting, Raising, Exiting, Cancelled])
def test_a_hook_that_fails_sets_no_header_and_the_request_is_sent(
    broken: Any, inbox: Inbox, listed: Any, app_log: pytest.LogCaptureFixture
) -> None:
    listed(broken, Tracing)
    make_event(make_webhook(Thing, url=inbox.url()))
    drain()
    [received] = inbox.received()
    assert received.headers["webhook-id"] == received.headers["x-trace"] == str(Delivery.objects.get().pk)
    assert "x-b" not in received.headers
    assert f"The hook {__name__}.{broken.__name__}.request_prepared failed" in app_log.text


def test_a_veto_gives_the_delivery_up_and_says_nothing_about_the_receiver(
    inbox: Inbox, listed: Any, webhooks_settings: Any, redis: Any
) -> None:
    webhooks_settings(PAUSE_AFTER=1)
    listed(Frozen)
    webhook = make_webhook(Thing, url=inbox.url())
    make_event(webhook, object_id="frozen")
    drain()
    webhook.refresh_from_db()
    assert (webhook.failures_in_a_row, webhook.probe_at, webhook.enabled) == (0, None, True)
    make_event(webhook, object_id="free")
    drain()
    vetoed, sent = Delivery.objects.order_by("event_id")
    assert (vetoed.state, sent.state) == (State.FAILED, State.SUCCEEDED)
    assert (vetoed.error_kind, vetoed.reason) == (
        ErrorKind.VETOED, f"{__name__}.Frozen.request_prepared: the network is frozen",
    )  # fmt: skip
    assert Attempt.objects.filter(delivery=vetoed).count() == 1
    assert len(inbox.received()) == 1
    listed()
    assert kinds.RETRY.perform(Delivery.objects.filter(pk=vetoed.pk)) == 1
    drain()
    assert states() == [State.SUCCEEDED] * 2


def test_after_a_veto_the_next_delivery_of_the_object_goes(inbox: Inbox, listed: Any) -> None:
    listed(Frozen)
    webhook = make_webhook(Thing, url=inbox.url())
    make_event(webhook, object_id="1", data='{"id": "frozen"}')
    make_event(webhook, object_id="1", data='{"id": "free"}')
    drain()
    assert states() == [State.FAILED, State.SUCCEEDED]


def test_a_hook_that_hangs_fails_its_attempt_and_keeps_no_other_webhook_waiting(
    inbox: Inbox, listed: Any, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[])
    listed(Hanging)
    hangs, quick = make_webhook(Thing, url=inbox.url("ok/hangs")), make_webhook(Thing, url=inbox.url("ok/quick"))
    monkeypatch.setattr(runner, "_longest", lambda held: 0.3 if held.webhook == hangs else 60)
    make_event(hangs, quick)
    drain()
    released.set()
    assert [(one.webhook_id, one.state) for one in Delivery.objects.order_by("webhook_id")] == [
        (hangs.pk, State.FAILED), (quick.pk, State.SUCCEEDED),
    ]  # fmt: skip
    failed = Delivery.objects.get(webhook=hangs)
    assert (failed.error_kind, failed.reason) == (ErrorKind.AUTH, "the code in AUTH or HOOKS did not return within 0 s")


def test_a_vetoed_probe_leaves_the_webhook_paused(inbox: Inbox, listed: Any, webhooks_settings: Any) -> None:
    webhooks_settings(PAUSE_AFTER=1, RETRY_SCHEDULE=[0.01, 0.01])
    webhook = make_webhook(Thing, url=inbox.url("status/503"))
    make_event(webhook, object_id="frozen")
    work_for(1)
    webhook.refresh_from_db()
    assert webhook.is_paused
    listed(Frozen)
    Webhook.objects.probe()
    drain()
    webhook.refresh_from_db()
    assert states() == [State.FAILED]
    assert webhook.is_paused


@pytest.mark.postgresql
def test_a_hook_uses_the_database_again_after_it_was_restarted(inbox: Inbox, listed: Any) -> None:
    listed(Counting)
    webhook = make_webhook(Thing, url=inbox.url())
    sender = runner.DeliveryRunner()
    make_event(webhook, object_id="1")
    sender.run(60)
    others = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

    def sessions(column: str = "pid") -> list[Any]:
        return fetch_all("default", f"SELECT {column} FROM {others}")

    assert sessions("pg_terminate_backend(pid)"), "the hook has a connection"
    until(lambda: not sessions(), 10, "its connection to be cut")
    for number in range(2, 5):
        make_event(webhook, object_id=str(number))
        sender.run(60)
    sender.close(grace=0)
    assert "x-count" in inbox.received()[-1].headers, "only the first one meets the closed connection"
    until(lambda: not sessions(), 10, "the thread to close its connection")
