"""A webhook in the REST API by its identifier: tools repeat one PUT."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from tests.support.rest import WEBHOOKS, client_of, define, detail, wanted
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
