"""``BATCH_REQUESTS``: the changes of a request are recorded at its end, as they are then; and the same for jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path

import webhooks
from tests.support.makers import actions, events, last_data, make_webhook
from tests.testapp.models import Thing
from webhooks.middleware import WebhooksMiddleware

pytestmark = pytest.mark.usefixtures("database", "batched")


def change(request: HttpRequest) -> HttpResponse:
    """As NetBox, which counts and traces by update() after a save."""
    thing = Thing.objects.create(name="as it was saved")
    Thing.objects.filter(pk=thing.pk).update(name="as it is at the end")
    return HttpResponse(str(len(events())))


def fail(request: HttpRequest) -> HttpResponse:
    change(request)
    raise ZeroDivisionError


def roll_back(request: HttpRequest) -> HttpResponse:
    change(request)
    transaction.set_rollback(True)
    return HttpResponse()


@transaction.non_atomic_requests
def outside(request: HttpRequest) -> HttpResponse:
    assert not transaction.get_connection().in_atomic_block
    return change(request)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(change(request).content.decode() for _ in range(1))


urlpatterns = [
    path("change/", change),
    path("fail/", fail),
    path("roll_back/", roll_back),
    path("outside/", outside),
    path("stream/", stream),
    path("nothing/", lambda request: HttpResponse()),
]


@pytest.fixture
def batched(webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Any:
    webhooks_settings(BATCH_REQUESTS=True)
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


def test_an_update_after_a_save_is_in_the_one_event(client: Client) -> None:
    make_webhook(Thing)
    assert client.post("/change/").content == b"0"  # nothing was recorded before the end
    [event] = events()
    assert (event.action, last_data()["name"]) == ("created", "as it is at the end")
    assert '"path":"/change/"' in event.request


@pytest.mark.parametrize("where", ["/fail/", "/roll_back/"])
def test_a_request_that_is_rolled_back_leaves_nothing(client: Client, where: str) -> None:
    make_webhook(Thing)
    client.post(where)
    assert not Thing.objects.exists()
    assert events() == []


@pytest.mark.parametrize(("method", "where"), [("get", "/change/"), ("post", "/outside/"), ("post", "/stream/")])
def test_elsewhere_each_change_is_recorded_at_once(client: Client, method: str, where: str) -> None:
    make_webhook(Thing)
    response = getattr(client, method)(where)
    assert b"".join(response) == b"1"
    assert (actions(), last_data()["name"]) == (["created"], "as it was saved")


def test_without_atomic_requests_nothing_is_put_together(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    make_webhook(Thing)
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", False)
    assert client.post("/change/").content == b"1"


def test_a_request_that_only_reads_costs_nothing(client: Client, webhooks_settings: Callable[..., None]) -> None:
    costs = []
    for is_on in (False, True):
        webhooks_settings(BATCH_REQUESTS=is_on)
        with CaptureQueriesContext(transaction.get_connection()) as captured:
            client.get("/nothing/")
        costs.append(len(captured))
    assert costs[0] == costs[1]


def test_an_error_of_the_recording_costs_the_request_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    make_webhook(Thing)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no event can be written")

    with monkeypatch.context() as patched:
        patched.setattr("webhooks.models.Event.insert_all", broken)
        patched.setattr("webhooks.models.Event.insert", broken)
        assert client.post("/change/").status_code == 200
    assert Thing.objects.get().name == "as it is at the end"


def test_under_asgi_it_is_said_to_have_no_effect(app_log: pytest.LogCaptureFixture) -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    handle: Any = WebhooksMiddleware(view)
    assert asyncio.iscoroutinefunction(handle)
    assert not hasattr(handle, "process_view")
    assert "BATCH_REQUESTS has no effect under ASGI" in app_log.text


# Jobs


def test_a_batch_that_is_to_be_rolled_back_records_nothing() -> None:
    make_webhook(Thing)
    with webhooks.batch():
        Thing.objects.create(name="never")
        transaction.set_rollback(True)
    assert not Thing.objects.exists()
    assert events() == []


@webhooks.actor("nightly sync")
@webhooks.batch()
def decorated() -> None:
    Thing.objects.create(name="a")
    Thing.objects.update(name="b")


def in_one_line() -> None:
    with webhooks.actor("nightly sync"), webhooks.batch():
        Thing.objects.create(name="a")
        Thing.objects.update(name="b")


@pytest.mark.parametrize("job", [decorated, in_one_line])
def test_a_job_names_itself_and_records_at_its_end(job: Callable[[], None]) -> None:
    make_webhook(Thing)
    for _ in range(2):  # a decorated function can run again
        Thing.objects.all().delete()
        job()
    event = events()[-1]
    assert (event.action, event.username, last_data()["name"]) == ("created", "nightly sync", "b")
