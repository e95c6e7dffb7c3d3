"""With netbox-branching: nothing is sent before a merge, and then each object once.

``nox -s netbox`` installs netbox-branching for it. Without that plugin, ``conftest.py`` leaves this module out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from netbox_branching.constants import BRANCH_HEADER
from netbox_branching.models import Branch
from netbox_branching.utilities import supports_branching
from users.constants import TOKEN_PREFIX

from tests.netbox.workers import redis_alone, usual_worker
from tests.support.inbox import Inbox
from tests.support.netbox import admin, watch
from tests.support.waiting import until
from users.models import Token
from webhooks.models import Delivery, Event, Run, Skip, State, Webhook


class Api:
    """The REST API for a user, in a branch or in the main schema."""

    def __init__(self, user: Any) -> None:
        token = Token.objects.create(user=user)
        self.client = Client(headers={"authorization": f"Bearer {TOKEN_PREFIX}{token.key}.{token.token}"})

    def __call__(self, method: str, path: str, data: Any = None, branch: Branch | None = None) -> Any:
        headers = {BRANCH_HEADER: branch.schema_id} if branch else {}
        options = {} if data is None else {"data": data, "content_type": "application/json"}
        answer = getattr(self.client, method)(f"/api/{path}/", headers=headers, **options)
        assert answer.status_code in (200, 201, 204), answer.text[:2000]
        return answer.json() if answer.content else None


@pytest.fixture
def worker(tmp_path, transactional_db) -> Iterator[None]:
    with redis_alone() as redis, usual_worker(redis, tmp_path / "worker.log"):
        yield
    connections.close_all()  # that of the branch, too


def test_a_branch_sends_nothing_a_merge_sends_each_object_once_and_a_revert_takes_it_back(worker, inbox: Inbox) -> None:
    mary, paul = admin("mary"), admin("paul")
    api = Api(mary)
    ulm, bonn = (api("post", "dcim/sites", {"name": name, "slug": name.lower()})["id"] for name in ("Ulm", "Bonn"))
    watch("dcim.site", payload_url=inbox.url(), prechange=True)
    branch = Branch(name="Autumn", merge_strategy="iterative")
    branch.save(provision=False)
    branch.provision(paul)
    branch.refresh_from_db()

    kiel = api("post", "dcim/sites", {"name": "Kiel", "slug": "kiel"}, branch)["id"]
    for description in ("first", "last"):
        api("patch", f"dcim/sites/{ulm}", {"description": description}, branch)
    api("delete", f"dcim/sites/{bonn}", None, branch)
    assert api("get", f"dcim/sites/{ulm}")["description"] == ""
    assert not Event.objects.exists()

    branch.merge(paul)
    merged = by_object(inbox.wait_for(3))
    assert merged.keys() == {("created", kiel), ("updated", ulm), ("deleted", bonn)}
    assert {body["username"] for body in merged.values()} == {"mary"}
    assert merged["updated", ulm]["data"]["description"] == "last"
    assert merged["updated", ulm]["snapshots"]["prechange"]["description"] == ""

    branch.refresh_from_db()
    branch.revert(paul)
    reverted = by_object(inbox.wait_for(6)[3:])
    assert reverted.keys() == {("deleted", kiel), ("updated", ulm), ("created", bonn)}
    assert reverted["updated", ulm]["data"]["description"] == ""
    until(lambda: Delivery.objects.in_states(State.SUCCEEDED).count() == 6, 20, "all to be recorded")
    assert Event.objects.count() == 6


def test_the_tables_of_the_app_are_the_same_in_all_branches() -> None:
    assert not [model for model in (Webhook, Event, Delivery, Run, Skip) if supports_branching(model)]


def by_object(requests: list[Any]) -> dict[tuple[str, int], Any]:
    return {(one.json["event"], one.json["data"]["id"]): one.json for one in requests}
