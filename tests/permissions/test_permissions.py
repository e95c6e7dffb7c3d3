"""Who may see what: in the admin, on the status page and in the REST API."""

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

# Stands in all that tells of a site, and in nothing that tells of a device.
MARK = "xyzzy"


def somebody(*permissions: str, **fields: Any) -> User:
    """Who may do all that the app lets one do, and beside it only this, such as ``view_site``."""
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
    """Every page of the admin on which it, or its event, could be seen."""
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
    """What each page and address says; search terms that a page repeats are none of its own words."""
    found = {}
    for address in pages_of(delivery):
        said = browser(user).get(address, follow=True).content.decode()
        found[address] = said.replace(f'value="{MARK}"', "").replace(f"q={MARK}", "")
    for address in addresses_of(delivery):
        found[address] = api(user).get(address, HTTP_ACCEPT="application/json").content.decode()
    return found


def test_who_may_not_view_an_object_reads_nothing_of_it_anywhere(webhook: Webhook) -> None:
    hidden = of_site(webhook)
    make_site_event(7, f"{MARK} 7", data="", error=f"Traceback\nKeyError: '{MARK}'", dispatched_at=None)
    of_device(webhook)
    shown = {who: answers(user, hidden) for who, user in (
        ("nobody", somebody()), ("of devices", somebody("view_device")), ("of sites", somebody("view_site")),
        ("root", somebody(is_superuser=True)),
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
def test_counts_tell_only_of_what_may_be_seen(webhook: Webhook, permissions: tuple[str, ...]) -> None:
    for key in range(1, 8):
        of_site(webhook, key)
    make_site_delivery(webhook, State.WAITING, make_site_event(8))
    make_site_event(9, data="", error="KeyError", dispatched_at=None)
    make_site_event(10, dispatched_at=None)
    of_device(webhook)
    user = somebody(*permissions)
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


def test_nothing_can_be_done_to_what_may_not_be_seen(webhook: Webhook) -> None:
    hidden = of_site(webhook)
    odd = make_site_event(7, data="", error="KeyError", dispatched_at=None)
    seen = of_device(webhook)
    user = somebody("view_device")
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
    assert states[seen.pk] == State.DISCARDED  # by "select all", which goes as far as one sees
    browser(user).post(reverse("webhooks_backend_status_retry_all"))
    assert Delivery.objects.get(pk=hidden.pk).state == State.FAILED
    assert Event.objects.failed().count() == 1


def test_a_test_of_a_webhook_is_of_no_object_and_may_be_seen(webhook: Webhook) -> None:
    event = ping(webhook)
    assert permissions.visible_events(somebody()).get() == event


def test_conditions_are_tried_on_what_may_be_seen_alone(webhook: Webhook) -> None:
    of_site(webhook)
    asked = {
        "on_updated": "on", "object_types": [ContentType.objects.get_for_model(Site).pk],
        "conditions": json.dumps({"attr": "name", "value": f"{MARK} 1"}),
    }  # fmt: skip
    address = reverse("admin:webhooks_webhook_try")
    told = [browser(user).post(address, asked).json()["text"] for user in (somebody(), somebody("view_site"))]
    assert told == [
        "There are no stored events of these models and actions to try it on.",
        "Of the last 1 event, 1 would have been sent and 0 not.",
    ]


def test_events_of_no_object_may_be_seen(webhook: Webhook) -> None:
    event = make_site_event("core.backed_up", object_type="", action="core.backed_up")
    assert permissions.visible_events(somebody()).get() == event


# What may be sent


def test_only_who_may_view_a_model_may_have_it_sent(webhook: Webhook) -> None:
    user = somebody("view_device")
    answer = browser(user).post(reverse("admin:webhooks_webhook_add"), form(name="new"))
    told = "You may not view dcim.site, so you may not send it: that takes dcim.view_site."
    assert answer.context["adminform"].form.errors["object_types"] == [told]
    answer = api(user).post(f"{API}/webhooks/", NEW, format="json")
    assert (answer.status_code, answer.json()) == (400, {"object_types": [told]})
    assert not Webhook.objects.filter(name="new").exists()

    answer = api(user).post(f"{API}/webhooks/", NEW | {"object_types": ["dcim.device"]}, format="json")
    assert answer.status_code == 201, answer.content
    answer = api(user).patch(f"{API}/webhooks/{answer.json()['id']}/", {"object_types": ["dcim.site"]}, format="json")
    assert answer.json() == {"object_types": [told]}


def test_what_others_picked_stays_and_goes_nowhere_else(webhook: Webhook) -> None:
    user, address = somebody("view_device"), f"{API}/webhooks/{webhook.pk}/"
    change = reverse("admin:webhooks_webhook_change", args=[webhook.pk])
    picked = ContentType.objects.get_for_models(Site, Device).values()
    kept = form(
        name="renamed", payload_url=webhook.payload_url, object_types=[one.pk for one in picked], on_created="on",
        on_updated="on", on_deleted="on",
    )  # fmt: skip
    assert browser(user).post(change, kept).status_code == 302
    assert Webhook.objects.get().name == "renamed"
    told = "This webhook sends dcim.site, which you may not view, so you may not change where to."
    for name, value in (("payload_url", "http://127.0.0.1:666/"), ("ssl_verification", False), ("ca_file_path", "/x")):
        answer = api(user).patch(address, {name: value}, format="json")
        assert (answer.status_code, answer.json()) == (400, {name: [told]})
    answer = browser(user).post(change, kept | {"payload_url": "http://127.0.0.1:666/"})
    assert answer.context["adminform"].form.errors["payload_url"] == [told]

    # Nor by dropping the model first, while something of it waits to be sent.
    waiting = of_site(webhook, state=State.PENDING)
    assert api(user).patch(address, {"object_types": ["dcim.device"]}, format="json").status_code == 200
    answer = api(user).patch(address, {"payload_url": "http://127.0.0.1:666/"}, format="json")
    assert "wait to be sent" in answer.json()["payload_url"][0]
    for state in (State.FAILED, State.DISCARDED):
        Delivery.objects.update(state=state)
        answer = api(user).patch(address, {"payload_url": "http://127.0.0.1:666/"}, format="json")
        assert "may be sent again" in answer.json()["payload_url"][0]
    waiting.delete()
    assert api(user).patch(address, {"payload_url": "http://127.0.0.1:666/"}, format="json").status_code == 200


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
def test_what_others_picked_tells_no_more_of_itself(webhook: Webhook, name: str, value: Any, entered: str) -> None:
    Webhook.objects.update(on_deleted=False, body_template="a\nb\n")
    address, change = f"{API}/webhooks/{webhook.pk}/", reverse("admin:webhooks_webhook_change", args=[webhook.pk])
    picked = ContentType.objects.get_for_models(Site, Device).values()
    kept = form(
        payload_url=webhook.payload_url, object_types=[one.pk for one in picked], on_updated="on",
        body_template="a\r\nb\r\n",
    )  # fmt: skip
    user, viewer = somebody("view_device"), somebody("view_device", "view_site")
    told = "This webhook sends dcim.site, which you may not view, so you may not change what of it."
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


@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [("body_template", "{{ data }}", True), ("additional_headers", "X-A: {{ data.name }}", True),
     ("conditions", {"attr": "name", "value": "A"}, False)],
)  # fmt: skip
def test_what_waits_is_told_as_it_was_to_be(webhook: Webhook, name: str, value: Any, is_refused: bool) -> None:
    of_site(webhook, state=State.PENDING)
    webhook.object_types.set([ContentType.objects.get_for_model(Device)])
    answer = api(somebody("view_device")).patch(f"{API}/webhooks/{webhook.pk}/", {name: value}, format="json")
    told = (
        "Changes of objects that you may not view wait to be sent, or may be sent again, so you may not change what of "
        "them."
    )
    assert (answer.json() == {name: [told]}) == is_refused
    assert answer.status_code == (400 if is_refused else 200)


@pytest.mark.parametrize("error", ["", "Traceback\nKeyError: 'name'", f"{CUT}depth 4"])
def test_what_is_not_dispatched_yet_or_may_be_replayed_goes_nowhere_else(webhook: Webhook, error: str) -> None:
    webhook.object_types.set([ContentType.objects.get_for_model(Device)])
    others = [webhook.pk * 10, webhook.pk * 10 + 1, int(f"1{webhook.pk}")]
    event = make_site_event(7, dispatched_at=None, error=error, webhook_ids=[*others, webhook.pk])
    address, elsewhere = f"{API}/webhooks/{webhook.pk}/", {"payload_url": "http://127.0.0.1:666/"}
    answer = api(somebody("view_device")).patch(address, elsewhere, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["payload_url"])
    assert "Changes of objects that you may not view wait to be sent" in answer.json()["payload_url"][0]
    Event.objects.filter(pk=event.pk).update(webhook_ids=others)
    assert api(somebody("view_device")).patch(address, elsewhere, format="json").status_code == 200
    Event.objects.filter(pk=event.pk).update(webhook_ids=[webhook.pk, *others])
    assert (
        api(somebody("view_device"))
        .patch(address, elsewhere | {"payload_url": "http://127.0.0.1:667/"}, format="json")
        .status_code
        == 400
    )
    assert (
        api(somebody("view_device", "view_site"))
        .patch(address, {"payload_url": "http://127.0.0.1:667/"}, format="json")
        .status_code
        == 200
    )


def test_an_event_that_the_app_recorded_keeps_a_webhook_where_it_is(webhook: Webhook) -> None:
    Site.objects.create(name="AMS1", slug="ams1")
    webhook.object_types.set([ContentType.objects.get_for_model(Device)])
    assert Event.objects.undispatched().matched_by(webhook.pk).exists()
    assert not Event.objects.undispatched().matched_by(webhook.pk + 1).exists()
    assert "wait to be sent" in permissions.refusal_to_change(somebody("view_device"), webhook, ["payload_url"])


@pytest.mark.parametrize("change", [{"payload_url": "http://127.0.0.1:666/"}, {"ca_file_path": "/x"}])
@pytest.mark.parametrize("entered", [None, "X-Token: another", ""])
def test_secret_headers_are_not_taken_along_to_another_receiver(
    webhook: Webhook, change: dict[str, str], entered: str | None
) -> None:
    Webhook.objects.update(secret_headers="X-Token: planted")
    given = change | ({} if entered is None else {"secret_headers": entered})
    user, address = somebody("view_site", "view_device"), f"{API}/webhooks/{webhook.pk}/"
    told = ["They would be sent to where the webhook sends to from now on: enter them again, or clear them."]
    answer = api(user).patch(address, given, format="json")
    if entered is None:
        assert (answer.status_code, answer.json()) == (400, {"secret_headers": told})
        assert Webhook.objects.get().secret_headers == "X-Token: planted"
    else:
        assert (answer.status_code, Webhook.objects.get().secret_headers) == (200, entered)


@pytest.mark.parametrize(
    ("entered", "kept"),
    [
        ({}, None),
        ({"secret_headers": "X-Token: another"}, "X-Token: another"),
        ({"clear_secret_headers": "on"}, ""),
    ],
)
def test_the_admin_does_not_take_them_along_either(webhook: Webhook, entered: dict[str, str], kept: str | None) -> None:
    Webhook.objects.update(secret_headers="X-Token: planted")
    user = somebody("view_site", "view_device")
    change = reverse("admin:webhooks_webhook_change", args=[webhook.pk])
    answer = browser(user).post(change, form(payload_url="http://127.0.0.1:666/", **entered))
    if kept is None:
        assert "would be sent to where the webhook" in answer.context["adminform"].form.errors["secret_headers"][0]
    else:
        assert (answer.status_code, Webhook.objects.get().secret_headers) == (302, kept)
    Webhook.objects.update(secret_headers="X-Token: planted")
    same = form(payload_url=Webhook.objects.get().payload_url, name="renamed")
    assert browser(user).post(change, same).status_code == 302
    assert Webhook.objects.get().secret_headers == "X-Token: planted"


# Each object by itself


class Restricting(models.QuerySet[Any]):
    """As NetBox's: of things, a user may view those that are called after them."""

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
def test_restrictions_of_objects_hold_for_their_events(
    webhook: Webhook, model: Any, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any
) -> None:
    webhooks_settings(MAY_VIEW="webhooks.permissions.by_restriction")
    restrict(monkeypatch, Thing, Gadget)
    user = somebody("view_thing", "view_gadget", "view_site")
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
    # Without the permission for the model nothing of it is seen, whether it is there or gone.
    assert set(permissions.visible_events(somebody("view_site")).values_list("object_type", flat=True)) == {"dcim.site"}
    assert permissions.visible_events(somebody(is_superuser=True)).count() == 4


@pytest.mark.parametrize("policy", ["by_model", "by_restriction"])
def test_queries_do_not_grow_with_rows(
    webhook: Webhook, policy: str, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any
) -> None:
    webhooks_settings(MAY_VIEW=f"webhooks.permissions.{policy}")
    restrict(monkeypatch, Thing)
    user = somebody("view_site", "view_thing")
    counts: list[list[int]] = []
    for keys in (range(1, 3), range(3, 30)):
        for key in keys:
            of_site(webhook, key)
            make_site_event(key, data="", error="KeyError", dispatched_at=None, object_type="testapp.thing")
        addresses = (STATUS, reverse("admin:webhooks_delivery_changelist"), reverse("admin:webhooks_event_changelist"))
        user.get_all_permissions()  # asked for once in any request
        counts.append([queries(lambda one=one: browser(user).get(one)) for one in addresses])
        counts[-1] += [queries(lambda one=one: api(user).get(f"{API}/{one}/")) for one in ("deliveries", "events")]
    assert counts[0] == counts[1]


def queries(ask: Callable[[], Any]) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert ask().status_code == 200
    return len(captured)


def only_device(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    return events.filter(object_type="dcim.device")


def test_a_host_decides_by_a_callable_of_its_own(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.only_device")
    of_site(webhook)
    seen = of_device(webhook)
    assert permissions.visible_deliveries(somebody("view_site")).get() == seen
    assert permissions.visible_deliveries(somebody(is_superuser=True)).get() == seen


def things_by_name(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    return events.filter(permissions.of_objects(Thing.objects.filter(name=user.username)))


def things_by_name_and_gone(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    mine = Thing.objects.filter(name=user.username)
    return events.filter(permissions.of_objects(mine, and_gone=user.has_perm("testapp.view_thing")))


def test_of_an_object_that_is_gone_nobody_reads_who_might_not_have(webhook: Webhook, webhooks_settings: Any) -> None:
    nobody, viewer = somebody(), somebody("view_thing")
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


@pytest.mark.parametrize("named", ["nowhere.to.be_found", "webhooks.permissions.WHERE_TO"])
def test_where_the_callable_cannot_be_had_nobody_but_superusers_sees_anything(
    webhook: Webhook, webhooks_settings: Any, named: str
) -> None:
    webhooks_settings(MAY_VIEW=named)
    of_site(webhook)
    assert not permissions.visible_events(somebody("view_site")).exists()
    assert permissions.visible_events(somebody(is_superuser=True)).exists()


# The admin's history


def test_the_history_tells_of_every_change_by_the_api_and_of_no_secret(db: None, redis: Any) -> None:
    user = somebody("view_site")
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
    """Who may do only this of the app, and view all objects."""
    user = User.objects.create_user(f"user {User.objects.count()}", is_staff=True)
    mine = Q(content_type__app_label="webhooks", codename__in=permissions)
    user.user_permissions.set(Permission.objects.filter(mine | to_view_objects()))
    return user


def planted() -> Delivery:
    """A delivery to a URL that is a secret, which stands wherever a URL, a header or a template can leave it."""
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


@pytest.mark.parametrize("permissions", [*((one,) for one in VIEWS), VIEWS, (*VIEWS, *DEEDS)])
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


def test_nobody_asks_for_a_url_or_an_answer_letter_by_letter(db: None, redis: Any) -> None:
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


# What each permission shows, alone


def crowded() -> Delivery:
    """Something of everything: a delivery that failed, one that waits behind another, an Event that failed, one that
    was replayed, one that is not dispatched, and a webhook that nothing was sent to."""
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
def test_each_part_of_a_page_takes_the_permission_of_what_it_shows(
    db: None, redis: Any, permissions: tuple[str, ...], marks: set[str]
) -> None:
    said = answers(only(*permissions), crowded())
    assert {mark for mark in MARKS if mark in str(said)} == marks


@pytest.mark.one_database
@pytest.mark.parametrize(
    "permissions",
    [
        *((one,) for one in (*VIEWS, "change_webhook", *DEEDS)),
        *(tuple(one for one in VIEWS if one != other) for other in VIEWS), VIEWS,
        ("view_delivery", "retry_delivery", "discard_delivery"), ("view_event", "retry_delivery"),
    ],
)  # fmt: skip
def test_no_link_leads_to_where_one_may_not_go(db: None, redis: Any, permissions: tuple[str, ...]) -> None:
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


def test_where_something_is_left_out_the_status_page_does_not_say_that_all_is_well(db: None, redis: Any) -> None:
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


def test_a_webhook_that_one_may_not_view_is_no_part_of_an_address(db: None, redis: Any) -> None:
    webhook = crowded().webhook
    client, address = browser(only("view_delivery", "retry_delivery")), reverse("webhooks_backend_status_retry_all")
    assert client.get(address, {"webhook": webhook.pk}).status_code == 404
    assert client.post(f"{address}?webhook={webhook.pk}").status_code == 404
    assert client.get(address).status_code == 200
    asked = {"app_label": "webhooks", "model_name": "delivery", "field_name": "webhook", "term": ""}
    assert client.get(reverse("admin:autocomplete"), asked).status_code == 403


def test_a_test_is_told_of_without_a_link_to_what_one_may_not_see(webhook: Webhook) -> None:
    address = reverse("admin:webhooks_webhook_ping", args=[webhook.pk])
    told = [str(browser(only("change_webhook", *more)).post(address, follow=True).context["messages"]._loaded_data[0])
            for more in ((), ("view_event",), ("view_event", "view_delivery"))]  # fmt: skip
    assert ["href" in one for one in told] == [False, True, True]
    assert ">event " in told[2]


def test_what_a_webhook_takes_along_is_counted_for_those_who_may_view_deliveries(db: None, redis: Any) -> None:
    address = reverse("admin:webhooks_webhook_delete", args=[crowded().webhook_id])
    assert "Deliveries of objects that you may not view are deleted, too" in page(
        browser(only("delete_webhook")), address
    )
    assert "3 deliveries" in page(browser(only("delete_webhook", "view_delivery")), address)


def by_nobody(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    return events.exclude(username="hidden")


def test_a_lane_tells_only_of_deliveries_that_may_be_seen(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(MAY_VIEW="tests.permissions.test_permissions.by_nobody")
    head = make_site_delivery(
        webhook, State.PENDING, make_site_event(1, username="hidden"), reason="Reasonmark", failures=1
    )
    delivery = make_site_delivery(webhook, State.WAITING)
    said = page(browser(only(*VIEWS)), reverse("admin:webhooks_delivery_change", args=[delivery.pk]))
    assert "Reasonmark" not in said
    assert str(head.pk) not in said


def test_an_event_leads_to_no_replay_that_may_not_be_seen(webhook: Webhook, webhooks_settings: Any) -> None:
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


def test_where_no_delivery_may_be_seen_a_paused_webhook_is_not_said_to_have_none(db: None, redis: Any) -> None:
    crowded()
    address = reverse("admin:webhooks_webhook_change", args=[Webhook.objects.get(name="Chatname").pk])
    assert "2 deliveries stored. The next probe" in page(browser(only("view_webhook", "view_delivery")), address)
    said = page(browser(only("view_webhook")), address)
    assert "The next probe is due" in said
    assert "stored" not in said.partition("form-row")[0]


def test_there_is_no_permission_that_means_nothing(db: None) -> None:
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
    """As NetBox's: a token may be allowed to read alone."""

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


def test_the_rules_of_the_host_and_ours_must_both_agree(webhook: Webhook, host_rules: None) -> None:
    delivery = of_site(webhook)
    everything, nothing = somebody("view_site", "view_device"), User.objects.create_user("bob")
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


def test_a_token_that_only_reads_retries_nothing_in_bulk(database: str, redis: Any, host_rules: None) -> None:
    of_site(make_webhook(Site))
    assert (
        by_token(somebody("view_site"), read_only=True).post(f"{API}/deliveries/retry/?state=failed").status_code == 403
    )
    assert Delivery.objects.failed().count() == 1


def test_each_operation_takes_its_own_permission_by_the_rules_of_the_host_too(
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


def test_the_throttles_and_authentication_of_the_host_hold() -> None:
    for view in (WebhookViewSet, DeliveryViewSet, EventViewSet):
        assert view.throttle_classes is APIView.throttle_classes
        assert view.authentication_classes is APIView.authentication_classes
