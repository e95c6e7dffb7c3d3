"""The REST API through pynetbox, the client of NetBox for Python."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Any

import pynetbox
import pytest
import requests
from django.test import Client

from dcim.models import Site
from tests.support.makers import make_site_delivery, make_site_event, make_webhook
from tests.support.netbox_api import grant, make_user, token_of
from webhooks.models import State, Webhook

pytestmark = pytest.mark.django_db


class Application(requests.adapters.BaseAdapter):
    """Passes requests to Django, without a server."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        given = dict(request.headers)
        content_type = given.pop("Content-Type", "application/octet-stream")
        given.pop("Content-Length", None)
        answer = Client().generic(
            str(request.method), request.path_url, request.body or b"", content_type, headers=given
        )  # fmt: skip
        response = requests.Response()
        response.request, response.url, response.status_code = request, str(request.url), answer.status_code
        response._content, response.reason = answer.content, answer.reason_phrase
        response.headers.update(answer.headers)
        return response

    def close(self) -> None:
        """It has no connections."""


class InThisThread(Executor):
    """Another thread would not see the transaction of a test."""

    def __init__(self, max_workers: int) -> None:
        pass

    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future


def client_of(user: Any, **options: Any) -> Any:
    netbox = pynetbox.api("http://testserver", token=token_of(user), **options)
    netbox.http_session.mount("http://", Application())
    return netbox.plugins.webhooks


@pytest.fixture
def webhooks() -> Any:
    return client_of(make_user(is_superuser=True))


def define(webhooks: Any, **fields: Any) -> Any:
    wanted = {"name": "ledger", "object_types": ["dcim.site"], "on_created": True, "payload_url": "https://example.com"}
    return webhooks.webhooks.create(**wanted | fields)


def test_a_webhook_is_created_found_changed_and_deleted(webhooks: Any) -> None:
    created = define(webhooks, secret="a secret of ours", conditions={"attr": "name", "value": "AMS1"})
    assert (str(created), created.has_secret, created.object_types) == ("ledger", True, ["dcim.site"])
    found = webhooks.webhooks.get(created.id)
    assert found == created
    assert found.url == f"http://testserver/api/plugins/webhooks/webhooks/{created.id}/"
    assert webhooks.webhooks.get(name="ledger") == created
    assert webhooks.webhooks.get(name="nothing") is None
    assert webhooks.webhooks.get(created.id + 1) is None
    found.name, found.object_types = "cmdb", ["dcim.site", "dcim.device"]
    assert found.save(changelog_message="renamed")
    assert not found.updates()
    stored = Webhook.objects.get()
    assert (stored.name, stored.object_types.count()) == ("cmdb", 2)
    assert stored.conditions == {"attr": "name", "value": "AMS1"}
    assert found.update({"enabled": False})
    assert found.delete(changelog_message="not needed any more")
    assert webhooks.webhooks.count() == 0


def test_many_webhooks_are_created_changed_and_deleted_at_once(webhooks: Any) -> None:
    body = {"object_types": ["dcim.site"], "on_created": True, "payload_url": "https://example.com"}
    created = webhooks.webhooks.create([body | {"name": name} for name in ("b", "a")])
    assert [one.name for one in created] == ["b", "a"]
    for one in created:
        one.enabled = False
    assert {one.enabled for one in webhooks.webhooks.update(created)} == {False}
    assert webhooks.webhooks.delete(created)
    assert not list(webhooks.webhooks.all())


def test_webhooks_are_listed_filtered_and_counted(webhooks: Any) -> None:
    made = [make_webhook(Site, name=f"webhook {number}") for number in range(5)]
    names = [one.name for one in made]
    assert [one.name for one in webhooks.webhooks.all()] == names
    assert [one.name for one in webhooks.webhooks.all(limit=2)] == names
    assert len(webhooks.webhooks.all()) == webhooks.webhooks.count() == 5
    assert [one.name for one in webhooks.webhooks.filter("hook 3")] == ["webhook 3"]
    assert [one.name for one in webhooks.webhooks.filter(id=[made[1].pk, made[2].pk])] == names[1:3]
    assert webhooks.webhooks.count(object_type="dcim.device") == 0


@pytest.mark.parametrize(
    "options", [{}, {"pagination": "cursor"}, {"threading": True, "thread_pool_executor": InThisThread}]
)
def test_all_leads_through_a_long_list(options: dict[str, Any], settings: Any) -> None:
    settings.MAX_PAGE_SIZE = 3
    webhook = make_webhook(Site)
    made = [make_site_delivery(webhook, State.FAILED, make_site_event(key)) for key in range(8)]
    webhooks = client_of(make_user(is_superuser=True), **options)
    found = list(webhooks.deliveries.all())
    assert sorted(one.id for one in found) == sorted(str(one.pk) for one in made)
    assert len(list(webhooks.events.all())) == 8
    assert len(webhooks.deliveries.all()) == webhooks.deliveries.count() == 8


def test_a_filter_of_a_long_list_finds_matches_among_old_rows(webhooks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.insight.paging.LOOK_THROUGH", (1, 2))
    for key in range(9):
        make_site_event(key, f"site {key % 5}")
    assert [one.object_id for one in webhooks.events.filter(name="site 1")] == ["6", "1"]


def test_a_delivery_leads_to_its_event_and_webhook(webhooks: Any) -> None:
    made = make_site_delivery(make_webhook(Site, name="ledger"), State.FAILED, make_site_event(7, "AMS1"))
    [delivery] = webhooks.deliveries.filter(webhook=made.webhook_id, state=["failed", "pending"])
    assert str(delivery) == "AMS1 updated → ledger"
    assert webhooks.deliveries.get(str(made.pk)).attempts == []
    assert delivery.webhook.payload_url == made.webhook.payload_url  # it asks for what the brief form lacks
    assert dict(delivery.event.data) == {"id": 7, "name": "AMS1"}
    assert delivery.state == "failed"


def test_a_user_sees_their_rows_only() -> None:
    user = make_user("dcim.view_site")
    grant(user, "view_webhook", constraints={"name": "mine"})
    for name in ("mine", "other"):
        make_webhook(Site, name=name)
    webhooks = client_of(user)
    assert [one.name for one in webhooks.webhooks.all()] == ["mine"]
    with pytest.raises(pynetbox.RequestError, match="403"):
        define(webhooks)
