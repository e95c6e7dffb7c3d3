"""Permissions in the admin, on the status page and in the REST API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connection, models
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from dcim.models import Device, Site
from tests.support.admin_pages import RETRY_ALL, form, page
from tests.support.answers import API, MARK, answers
from tests.support.draining import STATE
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_site_skip, make_webhook
from tests.support.users import ALL_PERMISSIONS, api_client, browser, make_user
from tests.testapp.models import Gadget, Thing
from users.models import User
from webhooks.insight.alarms import find_alarms
from webhooks.insight.overview import Overview
from webhooks.models import Delivery, Event, Run, State, Webhook, permissions
from webhooks.models.event import LOOP_PROTECTION
from webhooks.operations.webhooks import ping, refusals
from webhooks.workers.status import Backend, RegisteredWorker

STATUS = reverse("webhooks_backend_status")
NEW = {"name": "new", "on_created": True, "payload_url": "http://127.0.0.1:9/", "object_types": ["dcim.site"]}


REMEDY = "Ask a superuser, or get the permission dcim.view_site for all objects."
NOT_SENT = f"A webhook sends all objects of dcim.site, and you may not view all of them. {REMEDY}"
NOT_CHANGED = (
    "You may not view all objects of dcim.site, so you may not change what this webhook sends of them, or where. "
    f"{REMEDY}"
)


def user_with(*permissions: str, **fields: Any) -> User:
    """A user with all permissions of the app, and these of other models, such as ``view_site``."""
    return make_user(*ALL_PERMISSIONS, *permissions, sees_objects=False, **fields)


@pytest.fixture
def webhook(db: None, redis: Any) -> Webhook:
    webhook = make_webhook(Site, Device, name="CMDB", url="http://127.0.0.1:1/")
    Webhook.objects.update(failures_in_a_row=1)
    return webhook


def of_site(webhook: Webhook, key: int = 1, state: State = State.FAILED, **fields: Any) -> Delivery:
    event = make_site_event(key, f"{MARK} {key}", username=MARK, request=json.dumps({"path": MARK}))
    delivery = make_site_delivery(webhook, state, event, reason=f"the URL came out as {MARK}", **fields)
    make_attempt(delivery, url=f"http://{MARK}/", response_body=MARK, response_headers={"X": MARK})
    make_site_skip(webhook, key, actual=MARK, object_repr=MARK, username=MARK)
    return delivery


def of_device(webhook: Webhook, key: int = 2) -> Delivery:
    return make_site_delivery(webhook, event=make_site_event(key, "plugh", object_type="dcim.device"))


@pytest.mark.one_database
def test_no_page_or_response_shows_an_object_that_the_user_may_not_view(webhook: Webhook) -> None:
    hidden = of_site(webhook)
    make_site_event(7, f"{MARK} 7", data="", error=f"Traceback\nKeyError: '{MARK}'")
    of_device(webhook)
    of_devices, of_sites = (answers(user_with(permission), hidden) for permission in ("view_device", "view_site"))
    assert [address for address, said in of_devices.items() if MARK in said] == []
    showing = {address for address, said in of_sites.items() if MARK in said}
    assert {STATUS, reverse("admin:rq_webhooks_delivery_changelist"), f"{API}/events/"} < showing
    assert {reverse("admin:rq_webhooks_event_change", args=[hidden.event_id])} < showing
    assert {reverse("admin:rq_webhooks_skip_changelist"), f"{API}/webhooks/{webhook.pk}/skips/"} < showing
    assert "plugh" in of_devices[STATUS]
    assert "plugh" not in of_sites[STATUS]


@pytest.mark.parametrize("permissions", [(), ("view_device",), ("view_site",)])
def test_counts_include_only_visible_objects(webhook: Webhook, permissions: tuple[str, ...]) -> None:
    for key in range(1, 8):
        of_site(webhook, key)
    make_site_delivery(webhook, State.WAITING, make_site_event(8))
    make_site_event(9, data="", error="KeyError")
    make_site_event(10, dispatched=False)
    of_device(webhook)
    user = user_with(*permissions)
    response = browser(user).get(STATUS)
    failed, waiting, odd = {(): (0, 0, 0), ("view_device",): (1, 0, 0), ("view_site",): (7, 1, 1)}[permissions]
    shown = response.context["shown"]
    numbers = dict(shown.states)
    assert (numbers[State.FAILED], numbers.get(State.WAITING)) == (failed, waiting or None)
    [row] = shown.webhooks
    assert (row.webhook.failed, row.waits) == (failed, waiting)
    assert response.context["overview"].undispatched == odd
    assert len(shown.failed_events) == odd
    groups = [(one.found.count, len(one.newest)) for one in shown.groups]
    assert groups == ([(failed, min(failed, 3))] if failed else [])
    assert "Only deliveries and events of objects that you may view" in response.content.decode()
    listed = browser(user).get(reverse("admin:rq_webhooks_webhook_changelist"))
    [one] = listed.context["cl"].result_list
    assert (one.failed, one.waiting) == (failed, waiting)
    asked = page(browser(user), reverse("admin:rq_webhooks_webhook_delete", args=[webhook.pk]))
    assert f"{failed + waiting} deliver" in asked
    assert "of objects that you may not view" in asked


@pytest.mark.one_database
def test_actions_reach_only_visible_objects(webhook: Webhook) -> None:
    hidden = of_site(webhook)
    odd = make_site_event(7, data="", error="KeyError")
    seen = of_device(webhook)
    user = user_with("view_device")
    for deed in ("retry", "discard"):
        address = reverse(f"admin:rq_webhooks_delivery_{deed}", args=[hidden.pk])
        assert browser(user).post(address).status_code == 404
        assert api_client(user).post(f"{API}/deliveries/{hidden.pk}/{deed}/").status_code == 404
        listed = f"{reverse('admin:rq_webhooks_delivery_changelist')}?state=failed"
        chosen = {"action": f"{deed}_chosen", "_selected_action": [hidden.pk]}
        browser(user).post(listed, chosen | {"confirmed": "1"})
        all_visible: Any = browser(user).post(listed, chosen | {"select_across": "1"})
        assert MARK not in browser(user).get(all_visible.url).content.decode()
    browser(user).post(all_visible.url)
    assert browser(user).post(reverse("admin:rq_webhooks_event_replay", args=[odd.pk])).status_code == 404
    assert api_client(user).post(f"{API}/deliveries/retry/?state=failed").json() == {
        "retried": 0,
        "run": None,
        "superseded": 0,
    }
    states = dict(Delivery.objects.values_list("pk", STATE))
    assert states[hidden.pk] == State.FAILED
    assert states[seen.pk] == State.DISCARDED  # all that match, as far as they are visible
    browser(user).post(RETRY_ALL, {"next": STATUS})
    assert Delivery.objects.get(pk=hidden.pk).state == State.FAILED
    assert Event.objects.failed().count() == 1


def test_the_event_of_a_test_has_no_object_and_is_visible(webhook: Webhook) -> None:
    event = ping(webhook)
    assert permissions.visible_events(user_with()).get() == event


@pytest.mark.one_database
def test_conditions_are_tried_on_visible_events_only(webhook: Webhook) -> None:
    of_site(webhook)
    asked = {
        "on_updated": "on", "object_types": [ContentType.objects.get_for_model(Site).pk],
        "conditions": json.dumps({"attr": "name", "value": f"{MARK} 1"}),
    }  # fmt: skip
    address = reverse("admin:rq_webhooks_webhook_condition_preview")
    texts = [browser(user).post(address, asked).json()["text"] for user in (user_with(), user_with("view_site"))]
    assert texts == [
        f"Models: {NOT_SENT}",
        "Tried on the last event: 1 would have been sent, 0 would not.",
    ]


def test_events_without_an_object_are_visible(webhook: Webhook) -> None:
    event = make_site_event("core.backed_up", object_type="", action="core.backed_up")
    assert permissions.visible_events(user_with()).get() == event


# What may be sent


@pytest.mark.one_database
def test_sending_a_model_requires_the_permission_to_view_it(webhook: Webhook) -> None:
    user = user_with("view_device")
    answer = browser(user).post(reverse("admin:rq_webhooks_webhook_add"), form(name="new"))
    problem = NOT_SENT
    assert answer.context["adminform"].form.errors["object_types"] == [problem]
    answer = api_client(user).post(f"{API}/webhooks/", NEW, format="json")
    assert (answer.status_code, answer.json()) == (400, {"object_types": [problem]})
    assert not Webhook.objects.filter(name="new").exists()

    answer = api_client(user).post(f"{API}/webhooks/", NEW | {"object_types": ["dcim.device"]}, format="json")
    assert answer.status_code == 201, answer.content
    answer = api_client(user).patch(
        f"{API}/webhooks/{answer.json()['id']}/", {"object_types": ["dcim.site"]}, format="json"
    )
    assert answer.json() == {"object_types": [problem]}


@pytest.mark.one_database
def test_the_destination_is_locked_with_a_hidden_model(webhook: Webhook) -> None:
    user, address = user_with("view_device"), f"{API}/webhooks/{webhook.pk}/"
    change = reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    picked = ContentType.objects.get_for_models(Site, Device).values()
    kept = form(
        name="renamed", payload_url=webhook.payload_url, object_types=[one.pk for one in picked], on_created="on",
        on_updated="on", on_deleted="on",
    )  # fmt: skip
    assert browser(user).post(change, kept).status_code == 302
    assert Webhook.objects.get().name == "renamed"
    problem = NOT_CHANGED
    for name, value in (("payload_url", "http://127.0.0.1:666/"), ("ssl_verification", False), ("ca_file_path", "/x")):
        answer = api_client(user).patch(address, {name: value}, format="json")
        assert (answer.status_code, answer.json()) == (400, {name: [problem]})
    answer = browser(user).post(change, kept | {"payload_url": "http://127.0.0.1:666/"})
    assert answer.context["adminform"].form.errors["payload_url"] == [problem]

    # Removing the model first does not help while a change of it waits.
    waiting = of_site(webhook, state=State.PENDING)
    assert api_client(user).patch(address, {"object_types": ["dcim.device"]}, format="json").status_code == 200
    answer = api_client(user).patch(address, {"payload_url": "http://127.0.0.1:666/"}, format="json")
    assert "wait to be sent" in answer.json()["payload_url"][0]
    for state in (State.FAILED, State.DISCARDED):
        waiting.delete()
        waiting = of_site(webhook, state=state)
        answer = api_client(user).patch(address, {"payload_url": "http://127.0.0.1:666/"}, format="json")
        assert "may be retried" in answer.json()["payload_url"][0]
    waiting.delete()
    assert api_client(user).patch(address, {"payload_url": "http://127.0.0.1:666/"}, format="json").status_code == 200


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("change", "status"), [({"payload_url": "http://127.0.0.1:666/"}, 409), ({"name": "other"}, 200)]
)
def test_a_hidden_model_that_is_added_during_a_request_locks_the_destination(
    webhook: Webhook, change: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook.object_types.set([ContentType.objects.get_for_model(Device)])
    clean = Webhook.full_clean

    def meanwhile(row: Webhook, *args: Any, **kwargs: Any) -> None:
        clean(row, *args, **kwargs)
        webhook.object_types.add(ContentType.objects.get_for_model(Site))

    monkeypatch.setattr(Webhook, "full_clean", meanwhile)
    answer = api_client(user_with("view_device")).patch(f"{API}/webhooks/{webhook.pk}/", change, format="json")
    assert answer.status_code == status, answer.content
    assert Webhook.objects.get().payload_url == webhook.payload_url


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("name", "value", "entered"),
    [
        ("conditions", {"attr": "name", "op": "regex", "value": "A"}, '{"attr": "name", "op": "regex", "value": "A"}'),
        ("body_template", "{{ data }}", "{{ data }}"),
        ("additional_headers", "X-A: {{ data.name }}", "X-A: {{ data.name }}"),
        ("changed_fields", ["name"], "name"),
        ("excluded_usernames", ["bob"], "bob"),
        ("only_changes", True, "on"),
        ("prechange", True, "on"),
        ("on_deleted", True, "on"),
    ],
)
def test_the_content_is_locked_with_a_hidden_model(webhook: Webhook, name: str, value: Any, entered: str) -> None:
    Webhook.objects.update(on_deleted=False, body_template="a\nb\n")
    address, change = f"{API}/webhooks/{webhook.pk}/", reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    picked = ContentType.objects.get_for_models(Site, Device).values()
    kept = form(
        payload_url=webhook.payload_url, object_types=[one.pk for one in picked], on_updated="on",
        body_template="a\r\nb\r\n",
    )  # fmt: skip
    user, viewer = user_with("view_device"), user_with("view_device", "view_site")
    problem = NOT_CHANGED
    answer = api_client(user).patch(address, {name: value}, format="json")
    assert (answer.status_code, answer.json()) == (400, {name: [problem]})
    answer = browser(user).post(change, kept | {name: entered})
    assert answer.context["adminform"].form.errors[name] == [problem]
    before = Webhook.objects.values().get()
    same = {"conditions": {}, "body_template": "a\r\nb", "changed_fields": [], "on_deleted": False, "timeout": 7}
    assert api_client(user).patch(address, same, format="json").status_code == 200
    assert browser(user).post(change, kept | {"timeout": "8"}).status_code == 302
    after = Webhook.objects.values().get()
    assert {one for one in after if after[one] != before[one]} <= {"timeout", "body_template", "last_updated"}

    assert api_client(viewer).patch(address, {name: value}, format="json").status_code == 200
    assert getattr(Webhook.objects.get(), name) == value


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [("body_template", "{{ data }}", True), ("additional_headers", "X-A: {{ data.name }}", True),
     ("conditions", {"attr": "name", "value": "A"}, False)],
)  # fmt: skip
def test_templates_and_headers_are_locked_while_hidden_events_wait(
    webhook: Webhook, name: str, value: Any, is_refused: bool
) -> None:
    of_site(webhook, state=State.PENDING)
    webhook.object_types.set([ContentType.objects.get_for_model(Device)])
    answer = api_client(user_with("view_device")).patch(f"{API}/webhooks/{webhook.pk}/", {name: value}, format="json")
    problem = (
        "Changes of objects that you may not view wait to be sent, or may be retried or replayed, so you may not "
        "change what this webhook sends, or where."
    )
    assert (answer.json() == {name: [problem]}) == is_refused
    assert answer.status_code == (400 if is_refused else 200)


@pytest.mark.parametrize("error", ["", f"{LOOP_PROTECTION}depth 4"])
def test_the_destination_is_locked_while_hidden_events_wait(webhook: Webhook, error: str) -> None:
    webhook.object_types.set([ContentType.objects.get_for_model(Device)])
    others = [webhook.pk * 10, webhook.pk * 10 + 1, int(f"1{webhook.pk}")]
    event = make_site_event(7, dispatched=False, error=error, webhook_ids=[*others, webhook.pk])
    address, elsewhere = f"{API}/webhooks/{webhook.pk}/", {"payload_url": "http://127.0.0.1:666/"}
    answer = api_client(user_with("view_device")).patch(address, elsewhere, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["payload_url"])
    assert "Changes of objects that you may not view wait to be sent" in answer.json()["payload_url"][0]
    Event.objects.filter(pk=event.pk).update(webhook_ids=others)
    assert api_client(user_with("view_device")).patch(address, elsewhere, format="json").status_code == 200
    Event.objects.filter(pk=event.pk).update(webhook_ids=[webhook.pk, *others])
    assert (
        api_client(user_with("view_device"))
        .patch(address, elsewhere | {"payload_url": "http://127.0.0.1:667/"}, format="json")
        .status_code
        == 400
    )
    assert (
        api_client(user_with("view_device", "view_site"))
        .patch(address, {"payload_url": "http://127.0.0.1:667/"}, format="json")
        .status_code
        == 200
    )


def test_a_recorded_event_locks_the_destination(webhook: Webhook) -> None:
    Site.objects.create(name="AMS1", slug="ams1")
    webhook.object_types.set([ContentType.objects.get_for_model(Device)])
    assert Event.objects.undispatched().matched_by(webhook.pk).exists()
    assert not Event.objects.undispatched().matched_by(webhook.pk + 1).exists()
    values = {"payload_url": "http://127.0.0.1:666/"}
    refused = refusals(user_with("view_device"), webhook, values, [], entered=())
    assert "wait to be sent" in refused["payload_url"]


@pytest.mark.one_database
@pytest.mark.parametrize("change", [{"payload_url": "http://127.0.0.1:666/"}, {"ca_file_path": "/x"}])
@pytest.mark.parametrize("entered", [None, "X-Token: another", "", " \u00a0"])
def test_a_new_destination_requires_new_secret_headers(
    webhook: Webhook, change: dict[str, str], entered: str | None
) -> None:
    Webhook.objects.update(secret_headers="X-Token: planted")
    given = change | ({} if entered is None else {"secret_headers": entered})
    user, address = user_with("view_site", "view_device"), f"{API}/webhooks/{webhook.pk}/"
    problems = ["They would go to the new destination: enter them again, or clear them."]
    answer = api_client(user).patch(address, given, format="json")
    if entered is None:
        assert (answer.status_code, answer.json()) == (400, {"secret_headers": problems})
        assert Webhook.objects.get().secret_headers == "X-Token: planted"
    else:
        assert (answer.status_code, Webhook.objects.get().secret_headers) == (200, entered.strip())


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("entered", "kept"),
    [
        ({}, None),
        ({"secret_headers": " "}, None),
        ({"secret_headers": "\r\n\u00a0"}, None),
        ({"secret_headers": "X-Token: another"}, "X-Token: another"),
        ({"clear_secret_headers": "on"}, ""),
    ],
)
def test_the_admin_requires_new_secret_headers_too(webhook: Webhook, entered: dict[str, str], kept: str | None) -> None:
    Webhook.objects.update(secret_headers="X-Token: planted")
    user = user_with("view_site", "view_device")
    change = reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    answer = browser(user).post(change, form(payload_url="http://127.0.0.1:666/", **entered))
    if kept is None:
        assert "would go to the new destination" in answer.context["adminform"].form.errors["secret_headers"][0]
    else:
        assert (answer.status_code, Webhook.objects.get().secret_headers) == (302, kept)
    Webhook.objects.update(secret_headers="X-Token: planted")
    same = form(payload_url=Webhook.objects.get().payload_url, name="renamed")
    assert browser(user).post(change, same).status_code == 302
    assert Webhook.objects.get().secret_headers == "X-Token: planted"


# Each object by itself


class Restricting(models.QuerySet[Any]):
    """As NetBox's: a user may view the things that have the user's name."""

    def restrict(self, user: Any, action: str) -> QuerySet[Any]:
        assert action == "view"
        return self.filter(name=user.email)


def restrict(monkeypatch: pytest.MonkeyPatch, *restricted: type[models.Model]) -> None:
    for model in restricted:
        monkeypatch.setattr(
            model._default_manager, "restrict",
            lambda user, action, model=model: Restricting(model).restrict(user, action), raising=False,
        )  # fmt: skip


@pytest.mark.parametrize("model", [Thing, Gadget])
def test_the_restriction_of_a_model_applies_to_its_events(
    webhook: Webhook, model: Any, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any
) -> None:
    webhooks_settings(MAY_VIEW="webhooks.models.permissions.by_restriction")
    restrict(monkeypatch, Thing, Gadget)
    user = user_with("view_thing", "view_gadget", "view_site")
    mine, other, gone = (model.objects.create(name=name) for name in (user.email, "other", "gone"))
    label = model._meta.label_lower
    for row in (mine, other, gone):
        make_site_delivery(webhook, event=make_site_event(str(row.pk), f"named {row.name}", object_type=label))
    of_site(webhook)
    gone.delete()

    seen = set(permissions.visible_events(user).values_list("object_repr", flat=True))
    assert seen == {f"named {user.email}", f"{MARK} 1"}, "not the deleted one: nobody knows who might have viewed it"
    assert permissions.visible_deliveries(user).count() == 2
    # Without the permission for the model, no event of it is visible, not even of a deleted object.
    assert set(permissions.visible_events(user_with("view_site")).values_list("object_type", flat=True)) == {
        "dcim.site"
    }
    assert permissions.visible_events(user_with(is_superuser=True)).count() == 4


@pytest.mark.one_database
def test_no_page_or_response_shows_an_event_that_a_restriction_hides(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any
) -> None:
    webhooks_settings(MAY_VIEW="webhooks.models.permissions.by_restriction")
    restrict(monkeypatch, Thing)
    user = user_with("view_thing")
    mine, other = (Thing.objects.create(name=name) for name in (user.email, "other"))
    for row in (mine, other):
        event = make_site_event(str(row.pk), f"named {row.name}", object_type="testapp.thing")
        make_site_delivery(webhook, event=event)
    shown = answers(user, Delivery.objects.get(event__object_repr="named other"))
    assert not [address for address, said in shown.items() if "named other" in said]
    assert f"named {user.email}" in shown[f"{API}/deliveries/"]


@pytest.mark.cost
@pytest.mark.parametrize("policy", ["by_model", "by_restriction"])
def test_queries_do_not_grow_with_rows(
    webhook: Webhook, policy: str, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any
) -> None:
    webhooks_settings(MAY_VIEW=f"webhooks.models.permissions.{policy}")
    restrict(monkeypatch, Thing)
    user = user_with("view_site", "view_thing")
    counts: list[list[int]] = []
    for keys in (range(1, 3), range(3, 9)):
        for key in keys:
            of_site(webhook, key)
            make_site_event(key, data="", error="KeyError", object_type="testapp.thing")
        addresses = (
            STATUS,
            reverse("admin:rq_webhooks_delivery_changelist"),
            reverse("admin:rq_webhooks_event_changelist"),
        )
        user.get_all_permissions()  # cached once for each request
        counts.append([queries(lambda one=one: browser(user).get(one)) for one in addresses])
        counts[-1] += [
            queries(lambda one=one: api_client(user).get(f"{API}/{one}/")) for one in ("deliveries", "events")
        ]
    assert counts[0] == counts[1]


def queries(ask: Callable[[], Any]) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert ask().status_code == 200
    return len(captured)


def only_device(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    return events.filter(object_type="dcim.device")


def test_a_callable_of_the_host_decides(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.only_device")
    of_site(webhook)
    seen = of_device(webhook)
    assert permissions.visible_deliveries(user_with("view_site")).get() == seen
    assert permissions.visible_deliveries(user_with(is_superuser=True)).get() == seen


def things_by_name(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    return events.filter(permissions.of_objects(Thing.objects.filter(name=user.email)))


def things_by_name_and_gone(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    mine = Thing.objects.filter(name=user.email)
    return events.filter(permissions.of_objects(mine, and_gone=user.has_perm("testapp.view_thing")))


def test_events_of_deleted_objects_are_visible_only_on_request(webhook: Webhook, webhooks_settings: Any) -> None:
    nobody, viewer = user_with(), user_with("view_thing")
    for name in (nobody.email, viewer.email, "gone"):
        thing = Thing.objects.create(name=name)
        make_site_event(str(thing.pk), name, object_type="testapp.thing")
    thing.delete()
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.things_by_name")
    for user in (nobody, viewer):
        assert [event.object_repr for event in permissions.visible_events(user)] == [user.email]
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.things_by_name_and_gone")
    assert [event.object_repr for event in permissions.visible_events(nobody)] == [nobody.email]
    assert {event.object_repr for event in permissions.visible_events(viewer)} == {viewer.email, "gone"}


@pytest.mark.usefixtures("db")
@pytest.mark.parametrize("policy", ["by_model", "by_restriction"])
def test_an_object_without_an_event_is_viewed_with_the_permission_for_its_model(
    policy: str, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any
) -> None:
    webhooks_settings(MAY_VIEW=f"webhooks.models.permissions.{policy}")
    restrict(monkeypatch, Thing)
    viewer, other = user_with("view_thing"), user_with("view_site")
    mine, hidden, gone = (Thing.objects.create(name=name) for name in (viewer.email, "other", "gone"))
    gone_pk = gone.pk
    gone.delete()
    seen = [permissions.may_view_object(viewer, "testapp.thing", str(pk)) for pk in (mine.pk, hidden.pk, gone_pk)]
    assert seen == [True, policy == "by_model", policy == "by_model"]
    assert not permissions.may_view_object(other, "testapp.thing", str(mine.pk))
    assert not permissions.may_view_object(viewer, "no.model", "1")
    assert permissions.may_view_object(user_with(is_superuser=True), "testapp.thing", str(hidden.pk))


def test_a_callable_of_the_host_shows_only_objects_with_an_event(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.only_device")
    of_site(webhook)
    device, user = of_device(webhook).event, user_with("view_site", "view_device")
    assert permissions.may_view_object(user, "dcim.device", device.object_id)
    assert not permissions.may_view_object(user, "dcim.device", "4711")
    assert not permissions.may_view_object(user, "dcim.site", "1")


# Each permission alone

VIEWS = ("view_webhook", "view_delivery", "view_event", "view_skip")
DEEDS = ("retry_delivery", "discard_delivery", "replay_event", "add_webhook", "delete_webhook")


def crowded() -> Delivery:
    """Deliveries and Events in each state, and a webhook without deliveries."""
    chat = make_webhook(Site, name="Chatname")
    make_webhook(Site, name="Lonelyname")
    now = timezone.now()
    Webhook.objects.update(failures_in_a_row=2, probe_at=now, last_failure="Healthmark", last_failure_at=now)
    event = make_site_event(1, "AMS1", webhook_ids=[chat.pk])
    make_site_delivery(chat, State.PENDING, event, reason="Reasonmark", failures=1)
    make_site_delivery(chat, State.WAITING)
    failed = make_site_event(2, data="", error="Traceback\nKeyError: 'Errormark'")
    make_site_event(2, replay_of=failed.pk, dispatched=False)
    Event.objects.filter(pk=failed.pk).update(replayed_at=timezone.now())
    make_site_event(3, data="", error="Traceback\nKeyError: 'Errormark'")
    delivery = make_site_delivery(chat, event=make_site_event(4), reason="Reasonmark")
    make_attempt(delivery)
    make_site_skip(chat, actual="Valuemark", object_repr="Skipmark")
    return delivery


MARKS = {"Chatname", "Lonelyname", "Healthmark", "Reasonmark", "Errormark"}
SKIP_MARKS = {"Skipmark", "Valuemark"}


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("permissions", "marks"),
    [
        (("read_payload_event", "add_webhook", "retry_delivery", "discard_delivery"), set()),
        (("view_event",), {"Errormark"}),
        (("view_delivery", "view_event"), {"Chatname", "Errormark"}),
        (("view_delivery", "view_webhook"), MARKS - {"Reasonmark", "Errormark"}),
        (("view_delivery", "change_webhook"), MARKS - {"Errormark"}),
        (("view_event", "view_webhook"), MARKS - {"Reasonmark"}),
        (("view_skip", "view_webhook"), {"Chatname", "Skipmark", "Lonelyname", "Healthmark"}),
        (("view_skip", "view_event"), {"Chatname", "Skipmark", "Errormark"}),
        (("view_skip", "read_payload_event"), {"Chatname", "Skipmark", "Valuemark"}),
        (("delete_webhook",), {"Chatname"}),
    ],
)
def test_each_part_of_a_page_requires_the_permission_for_its_data(
    db: None, redis: Any, permissions: tuple[str, ...], marks: set[str]
) -> None:
    said = answers(make_user(*permissions), crowded())
    assert {mark for mark in (*MARKS, *SKIP_MARKS) if mark in str(said)} == marks


@pytest.mark.one_database
@pytest.mark.parametrize(
    "permissions",
    [
        *((one,) for one in (*VIEWS, "change_webhook", *DEEDS)), VIEWS,
        ("view_delivery", "retry_delivery", "discard_delivery"), ("view_event", "replay_event"),
    ],
)  # fmt: skip
def test_every_link_leads_to_a_page_that_the_user_may_open(db: None, redis: Any, permissions: tuple[str, ...]) -> None:
    crowded()
    client, seen = browser(make_user(*permissions)), set()
    ahead = [reverse("admin:index")]
    while ahead:
        address = ahead.pop()
        # One value of each filter, and no combinations of filters.
        parts = urlsplit(address)
        if (page_and_filters := (parts.path, tuple(parse_qs(parts.query, keep_blank_values=True)))) in seen:
            continue
        seen.add(page_and_filters)
        response = client.get(address)
        assert response.status_code == 200, address
        links = {urljoin(address, unescape(link)) for link in re.findall(r'href="([^"#]*)', response.content.decode())}
        ahead += [link for link in links if link.startswith("/admin/webhook") and not ("?" in link and parts.query)]
    assert len(seen) < 100


@pytest.mark.one_database
def test_the_status_page_says_when_it_leaves_something_out(db: None, redis: Any) -> None:
    crowded()
    said = page(browser(make_user("view_delivery")), STATUS)
    for permission in ("rq_webhooks.view_webhook", "rq_webhooks.view_event"):
        assert f"({permission}), so they are left out." in said
    assert "No webhook is defined" not in said
    assert "left out" not in page(browser(make_user(*VIEWS)), STATUS)
    hidden = Overview(hidden=("webhooks",))
    worker = RegisteredWorker("w", ("webhooks",), worker_class="webhooks.workers.WebhookWorker")
    [alarm] = find_alarms(hidden, Backend("webhooks", workers=(worker,)), True, timezone.now())
    assert alarm.text.startswith("Nothing is wrong with what you may view")


@pytest.mark.one_database
def test_a_hidden_webhook_cannot_be_used_in_a_url(db: None, redis: Any) -> None:
    webhook = crowded().webhook
    client = browser(make_user("view_delivery", "retry_delivery"))
    assert "Webhook</dt>" not in page(client, f"{RETRY_ALL}&webhook={webhook.pk}")
    asked = {"app_label": "rq_webhooks", "model_name": "delivery", "field_name": "webhook", "term": ""}
    assert client.get(reverse("admin:autocomplete"), asked).status_code == 403


@pytest.mark.one_database
def test_the_message_after_a_test_links_only_to_visible_rows(webhook: Webhook) -> None:
    address = reverse("admin:rq_webhooks_webhook_ping", args=[webhook.pk])
    messages = []
    for more in ((), ("view_event",), ("view_event", "view_delivery")):
        response = browser(make_user("change_webhook", *more)).post(address, follow=True)
        messages.append(str(next(iter(response.context["messages"]))))
    assert ["href" in one for one in messages] == [False, True, True]
    assert ">event " in messages[2]


@pytest.mark.one_database
def test_the_delete_page_counts_deliveries_only_with_permission_to_view_them(db: None, redis: Any) -> None:
    address = reverse("admin:rq_webhooks_webhook_delete", args=[crowded().webhook_id])
    assert "Deliveries of objects that you may not view are deleted, too" in page(
        browser(make_user("delete_webhook")), address
    )
    assert "3 deliveries" in page(browser(make_user("delete_webhook", "view_delivery")), address)


def by_nobody(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    return events.exclude(username="hidden")


def test_a_lane_shows_only_visible_deliveries(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.by_nobody")
    head = make_site_delivery(
        webhook, State.PENDING, make_site_event(1, username="hidden"), reason="Reasonmark", failures=1
    )
    delivery = make_site_delivery(webhook, State.WAITING)
    said = page(browser(make_user(*VIEWS)), reverse("admin:rq_webhooks_delivery_change", args=[delivery.pk]))
    assert "Reasonmark" not in said
    assert str(head.pk) not in said


@pytest.mark.one_database
def test_an_event_links_only_to_a_visible_replay(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.by_nobody")
    client = browser(make_user(*VIEWS))
    for mine, other in (("", "hidden"), ("hidden", "")):
        failed = make_site_event(1, error="KeyError", data="", username=mine)
        replay = make_site_event(1, replay_of=failed.pk, username=other)
        seen, hidden = (failed, replay) if other else (replay, failed)
        said = page(client, reverse("admin:rq_webhooks_event_change", args=[seen.pk]))
        assert reverse("admin:rq_webhooks_event_change", args=[hidden.pk]) not in said
        assert "No webhook matched" not in said
        assert "replay" in said.lower()


@pytest.mark.one_database
def test_a_paused_webhook_shows_no_count_of_hidden_deliveries(db: None, redis: Any) -> None:
    crowded()
    address = reverse("admin:rq_webhooks_webhook_change", args=[Webhook.objects.get(name="Chatname").pk])
    viewer = make_user("view_webhook", "view_delivery")
    without_permission = make_user("view_webhook")
    without_objects = make_user("view_webhook", "view_delivery", sees_objects=False)
    assert "2 not sent yet · the next probe is due" in page(browser(viewer), address)
    for user in (without_permission, without_objects):
        said = page(browser(user), address)
        assert "the next delivery is the probe" in said
        assert not re.search("[0-9]+ waits?", said)


@pytest.mark.one_database
def test_a_run_names_a_webhook_only_to_users_who_may_view_it(webhook: Webhook) -> None:
    run = Run.objects.create(kind="retry", filters={"webhook": webhook.pk}, counts={webhook.pk: 1})
    addresses = [
        reverse("admin:rq_webhooks_run_changelist"),
        reverse("admin:rq_webhooks_run_change", args=[run.pk]),
        reverse("admin:rq_webhooks_run_progress", args=[run.pk]),
        f"{API}/runs/",
        f"{API}/runs/{run.pk}/",
    ]
    for may_view, shown in ((("view_run",), False), (("view_run", "view_webhook"), True)):
        user = make_user(*may_view)
        named = [webhook.name in browser(user).get(address).content.decode() for address in addresses]
        assert any(named) == shown, named


@pytest.mark.one_database
def test_every_permission_of_the_app_has_a_use(db: None) -> None:
    given = Permission.objects.filter(content_type__app_label="rq_webhooks")
    models = {"webhook", "event", "delivery", "run", "skip"}
    assert set(given.values_list("content_type__model", flat=True)) == models, "the other tables are private"
    codenames = given.values_list("codename", flat=True)
    webhook = {f"{action}_webhook" for action in ("add", "change", "delete", "view")}
    assert set(codenames) == webhook | {
        "chain_webhook",
        "add_run",
        "view_run",
        "view_event",
        "replay_event",
        "read_payload_event",
        "view_skip",
        "view_delivery",
        "retry_delivery",
        "resend_delivery",
        "discard_delivery",
    }
