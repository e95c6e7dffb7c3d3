"""``BATCH_REQUESTS``: the changes of a request are recorded at its end, as they are then; and the same for jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection, connections, transaction
from django.db.transaction import Atomic
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path

import webhooks
from tests.support.makers import actions, events, last_data, make_webhook
from tests.support.statements import statements_of
from tests.support.threads import aside
from tests.testapp.models import Country, Label, Thing
from webhooks.capture.transaction import transactions_as_batches
from webhooks.ground.db import django_internals
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


@pytest.mark.cost
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


def test_under_asgi_the_changes_are_put_together_too() -> None:
    make_webhook(Thing)

    def sync_view(request: HttpRequest) -> HttpResponse:
        try:
            with transaction.atomic():
                return change(request)
        finally:
            connections.close_all()

    handle: Any = WebhooksMiddleware(sync_to_async(sync_view, thread_sensitive=False))
    assert asyncio.iscoroutinefunction(handle)
    request = RequestFactory().post("/change/")
    assert aside(lambda: asyncio.run(handle(request))).content == b"0"
    assert last_data()["name"] == "as it is at the end"


# What else runs in the request


def around(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware of a project, with its own changes after the view. It goes on if one of them is refused."""

    def handle(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        seen.append(Thing.objects.count())
        with suppress(IntegrityError):
            Country.objects.create(code="no", name="Norway")
        with transaction.atomic(durable=True):
            Label.objects.create(name="audited")
        return response

    return handle


seen: list[int] = []


def test_middleware_around_the_view_cannot_take_back_what_the_view_committed(client: Client, settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.around"]
    Country.objects.create(code="no", name="Norway")
    make_webhook(Thing, Label)
    assert client.post("/change/").status_code == 200
    assert (Thing.objects.get().name, last_data(Thing)["name"]) == ("as it is at the end", "as it is at the end")
    assert actions(Label) == ["created"]
    assert not connection.in_atomic_block


@pytest.mark.cost
def test_the_view_pays_no_savepoint_for_the_batch(client: Client, webhooks_settings: Callable[..., None]) -> None:
    make_webhook(Label)
    client.post("/change/")
    costs = []
    for is_on in (False, True):
        webhooks_settings(BATCH_REQUESTS=is_on)
        costs.append(len(statements_of(lambda: client.post("/change/"))))
    assert costs[0] == costs[1]


def test_a_request_in_a_test_case_is_recorded_at_its_end(client: Client) -> None:
    make_webhook(Thing)
    with transaction.atomic() as _, suppress(ZeroDivisionError):
        connection.atomic_blocks[-1]._from_testcase = True
        Thing.objects.create(name="of the test")
        assert client.post("/fail/").status_code == 500
        assert client.post("/change/").content == b"1"
        assert (actions(), last_data()["name"]) == (["created", "created"], "as it is at the end")
        Thing.objects.create(name="of the test")
        assert len(events()) == 3


# Jobs


def test_each_transaction_of_a_job_is_recorded_at_its_end() -> None:
    make_webhook(Thing)
    Country.objects.create(code="no", name="Norway")
    with transactions_as_batches():
        thing = Thing.objects.create(name="at once")
        assert last_data()["name"] == "at once"
        with suppress(IntegrityError):
            Country.objects.create(code="no", name="Norway")
        with transaction.atomic():
            thing.save()
            Thing.objects.update(name="first")
            with transaction.atomic(), webhooks.batch():
                thing.labels.add(Label.objects.create(name="red"))
            assert len(events()) == 1
        assert (len(events()), last_data()["name"], last_data()["labels"]) == (2, "first", ["red"])
        with suppress(ZeroDivisionError), transaction.atomic():
            thing.save()
            raise ZeroDivisionError
        thing.delete()
    assert actions() == ["created", "updated", "deleted"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_transaction_whose_changes_cannot_be_recorded_is_committed(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_webhook(Thing)
    with transactions_as_batches(), monkeypatch.context() as patched:
        patched.setattr("webhooks.models.Event.insert_all", lambda *args: 1 / 0)
        patched.setattr("webhooks.models.Event.insert", lambda *args: 1 / 0)
        with transaction.atomic():
            for number in range(count):
                Thing.objects.create(name=str(number))
    assert Thing.objects.count() == count


def test_a_change_of_a_serializer_does_not_begin_another_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    make_webhook(Thing, Label)
    monkeypatch.setattr(Thing, "__str__", lambda thing: Label.objects.create(name="by the serializer").name)
    with transactions_as_batches(), transaction.atomic():
        Thing.objects.create(name="a")
    assert (actions(Thing), actions(Label)) == (["created"], ["created"])


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


def test_what_another_app_does_at_the_end_of_a_block_is_still_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """As django-cachalot, in whichever order the two apps are installed."""
    done = []
    exit_block = Atomic.__exit__

    def exit_and_note(block: Atomic, *error: Any) -> None:
        done.append("other")
        exit_block(block, *error)

    monkeypatch.setattr(Atomic, "__exit__", exit_and_note)
    monkeypatch.setattr(django_internals, "_before_commit", [])
    django_internals.call_before_commits(lambda connection, is_kept: done.append("ours"))
    with transaction.atomic():
        pass
    assert set(done) == {"ours", "other"}


def test_an_error_before_a_commit_rolls_back_and_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(connection: Any, is_kept: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(django_internals, "_before_commit", [stop])
    with pytest.raises(KeyboardInterrupt), transaction.atomic():
        Label.objects.create(name="a")
    assert not connection.in_atomic_block
    monkeypatch.undo()
    assert not Label.objects.exists()
