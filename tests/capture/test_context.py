"""The user and the request of a change."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser
from django.db import DatabaseError, transaction
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

import webhooks
from tests.support.makers import actions, events, last_data, make_webhook
from tests.testapp.models import Thing
from users.models import User
from webhooks.capture.context import RequestActor, acting, current_actor
from webhooks.ground.db import fetch_all
from webhooks.ground.headers import DEPTH
from webhooks.middleware import WebhooksMiddleware


def test_without_a_request_the_actor_has_no_name() -> None:
    actor = current_actor()
    assert (actor.username, actor.request_id, actor.request) == ("", "", None)


def test_an_actor_is_in_force_for_its_block() -> None:
    with webhooks.actor(username="outer", request_id="1"):
        with webhooks.actor(username="inner"):
            assert (current_actor().username, current_actor().request_id) == ("inner", "")
        assert (current_actor().username, current_actor().request_id) == ("outer", "1")
    assert current_actor().username == ""


def test_an_actor_ends_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), webhooks.actor(username="alice"):
        1 / 0  # noqa: B018
    assert current_actor().username == ""


def test_threads_and_tasks_have_actors_of_their_own() -> None:
    seen = []
    with webhooks.actor(username="alice"):
        thread = threading.Thread(target=lambda: seen.append(current_actor().username))
        thread.start()
        thread.join()
    assert seen == [""]

    async def task(name: str) -> str:
        with webhooks.actor(username=name):
            await asyncio.sleep(0.01)
            return current_actor().username

    async def both() -> list[str]:
        return await asyncio.gather(task("alice"), task("bob"))

    assert asyncio.run(both()) == ["alice", "bob"]


# The middleware


def actor_during(request: HttpRequest) -> Any:
    seen = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(current_actor())
        return HttpResponse()

    WebhooksMiddleware(view)(request)
    assert current_actor().username == ""
    return seen[0]


def test_a_request_has_an_id_of_its_own_and_its_user() -> None:
    request = RequestFactory().post("/api/things/?dry=1")
    request.user = User(email="alice")
    actor = actor_during(request)
    assert actor.username == "alice"
    assert actor.request_id
    assert actor.request == {
        "id": actor.request_id,
        "method": "POST",
        "path": "/api/things/",
        "path_info": "/api/things/",
        "GET": {"dry": "1"},
        "user": "alice",
    }
    assert actor_during(RequestFactory().get("/")).request_id != actor.request_id


def test_the_hosts_own_request_id_is_taken() -> None:
    request = RequestFactory().get("/")
    request.id = "7f0c8d6e"  # type: ignore[attr-defined]
    assert actor_during(request).request_id == "7f0c8d6e"


@pytest.mark.parametrize("user", [AnonymousUser(), None])
def test_an_anonymous_request_has_no_username(user: Any) -> None:
    request = RequestFactory().get("/")
    if user:
        request.user = user
    assert actor_during(request).username == ""


@pytest.mark.usefixtures("database")
def test_a_save_goes_through_where_the_user_cannot_be_looked_up(app_log: pytest.LogCaptureFixture) -> None:
    make_webhook(Thing)
    request = RequestFactory().post("/")
    request.user = SimpleLazyObject(lambda: fetch_all("default", "SELECT user FROM no_such_sessions"))  # type: ignore[assignment]
    with acting(RequestActor(request)), transaction.atomic():
        Thing.objects.create(name="saved")
    assert Thing.objects.get().name == "saved"
    assert [event.username for event in events()] == [""]
    assert "The user of / cannot be read" in app_log.text


@pytest.mark.usefixtures("database")
def test_the_host_may_save_something_while_it_reads_the_user() -> None:
    def read_user() -> Any:
        thing.name = f"seen {next(times)}"
        thing.save()
        return SimpleNamespace(is_authenticated=True, get_username=lambda: "alice")

    times, thing = itertools.count(1), Thing.objects.create(name="new")
    make_webhook(Thing)
    request = RequestFactory().post("/there/")
    request.user = SimpleLazyObject(read_user)  # type: ignore[assignment]
    with acting(RequestActor(request)), transaction.atomic():
        thing.save()
    assert (events()[0].username, last_data()["name"]) == ("alice", "seen 1")


@pytest.mark.usefixtures("database")
def test_a_change_is_recorded_with_any_query_parameters(app_log: pytest.LogCaptureFixture) -> None:
    make_webhook(Thing)
    with acting(RequestActor(RequestFactory().post("/there/?" + "a=1&" * 1001))):
        Thing.objects.create(name="a")
    assert [json.loads(event.request)["GET"] for event in events()] == [{}]
    assert "The query parameters of /there/ cannot be read" in app_log.text


class Raises:
    """Nothing of it can be read."""

    def __str__(self) -> str:
        raise ValueError("not now")

    @property
    def id(self) -> Any:
        raise ValueError("not now")


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("name", "stored"),
    [
        (7, "7"), (UUID(int=7), str(UUID(int=7))), (None, ""), (gettext_lazy("Yes"), "Yes"), ("alice", "alice"),
        (SafeString("bob"), "bob"), (Raises(), ""),
    ],
)  # fmt: skip
def test_a_change_is_recorded_whatever_the_host_calls_its_user(name: Any, stored: str) -> None:
    make_webhook(Thing)
    request = RequestFactory().post("/there/")
    request.user = SimpleNamespace(is_authenticated=True, get_username=lambda: name)  # type: ignore[assignment]
    with acting(RequestActor(request)):
        Thing.objects.create(name="a")
    [event] = events()
    assert (event.username, json.loads(event.request)["user"]) == (stored, stored)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("user", [SimpleNamespace(is_authenticated=True), Raises(), "alice", 7])
def test_a_change_is_recorded_with_a_user_of_any_kind(user: Any) -> None:
    make_webhook(Thing)
    request = RequestFactory().post("/there/")
    request.user = user
    with acting(RequestActor(request)):
        Thing.objects.create(name="a")
    assert actions() == ["created"]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("id", UUID(int=7), str(UUID(int=7))), ("id", 7, "7"), ("id", gettext_lazy("Yes"), "Yes"),
        ("path", gettext_lazy("Yes"), "Yes"), ("path", None, None), ("path", Raises(), None), ("path", 7, "7"),
        ("path_info", Path("/a"), "/a"), ("method", None, None), ("method", gettext_lazy("Yes"), "Yes"),
        ("GET", {"a": UUID(int=7), 1: None}, {"a": str(UUID(int=7)), "1": "None"}), ("GET", None, {}),
        ("headers", None, ""), ("headers", {DEPTH: 2}, ""),
    ],
)  # fmt: skip
def test_a_change_is_recorded_whatever_the_host_puts_into_the_request(name: str, value: Any, stored: Any) -> None:
    make_webhook(Thing)
    request = RequestFactory().post("/there/")
    setattr(request, name, value)
    with acting(RequestActor(request)):
        Thing.objects.create(name="a")
    [event] = events()
    assert not event.error
    assert json.loads(event.request).get(name, "") == stored
    if name == "id":
        assert event.request_id == stored


@pytest.mark.usefixtures("database")
def test_a_request_without_readable_parts_has_an_id_still() -> None:
    make_webhook(Thing)
    with acting(RequestActor(Raises())):  # type: ignore[arg-type]
        Thing.objects.create(name="a")
    [event] = events()
    assert event.request_id
    assert json.loads(event.request)["path"] is None


# Views of every kind, end to end


def save_in_sync_view(request: HttpRequest) -> HttpResponse:
    Thing.objects.create(name="sync")
    return HttpResponse()


async def save_in_async_view(request: HttpRequest) -> HttpResponse:
    await Thing(name="async").asave()
    thing = await Thing.objects.aget(name="async")
    await thing.adelete()
    return HttpResponse()


def save_and_fail(request: HttpRequest) -> HttpResponse:
    Thing.objects.create(name="never")
    raise ZeroDivisionError


def save_in_stream(request: HttpRequest) -> StreamingHttpResponse:
    def chunks() -> Iterator[str]:
        for name in ("first", "second"):
            Thing.objects.create(name=name)
            yield name

    return StreamingHttpResponse(chunks())


async def save_in_async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[str]:
        for name in ("first", "second"):
            await Thing(name=name).asave()
            yield name

    return StreamingHttpResponse(chunks())


urlpatterns = [
    path("sync/", save_in_sync_view),
    path("stream/", save_in_stream),
    path("async-stream/", transaction.non_atomic_requests(save_in_async_stream)),
    path("async/", transaction.non_atomic_requests(save_in_async_view)),
    path("fail/", save_and_fail),
]


@pytest.fixture
def alice(database: str) -> User:
    return User.objects.create_user("alice", password="secret")


@override_settings(ROOT_URLCONF=__name__)
def test_a_save_in_a_view_names_the_user_and_the_request(alice: User) -> None:
    make_webhook(Thing)
    client = Client()
    client.force_login(alice)
    client.get("/sync/")
    [event] = events()
    request = json.loads(event.request)
    assert event.username == request["user"] == "alice"
    assert event.request_id == request["id"]
    assert (request["method"], request["path"]) == ("GET", "/sync/")


@override_settings(ROOT_URLCONF=__name__)
def test_a_save_in_an_async_view_names_the_user_and_the_request(alice: User) -> None:
    make_webhook(Thing)
    client = AsyncClient()
    async_to_sync(client.aforce_login)(alice)
    async_to_sync(client.get)("/async/")
    created, deleted = events()
    assert (created.action, deleted.action) == ("created", "deleted")
    assert created.username == deleted.username == "alice"
    assert created.request_id == deleted.request_id != ""
    assert last_data()["name"] == "async"


@override_settings(ROOT_URLCONF=__name__)
@pytest.mark.parametrize("place", ["/stream/", "/async-stream/"])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")  # each kind of server, each kind of stream
def test_a_save_while_a_response_streams_names_the_user_and_the_request(
    alice: User, place: str, is_async: bool
) -> None:
    make_webhook(Thing)

    async def get_async() -> list[bytes]:
        client = AsyncClient()
        await client.aforce_login(alice)
        response: Any = await client.get(place)
        found = []
        async for chunk in response.streaming_content if response.is_async else response:
            found.append(chunk)
            assert current_actor().username == "", "the actor is left between two chunks"
        return found

    if is_async:
        chunks = async_to_sync(get_async)()
    else:
        client = Client()
        client.force_login(alice)
        chunks = []
        for chunk in client.get(place):
            chunks.append(chunk)
            assert current_actor().username == ""
    assert chunks == [b"first", b"second"]
    assert [json.loads(event.data)["name"] for event in events()] == ["first", "second"]
    assert {event.username for event in events()} == {"alice"}
    [request_id] = {event.request_id for event in events()}
    assert request_id


def test_a_file_is_still_sent_by_the_server() -> None:
    with Path(__file__).open("rb") as file:
        response: Any = WebhooksMiddleware(lambda request: FileResponse(file))(RequestFactory().get("/"))
        assert response.file_to_stream is file, "servers send it without reading it in Python"
        assert b"".join(response) == Path(__file__).read_bytes()


@override_settings(ROOT_URLCONF=__name__)
def test_a_request_that_fails_records_nothing(alice: User) -> None:
    make_webhook(Thing)
    client = Client(raise_request_exception=False)
    client.force_login(alice)
    assert client.get("/fail/").status_code == 500
    assert not Thing.objects.exists()
    assert events() == []


@pytest.mark.usefixtures("database")
def test_a_change_outside_of_a_request_has_the_actor_that_code_names() -> None:
    make_webhook(Thing)
    with webhooks.actor(username="nightly import", request_id="run 7"):
        Thing.objects.create(name="imported")
    Thing.objects.create(name="by nobody")
    assert [(event.username, event.request_id, event.request) for event in events()] == [
        ("nightly import", "run 7", ""),
        ("", "", ""),
    ]


@pytest.mark.usefixtures("database")
def test_a_change_outside_of_a_request_may_have_the_user_of_a_request_that_is_over() -> None:
    """A job gets such an object from NetBox: a copy of the request, without all that cannot be pickled."""
    make_webhook(Thing)
    user = User.objects.create_user("ann@example.com")
    copied = SimpleNamespace(user=user, id=UUID(int=7), path="/extras/scripts/1/", GET={"token": "s", "page": "2"})
    with webhooks.actor(request=copied):
        Thing.objects.create(name="by a script")
    with webhooks.actor(request=SimpleNamespace(user=None)):
        Thing.objects.create(name="by no user")
    script, other = events()
    assert (script.username, script.request_id) == ("ann@example.com", str(UUID(int=7)))
    assert json.loads(script.request) == {
        "id": str(UUID(int=7)),
        "method": None,
        "path": "/extras/scripts/1/",
        "path_info": None,
        "GET": {"page": "2"},
        "user": "ann@example.com",
    }
    assert (other.username, UUID(other.request_id).version) == ("", 4)


@pytest.mark.usefixtures("database")
def test_names_that_are_too_long_or_strange_do_not_lose_the_event() -> None:
    make_webhook(Thing)
    with webhooks.actor(username="n\0" * 200, request_id="\ud800" * 300):
        Thing.objects.create(name="a")
    [event] = events()
    assert not event.error
    assert len(event.username) == 150
    assert len(event.request_id) == 200


WRONG_ARGUMENTS: list[tuple[Callable[[], Any], str]] = [
    (lambda: webhooks.actor(User(email="alice")), r"not <User: alice>: write actor\(user.get_username\(\)\)"),  # type: ignore[arg-type]
    (lambda: webhooks.actor("sync", UUID(int=7)), r"write str\(request_id\)"),  # type: ignore[arg-type]
    (lambda: webhooks.actor("sync", depth="2"), "not '2'"),  # type: ignore[arg-type]
    (lambda: webhooks.actor(print), "as a decorator, @webhooks.actor"),  # type: ignore[arg-type]
    (lambda: webhooks.actor("sync", request=RequestFactory().get("/")), "a request, or a username"),
    (lambda: webhooks.actor(request="/sites/"), "a request with a user, not '/sites/'"),
    (lambda: webhooks.batch(print), r"write @webhooks.batch\(\)"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "words"), WRONG_ARGUMENTS)
def test_a_wrong_argument_is_refused_before_it_loses_an_event(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize("depth", [0, -1])
def test_a_depth_that_no_change_can_have_is_refused_before_it_loses_an_event(depth: int) -> None:
    with pytest.raises(ValueError, match=f"1 or more, not {depth}"):
        webhooks.actor("sync", depth=depth)


@pytest.mark.usefixtures("database")
def test_an_actor_may_be_anything_that_has_a_text() -> None:
    request = RequestFactory().get("/")
    request.id = SimpleNamespace()  # type: ignore[attr-defined]
    assert actor_during(request).request_id.startswith("namespace")


@pytest.mark.usefixtures("database")
def test_a_query_string_with_a_nul_does_not_lose_the_event() -> None:
    make_webhook(Thing)
    request = RequestFactory().get("/", {"q": "a\0b"})
    WebhooksMiddleware(save_in_sync_view)(request)
    [event] = events()
    assert not event.error
    assert json.loads(event.request)["GET"]["q"] == "a\0b"


@pytest.mark.usefixtures("database")
def test_asave_and_adelete_outside_of_a_view_are_recorded() -> None:
    make_webhook(Thing)

    async def work() -> None:
        thing = await Thing.objects.acreate(name="a")
        thing.name = "b"
        await thing.asave()
        await thing.adelete()

    async_to_sync(work)()
    assert [event.action for event in events()] == ["created", "updated", "deleted"]


class AwayUser:
    """A user with a row that cannot be read."""

    def __getattr__(self, name: str) -> Any:
        raise DatabaseError("the sessions are away")


@pytest.mark.usefixtures("database")
def test_a_user_who_cannot_be_read_loses_no_event(app_log: pytest.LogCaptureFixture) -> None:
    make_webhook(Thing)
    request = RequestFactory().get("/there/")
    request.user = AwayUser()  # type: ignore[assignment]
    with acting(RequestActor(request)):
        Thing.objects.create(name="a")
    assert [(event.username, event.error) for event in events()] == [("", "")]
    assert "The user of /there/ cannot be read" in app_log.text


@pytest.mark.usefixtures("database")
def test_secrets_in_a_query_string_are_left_out() -> None:
    make_webhook(Thing)
    request = RequestFactory().get("/", {"q": "a", "token": "planted", "api_key": "planted", "next": "/b"})
    WebhooksMiddleware(save_in_sync_view)(request)
    [event] = events()
    assert json.loads(event.request)["GET"] == {"q": "a", "next": "/b"}
