"""A webhook in the REST API by its identifier: tools repeat one PUT."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from dcim.models import Site
from tests.support.makers import make_webhook
from tests.support.rest import WEBHOOKS, client_of, define, detail, wanted
from webhooks.ground import registry
from webhooks.models import Webhook

CMDB = detail(WEBHOOKS, "cmdb-sync")


def put(api: APIClient, url: str = CMDB, headers: Any = None, **fields: Any) -> Any:
    return api.put(url, wanted(**fields), format="json", headers=headers)


def test_a_put_creates_a_webhook_and_the_next_one_changes_it(api: APIClient) -> None:
    created = put(api)
    assert (created.status_code, created.json()["identifier"]) == (201, "cmdb-sync")
    assert created["ETag"]
    changed = put(api, timeout=5)
    assert (changed.status_code, changed.json()["id"]) == (200, created.json()["id"])
    assert Webhook.objects.get().timeout == 5


def test_the_identifier_finds_the_webhook_for_every_method(api: APIClient) -> None:
    pk = define(api, identifier="cmdb-sync").json()["id"]
    assert api.get(CMDB).json()["id"] == pk
    assert api.patch(CMDB, {"timeout": 7}, format="json").json()["timeout"] == 7
    assert api.post(f"{CMDB}pause/").json()["is_paused"]
    assert [one["id"] for one in api.get(f"{WEBHOOKS}?identifier=cmdb-sync").json()["results"]] == [pk]
    assert api.delete(CMDB).status_code == 204
    assert api.get(CMDB).status_code == 404


def test_a_put_by_id_keeps_the_identifier(api: APIClient) -> None:
    pk = put(api).json()["id"]
    assert put(api, detail(WEBHOOKS, pk)).json()["identifier"] == "cmdb-sync"


@pytest.mark.parametrize("identifier", ["CMDB", "1st", "a b", "ä", "-x"])
def test_an_identifier_that_no_url_finds_is_refused(api: APIClient, identifier: str) -> None:
    refused = define(api, identifier=identifier)
    assert refused.status_code == 400
    assert "identifier" in refused.json()


def test_two_webhooks_may_lack_an_identifier_and_none_shares_one(api: APIClient) -> None:
    assert define(api, name="one").status_code == 201
    assert define(api, name="two").status_code == 201
    assert define(api, name="three", identifier="cmdb-sync").status_code == 201
    assert define(api, name="four", identifier="cmdb-sync").status_code == 400


def test_a_put_to_a_new_identifier_is_refused(api: APIClient) -> None:
    assert put(api, identifier="other").json() == {"identifier": ["The URL has another identifier."]}
    assert put(api, headers={"if-match": '"x"'}).status_code == 412
    assert api.put(CMDB, ["a list"], format="json").status_code == 400
    assert api.put(detail(WEBHOOKS, "Not-One"), wanted(), format="json").status_code == 400
    assert not Webhook.objects.exists()


@pytest.mark.django_db
def test_creating_by_put_needs_the_permission_to_add() -> None:
    changer = client_of("change_webhook", "view_webhook")
    assert put(changer).status_code == 403
    assert not Webhook.objects.exists()


@pytest.mark.django_db
def test_changing_by_put_needs_no_permission_to_add() -> None:
    put(client_of(is_superuser=True))
    changer = client_of("change_webhook", "view_webhook")
    assert put(changer, timeout=5).status_code == 200


@pytest.fixture
def copy(api: APIClient, own_registrations: None) -> Webhook:
    """A webhook with a reserved identifier, as a plugin creates it."""
    registry.reserve_identifiers(registry.Reserved("plugin-", "copies of a plugin", ["payload_url"], "See the plugin."))
    return make_webhook(Site, name="Copy", identifier="plugin-1")


@pytest.mark.usefixtures("copy")
def test_a_reserved_identifier_cannot_be_chosen(api: APIClient) -> None:
    problem = {"identifier": ["Identifiers that begin with “plugin-” are reserved for copies of a plugin."]}
    pk = define(api, name="Other", identifier="other").json()["id"]
    for refused in (
        define(api, identifier="plugin-2"),
        put(api, detail(WEBHOOKS, "plugin-2")),
        api.patch(detail(WEBHOOKS, pk), {"identifier": "plugin-2"}, format="json"),
    ):
        assert (refused.status_code, refused.json()) == (400, problem)
    assert Webhook.objects.count() == 2


def test_a_webhook_keeps_its_reserved_identifier_and_fixed_settings(api: APIClient, copy: Webhook) -> None:
    path = detail(WEBHOOKS, copy.pk)
    for given in ({}, {"identifier": "plugin-1"}):
        changed = put(api, path, payload_url=copy.payload_url, timeout=5, **given)
        assert (changed.status_code, changed.json()["identifier"]) == (200, "plugin-1")
    for name, value in (("identifier", None), ("identifier", "other"), ("payload_url", "https://other.example/")):
        refused = api.patch(path, {name: value}, format="json")
        assert (refused.status_code, refused.json()) == (400, {name: ["See the plugin."]})
