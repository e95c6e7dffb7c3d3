"""The REST API below ``/api/plugins/webhooks/``, as clients of NetBox expect it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import NoReverseMatch, reverse
from rest_framework.test import APIRequestFactory
from utilities.api import get_serializer_for_model

from core.models import ObjectChange
from dcim.models import Device, Site
from tests.support.makers import (
    make_attempt,
    make_site_delivery,
    make_site_event,
    make_site_skip,
    make_webhook,
)
from tests.support.netbox import IS_OLDER
from tests.support.netbox_api import BASE, client_of, grant, make_user
from webhooks.insight import history
from webhooks.models import Delivery, Event, Run, Skip, State, Webhook

pytestmark = pytest.mark.django_db

LISTS = ("webhooks", "deliveries", "events", "skips", "runs")
LONG_LISTS = ("deliveries", "events", "skips")
VIEWS = ("view_webhook", "view_delivery", "view_event", "view_skip", "view_run")
SECRET, HEADER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "X-Key: open sesame"
HIDDEN_URL = "https://chat.example.com/hooks/T0123/very-hidden"


@pytest.fixture
def admin() -> Any:
    return client_of(make_user(is_superuser=True))


def wanted(**fields: Any) -> dict[str, Any]:
    needed = {"name": "ledger", "object_types": ["dcim.site"], "on_created": True, "payload_url": HIDDEN_URL}
    return needed | fields


def url(path: str, **parameters: Any) -> str:
    query = f"?{urlencode(parameters, doseq=True)}" if parameters else ""
    return f"{BASE}{path}/{query}"


def get(client: Any, path: str, **parameters: Any) -> Any:
    answer = client.get(url(path, **parameters))
    assert answer.status_code == 200, answer.content
    return answer.json()


def send(client: Any, method: str, path: str, body: Any = None, **headers: str) -> Any:
    return getattr(client, method)(url(path), body, format="json", headers=headers)


def listed(client: Any, path: str, **parameters: Any) -> list[Any]:
    return [row["id"] for row in get(client, path, **parameters)["results"]]


def make_rows(count: int | range) -> None:
    """As many rows in each list."""
    for number in range(count) if isinstance(count, int) else count:
        webhook = make_webhook(Site, Device, name=f"webhook {number:03}")
        make_site_delivery(webhook, State.FAILED, make_site_event(number, f"site {number}"))
        make_site_skip(webhook, number)
        Run.objects.create(kind="retry", filters={"webhook": webhook.pk}, state="done")


def test_the_root_lists_all_endpoints(admin: Any) -> None:
    endpoints = admin.get(BASE).json()
    assert list(endpoints) == ["deliveries", "events", "runs", "skips", "statistics", "status", "webhooks", "why"]
    for name in (*LISTS, "status", "statistics"):
        assert admin.get(endpoints[name]).status_code == 200


@pytest.mark.parametrize("path", LISTS)
def test_each_object_has_the_fields_of_netbox(admin: Any, path: str) -> None:
    make_rows(1)
    found = get(admin, path)
    assert list(found) == ["count", "next", "previous", "results"]
    assert (found["count"], found["next"], found["previous"]) == (1, None, None)
    [row] = found["results"]
    assert list(row)[:4] == ["id", "url", "display_url", "display"]
    assert row["url"] == f"http://testserver{BASE}{path}/{row['id']}/"
    same = admin.get(row["url"]).json()
    assert {name: same[name] for name in ("id", "url", "display")} == {
        name: row[name] for name in ("id", "url", "display")
    }
    model = {"deliveries": "delivery"}.get(path, path.removesuffix("s"))
    try:
        page = f"http://testserver{reverse(f'plugins:rq_webhooks:{model}', args=[row['id']])}"
    except NoReverseMatch:
        page = None
    assert row["display_url"] == page


def test_rows_inside_of_a_row_are_brief(admin: Any) -> None:
    make_rows(1)
    delivery = get(admin, "deliveries")["results"][0]
    webhook = Webhook.objects.get()
    assert delivery["display"] == "site 0 updated → webhook 000"
    assert delivery["webhook"] == {
        "id": webhook.pk, "url": f"http://testserver{BASE}webhooks/{webhook.pk}/", "display": "webhook 000",
        "name": "webhook 000",
    }  # fmt: skip
    assert delivery["event"]["object_type"] == "dcim.site"
    assert admin.get(delivery["event"]["url"]).json()["object_id"] == "0"
    assert get(admin, "skips")["results"][0]["webhook"] == delivery["webhook"]


def test_a_client_chooses_the_fields(admin: Any) -> None:
    make_rows(1)
    pk = Webhook.objects.get().pk
    assert list(get(admin, f"webhooks/{pk}", brief=1)) == ["id", "url", "display", "name"]
    assert list(get(admin, f"webhooks/{pk}", fields="name,enabled")) == ["name", "enabled"]
    assert "conditions" not in get(admin, f"webhooks/{pk}", omit="conditions,name")
    for path in LISTS:
        [brief] = get(admin, path, brief="true")["results"]
        assert list(brief)[:3] == ["id", "url", "display"]
        assert len(brief) <= 8
        [chosen] = get(admin, path, fields="id,display")["results"]
        assert list(chosen) == ["id", "display"]
    assert list(get(admin, "status", fields="level")) == ["level"]
    assert "alarms" not in get(admin, "status", omit="alarms")


@pytest.mark.parametrize("path", LISTS)
def test_limit_zero_gives_all_rows_up_to_the_largest_page(admin: Any, settings: Any, path: str) -> None:
    make_rows(5)
    settings.PAGINATE_COUNT = 2
    assert len(listed(admin, path)) == 2
    assert len(listed(admin, path, limit=0)) == 5
    settings.MAX_PAGE_SIZE = 3
    assert len(listed(admin, path, limit=0)) == len(listed(admin, path, limit=100)) == 3
    settings.MAX_PAGE_SIZE = 0
    assert len(listed(admin, path, limit=0)) == 5


def pages(client: Any, path: str, **parameters: Any) -> Iterator[Any]:
    address = url(path, **parameters)
    while address:
        answer = client.get(address)
        assert answer.status_code == 200, answer.content
        yield answer.json()
        address = answer.json()["next"]


@pytest.mark.parametrize("path", LISTS)
def test_next_leads_through_the_whole_list(admin: Any, path: str) -> None:
    make_rows(7)
    every = listed(admin, path)
    found = list(pages(admin, path, limit=3))
    assert [len(page["results"]) for page in found] == [3, 3, 1]
    assert [row["id"] for page in found for row in page["results"]] == every
    assert found[0]["count"] == 7
    assert listed(admin, path, limit=3, offset=2) == every[2:5]
    assert listed(admin, path, offset=7) == []


@pytest.mark.parametrize("path", LONG_LISTS)
def test_a_long_list_counts_so_many_rows_and_leads_to_all(
    admin: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_rows(7)
    every = listed(admin, path)
    for module in ("insight.paging", "contrib.netbox.api.base"):
        monkeypatch.setattr(f"webhooks.{module}.TOTAL_CAP", 3)
    first, *others = pages(admin, path, limit=2)
    assert (first["count"], {page["count"] for page in others}) == (3, {None})
    assert [row["id"] for page in (first, *others) for row in page["results"]] == every
    assert get(admin, path, offset=3) == {
        "count": 3, "next": None, "previous": f"http://testserver{url(path, limit=50)}", "results": [],
    }  # fmt: skip


@pytest.mark.parametrize("path", LONG_LISTS)
def test_a_long_list_begins_by_start_too(admin: Any, path: str) -> None:
    make_rows(5)
    found = list(pages(admin, path, start=0, limit=2))
    assert [row["id"] for page in found for row in page["results"]] == listed(admin, path)
    assert {page["count"] for page in found} == {None}
    assert admin.get(url(path, start=7)).status_code == 400
    assert admin.get(url(path, start=0, offset=2)).status_code == 400
    assert admin.get(url(path, cursor="nonsense")).status_code == 404


def test_a_long_list_finds_the_few_matches_of_a_filter(admin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.insight.paging.LOOK_THROUGH", (1, 2))
    make_rows(9)
    found = list(pages(admin, "events", name="site 1", limit=2))
    assert [row["object_repr"] for page in found for row in page["results"]] == ["site 1"]
    assert len(found) > 1  # the first pages look through newer rows


@pytest.mark.parametrize("path", LONG_LISTS)
def test_a_long_list_counts_no_whole_table(admin: Any, path: str) -> None:
    make_rows(3)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        get(admin, path, limit=1)
    counts = [one["sql"] for one in queries if "COUNT(" in one["sql"]]
    assert counts
    assert all("LIMIT 10001" in sql for sql in counts)


@pytest.mark.parametrize("user", ["superuser", "constrained"])
def test_a_list_needs_as_many_queries_for_fifty_rows_as_for_ten(user: str) -> None:
    person = make_user(is_superuser=user == "superuser")
    grant(person, *VIEWS, "dcim.view_site", constraints={"id__isnull": False})
    client = client_of(person)
    Site.objects.bulk_create([Site(pk=number, name=f"site {number}", slug=f"s{number}") for number in range(50)])
    numbers = []
    for rows in (range(10), range(10, 50)):
        make_rows(rows)
        get(client, "status")  # caches
        taken = {}
        for path in LISTS:
            with CaptureQueriesContext(connection) as queries:
                found = get(client, path, limit=100)["results"]
            assert len(found) == rows.stop
            taken[path] = len(queries)
        numbers.append(taken)
    assert numbers[0] == numbers[1]


def test_lists_are_filtered_searched_and_ordered(admin: Any) -> None:
    make_rows(4)
    pks = list(Webhook.objects.order_by("pk").values_list("pk", flat=True))
    assert listed(admin, "webhooks", id=pks[1:3]) == pks[1:3]
    assert listed(admin, "webhooks", name=["webhook 000", "webhook 003"]) == [pks[0], pks[3]]
    assert listed(admin, "webhooks", q="HOOK 002") == [pks[2]]
    assert listed(admin, "webhooks", ordering="-name") == pks[::-1]
    assert listed(admin, "webhooks", object_type="dcim.device", action="deleted") == pks
    assert listed(admin, "deliveries", webhook=pks[1], state=["failed", "pending"]) == [
        Delivery.objects.get(webhook=pks[1]).pk.__str__()
    ]
    assert listed(admin, "events", q="dcim.site:2") == [Event.objects.get(object_id="2").pk]
    assert listed(admin, "events", q="site 3", object_type="dcim.site") == [Event.objects.get(object_id="3").pk]
    assert listed(admin, "events", q="site 3", object_type="dcim.device") == []
    assert listed(admin, "skips", webhook=pks[3]) == [str(Skip.objects.get(webhook=pks[3]).pk)]
    assert listed(admin, "runs", ordering="id") == list(Run.objects.order_by("pk").values_list("pk", flat=True))


@pytest.mark.parametrize(
    ("path", "parameters", "named"),
    [
        ("webhooks", {"ordering": "payload_url"}, "ordering"),
        ("webhooks", {"nmae": "x"}, "nmae"),
        ("deliveries", {"ordering": "id"}, "ordering"),
        ("deliveries", {"state": "lost"}, "state"),
        ("events", {"object_id": "1"}, "object_id"),
        ("runs", {"q": "x"}, "q"),
    ],
)
def test_a_misspelt_or_unknown_parameter_is_refused(
    admin: Any, path: str, parameters: dict[str, str], named: str
) -> None:
    answer = admin.get(url(path, **parameters))
    assert (answer.status_code, list(answer.json())) == (400, [named])


def test_a_webhook_is_created_changed_and_deleted(admin: Any) -> None:
    created = send(admin, "post", "webhooks", wanted(secret=SECRET, conditions={"and": []}))
    assert created.status_code == 201, created.content
    row = created.json()
    assert (row["object_types"], row["has_secret"], row["http_method"]) == (["dcim.site"], True, "POST")
    path = f"webhooks/{row['id']}"
    assert send(admin, "patch", path, {"name": "cmdb", "object_types": ["dcim.site", "dcim.device"]}).json()[
        "object_types"
    ] == ["dcim.device", "dcim.site"]
    whole = send(admin, "put", path, wanted(name="all"))
    assert (whole.status_code, whole.json()["object_types"]) == (200, ["dcim.site"])
    assert send(admin, "delete", path).status_code == 204
    assert admin.get(url(path)).status_code == 404


def test_what_was_read_can_be_sent_back(admin: Any) -> None:
    row = send(admin, "post", "webhooks", wanted(secret=SECRET)).json()
    same = send(admin, "put", f"webhooks/{row['id']}", row)
    assert (same.status_code, same.json() | {"last_updated": ""}) == (200, row | {"last_updated": ""})


def test_a_change_of_other_settings_than_were_read_is_refused(admin: Any) -> None:
    created = send(admin, "post", "webhooks", wanted())
    path, tag = f"webhooks/{created.json()['id']}", created["ETag"]
    changed = send(admin, "patch", path, {"name": "cmdb"}, **{"If-Match": tag})
    assert changed.status_code == 200
    for method, body in (("patch", {"name": "again"}), ("delete", None)):
        assert send(admin, method, path, body, **{"If-Match": tag}).status_code == 412
    assert send(admin, "delete", path, **{"If-Match": admin.get(url(path))["ETag"]}).status_code == 204


def test_many_webhooks_are_created_changed_and_deleted_at_once(admin: Any) -> None:
    created = send(admin, "post", "webhooks", [wanted(name=name, secret=SECRET) for name in ("b", "a")])
    assert created.status_code == 201, created.content
    assert [row["name"] for row in created.json()] == ["b", "a"]
    assert "ETag" not in created
    ids = [row["id"] for row in created.json()]
    changed = send(admin, "patch", "webhooks", [{"id": pk, "enabled": False, "name": f"w{pk}"} for pk in ids])
    assert [(row["name"], row["enabled"]) for row in changed.json()] == [(f"w{pk}", False) for pk in ids]
    assert "ETag" not in changed
    replaced = send(admin, "put", "webhooks", [wanted(id=pk, name=f"v{pk}") for pk in ids])
    assert [row["enabled"] for row in replaced.json()] == [True, True]
    assert send(admin, "delete", "webhooks", [{"id": pk} for pk in ids]).status_code == 204
    assert not Webhook.objects.exists()


def test_an_error_in_one_of_many_changes_none(admin: Any) -> None:
    kept = make_webhook(Site, name="kept")
    refused = send(admin, "post", "webhooks", [wanted(name="a"), wanted(name="b", payload_url="ftp://x")])
    assert refused.status_code == 400
    assert "payload_url" in (refused.json() if IS_OLDER else refused.json()["errors"][0]["errors"])
    assert list(Webhook.objects.values_list("name", flat=True)) == ["kept"]
    if IS_OLDER:  # whose own API leaves out objects that are not there, and changes the others
        return
    assert refused.json()["errors"][0]["index"] == 1
    refused = send(admin, "patch", "webhooks", [{"id": kept.pk, "name": "new"}, {"id": kept.pk + 99, "name": "x"}])
    assert (refused.status_code, refused.json()["errors"][0]["id"]) == (400, kept.pk + 99)
    assert send(admin, "delete", "webhooks", [{"id": kept.pk}, {"id": kept.pk + 99}]).status_code == 400
    assert send(admin, "delete", "webhooks", {"id": kept.pk}).status_code == 400
    assert list(Webhook.objects.values_list("name", flat=True)) == ["kept"]


def test_the_message_for_the_changelog_is_in_the_history(admin: Any, settings: Any) -> None:
    entries: list[Any] = []
    settings.WEBHOOKS = settings.WEBHOOKS | {"HISTORY": f"{__name__}.note"}
    NOTED.clear()
    created = send(admin, "post", "webhooks", wanted(changelog_message="for ticket 1")).json()
    path = f"webhooks/{created['id']}"
    assert "changelog_message" not in created
    send(admin, "patch", path, {"name": "cmdb", "changelog_message": "for ticket 2"})
    send(admin, "patch", "webhooks", [{"id": created["id"], "name": "all", "changelog_message": "for ticket 3"}])
    assert send(admin, "delete", path, {"changelog_message": "for ticket 4"}).status_code == 204
    other = make_webhook(Site)
    send(admin, "delete", "webhooks", [{"id": other.pk, "changelog_message": "for ticket 5"}])
    entries = [entry.message for entry in NOTED if "ticket" in entry.message]
    assert entries == [f"for ticket {number}" for number in range(1, 6)]
    assert {entry.verb for entry in NOTED} == {"added", "changed", "deleted"}


@pytest.mark.parametrize(("given", "noted"), [(5, "5"), ("x" * 300, "x" * 200)])
def test_the_message_of_a_deletion_may_be_what_netbox_lets_pass(admin: Any, given: Any, noted: str) -> None:
    one, other = make_webhook(Site), make_webhook(Site)
    assert send(admin, "delete", f"webhooks/{one.pk}", {"changelog_message": given}).status_code == 204
    assert send(admin, "delete", "webhooks", [{"id": other.pk, "changelog_message": given}]).status_code == 204
    messages = ObjectChange.objects.filter(message=noted).order_by("changed_object_id")
    assert list(messages.values_list("changed_object_id", flat=True)) == [one.pk, other.pk]


NOTED: list[history.HistoryEntry] = []


def note(entry: history.HistoryEntry) -> None:
    NOTED.append(entry)


def test_all_acts_of_the_core_are_reachable(admin: Any) -> None:
    webhook = make_webhook(Site)
    failed, succeeded = (
        make_site_delivery(webhook, state, make_site_event(key))
        for key, state in enumerate((State.FAILED, State.SUCCEEDED))
    )
    make_site_skip(webhook)
    Site.objects.create(pk=1, name="AMS1", slug="ams1")
    event = make_site_event(1, webhook_ids=[webhook.pk])
    path = f"webhooks/{webhook.pk}"

    def act(address: str, body: Any = None) -> tuple[int, Any]:
        answer = send(admin, "post", address, body)
        return answer.status_code, answer.json()

    status, delivery = act(f"deliveries/{failed.pk}/retry")
    assert (status, delivery["state"], delivery["url"]) == (
        200, "pending", f"http://testserver{BASE}deliveries/{failed.pk}/",
    )  # fmt: skip
    assert act(f"deliveries/{failed.pk}/discard")[1]["state"] == "discarded"
    assert act(f"deliveries/{succeeded.pk}/resend")[1]["state"] == "pending"
    status, replayed = act(f"events/{event.pk}/replay")
    assert (status, replayed["replay_of"], "url" in replayed) == (201, event.pk, True)
    assert act(f"{path}/pause")[1]["is_paused"]
    assert not act(f"{path}/resume")[1]["is_paused"]
    assert Event.objects.get(pk=act(f"{path}/ping")[1]["event"]).action == "ping"
    for kind in ("recover", "backfill", "recover_skipped"):
        assert act(f"{path}/{kind}", {"hours": 1, "dry_run": True})[0] == 200
    status, run = act("runs", {"kind": "resend", "filters": {"webhook": webhook.pk}})
    assert (status, run["url"]) == (201, f"http://testserver{BASE}runs/{run['id']}/")
    assert act(f"runs/{run['id']}/pause")[1]["state"] == "paused"
    assert act(f"runs/{run['id']}/resume")[1]["state"] == "running"
    assert act(f"runs/{run['id']}/cancel")[1]["state"] == "cancelled"
    retried = admin.post(url("deliveries/retry", state="discarded"))
    assert (retried.status_code, retried.json()["retried"]) == (200, 1)
    assert get(admin, "status")["level"] in ("good", "warning", "error")
    assert get(admin, "statistics", webhook=webhook.pk)["series"] == []
    [verdict] = get(admin, "why", object_type="dcim.site", object_id="1")["verdicts"]
    assert verdict["webhook"]["name"] == webhook.name


ACTS = [
    ("post", "webhooks", "add_webhook"),
    ("patch", "webhooks/{webhook}", "change_webhook"),
    ("put", "webhooks/{webhook}", "change_webhook"),
    ("delete", "webhooks/{webhook}", "delete_webhook"),
    ("patch", "webhooks", "change_webhook"),
    ("delete", "webhooks", "delete_webhook"),
    ("post", "webhooks/{webhook}/ping", "change_webhook"),
    ("post", "webhooks/{webhook}/pause", "change_webhook"),
    ("post", "webhooks/{webhook}/recover", "add_run"),
    ("post", "deliveries/{delivery}/retry", "retry_delivery"),
    ("post", "deliveries/{delivery}/resend", "resend_delivery"),
    ("post", "deliveries/{delivery}/discard", "discard_delivery"),
    ("post", "deliveries/retry", "retry_delivery"),
    ("post", "events/{event}/replay", "replay_event"),
    ("post", "runs", "add_run"),
]


@pytest.mark.parametrize(("method", "path", "permission"), ACTS)
def test_an_act_needs_its_permission_and_a_token_that_may_write(method: str, path: str, permission: str) -> None:
    delivery = make_site_delivery(make_webhook(Site), State.FAILED)
    address = path.format(webhook=delivery.webhook_id, delivery=delivery.pk, event=delivery.event_id)
    viewer = make_user(*VIEWS, "dcim.view_site")
    assert send(client_of(viewer), method, address, {}).status_code == 403
    grant(viewer, permission)
    assert send(client_of(viewer, write_enabled=False), method, address, {}).status_code == 403
    assert send(client_of(viewer), method, address, {}).status_code != 403 or permission == "add_run"


@pytest.mark.parametrize("path", ["", *(f"{name}/" for name in (*LISTS, "status", "statistics", "why"))])
def test_an_anonymous_user_sees_nothing(client: Any, path: str) -> None:
    assert client.get(f"{BASE}{path}").status_code == 403


@pytest.mark.parametrize("path", LISTS)
def test_a_user_without_permission_sees_no_list(path: str) -> None:
    client = client_of(make_user(*(one for one in VIEWS if path.rstrip("s")[:4] not in one)))
    assert client.get(url(path)).status_code == 403


def constrained() -> Any:
    """A client that may do all to webhooks with a name that begins with "mine", and to what they sent."""
    person = make_user("dcim.view_site")
    grant(
        person, *(f"{act}_webhook" for act in ("view", "add", "change", "delete")),
        constraints={"name__startswith": "mine"},
    )  # fmt: skip
    grant(person, "view_delivery", "retry_delivery", constraints={"webhook__name__startswith": "mine"})
    return client_of(person)


def test_a_constrained_user_sees_and_changes_their_rows_only() -> None:
    client = constrained()
    mine, other = make_webhook(Site, name="mine 1"), make_webhook(Site, name="other")
    seen, hidden = (make_site_delivery(one, State.FAILED, make_site_event(one.pk)) for one in (mine, other))
    assert listed(client, "webhooks") == [mine.pk]
    assert get(client, "webhooks")["count"] == 1
    assert listed(client, "deliveries") == [str(seen.pk)]
    for path in (f"webhooks/{other.pk}", f"deliveries/{hidden.pk}"):
        assert client.get(url(path)).status_code == 404
    assert send(client, "patch", f"webhooks/{other.pk}", {"enabled": False}).status_code == 404
    assert send(client, "post", f"deliveries/{hidden.pk}/retry").status_code == 404
    assert send(client, "post", f"deliveries/{seen.pk}/retry").status_code == 200
    assert send(client, "patch", f"webhooks/{mine.pk}", {"enabled": False}).status_code == 200
    if IS_OLDER:  # whose own API leaves out objects that a user may not see
        assert send(client, "patch", "webhooks", [{"id": other.pk, "enabled": False}]).json() == []
        assert send(client, "delete", "webhooks", [{"id": other.pk}]).status_code == 204
    else:
        assert send(client, "patch", "webhooks", [{"id": other.pk, "enabled": False}]).status_code == 400
        assert send(client, "delete", "webhooks", [{"id": mine.pk}, {"id": other.pk}]).status_code == 400
    assert set(Webhook.objects.values_list("name", "enabled")) == {("mine 1", False), ("other", True)}


def test_a_constrained_user_saves_nothing_outside_of_their_constraint() -> None:
    client = constrained()
    mine = make_webhook(Site, name="mine 1")
    assert send(client, "post", "webhooks", wanted(name="mine 2")).status_code == 201
    assert send(client, "post", "webhooks", wanted(name="theirs")).status_code == 403
    assert send(client, "patch", f"webhooks/{mine.pk}", {"name": "theirs"}).status_code == 403
    refused = send(client, "post", "webhooks", [wanted(name="mine 3"), wanted(name="theirs")])
    changed = send(client, "patch", "webhooks", [{"id": mine.pk, "name": "theirs"}])
    assert (refused.status_code, changed.status_code) == (403, 403)
    if not IS_OLDER:
        assert (refused.json()["errors"][0]["index"], changed.json()["errors"][0]["id"]) == (1, mine.pk)
    assert set(Webhook.objects.values_list("name", flat=True)) == {"mine 1", "mine 2"}


def test_a_user_who_may_only_add_reads_what_they_created() -> None:
    client = client_of(make_user("add_webhook", "dcim.view_site"))
    created = send(client, "post", "webhooks", [wanted(name="a"), wanted(name="b")])
    assert [row["name"] for row in created.json()] == ["a", "b"]
    assert HIDDEN_URL not in created.content.decode()
    assert client.get(url("webhooks")).status_code == 403


def test_events_of_objects_that_a_user_may_not_view_are_hidden() -> None:
    person = make_user("view_event", "view_skip", "view_webhook")
    sites = [Site.objects.create(name=name, slug=name.lower()) for name in ("AMS1", "BER1")]
    grant(person, "dcim.view_site", constraints={"name": "AMS1"})
    webhook = make_webhook(Site)
    events = [make_site_event(site.pk, site.name) for site in sites]
    skips = [make_site_skip(webhook, site.pk) for site in sites]
    client = client_of(person)
    assert listed(client, "events") == [events[0].pk]
    assert listed(client, "skips") == [str(skips[0].pk)]
    assert client.get(url(f"events/{events[1].pk}")).status_code == 404
    assert client.get(url(f"skips/{skips[1].pk}")).status_code == 404


def test_a_model_of_which_a_user_may_not_view_all_objects_is_refused() -> None:
    person = make_user("view_webhook", "add_webhook")
    grant(person, "dcim.view_site", constraints={"name": "AMS1"})
    answer = send(client_of(person), "post", "webhooks", wanted())
    assert (answer.status_code, list(answer.json())) == (400, ["object_types"])


def test_no_response_has_a_secret(admin: Any) -> None:
    created = send(admin, "post", "webhooks", wanted(secret=SECRET, secret_headers=HEADER))
    path = f"webhooks/{created.json()['id']}"
    refused = send(admin, "patch", path, {"secret": SECRET, "secret_headers": HEADER, "name": ""})
    bulk = send(admin, "post", "webhooks", [wanted(name="b", secret=SECRET), wanted(name="", secret_headers=HEADER)])
    assert (created.status_code, refused.status_code, bulk.status_code) == (201, 400, 400)
    chosen = {"fields": "id,secret,secret_headers,previous_secret"}
    answers = [
        created, refused, bulk, send(admin, "patch", path, {"secret": SECRET.replace("k", "A")}),
        *(admin.get(url(one, **parameters)) for one in (path, "webhooks") for parameters in ({}, chosen, {"brief": 1})),
        admin.options(url(path)), admin.options(url("webhooks")),
    ]  # fmt: skip
    for answer in answers:
        assert SECRET[6:20] not in answer.content.decode()
        assert "sesame" not in answer.content.decode()


def test_a_viewer_sees_no_payloads_addresses_or_headers() -> None:
    webhook = make_webhook(Site, url=HIDDEN_URL, additional_headers="X-Team: hush", body_template="{{ hush }}")
    event = make_site_event(1, data=json.dumps({"serial": "hush"}), snapshots=json.dumps({"prechange": "hush"}))
    delivery = make_site_delivery(webhook, State.FAILED, event, reason="hush")
    make_attempt(delivery, response_body="hush", response_headers={"X-Hush": "hush"}, request_headers={"X": "hush"})
    person = make_user(*VIEWS, "dcim.view_site")
    paths = (*LISTS, f"webhooks/{webhook.pk}", f"deliveries/{delivery.pk}", f"events/{event.pk}")

    def seen(client: Any) -> str:
        answers = (client.get(url(path, **chosen)) for path in paths for chosen in ({}, {"omit": "id"}))
        return "".join(answer.content.decode() for answer in answers)

    text = seen(client_of(person))
    assert "hush" not in text.lower()
    assert "very-hidden" not in text
    assert "https://chat.example.com" in text
    grant(person, "change_webhook", "read_payload_event")
    text = seen(client_of(person))
    assert "hush" in text
    assert "very-hidden" in text


def test_netbox_finds_the_serializers_by_the_model() -> None:
    make_rows(1)
    request = APIRequestFactory().get("/")
    request.user = AnonymousUser()
    for model in (Webhook, Delivery, Event, Skip, Run):
        row = get_serializer_for_model(model)(model.objects.get(), nested=True, context={"request": request}).data
        assert list(row)[:3] == ["id", "url", "display"]
        assert not {"payload_url", "reason", "detail"} & row.keys()


@pytest.mark.parametrize("path", ["", *(f"{name}/" for name in (*LISTS, "status", "statistics"))])
def test_a_browser_shows_each_endpoint(admin_client: Any, path: str) -> None:
    make_rows(3)
    answer = admin_client.get(f"{BASE}{path}", headers={"accept": "text/html"})
    assert answer.status_code == 200
    assert "<html" in answer.content.decode()


def test_options_describe_what_a_webhook_takes(admin: Any) -> None:
    fields = admin.options(url("webhooks")).json()["actions"]["POST"]
    assert {"value": "POST", "display_name": "POST"} in fields["http_method"]["choices"]
    assert fields["object_types"]["type"] == "list"
    assert fields["url"]["read_only"]
