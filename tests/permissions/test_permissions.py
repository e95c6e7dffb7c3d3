"""Permissions in the admin, on the status page and in the REST API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection, models
from django.db.models import Q, QuerySet
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from rest_framework.permissions import SAFE_METHODS, DjangoObjectPermissions, IsAuthenticated
from rest_framework.test import APIClient
from rest_framework.views import APIView

from dcim.models import Device, Site
from tests.support.admin_pages import form, page
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_webhook, to_view_objects
from tests.testapp.models import Gadget, Thing
from webhooks import permissions
from webhooks.admin.counts import Overview
from webhooks.admin.diagnostics import diagnose
from webhooks.api.views import DeliveryViewSet, EventViewSet, WebhookViewSet
from webhooks.models import Delivery, Event, State, Webhook
from webhooks.models.event import CUT
from webhooks.operations.webhooks import ping
from webhooks.workers.redis import Backend, Worker

STATUS = reverse("webhooks_backend_status")
API = "/api/webhooks"
NEW = {"name": "new", "on_created": True, "payload_url": "http://127.0.0.1:9/", "object_types": ["dcim.site"]}
OURS = (
    "view_webhook", "change_webhook", "add_webhook", "delete_webhook", "view_delivery", "view_event", "retry_delivery",
    "discard_delivery",
)  # fmt: skip

# Part of everything about a site, and of nothing about a device.
MARK = "xyzzy"


def user_with(*permissions: str, **fields: Any) -> User:
    """A user with all permissions of the app, and these of other models, such as ``view_site``."""
    user = User.objects.create_user(f"user {User.objects.count()}", is_staff=True, **fields)
    mine = Q(content_type__app_label="webhooks", codename__in=OURS) | Q(codename__in=permissions)
    user.user_permissions.set(Permission.objects.filter(mine))
    return user


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def api(user: User) -> APIClient:
    client = APIClient()
    client.force_authenticate(user)
    return client


@pytest.fixture
def webhook(db: None, redis: Any) -> Webhook:
    webhook = make_webhook(Site, Device, name="CMDB", url="http://127.0.0.1:1/{{ data.name }}")
    Webhook.objects.update(failures_in_a_row=1)
    return webhook


def of_site(webhook: Webhook, key: int = 1, state: State = State.FAILED, **fields: Any) -> Delivery:
    event = make_site_event(key, f"{MARK} {key}", username=MARK, request=json.dumps({"path": MARK}))
    delivery = make_site_delivery(webhook, state, event, reason=f"the URL came out as {MARK}", **fields)
    make_attempt(delivery, url=f"http://{MARK}/", response_body=MARK, response_headers={"X": MARK})
    return delivery


def of_device(webhook: Webhook, key: int = 2) -> Delivery:
    return make_site_delivery(webhook, event=make_site_event(key, "plugh", object_type="dcim.device"))


def pages_of(delivery: Delivery) -> list[str]:
    """Every page of the admin that may show the delivery or its event."""
    event = delivery.event
    lists = [f"admin:webhooks_{model}_changelist" for model in ("webhook", "delivery", "event")]
    return [
        STATUS, reverse("admin:index"), reverse("admin:app_list", args=["webhooks"]), *map(reverse, lists),
        reverse("webhooks_backend_status_retry_all"),
        f"{reverse('admin:webhooks_delivery_changelist')}?q={MARK}",
        f"{reverse('admin:webhooks_delivery_changelist')}?q={delivery.pk}",
        f"{reverse('admin:webhooks_delivery_changelist')}?q=dcim.site:1",
        f"{reverse('admin:webhooks_event_changelist')}?q={MARK}",
        *(reverse(f"admin:webhooks_delivery_{what}", args=[delivery.pk]) for what in ("change", "history")),
        *(reverse(f"admin:webhooks_event_{what}", args=[event.pk]) for what in ("change", "history")),
        *(
            reverse(f"admin:webhooks_webhook_{what}", args=[delivery.webhook_id])
            for what in ("change", "history", "delete")
        ),
    ]  # fmt: skip


def addresses_of(delivery: Delivery) -> list[str]:
    return [
        f"{API}/webhooks/", f"{API}/webhooks/{delivery.webhook_id}/",
        f"{API}/deliveries/", f"{API}/deliveries/?state=failed", f"{API}/deliveries/{delivery.pk}/",
        f"{API}/events/", f"{API}/events/?failed=true", f"{API}/events/{delivery.event_id}/",
    ]  # fmt: skip


def answers(user: User, delivery: Delivery) -> dict[str, str]:
    """The text of each page and response, without the search terms that a page repeats."""
    found = {}
    for address in pages_of(delivery):
        said = browser(user).get(address, follow=True).content.decode()
        found[address] = said.replace(f'value="{MARK}"', "").replace(f"q={MARK}", "")
    for address in addresses_of(delivery):
        found[address] = api(user).get(address, HTTP_ACCEPT="application/json").content.decode()
    return found


@pytest.mark.one_database
def test_no_page_or_response_shows_an_object_that_the_user_may_not_view(webhook: Webhook) -> None:
    hidden = of_site(webhook)
    make_site_event(7, f"{MARK} 7", data="", error=f"Traceback\nKeyError: '{MARK}'", dispatched_at=None)
    of_device(webhook)
    shown = {who: answers(user, hidden) for who, user in (
        ("nobody", user_with()), ("of devices", user_with("view_device")), ("of sites", user_with("view_site")),
        ("root", user_with(is_superuser=True)),
    )}  # fmt: skip
    for who in ("nobody", "of devices"):
        assert [address for address, said in shown[who].items() if MARK in said] == []
    for who in ("of sites", "root"):
        telling = {address for address, said in shown[who].items() if MARK in said}
        assert {STATUS, reverse("admin:webhooks_delivery_changelist"), f"{API}/events/"} < telling
        assert {reverse("admin:webhooks_event_change", args=[hidden.event_id])} < telling
    assert "plugh" in shown["of devices"][STATUS]
    assert "plugh" not in shown["of sites"][STATUS]


@pytest.mark.parametrize("permissions", [(), ("view_device",), ("view_site",)])
def test_counts_include_only_visible_objects(webhook: Webhook, permissions: tuple[str, ...]) -> None:
    for key in range(1, 8):
        of_site(webhook, key)
    make_site_delivery(webhook, State.WAITING, make_site_event(8))
    make_site_event(9, data="", error="KeyError", dispatched_at=None)
    make_site_event(10, dispatched_at=None)
    of_device(webhook)
    user = user_with(*permissions)
    response = browser(user).get(STATUS)
    failed, waiting, odd = {(): (0, 0, 0), ("view_device",): (1, 0, 0), ("view_site",): (7, 1, 1)}[permissions]
    tiles = {tile["state"]: tile["number"] for tile in response.context["tiles"]}
    assert (tiles[State.FAILED], tiles[State.WAITING]) == (str(failed), str(waiting))
    [row] = response.context["webhooks"]
    assert [count["number"] for count in row["counts"]] == ["", str(waiting or ""), "", str(failed or "")]
    assert (response.context["undispatched"], response.context["failed_event_count"]) == (str(odd), str(odd))
    assert "Only deliveries and events of objects that you may view" in response.content.decode()
    listed = browser(user).get(reverse("admin:webhooks_webhook_changelist"))
    [one] = listed.context["cl"].result_list
    assert (one.failed, one.waiting) == (failed, waiting)
    asked = page(browser(user), reverse("admin:webhooks_webhook_delete", args=[webhook.pk]))
    assert f"{failed + waiting} deliver" in asked
    assert "of objects that you may not view" in asked


@pytest.mark.one_database
def test_actions_reach_only_visible_objects(webhook: Webhook) -> None:
    hidden = of_site(webhook)
    odd = make_site_event(7, data="", error="KeyError", dispatched_at=None)
    seen = of_device(webhook)
    user = user_with("view_device")
    for deed in ("retry", "discard"):
        address = reverse(f"admin:webhooks_delivery_{deed}", args=[hidden.pk])
        assert browser(user).post(address).status_code == 404
        assert api(user).post(f"{API}/deliveries/{hidden.pk}/{deed}/").status_code == 404
        browser(user).post(
            reverse("admin:webhooks_delivery_changelist"),
            {"action": f"{deed}_chosen", "_selected_action": [hidden.pk], "select_across": "1"},
        )
    assert browser(user).post(reverse("admin:webhooks_event_replay", args=[odd.pk])).status_code == 404
    browser(user).post(reverse("webhooks_backend_status_retry"), {"delivery": [hidden.pk]})
    assert api(user).post(f"{API}/deliveries/retry/?state=failed").json() == {"retried": 0, "is_complete": True}
    states = dict(Delivery.objects.values_list("pk", "state"))
    assert states[hidden.pk] == State.FAILED
    assert states[seen.pk] == State.DISCARDED  # "select all" selects all visible rows
    browser(user).post(reverse("webhooks_backend_status_retry_all"))
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
    address = reverse("admin:webhooks_webhook_try")
    told = [browser(user).post(address, asked).json()["text"] for user in (user_with(), user_with("view_site"))]
    assert told == [
        "There are no stored events of these models and actions to try it on.",
        "Of the last 1 event, 1 would have been sent and 0 not.",
    ]


def test_events_without_an_object_are_visible(webhook: Webhook) -> None:
    event = make_site_event("core.backed_up", object_type="", action="core.backed_up")
    assert permissions.visible_events(user_with()).get() == event


# What may be sent


@pytest.mark.one_database
def test_sending_a_model_requires_the_permission_to_view_it(webhook: Webhook) -> None:
    user = user_with("view_device")
    answer = browser(user).post(reverse("admin:webhooks_webhook_add"), form(name="new"))
    told = "You may not view dcim.site, so you may not send it. You need the permission dcim.view_site."
    assert answer.context["adminform"].form.errors["object_types"] == [told]
    answer = api(user).post(f"{API}/webhooks/", NEW, format="json")
    assert (answer.status_code, answer.json()) == (400, {"object_types": [told]})
    assert not Webhook.objects.filter(name="new").exists()

    answer = api(user).post(f"{API}/webhooks/", NEW | {"object_types": ["dcim.device"]}, format="json")
    assert answer.status_code == 201, answer.content
    answer = api(user).patch(f"{API}/webhooks/{answer.json()['id']}/", {"object_types": ["dcim.site"]}, format="json")
    assert answer.json() == {"object_types": [told]}


@pytest.mark.one_database
def test_the_destination_is_locked_with_a_hidden_model(webhook: Webhook) -> None:
    user, address = user_with("view_device"), f"{API}/webhooks/{webhook.pk}/"
    change = reverse("admin:webhooks_webhook_change", args=[webhook.pk])
    picked = ContentType.objects.get_for_models(Site, Device).values()
    kept = form(
        name="renamed", payload_url=webhook.payload_url, object_types=[one.pk for one in picked], on_created="on",
        on_updated="on", on_deleted="on",
    )  # fmt: skip
    assert browser(user).post(change, kept).status_code == 302
    assert Webhook.objects.get().name == "renamed"
    told = "This webhook sends dcim.site, which you may not view, so you may not change where it sends to."
    for name, value in (("payload_url", "http://127.0.0.1:666/"), ("ssl_verification", False), ("ca_file_path", "/x")):
        answer = api(user).patch(address, {name: value}, format="json")
        assert (answer.status_code, answer.json()) == (400, {name: [told]})
    answer = browser(user).post(change, kept | {"payload_url": "http://127.0.0.1:666/"})
    assert answer.context["adminform"].form.errors["payload_url"] == [told]

    # Removing the model first does not help while a change of it waits.
    waiting = of_site(webhook, state=State.PENDING)
    assert api(user).patch(address, {"object_types": ["dcim.device"]}, format="json").status_code == 200
    answer = api(user).patch(address, {"payload_url": "http://127.0.0.1:666/"}, format="json")
    assert "wait to be sent" in answer.json()["payload_url"][0]
    for state in (State.FAILED, State.DISCARDED):
        Delivery.objects.update(state=state)
        answer = api(user).patch(address, {"payload_url": "http://127.0.0.1:666/"}, format="json")
        assert "may be retried" in answer.json()["payload_url"][0]
    waiting.delete()
    assert api(user).patch(address, {"payload_url": "http://127.0.0.1:666/"}, format="json").status_code == 200


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
    address, change = f"{API}/webhooks/{webhook.pk}/", reverse("admin:webhooks_webhook_change", args=[webhook.pk])
    picked = ContentType.objects.get_for_models(Site, Device).values()
    kept = form(
        payload_url=webhook.payload_url, object_types=[one.pk for one in picked], on_updated="on",
        body_template="a\r\nb\r\n",
    )  # fmt: skip
    user, viewer = user_with("view_device"), user_with("view_device", "view_site")
    told = "This webhook sends dcim.site, which you may not view, so you may not change the content that it sends."
    answer = api(user).patch(address, {name: value}, format="json")
    assert (answer.status_code, answer.json()) == (400, {name: [told]})
    answer = browser(user).post(change, kept | {name: entered})
    assert answer.context["adminform"].form.errors[name] == [told]
    before = Webhook.objects.values().get()
    same = {"conditions": {}, "body_template": "a\r\nb", "changed_fields": [], "on_deleted": False, "timeout": 7}
    assert api(user).patch(address, same, format="json").status_code == 200
    assert browser(user).post(change, kept | {"timeout": "8"}).status_code == 302
    after = Webhook.objects.values().get()
    assert {one for one in after if after[one] != before[one]} <= {"timeout", "body_template", "last_updated"}

    assert api(viewer).patch(address, {name: value}, format="json").status_code == 200
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
    answer = api(user_with("view_device")).patch(f"{API}/webhooks/{webhook.pk}/", {name: value}, format="json")
    told = (
        "Changes of objects that you may not view wait to be sent, or may be retried or replayed, so you may not "
        "change the content that it sends."
    )
    assert (answer.json() == {name: [told]}) == is_refused
    assert answer.status_code == (400 if is_refused else 200)


@pytest.mark.parametrize("error", ["", f"{CUT}depth 4"])
def test_the_destination_is_locked_while_hidden_events_wait(webhook: Webhook, error: str) -> None:
    webhook.object_types.set([ContentType.objects.get_for_model(Device)])
    others = [webhook.pk * 10, webhook.pk * 10 + 1, int(f"1{webhook.pk}")]
    event = make_site_event(7, dispatched_at=None, error=error, webhook_ids=[*others, webhook.pk])
    address, elsewhere = f"{API}/webhooks/{webhook.pk}/", {"payload_url": "http://127.0.0.1:666/"}
    answer = api(user_with("view_device")).patch(address, elsewhere, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["payload_url"])
    assert "Changes of objects that you may not view wait to be sent" in answer.json()["payload_url"][0]
    Event.objects.filter(pk=event.pk).update(webhook_ids=others)
    assert api(user_with("view_device")).patch(address, elsewhere, format="json").status_code == 200
    Event.objects.filter(pk=event.pk).update(webhook_ids=[webhook.pk, *others])
    assert (
        api(user_with("view_device"))
        .patch(address, elsewhere | {"payload_url": "http://127.0.0.1:667/"}, format="json")
        .status_code
        == 400
    )
    assert (
        api(user_with("view_device", "view_site"))
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
    refused = permissions.refusals(user_with("view_device"), webhook, values, [], enters_secret_headers=False)
    assert "wait to be sent" in refused["payload_url"]


@pytest.mark.one_database
@pytest.mark.parametrize("change", [{"payload_url": "http://127.0.0.1:666/"}, {"ca_file_path": "/x"}])
@pytest.mark.parametrize("entered", [None, "X-Token: another", ""])
def test_a_new_destination_requires_new_secret_headers(
    webhook: Webhook, change: dict[str, str], entered: str | None
) -> None:
    Webhook.objects.update(secret_headers="X-Token: planted")
    given = change | ({} if entered is None else {"secret_headers": entered})
    user, address = user_with("view_site", "view_device"), f"{API}/webhooks/{webhook.pk}/"
    told = ["They would go to the new destination: enter them again, or clear them."]
    answer = api(user).patch(address, given, format="json")
    if entered is None:
        assert (answer.status_code, answer.json()) == (400, {"secret_headers": told})
        assert Webhook.objects.get().secret_headers == "X-Token: planted"
    else:
        assert (answer.status_code, Webhook.objects.get().secret_headers) == (200, entered)


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("entered", "kept"),
    [
        ({}, None),
        ({"secret_headers": "X-Token: another"}, "X-Token: another"),
        ({"clear_secret_headers": "on"}, ""),
    ],
)
def test_the_admin_requires_new_secret_headers_too(webhook: Webhook, entered: dict[str, str], kept: str | None) -> None:
    Webhook.objects.update(secret_headers="X-Token: planted")
    user = user_with("view_site", "view_device")
    change = reverse("admin:webhooks_webhook_change", args=[webhook.pk])
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
        return self.filter(name=user.username)


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
    webhooks_settings(MAY_VIEW="webhooks.permissions.by_restriction")
    restrict(monkeypatch, Thing, Gadget)
    user = user_with("view_thing", "view_gadget", "view_site")
    mine, other, gone = (model.objects.create(name=name) for name in (user.username, "other", "gone"))
    label = model._meta.label_lower
    for row in (mine, other, gone):
        make_site_delivery(webhook, event=make_site_event(str(row.pk), f"named {row.name}", object_type=label))
    of_site(webhook)
    gone.delete()

    seen = set(permissions.visible_events(user).values_list("object_repr", flat=True))
    assert seen == {f"named {user.username}", "named gone", f"{MARK} 1"}
    assert permissions.visible_deliveries(user).count() == 3
    shown = answers(user, Delivery.objects.get(event__object_repr="named other"))
    assert not [address for address, said in shown.items() if "named other" in said]
    assert "named gone" in shown[f"{API}/deliveries/"]
    # Without the permission for the model, no event of it is visible, not even of a deleted object.
    assert set(permissions.visible_events(user_with("view_site")).values_list("object_type", flat=True)) == {
        "dcim.site"
    }
    assert permissions.visible_events(user_with(is_superuser=True)).count() == 4


@pytest.mark.parametrize("policy", ["by_model", "by_restriction"])
def test_queries_do_not_grow_with_rows(
    webhook: Webhook, policy: str, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any
) -> None:
    webhooks_settings(MAY_VIEW=f"webhooks.permissions.{policy}")
    restrict(monkeypatch, Thing)
    user = user_with("view_site", "view_thing")
    counts: list[list[int]] = []
    for keys in (range(1, 3), range(3, 30)):
        for key in keys:
            of_site(webhook, key)
            make_site_event(key, data="", error="KeyError", dispatched_at=None, object_type="testapp.thing")
        addresses = (STATUS, reverse("admin:webhooks_delivery_changelist"), reverse("admin:webhooks_event_changelist"))
        user.get_all_permissions()  # cached once for each request
        counts.append([queries(lambda one=one: browser(user).get(one)) for one in addresses])
        counts[-1] += [queries(lambda one=one: api(user).get(f"{API}/{one}/")) for one in ("deliveries", "events")]
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
    return events.filter(permissions.of_objects(Thing.objects.filter(name=user.username)))


def things_by_name_and_gone(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    mine = Thing.objects.filter(name=user.username)
    return events.filter(permissions.of_objects(mine, and_gone=user.has_perm("testapp.view_thing")))


def test_events_of_deleted_objects_are_visible_only_on_request(webhook: Webhook, webhooks_settings: Any) -> None:
    nobody, viewer = user_with(), user_with("view_thing")
    for name in (nobody.username, viewer.username, "gone"):
        thing = Thing.objects.create(name=name)
        make_site_event(str(thing.pk), name, object_type="testapp.thing")
    thing.delete()
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.things_by_name")
    for user in (nobody, viewer):
        assert [event.object_repr for event in permissions.visible_events(user)] == [user.username]
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.things_by_name_and_gone")
    assert [event.object_repr for event in permissions.visible_events(nobody)] == [nobody.username]
    assert {event.object_repr for event in permissions.visible_events(viewer)} == {viewer.username, "gone"}


@pytest.mark.one_database
@pytest.mark.parametrize("named", ["nowhere.to.be_found", "webhooks.permissions.DESTINATION_FIELDS"])
def test_without_a_usable_callable_only_superusers_see_events(
    webhook: Webhook, webhooks_settings: Any, named: str
) -> None:
    webhooks_settings(MAY_VIEW=named)
    of_site(webhook)
    assert not permissions.visible_events(user_with("view_site")).exists()
    assert permissions.visible_events(user_with(is_superuser=True)).exists()


# The admin's history


@pytest.mark.one_database
def test_the_history_records_every_change_by_the_api_and_no_secret(db: None, redis: Any) -> None:
    user = user_with("view_site")
    pk = api(user).post(f"{API}/webhooks/", NEW | {"secret": "planted secret"}, format="json").json()["id"]
    for change in (
        {"enabled": False}, {"secret": "another planted one"}, {"name": "new"},
        {"payload_url": "http://127.0.0.1:9/planted"}, {"additional_headers": "X-Planted: 1"},
        {"secret_headers": "X-Planted: 12345678"},
        {"object_types": ["dcim.site"], "timeout": 5}, {"enabled": True},
    ):  # fmt: skip
        assert api(user).patch(f"{API}/webhooks/{pk}/", change, format="json").status_code == 200
    api(user).delete(f"{API}/webhooks/{pk}/")
    told = [
        (entry.user, entry.get_change_message() or ("Deleted." if entry.is_deletion() else ""))
        for entry in LogEntry.objects.order_by("pk")
    ]
    said = [
        "Added.", "Changed Enabled.", "Changed Secret.", "Changed Payload URL.",
        "Changed Additional headers.", "Changed Secret headers.", "Changed Timeout.",
        "Changed Enabled.", "Deleted.",
    ]  # fmt: skip
    assert told == [(user, words) for words in said]
    assert "lanted" not in str(list(LogEntry.objects.values()))


# Secrets in URLs, headers and templates

PLANTED = "T0ps3cret"
HOOK = f"https://hooks.example:8443/services/{PLANTED}?key={PLANTED}"
VIEWS = ("view_webhook", "view_delivery", "view_event")
DEEDS = ("retry_delivery", "discard_delivery", "add_webhook", "delete_webhook")


def only(*permissions: str) -> User:
    """A user with only these permissions of the app, and the permission to view all objects."""
    user = User.objects.create_user(f"user {User.objects.count()}", is_staff=True)
    mine = Q(content_type__app_label="webhooks", codename__in=permissions)
    user.user_permissions.set(Permission.objects.filter(mine | to_view_objects()))
    return user


def planted() -> Delivery:
    """A delivery to a secret URL. The secret is in every place that a URL, a header or a template may reach."""
    webhook = make_webhook(
        Site, name="Chat", url=HOOK, additional_headers=f"X-Token: {PLANTED}", body_template=f"{PLANTED} {{{{ data }}}}"
    )
    event = make_site_event()
    redirected = f"HTTP 308: redirects to {HOOK}/, which is not followed"
    make_site_delivery(webhook, State.PENDING, event, reason=redirected, in_lane=True, failures=1)
    delivery = make_site_delivery(
        webhook, event=make_site_event(), reason=f"the URL came out as '{HOOK}': odd", in_lane=False
    )
    answer = {"response_headers": {"Location": HOOK}, "response_body": f"Cannot POST /services/{PLANTED}"}
    make_attempt(delivery, reason=redirected, **answer)
    return delivery


@pytest.mark.one_database
@pytest.mark.parametrize("permissions", [VIEWS, (*VIEWS, *DEEDS)])
def test_only_users_who_may_change_a_webhook_see_a_secret_in_its_url_headers_template_and_answers(
    db: None, redis: Any, permissions: tuple[str, ...]
) -> None:
    delivery = planted()
    shown = answers(only(*permissions), delivery)
    assert [address for address, said in shown.items() if PLANTED in said] == []
    told = answers(only(*VIEWS, "change_webhook"), delivery)
    telling = {address for address, said in told.items() if PLANTED in said}
    assert telling >= {
        STATUS, reverse("admin:webhooks_webhook_change", args=[delivery.webhook_id]),
        reverse("admin:webhooks_delivery_change", args=[delivery.pk]),
        reverse("admin:webhooks_event_change", args=[delivery.event_id]),
        f"{API}/webhooks/", f"{API}/deliveries/", f"{API}/deliveries/{delivery.pk}/",
    }  # fmt: skip


@pytest.mark.one_database
def test_other_users_see_scheme_host_and_port_and_the_permission_that_shows_more(db: None, redis: Any) -> None:
    delivery = planted()
    shown = answers(only(*VIEWS), delivery)
    form = shown[reverse("admin:webhooks_webhook_change", args=[delivery.webhook_id])]
    of_it = shown[reverse("admin:webhooks_delivery_change", args=[delivery.pk])]
    listed = shown[reverse("admin:webhooks_webhook_changelist")]
    for said in (form, of_it, listed):
        assert "https://hooks.example:8443/…" in said
    assert form.count("shown to users who may change the webhook (webhooks.change_webhook)") == 3
    assert of_it.count("shown to users who may change the webhook (webhooks.change_webhook)") == 2
    assert "HTTP 308 Permanent Redirect: redirects are not followed" in of_it
    answer = json.loads(shown[f"{API}/webhooks/{delivery.webhook_id}/"])
    hidden = {name: answer[name] for name in ("payload_url", "additional_headers", "body_template")}
    assert hidden == {
        "payload_url": "https://hooks.example:8443/…", "additional_headers": None, "body_template": None,
    }  # fmt: skip
    [attempt] = json.loads(shown[f"{API}/deliveries/{delivery.pk}/"])["attempts"]
    assert attempt["url"] == "https://hooks.example:8443/…"
    assert (attempt["response_body"], attempt["response_headers"]) == (None, None)


@pytest.mark.one_database
def test_search_filters_and_order_reveal_no_url_and_no_answer(db: None, redis: Any) -> None:
    delivery = planted()
    viewer, changer = only(*VIEWS), only(*VIEWS, "change_webhook")
    webhooks, deliveries, events = (
        reverse(f"admin:webhooks_{one}_changelist") for one in ("webhook", "delivery", "event")
    )
    found = {
        user: [len(browser(user).get(webhooks, {"q": q}).context["cl"].result_list) for q in (PLANTED[:3], "Chat")]
        for user in (viewer, changer)
    }
    assert found == {viewer: [0, 1], changer: [1, 1]}
    suggest = {"app_label": "webhooks", "model_name": "delivery", "field_name": "webhook", "term": PLANTED[:3]}
    for user, count in ((viewer, 0), (changer, 1)):
        assert len(browser(user).get(reverse("admin:autocomplete"), suggest).json()["results"]) == count
    for address, asked in (
        (webhooks, "payload_url__startswith"), (deliveries, "webhook__payload_url__startswith"),
        (deliveries, "reason__contains"), (deliveries, "attempts__url__startswith"),
        (deliveries, "attempts__response_body__contains"), (events, "deliveries__webhook__payload_url__contains"),
    ):  # fmt: skip
        assert browser(viewer).get(address, {asked: "h"}).status_code == 400, asked
    make_webhook(Site, name="Other", url="https://zzz.example/")
    for asked in ({"search": PLANTED}, {"ordering": "-payload_url"}, {"payload_url": HOOK}):
        assert api(viewer).get(f"{API}/webhooks/", asked).status_code == 400
    assert api(viewer).get(f"{API}/webhooks/", {"q": PLANTED}).json()["results"] == []
    assert api(viewer).get(f"{API}/deliveries/", {"webhook": delivery.webhook_id}).status_code == 200


# Each permission alone


def crowded() -> Delivery:
    """Deliveries and Events in each state, and a webhook without deliveries."""
    chat = make_webhook(Site, name="Chatname")
    make_webhook(Site, name="Lonelyname")
    now = timezone.now()
    Webhook.objects.update(failures_in_a_row=2, probe_at=now, last_failure="Healthmark", last_failure_at=now)
    event = make_site_event(1, "AMS1", webhook_ids=[chat.pk])
    make_site_delivery(chat, State.PENDING, event, reason="Reasonmark", failures=1)
    make_site_delivery(chat, State.WAITING)
    failed = make_site_event(2, data="", error="Traceback\nKeyError: 'Errormark'", dispatched_at=None)
    make_site_event(2, replay_of=failed.pk, dispatched_at=None)
    Event.objects.filter(pk=failed.pk).update(dispatched_at=timezone.now())
    make_site_event(3, data="", error="Traceback\nKeyError: 'Errormark'", dispatched_at=None)
    delivery = make_site_delivery(chat, event=make_site_event(4), reason="Reasonmark")
    make_attempt(delivery)
    return delivery


MARKS = {"Chatname", "Lonelyname", "Healthmark", "Reasonmark", "Errormark"}


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("permissions", "marks"),
    [
        ((), set()),
        (("view_webhook",), {"Chatname", "Lonelyname", "Healthmark"}),
        (("change_webhook",), {"Chatname", "Lonelyname", "Healthmark"}),
        (("view_event",), {"Errormark"}),
        (("view_delivery",), {"Chatname", "Reasonmark"}),
        (("view_delivery", "view_event"), {"Chatname", "Reasonmark", "Errormark"}),
        (("view_delivery", "view_webhook"), MARKS - {"Errormark"}),
        (("view_event", "view_webhook"), MARKS - {"Reasonmark"}),
        (("add_webhook",), set()),
        (("delete_webhook",), {"Chatname"}),
        (("retry_delivery", "discard_delivery"), set()),
    ],
)
def test_each_part_of_a_page_requires_the_permission_for_its_data(
    db: None, redis: Any, permissions: tuple[str, ...], marks: set[str]
) -> None:
    said = answers(only(*permissions), crowded())
    assert {mark for mark in MARKS if mark in str(said)} == marks


@pytest.mark.one_database
@pytest.mark.parametrize(
    "permissions",
    [
        *((one,) for one in (*VIEWS, "change_webhook", *DEEDS)), VIEWS,
        ("view_delivery", "retry_delivery", "discard_delivery"), ("view_event", "retry_delivery"),
    ],
)  # fmt: skip
def test_every_link_leads_to_a_page_that_the_user_may_open(db: None, redis: Any, permissions: tuple[str, ...]) -> None:
    crowded()
    client, seen = browser(only(*permissions)), {reverse("admin:index")}
    ahead = list(seen)
    while ahead:
        address = ahead.pop()
        response = client.get(address)
        assert response.status_code == 200, address
        links = {urljoin(address, unescape(link)) for link in re.findall(r'href="([^"#]*)', response.content.decode())}
        # Not all combinations of filters.
        new = {
            link for link in links if link.startswith("/admin/webhook") and not ("?" in link and "?" in address)
        } - seen
        seen |= new
        ahead += new
    assert len(seen) < 500


@pytest.mark.one_database
def test_the_status_page_says_when_it_leaves_something_out(db: None, redis: Any) -> None:
    crowded()
    said = page(browser(only("view_delivery")), STATUS)
    assert "You do not have permission to view webhooks and events" in said
    assert "webhooks.view_webhook and webhooks.view_event" in said
    assert "No webhook is defined" not in said
    assert "is left out" not in page(browser(only(*VIEWS)), STATUS)
    hidden = Overview(hidden=("webhooks",))
    worker = Worker("w", ("webhooks",), is_shipped=True)
    [diagnosis] = diagnose(hidden, Backend("webhooks", workers=(worker,)), True, timezone.now())
    assert diagnosis.text.startswith("Nothing is wrong with what you may view")


@pytest.mark.one_database
def test_a_hidden_webhook_cannot_be_used_in_a_url(db: None, redis: Any) -> None:
    webhook = crowded().webhook
    client, address = browser(only("view_delivery", "retry_delivery")), reverse("webhooks_backend_status_retry_all")
    assert client.get(address, {"webhook": webhook.pk}).status_code == 404
    assert client.post(f"{address}?webhook={webhook.pk}").status_code == 404
    assert client.get(address).status_code == 200
    asked = {"app_label": "webhooks", "model_name": "delivery", "field_name": "webhook", "term": ""}
    assert client.get(reverse("admin:autocomplete"), asked).status_code == 403


@pytest.mark.one_database
def test_the_message_after_a_test_links_only_to_visible_rows(webhook: Webhook) -> None:
    address = reverse("admin:webhooks_webhook_ping", args=[webhook.pk])
    told = [str(browser(only("change_webhook", *more)).post(address, follow=True).context["messages"]._loaded_data[0])
            for more in ((), ("view_event",), ("view_event", "view_delivery"))]  # fmt: skip
    assert ["href" in one for one in told] == [False, True, True]
    assert ">event " in told[2]


@pytest.mark.one_database
def test_the_delete_page_counts_deliveries_only_with_permission_to_view_them(db: None, redis: Any) -> None:
    address = reverse("admin:webhooks_webhook_delete", args=[crowded().webhook_id])
    assert "Deliveries of objects that you may not view are deleted, too" in page(
        browser(only("delete_webhook")), address
    )
    assert "3 deliveries" in page(browser(only("delete_webhook", "view_delivery")), address)


def by_nobody(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    return events.exclude(username="hidden")


def test_a_lane_shows_only_visible_deliveries(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.by_nobody")
    head = make_site_delivery(
        webhook, State.PENDING, make_site_event(1, username="hidden"), reason="Reasonmark", failures=1
    )
    delivery = make_site_delivery(webhook, State.WAITING)
    said = page(browser(only(*VIEWS)), reverse("admin:webhooks_delivery_change", args=[delivery.pk]))
    assert "Reasonmark" not in said
    assert str(head.pk) not in said


@pytest.mark.one_database
def test_an_event_links_only_to_a_visible_replay(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.by_nobody")
    client = browser(only(*VIEWS))
    for mine, other in (("", "hidden"), ("hidden", "")):
        failed = make_site_event(1, error="KeyError", data="", username=mine)
        replay = make_site_event(1, replay_of=failed.pk, username=other)
        seen, hidden = (failed, replay) if other else (replay, failed)
        said = page(client, reverse("admin:webhooks_event_change", args=[seen.pk]))
        assert reverse("admin:webhooks_event_change", args=[hidden.pk]) not in said
        assert "No webhook matched" not in said
        assert "replay" in said.lower()


@pytest.mark.one_database
def test_a_paused_webhook_shows_no_count_of_hidden_deliveries(db: None, redis: Any) -> None:
    crowded()
    address = reverse("admin:webhooks_webhook_change", args=[Webhook.objects.get(name="Chatname").pk])
    assert "2 deliveries stored. The next probe" in page(browser(only("view_webhook", "view_delivery")), address)
    said = page(browser(only("view_webhook")), address)
    assert "The next probe is due" in said
    assert "stored" not in said.partition("form-row")[0]


@pytest.mark.one_database
def test_every_permission_of_the_app_has_a_use(db: None) -> None:
    codenames = Permission.objects.filter(content_type__app_label="webhooks").values_list("codename", flat=True)
    webhook = {f"{action}_webhook" for action in ("add", "change", "delete", "view")}
    assert set(codenames) == webhook | {
        "chain_webhook",
        "view_event",
        "view_delivery",
        "retry_delivery",
        "discard_delivery",
    }


# The host's own API


class TokenPermissions(DjangoObjectPermissions):
    """As NetBox's: a token may be read-only."""

    perms_map = {**DjangoObjectPermissions.perms_map, "GET": ["%(app_label)s.view_%(model_name)s"]}

    def has_permission(self, request: Any, view: Any) -> bool:
        is_write = request.method not in SAFE_METHODS
        return not (is_write and request.auth.read_only) and super().has_permission(request, view)

    def has_object_permission(self, request: Any, view: Any, obj: Any) -> bool:
        return True


def by_token(user: User, read_only: bool) -> APIClient:
    client = APIClient()
    client.force_authenticate(user, SimpleNamespace(read_only=read_only))
    return client


TokenPermissionsOfUsers = IsAuthenticated & TokenPermissions


@pytest.fixture(params=["TokenPermissions", "TokenPermissionsOfUsers"])
def host_rules(request: pytest.FixtureRequest, settings: Any) -> None:
    rules = [f"tests.permissions.test_permissions.{request.param}"]
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "DEFAULT_PERMISSION_CLASSES": rules}


@pytest.mark.one_database
def test_the_permission_classes_of_the_host_apply_too(webhook: Webhook, host_rules: None) -> None:
    delivery = of_site(webhook)
    everything, nothing = user_with("view_site", "view_device"), User.objects.create_user("bob")
    address = f"{API}/webhooks/{webhook.pk}/"
    writes = [
        ("post", f"{API}/webhooks/", NEW, 201), ("patch", address, {"name": "other"}, 200),
        ("put", address, NEW | {"name": "third"}, 200),
        ("post", f"{API}/deliveries/{delivery.pk}/retry/", None, 200),
        ("post", f"{API}/deliveries/{delivery.pk}/discard/", None, 200),
        ("post", f"{API}/deliveries/retry/?state=discarded", None, 200), ("delete", address, None, 204),
    ]  # fmt: skip
    reading = by_token(everything, read_only=True)
    for read in addresses_of(delivery):
        assert reading.get(read).status_code == 200
        assert by_token(nothing, read_only=False).get(read).status_code == 403
    before = (Webhook.objects.values().get(), Delivery.objects.values().get())
    for client in (reading, by_token(nothing, read_only=False)):
        for method, url, body, _ in writes:
            if "?state" not in url:
                assert getattr(client, method)(url, body, format="json").status_code == 403
    assert (Webhook.objects.values().get(), Delivery.objects.values().get()) == before
    for method, url, body, status in writes:
        answer = getattr(by_token(everything, read_only=False), method)(url, body, format="json")
        assert answer.status_code == status, (method, url, answer.content)
    assert [one.name for one in Webhook.objects.all()] == ["new"]


@pytest.mark.one_database
def test_a_read_only_token_cannot_retry_in_bulk(database: str, redis: Any, host_rules: None) -> None:
    of_site(make_webhook(Site))
    assert (
        by_token(user_with("view_site"), read_only=True).post(f"{API}/deliveries/retry/?state=failed").status_code
        == 403
    )
    assert Delivery.objects.failed().count() == 1


@pytest.mark.one_database
def test_each_operation_requires_its_own_permission_by_the_classes_of_the_host_too(
    webhook: Webhook, host_rules: None
) -> None:
    delivery = of_site(webhook)
    user = User.objects.create_user("bob")
    user.user_permissions.set(
        Permission.objects.filter(codename__in=["view_delivery", "view_site", "discard_delivery"])
    )
    client = by_token(user, read_only=False)
    assert client.post(f"{API}/deliveries/{delivery.pk}/retry/").status_code == 403
    assert client.post(f"{API}/deliveries/{delivery.pk}/discard/").status_code == 200


def test_throttles_and_authentication_are_those_of_the_host() -> None:
    for view in (WebhookViewSet, DeliveryViewSet, EventViewSet):
        assert view.throttle_classes is APIView.throttle_classes
        assert view.authentication_classes is APIView.authentication_classes
