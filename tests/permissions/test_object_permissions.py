"""Webhooks, deliveries and events in a host that restricts objects, as NetBox does."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.db.models import QuerySet
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from rest_framework import serializers
from rest_framework.permissions import DjangoObjectPermissions
from rest_framework.test import APIClient

import webhooks
from dcim.models import Site
from tests.support.admin_pages import RETRY_ALL, form, messages_after
from tests.support.draining import STATE, finished
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_site_skip, make_webhook
from tests.support.users import api_client
from tests.testapp.models import ObjectPermission, Shelf, Thing, ThingProxy
from tests.testapp.object_permissions import RestrictedQuerySet, restricting
from users.models import User
from webhooks.models import Delivery, Event, Run, State, Webhook, permissions
from webhooks.models.permissions.viewable import viewable
from webhooks.operations import runs
from webhooks.operations.kinds import RUN_KINDS
from webhooks.operations.run_filters import RefusedFilter
from webhooks.operations.webhooks import resume, set_enabled

API = "/api/webhooks"
STATUS = reverse("webhooks_backend_status")
ACTIONS = ("view", "add", "change", "delete")


class ShelfSerializer(serializers.ModelSerializer):
    class Meta:
        model = Shelf
        fields = ("id", "name")


class TokenPermissions(DjangoObjectPermissions):
    """As NetBox's: reading requires a permission too."""

    perms_map = {**DjangoObjectPermissions.perms_map, "GET": ["%(app_label)s.view_%(model_name)s"]}


@pytest.fixture(autouse=True)
def host(settings: Any, db: None, redis: Any) -> Iterator[None]:
    """The host restricts its objects, and its API checks the permission for each."""
    settings.AUTHENTICATION_BACKENDS = ["tests.testapp.object_permissions.ObjectPermissionBackend"]
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_PERMISSION_CLASSES": ["tests.permissions.test_object_permissions.TokenPermissions"],
    }
    webhooks.register(Shelf, serializer=ShelfSerializer)
    with restricting(Shelf):
        yield
    webhooks.unregister(Shelf)


@pytest.fixture
def mine() -> Webhook:
    return make_webhook(Site, name="mine", url="https://a.example/T0ps3cret")


@pytest.fixture
def theirs() -> Webhook:
    return make_webhook(
        Site, name="theirs", url="https://b.example/T0ps3cret", probe_at=datetime(2026, 1, 1, tzinfo=UTC)
    )


def allow(user: User, *permissions: str, **constraints: Any) -> None:
    for permission in permissions:
        user.object_permissions.create(permission=permission, constraints=constraints)


@pytest.fixture
def user(mine: Webhook, theirs: Webhook) -> User:
    """May do everything to the webhook "mine" and its deliveries, and view all sites."""
    user = User.objects.create_user("bob", is_staff=True)
    allow(user, *(f"rq_webhooks.{action}_webhook" for action in ACTIONS), name="mine")
    allow(user, *(f"rq_webhooks.{action}_delivery" for action in ("view", "retry", "discard")))
    allow(user, "rq_webhooks.view_event", "dcim.view_site")
    return user


def constrain(user: User, permission: str, **constraints: Any) -> None:
    """Replace the constraints of a permission that the user has."""
    ObjectPermission.objects.filter(user=user, permission=permission).update(constraints=constraints)
    user.refresh_from_db()  # forget the permissions that were read


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user, "tests.testapp.object_permissions.ObjectPermissionBackend")
    return client


def ids(client: APIClient, what: str) -> list[Any]:
    return [row["id"] for row in client.get(f"{API}/{what}/").json()["results"]]


def wanted(**fields: Any) -> dict[str, Any]:
    return {
        "name": "mine too", "object_types": ["dcim.site"], "on_created": True, "payload_url": "https://a.example/",
    } | fields  # fmt: skip


@pytest.mark.one_database
def test_the_api_shows_and_changes_only_webhooks_within_the_permission(
    user: User, mine: Webhook, theirs: Webhook
) -> None:
    client, other = api_client(user), f"{API}/webhooks/{theirs.pk}/"
    assert ids(client, "webhooks") == [mine.pk]
    assert client.get(f"{API}/webhooks/", {"name": "theirs"}).json()["results"] == []
    for answer in (
        client.get(other), client.patch(other, {"timeout": 5}, format="json"),
        client.put(other, wanted(name="theirs"), format="json"), client.delete(other),
    ):  # fmt: skip
        assert answer.status_code == 404
    assert Webhook.objects.get(pk=theirs.pk).timeout is None
    own = f"{API}/webhooks/{mine.pk}/"
    assert client.get(own).json()["payload_url"] == mine.payload_url
    assert client.patch(own, {"timeout": 5}, format="json").status_code == 200
    assert client.delete(own).status_code == 204


def test_a_webhook_outside_the_permission_cannot_be_created(user: User, mine: Webhook) -> None:
    answer = api_client(user).post(f"{API}/webhooks/", wanted(), format="json")
    assert (answer.status_code, answer.json()["detail"]) == (
        403, "You may add some webhooks, but none with these values.",
    )  # fmt: skip
    assert not Webhook.objects.filter(name="mine too").exists()


def test_a_webhook_cannot_be_moved_out_of_the_permission(user: User, mine: Webhook) -> None:
    answer = api_client(user).patch(f"{API}/webhooks/{mine.pk}/", {"name": "gone"}, format="json")
    assert (answer.status_code, Webhook.objects.get(pk=mine.pk).name) == (403, "mine")


@pytest.mark.one_database
def test_viewing_a_webhook_does_not_show_its_full_url(user: User, mine: Webhook, theirs: Webhook) -> None:
    allow(user, "rq_webhooks.view_webhook", name="theirs")
    delivery = make_site_delivery(theirs)
    make_attempt(delivery)
    client = api_client(user)
    urls = {row["name"]: row["payload_url"] for row in client.get(f"{API}/webhooks/").json()["results"]}
    assert urls == {"mine": mine.payload_url, "theirs": "https://b.example/…"}
    assert client.patch(f"{API}/webhooks/{theirs.pk}/", {"timeout": 5}, format="json").status_code == 404
    assert b"T0ps3cret" not in client.get(f"{API}/deliveries/{delivery.pk}/").content
    change = reverse("admin:rq_webhooks_webhook_change", args=[theirs.pk])
    for page in (change, reverse("admin:rq_webhooks_delivery_change", args=[delivery.pk])):
        said = browser(user).get(page)
        assert said.status_code == 200
        assert b"T0ps3cret" not in said.content
    assert browser(user).post(change, form(name="theirs")).status_code == 403
    assert browser(user).post(reverse("admin:rq_webhooks_webhook_ping", args=[theirs.pk])).status_code == 403
    found = browser(user).get(reverse("admin:rq_webhooks_webhook_changelist"), {"q": "T0ps"})
    assert list(found.context["cl"].result_list) == []


@pytest.mark.one_database
def test_the_admin_shows_only_webhooks_within_the_permission(user: User, mine: Webhook, theirs: Webhook) -> None:
    client, listed = browser(user), reverse("admin:rq_webhooks_webhook_changelist")
    assert [one.name for one in client.get(listed).context["cl"].result_list] == ["mine"]
    for what in ("change", "history", "delete"):
        page = reverse(f"admin:rq_webhooks_webhook_{what}", args=[theirs.pk])
        assert b"theirs" not in client.get(page, follow=True).content
        assert client.get(reverse(f"admin:rq_webhooks_webhook_{what}", args=[mine.pk])).status_code == 200
    for action in ("disable", "resume", "delete_selected"):
        client.post(listed, {"action": action, "_selected_action": [theirs.pk], "post": "yes"})
    client.post(reverse("admin:rq_webhooks_webhook_resume", args=[theirs.pk]))
    theirs.refresh_from_db()
    assert (theirs.enabled, theirs.is_paused, theirs.deleted_at) == (True, True, None)
    client.post(listed, {"action": "disable", "_selected_action": [mine.pk, theirs.pk]})
    assert set(Webhook.objects.filter(enabled=True)) == {theirs}


@pytest.mark.one_database
def test_admin_actions_leave_webhooks_that_the_user_may_only_view(user: User, mine: Webhook, theirs: Webhook) -> None:
    allow(user, "rq_webhooks.view_webhook", name="theirs")
    client, listed = browser(user), reverse("admin:rq_webhooks_webhook_changelist")
    said = client.post(listed, {"action": "disable", "_selected_action": [mine.pk, theirs.pk]}, follow=True)
    assert "You do not have permission to change 1 of these webhooks." in said.content.decode()
    assert set(Webhook.objects.filter(enabled=True)) == {theirs}
    client.post(reverse("admin:rq_webhooks_webhook_resume", args=[theirs.pk]))
    client.post(listed, {"action": "delete_selected", "_selected_action": [mine.pk, theirs.pk], "post": "yes"})
    assert Webhook.objects.count() == 2
    assert Webhook.objects.get(pk=theirs.pk).is_paused


@pytest.mark.one_database
def test_the_admin_says_why_it_saves_no_webhook_outside_the_permission(user: User, mine: Webhook) -> None:
    new = form(name="mine too")
    for action, url in (
        ("add", reverse("admin:rq_webhooks_webhook_add")),
        ("change", reverse("admin:rq_webhooks_webhook_change", args=[mine.pk])),
    ):
        message = f"Nothing was saved. You may {action} some webhooks, but none with these values."
        assert messages_after(browser(user), url, **new) == [message]
    assert {one.name for one in Webhook.objects.all()} == {"mine", "theirs"}


@pytest.mark.one_database
def test_deliveries_follow_their_webhook(user: User, mine: Webhook, theirs: Webhook) -> None:
    own, other = make_site_delivery(mine), make_site_delivery(theirs)
    client = api_client(user)
    assert ids(client, "deliveries") == [str(own.pk)]
    assert list(permissions.visible_deliveries(user)) == [own]
    for deed in ("retry", "discard"):
        assert client.post(f"{API}/deliveries/{other.pk}/{deed}/").status_code == 404
        assert browser(user).post(reverse(f"admin:rq_webhooks_delivery_{deed}", args=[other.pk])).status_code == 404
    listed = reverse("admin:rq_webhooks_delivery_changelist")
    said = browser(user).get(listed).content.decode()
    assert "mine" in said
    assert "theirs" not in said
    for deed in ("retry_chosen", "discard_chosen"):
        browser(user).post(listed, {"action": deed, "_selected_action": [other.pk], "select_across": "1"})
    assert b"theirs" not in browser(user).get(STATUS).content
    assert b"theirs" not in browser(user).get(f"{RETRY_ALL}&webhook={theirs.pk}").content
    assert Delivery.objects.get(pk=other.pk).state == State.FAILED


def test_no_filter_finds_a_delivery_by_who_made_a_hidden_change(user: User, mine: Webhook) -> None:
    constrain(user, "rq_webhooks.view_event", object_id="1")
    seen, _ = (make_site_delivery(mine, event=make_site_event(key, username="ann")) for key in (1, 2))
    assert len(ids(api_client(user), "deliveries")) == 2
    found = api_client(user).get(f"{API}/deliveries/?user=ann").json()["results"]
    assert [row["id"] for row in found] == [str(seen.pk)]


def test_retry_and_discard_require_the_permission_for_each_delivery(user: User, mine: Webhook) -> None:
    constrain(user, "rq_webhooks.retry_delivery", noted_attempts=7)
    left, retried = (
        make_site_delivery(mine, event=make_site_event(1)),
        make_site_delivery(mine, event=make_site_event(2), attempt_count=7),
    )
    client = api_client(user)
    assert client.post(f"{API}/deliveries/{left.pk}/retry/").status_code in (403, 404)
    assert browser(user).post(reverse("admin:rq_webhooks_delivery_retry", args=[left.pk])).status_code == 403
    page = browser(user).get(reverse("admin:rq_webhooks_delivery_change", args=[left.pk]))
    acts = {link.act for link in page.context["shown"].acts}
    assert ("retry" in acts, "discard" in acts) == (False, True)
    browser(user).post(RETRY_ALL, {"next": STATUS})
    assert dict(Delivery.objects.values_list("pk", STATE)) == {
        left.pk: State.FAILED, retried.pk: State.PENDING,
    }  # fmt: skip
    assert client.post(f"{API}/deliveries/retry/?state=failed").json() == {"retried": 0, "run": None, "superseded": 0}


def test_events_follow_their_object_and_their_own_permission(user: User) -> None:
    allow(user, "testapp.view_shelf", name="seen")
    shelves = [Shelf.objects.create(name=name) for name in ("seen", "hidden")]
    on_shelves = [make_site_event(shelf.pk, shelf.name, object_type="testapp.shelf") for shelf in shelves]
    of_site = make_site_event(1)
    assert ids(api_client(user), "events") == [of_site.pk, on_shelves[0].pk]
    constrain(user, "rq_webhooks.view_event", username="root")
    assert ids(api_client(user), "events") == []
    by_root = make_site_event(2, username="root")
    assert ids(api_client(user), "events") == [by_root.pk]
    listed = browser(user).get(reverse("admin:rq_webhooks_event_changelist"))
    assert list(listed.context["cl"].result_list) == [by_root]
    assert Event.objects.count() == 4


@pytest.mark.one_database
def test_events_follow_their_object_although_its_model_is_not_registered(user: User, own_registrations: None) -> None:
    webhooks.unregister(Shelf)
    webhooks.register_event("testapp.audited")
    make_webhook(on="", custom_events=["testapp.audited"])
    shown, hidden = (Shelf.objects.create(name=name) for name in ("shown", "hidden"))
    allow(user, "testapp.view_shelf", name="shown")
    for shelf in (shown, hidden):
        webhooks.send("testapp.audited", shelf)
    client = api_client(user)
    assert [row["object_id"] for row in client.get(f"{API}/events/").json()["results"]] == [str(shown.pk)]
    for shelf, status in ((shown, 200), (hidden, 404)):
        asked = {"object_type": "testapp.shelf", "object_id": shelf.pk}
        assert client.get(f"{API}/why/", asked).status_code == status


def test_skips_follow_their_webhook_their_object_and_their_own_permission(
    user: User, mine: Webhook, theirs: Webhook
) -> None:
    skips = [make_site_skip(mine), make_site_skip(theirs), make_site_skip(mine, object_type="testapp.shelf")]
    listed = reverse("admin:rq_webhooks_skip_changelist")
    assert browser(user).get(listed).status_code == 403
    allow(user, "rq_webhooks.view_skip", object_repr="AMS1")
    assert ids(api_client(user), f"webhooks/{mine.pk}/skips") == [str(skips[0].pk)]
    assert api_client(user).get(f"{API}/webhooks/{theirs.pk}/skips/").status_code == 404
    assert list(browser(user).get(listed).context["cl"].result_list) == [skips[0]]
    constrain(user, "rq_webhooks.view_skip", username="root")
    assert ids(api_client(user), f"webhooks/{mine.pk}/skips") == []


# What may be sent: all objects of a model

NOT_SENT = (
    "A webhook sends all objects of testapp.shelf, and you may not view all of them. Ask a superuser, or get the "
    "permission testapp.view_shelf for all objects."
)
NOT_CHANGED = "You may not view all objects of testapp.shelf, so you may not "


@pytest.fixture
def author() -> User:
    """May define webhooks, view all sites, and view the shelf "open-x"."""
    author = User.objects.create_user("carol", is_staff=True)
    allow(author, *(f"rq_webhooks.{action}_webhook" for action in ACTIONS), "dcim.view_site")
    allow(author, *(f"rq_webhooks.{action}_delivery" for action in ("view", "retry", "resend", "discard")))
    allow(author, *(f"rq_webhooks.{action}_event" for action in ("view", "replay", "read_payload")))
    allow(author, "testapp.view_shelf", name="open-x")
    return author


def of_shelves(**fields: Any) -> Webhook:
    return make_webhook(Shelf, **{"name": "shelves", "url": "https://a.example/"} | fields)


def refusal_by_api(user: User, *labels: str) -> Any:
    answer = api_client(user).post(f"{API}/webhooks/", wanted(object_types=labels), format="json")
    assert answer.status_code in (201, 400), answer.content
    return answer.json()["object_types"] if answer.status_code == 400 else None


def refusal_by_admin(user: User, *labels: str) -> Any:
    models = ContentType.objects.get_for_models(*map(apps.get_model, labels)).values()
    filled = form(name="mine too", object_types=[one.pk for one in models])
    answer = browser(user).post(reverse("admin:rq_webhooks_webhook_add"), filled)
    return answer.context["adminform"].form.errors["object_types"] if answer.status_code == 200 else None


@pytest.mark.one_database
@pytest.mark.parametrize("refusal", [refusal_by_api, refusal_by_admin])
def test_a_model_may_be_sent_only_by_a_user_who_may_view_all_its_objects(author: User, refusal: Any) -> None:
    Shelf.objects.create(name="open-x")
    assert refusal(author, "dcim.site", "testapp.shelf") == [NOT_SENT], "although all shelves of today are visible"
    constrain(author, "testapp.view_shelf", pk__gte=0)
    assert refusal(author, "testapp.shelf") == [NOT_SENT]
    assert not Webhook.objects.exists()
    assert refusal(author, "dcim.site") is None
    Webhook.objects.all().delete()
    allow(author, "testapp.view_shelf")
    assert refusal(author, "dcim.site", "testapp.shelf") is None, "one of two permissions is for all objects"
    Webhook.objects.all().delete()
    assert refusal(User.objects.create_superuser("root"), "testapp.shelf") is None


@pytest.mark.parametrize("may_view", ["by_model", "by_restriction"])
def test_the_host_may_allow_a_model_to_be_sent(author: User, webhooks_settings: Any, may_view: str) -> None:
    webhooks_settings(MAY_VIEW=f"webhooks.models.permissions.{may_view}")
    assert permissions.may_view_all(author, Shelf) is (may_view == "by_model")
    webhooks_settings(MAY_VIEW_ALL="tests.permissions.test_object_permissions.is_carol")
    assert permissions.may_view_all(author, Shelf)
    assert not permissions.may_view_all(User.objects.create_user("dave"), Shelf), "the permission is needed as well"
    bob = User.objects.create_user("bob")
    allow(bob, "testapp.view_shelf")
    assert not permissions.may_view_all(bob, Shelf)


def is_carol(user: Any, model: Any) -> bool:
    return user.email == "carol"


def test_a_function_of_the_host_that_hides_any_event_lets_no_model_be_sent(
    author: User, webhooks_settings: Any
) -> None:
    webhooks_settings(MAY_VIEW="tests.permissions.test_object_permissions.all_but_those_of_root")
    assert not permissions.may_view_all(author, Site)
    webhooks_settings(MAY_VIEW="tests.permissions.test_object_permissions.all_events")
    assert permissions.may_view_all(author, Site)


def all_but_those_of_root(user: Any, events: Any) -> Any:
    return events.exclude(username="root")


def all_events(user: Any, events: Any) -> Any:
    return events


def test_models_that_everybody_may_view_may_be_sent(author: User, settings: Any) -> None:
    settings.EXEMPT_VIEW_PERMISSIONS = ["*"]
    assert refusal_by_api(author, "testapp.shelf") is None


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"payload_url": "https://mine.example/"}, "payload_url"),
        ({"ssl_verification": False}, "ssl_verification"),
        ({"body_template": "{{ data }}"}, "body_template"),
        ({"conditions": {"attr": "name", "value": "a"}}, "conditions"),
        ({"on_deleted": False}, "on_deleted"),
        ({"secret": "mine"}, "secret"),
        ({"secret_headers": "X-Token: mine"}, "secret_headers"),
        ({"secret_headers": ""}, "secret_headers"),
    ],
)
def test_a_webhook_of_hidden_objects_keeps_what_it_sends_and_where(
    author: User, change: dict[str, Any], field: str
) -> None:
    webhook = of_shelves()
    address, page = f"{API}/webhooks/{webhook.pk}/", reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    answer = api_client(author).patch(address, change, format="json")
    assert (answer.status_code, list(answer.json())) == (400, [field])
    assert answer.json()[field][0].startswith(f"{NOT_CHANGED}change what this webhook sends of them, or where.")
    kept = form(
        name="shelves", payload_url=webhook.payload_url, on_created="on", on_updated="on", on_deleted="on",
        object_types=[ContentType.objects.get_for_model(Shelf).pk],
    )  # fmt: skip
    if field in ("payload_url", "secret", "secret_headers") and change[field]:
        said = browser(author).post(page, kept | change)
        assert said.context["adminform"].form.errors[field][0].startswith(NOT_CHANGED)
    assert browser(author).post(page, kept | {"name": "renamed"}).status_code == 302
    narrower = {"timeout": 5, "enabled": False, "object_types": ["dcim.site"]}
    assert api_client(author).patch(address, narrower, format="json").status_code == 200
    assert set(Webhook.objects.values_list("name", "payload_url")) == {("renamed", webhook.payload_url)}


@pytest.mark.one_database
@pytest.mark.parametrize(("act", "state"), [("enable", {"enabled": False}), ("resume", {"paused_at": timezone.now()})])
def test_a_webhook_of_hidden_objects_is_not_started_again(author: User, act: str, state: dict[str, Any]) -> None:
    webhook = of_shelves()
    Webhook.objects.update(**state)
    listed = reverse("admin:rq_webhooks_webhook_changelist")
    reason = f"{NOT_CHANGED}have them sent. Ask a superuser, or get the permission testapp.view_shelf for all objects."
    chosen = {"action": act, "_selected_action": [webhook.pk]}
    of_site = make_webhook(Site, name="of sites")
    for address, fields in (
        (listed, chosen), (reverse(f"admin:rq_webhooks_webhook_{act}", args=[webhook.pk]), {}),
    ):  # fmt: skip
        assert f"“shelves”: {reason}" in messages_after(browser(author), address, **fields)
    own = f"{API}/webhooks/{webhook.pk}/"
    if act == "resume":
        answer = api_client(author).post(f"{own}resume/")
        assert (answer.status_code, answer.json()["detail"]) == (403, reason)
    else:
        answer = api_client(author).patch(own, {"enabled": True}, format="json")
        assert (answer.status_code, answer.json()) == (400, {"enabled": [reason]})
    assert set(Webhook.objects.filter(**state)) >= {webhook}

    start = resume if act == "resume" else partial(set_enabled, enabled=True)
    assert start(Webhook.objects.filter(pk=webhook.pk), author) == []

    # Without the model, while a change of a hidden object waits.
    make_site_delivery(webhook, State.PENDING, event=make_site_event(7, object_type="testapp.shelf"))
    webhook.object_types.set([ContentType.objects.get_for_model(Site)])
    waits = "Changes of objects that you may not view wait to be sent, so you may not have them sent."
    assert f"“shelves”: {waits}" in messages_after(browser(author), listed, **chosen)
    Delivery.objects.all().delete()
    Event.objects.all().delete()
    browser(author).post(listed, {"action": act, "_selected_action": [webhook.pk, of_site.pk]})
    webhook.refresh_from_db()
    assert (webhook.enabled, webhook.is_paused) == (True, False)


def test_a_form_that_was_opened_before_a_webhook_was_disabled_saves_other_fields(author: User) -> None:
    webhook = of_shelves()
    Webhook.objects.update(enabled=False)
    kept = form(
        name="renamed", payload_url=webhook.payload_url, on_created="on", on_updated="on", on_deleted="on",
        object_types=[ContentType.objects.get_for_model(Shelf).pk], enabled="on", **{"initial-enabled": "True"},
    )  # fmt: skip
    page = reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    assert browser(author).post(page, kept).status_code == 302
    assert set(Webhook.objects.values_list("name", "enabled")) == {("renamed", False)}


def test_a_copy_of_a_webhook_of_hidden_objects_cannot_be_saved(author: User) -> None:
    webhook = of_shelves()
    copy = f"{reverse('admin:rq_webhooks_webhook_add')}?duplicate={webhook.pk}"
    filled = form(name="copy", object_types=[ContentType.objects.get_for_model(Shelf).pk])
    assert browser(author).get(copy).status_code == 200
    assert browser(author).post(copy, filled).context["adminform"].form.errors["object_types"] == [NOT_SENT]
    assert Webhook.objects.get() == webhook


@pytest.mark.one_database
@pytest.mark.parametrize("kind", [kind for kind in RUN_KINDS if kind != "discard"])
def test_no_run_reaches_a_hidden_object(author: User, kind: str) -> None:
    """Also not a deleted one: it is no longer known who might have viewed it."""
    allow(author, "rq_webhooks.add_run", "rq_webhooks.view_skip")
    webhook, found = of_shelves(), {}
    shelves = [Shelf.objects.create(name=name) for name in ("open-x", "secret", "deleted")]
    Event.objects.all().delete()
    for shelf in shelves:
        data = '{"id": 1, "name": "x"}'
        webhook_ids = [] if kind == "backfill" else [webhook.pk]  # it got what it matched
        fields = {"object_type": "testapp.shelf", "webhook_ids": webhook_ids, "data": data}
        error = "" if kind != "recover" else "KeyError"
        found[shelf.name] = make_site_event(shelf.pk, shelf.name, **fields, error=error)
        if kind in ("retry", "resend"):
            make_site_delivery(webhook, State.FAILED, event=found[shelf.name])
        if kind == "recover_skipped":
            make_site_skip(webhook, shelf.pk, object_type="testapp.shelf", object_repr=shelf.name)
    Shelf.objects.filter(name="deleted").delete()
    Event.objects.exclude(pk__in=[one.pk for one in found.values()]).delete()
    filters = runs.since_filters(webhook, timezone.now() - timedelta(hours=1))
    if kind == "recover_skipped":
        Event.objects.all().update(timestamp=timezone.now() - timedelta(hours=1))  # a later one would have all
    else:
        del filters["created_after"]
    preview = runs.preview(kind, filters, author)
    assert (preview.count, [one.name.partition(" ")[0] for one in preview.sample]) == (1, ["open-x"])
    assert list(permissions.visible_events(author)) == [found["open-x"]]


def test_the_status_page_of_a_user_who_may_view_deliveries_but_no_webhook_is_empty(theirs: Webhook) -> None:
    make_site_delivery(theirs)
    author = User.objects.create_user("eve", is_staff=True)
    allow(author, "rq_webhooks.view_delivery", "dcim.view_site")
    answer = browser(author).get(STATUS)
    assert answer.status_code == 200
    assert "theirs" not in answer.text
    assert api_client(author).get(f"{API}/status/").status_code == 200


@pytest.mark.one_database
def test_the_status_does_not_say_that_there_is_no_other_webhook(user: User, mine: Webhook, theirs: Webhook) -> None:
    allow(user, "rq_webhooks.add_webhook")
    for mine_is in ({"enabled": False}, {"deleted_at": timezone.now()}):
        Webhook.objects.filter(pk=mine.pk).update(**mine_is)
        problems = [one["problem"] for one in api_client(user).get(f"{API}/status/").json()["alarms"]]
        assert not {"no_webhook", "all_disabled"} & {*problems}
    Webhook.objects.filter(pk=theirs.pk).update(enabled=False)
    root = User.objects.create_superuser("root")
    problems = [one["problem"] for one in api_client(root).get(f"{API}/status/").json()["alarms"]]
    assert "all_disabled" in problems


def test_superusers_need_nothing_more(user: User, theirs: Webhook) -> None:
    root = User.objects.create_superuser("root")
    assert api_client(root).patch(f"{API}/webhooks/{theirs.pk}/", {"timeout": 5}, format="json").status_code == 200
    assert not permissions.is_restricted(root)
    assert permissions.is_restricted(user)


@pytest.mark.one_database
def test_webhooks_are_restricted_although_no_registered_model_is(
    user: User, mine: Webhook, theirs: Webhook, own_registrations: None
) -> None:
    webhooks.unregister(Shelf)
    client, other = api_client(user), f"{API}/webhooks/{theirs.pk}/"
    assert ids(client, "webhooks") == [mine.pk]
    assert [client.get(other).status_code, client.delete(other).status_code] == [404, 404]
    assert client.patch(other, {"enabled": False}, format="json").status_code == 404
    page = browser(user).get(reverse("admin:rq_webhooks_webhook_change", args=[theirs.pk]))
    assert b"T0ps3cret" not in page.content
    browser(user).post(reverse("admin:rq_webhooks_webhook_pause", args=[theirs.pk]))
    assert not Webhook.objects.get(pk=theirs.pk).paused_at


class Unlike:
    """A queryset with another method of this name."""

    def restrict(self, users: Any) -> Any:
        raise AssertionError


def test_a_method_that_takes_no_action_restricts_nothing(user: User) -> None:
    querysets: Any = type("Unlike", (Unlike, QuerySet), {})
    with restricting(Shelf, querysets=querysets):
        assert not permissions.is_restricted(user)


class Elsewhere:
    """A router that has shelves in another database."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "elsewhere" if model is Shelf else None

    db_for_write = db_for_read


@pytest.mark.one_database
def test_events_of_objects_in_another_database_are_shown_to_users_who_may_view_all(
    user: User, settings: Any, mine: Webhook
) -> None:
    event = make_site_event("1", "seen", object_type="testapp.shelf")
    make_site_delivery(mine, event=event)
    allow(user, "rq_webhooks.view_skip", "rq_webhooks.view_run")
    allow(user, "testapp.view_shelf", name="seen")
    settings.DATABASE_ROUTERS = [Elsewhere()]
    lists = [
        reverse(f"admin:rq_webhooks_{name}_changelist") for name in ("event", "delivery", "skip", "webhook", "run")
    ]
    for address in (*lists, STATUS):
        assert browser(user).get(address).status_code == 200, address
    for what in ("events", "deliveries", f"webhooks/{mine.pk}/skips", "webhooks", "status"):
        assert api_client(user).get(f"{API}/{what}/").status_code == 200, what
    assert ids(api_client(user), "events") == ids(api_client(user), "deliveries") == []
    allow(user, "testapp.view_shelf")
    assert ids(api_client(user), "events") == [event.pk]


@pytest.mark.one_database
def test_a_request_asks_once_which_objects_a_user_may_view_and_only_of_stored_models(user: User, mine: Webhook) -> None:
    asked: Counter[str] = Counter()

    class Counting(RestrictedQuerySet):
        def restrict(self, user: Any, action: str = "view") -> QuerySet[Any]:
            asked[self.model.__name__] += 1
            return super().restrict(user, action)

    make_site_delivery(mine, event=make_site_event("1", "seen", object_type="testapp.shelf"))
    allow(user, "testapp.view_shelf", "testapp.view_thing", "rq_webhooks.view_skip", name="seen")
    for address in (STATUS, reverse("admin:rq_webhooks_delivery_changelist"), f"{API}/deliveries/"):
        with restricting(Shelf, Thing, querysets=Counting):
            asked.clear()
            assert browser(user).get(address).status_code == 200
            assert (asked["Shelf"], asked["Thing"]) == (1, 0), address


def test_what_a_user_may_view_is_kept_for_no_other_request(user: User) -> None:
    Shelf.objects.create(name="seen", pk=1)
    event = make_site_event("1", "seen", object_type="testapp.shelf")
    client = api_client(user)
    assert ids(client, "events") == []
    allow(user, "testapp.view_shelf", name="seen")
    constrain(user, "testapp.view_shelf", name="seen")
    assert ids(client, "events") == [event.pk]
    constrain(user, "testapp.view_shelf", name="other")
    assert ids(client, "events") == []
    assert pickle.loads(pickle.dumps(user)) == user


def test_the_permission_for_a_proxy_shows_no_event_of_its_concrete_model(user: User) -> None:
    thing = Thing.objects.create(name="seen")
    of_thing = make_site_event(str(thing.pk), "seen", object_type="testapp.thing")
    with restricting(Thing, ThingProxy):
        allow(user, "testapp.view_thingproxy", name="seen")
        assert ids(api_client(user), "events") == []
        allow(user, "testapp.view_thing", name="other")
        assert ids(api_client(user), "events") == []
        allow(user, "testapp.view_thing", name="seen")
        assert ids(api_client(user), "events") == [of_thing.pk]


@pytest.mark.one_database
def test_a_payload_requires_the_action_for_its_event(user: User, mine: Webhook) -> None:
    make_site_skip(mine, actual="Valuemark")
    allow(user, "rq_webhooks.view_skip")
    first, second = make_site_event(1), make_site_event(2)

    def shown() -> list[bool]:
        client = api_client(user)
        events = [client.get(f"{API}/events/{event.pk}/").json()["data"] is not None for event in (first, second)]
        return [*events, "Valuemark" in client.get(f"{API}/webhooks/{mine.pk}/skips/").content.decode()]

    assert shown() == [False, False, False]
    allow(user, "rq_webhooks.read_payload_event", object_id="1")
    assert shown() == [True, False, False]
    allow(user, "rq_webhooks.read_payload_event")
    assert shown() == [True, True, True]


@pytest.mark.one_database
@pytest.mark.parametrize("exempt", [[], ["*"], ["webhooks.payload", "webhooks.payload_event", "webhooks.event"]])
def test_no_exemption_of_the_host_gives_the_permission_to_read_payloads(
    user: User, mine: Webhook, settings: Any, exempt: list[str]
) -> None:
    settings.EXEMPT_VIEW_PERMISSIONS = exempt
    event = make_site_event(1, data='{"code": "Valuemark"}')
    assert api_client(user).get(f"{API}/events/{event.pk}/").json()["data"] is None
    assert not permissions.may_view_payloads(user)
    assert b"Valuemark" not in browser(user).get(reverse("admin:rq_webhooks_event_change", args=[event.pk])).content


def test_no_permission_of_the_app_reads_as_one_to_view_a_model_that_does_not_exist() -> None:
    """NetBox splits a codename into an action and a model, and may exempt every action "view"."""
    models = list(apps.get_app_config("rq_webhooks").get_models())
    names = {model._meta.model_name for model in models}
    declared = [codename for model in models for codename, _ in model._meta.permissions]
    assert len(declared) > 5
    for codename in declared:
        assert not codename.startswith("view_")
        assert codename.rpartition("_")[2] in names, "NetBox gives permissions for the models of an app only"


@pytest.mark.one_database
def test_conditions_are_tried_on_visible_payloads_only(user: User, mine: Webhook) -> None:
    for key in (1, 2):
        make_site_event(key, data='{"code": "Valuemark"}')
    allow(user, "rq_webhooks.read_payload_event", object_id="1")
    asked = form(on_updated="on", conditions='{"attr": "code", "value": "Valuemark"}')
    tried = browser(user).post(reverse("admin:rq_webhooks_webhook_condition_preview"), asked).json()["text"]
    assert tried == "Tried on the last event: 1 would have been sent, 0 would not."


@pytest.mark.one_database
def test_why_does_not_say_whether_a_hidden_object_has_events(user: User, mine: Webhook) -> None:
    hidden = Shelf.objects.create(name="hidden")
    Shelf.objects.create(name=str(hidden.pk))
    allow(user, "testapp.view_shelf", name=str(hidden.pk))
    asked = {"object_type": "testapp.shelf", "object_id": hidden.pk}
    Event.objects.all().delete()
    answers = []
    for _ in range(2):
        shown = browser(user).get(reverse("webhooks_why"), asked).context["shown"]
        answers.append((shown.problem, len(shown.answers)))
        make_site_event(hidden.pk, "hidden", object_type="testapp.shelf")
    assert answers == [("", 1)] * 2, "it answers about the object with this name"


@pytest.mark.one_database
def test_why_says_who_made_a_change_only_to_a_user_who_may_view_its_event(user: User, mine: Webhook) -> None:
    site = Site.objects.create(name="AMS1", slug="ams1")
    Event.objects.all().delete()
    constrain(user, "rq_webhooks.view_event", action="created")
    event = make_site_event(site.pk, username="jane", request_id="r-1", webhook_ids=[mine.pk])
    make_site_delivery(mine, State.SUCCEEDED, event)
    questions = ({"object_type": "dcim.site", "object_id": site.pk}, {"event": event.pk}, {"webhook": mine.pk})
    for asked in questions:
        assert b"jane" not in api_client(user).get(f"{API}/why/", asked | {"webhook": mine.pk}).content
    assert api_client(user).get(f"{API}/why/", questions[-1]).json()["verdicts"] == []
    constrain(user, "rq_webhooks.view_event", action="updated")
    for asked in questions:
        [verdict] = api_client(user).get(f"{API}/why/", asked | {"webhook": mine.pk}).json()["verdicts"]
        assert (verdict["change"]["username"], verdict["change"]["request_id"]) == ("jane", "r-1")


@pytest.mark.one_database
@pytest.mark.parametrize("sees_all", [False, True])
def test_why_says_whether_other_objects_have_events_only_to_a_user_who_may_view_all(
    user: User, mine: Webhook, sees_all: bool
) -> None:
    mine.object_types.add(ContentType.objects.get_for_model(Shelf))
    shown = Shelf.objects.create(name="shown")
    allow(user, "testapp.view_shelf", **({} if sees_all else {"name": "shown"}))
    asked = {"object_type": "testapp.shelf", "object_id": shown.pk, "webhook": mine.pk}
    Event.objects.all().delete()
    answers = []
    for _ in range(2):
        [verdict] = api_client(user).get(f"{API}/why/", asked).json()["verdicts"]
        answers.append("Nothing is stored of any other testapp.shelf either" in verdict["text"])
        make_site_event(shown.pk + 1, "hidden", object_type="testapp.shelf")
    assert answers == [sees_all, False]


@pytest.mark.one_database
def test_a_preview_of_a_run_does_not_say_that_a_hidden_webhook_holds_deliveries_back(
    user: User, mine: Webhook, theirs: Webhook
) -> None:
    Webhook.objects.update(paused_at=timezone.now())
    for webhook in (mine, theirs):
        make_site_delivery(webhook, State.PENDING)
    note = runs.preview("retry", {"webhook": mine.pk}, user).note
    assert note == "1 delivery waits, because the webhook is paused. Resume the webhook: this sends it."
    with pytest.raises(RefusedFilter, match=rf"^There is no webhook {theirs.pk}\.$"):
        runs.preview("retry", {"webhook": theirs.pk}, user)


@pytest.mark.one_database
def test_runs_do_not_name_hidden_webhooks(user: User, mine: Webhook, theirs: Webhook) -> None:
    allow(user, "rq_webhooks.view_run", "rq_webhooks.add_run", "rq_webhooks.replay_event")
    run = Run.objects.create(kind="retry", counts={mine.pk: 1, theirs.pk: 2})
    page = reverse("admin:rq_webhooks_run_change", args=[run.pk])
    for address in (page, reverse("admin:rq_webhooks_run_changelist"), STATUS):
        shown = browser(user).get(address).content.decode()
        assert "retry of deliveries of mine and 1 other" in shown
        assert "theirs" not in shown
    begun = browser(user).post(f"{reverse('admin:rq_webhooks_run_add')}?kind=replay&webhook={theirs.pk}", follow=True)
    assert b"theirs" not in begun.content


# Runs: constraints of the permissions to begin and steer them, and to act on their rows


def steer_by_rest(user: User, run: Run, act: str) -> int:
    with transaction.atomic():  # a refusal rolls it back
        return api_client(user).post(f"{API}/runs/{run.pk}/{act}/").status_code


def steer_by_admin(user: User, run: Run, act: str) -> int:
    return browser(user).post(reverse(f"admin:rq_webhooks_run_{act}", args=[run.pk])).status_code


def steer_by_the_list(user: User, run: Run, act: str) -> int:
    chosen = {"action": f"{act}_chosen", "_selected_action": [run.pk]}
    return browser(user).post(reverse("admin:rq_webhooks_run_changelist"), chosen).status_code


@pytest.mark.parametrize(("steer", "refused"), [(steer_by_rest, 403), (steer_by_admin, 403), (steer_by_the_list, 302)])
def test_only_runs_within_the_permission_are_paused_resumed_and_cancelled(
    user: User, steer: Any, refused: int, settings: Any
) -> None:
    """By the app's own rule: the host's classes for REST would not ask."""
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "DEFAULT_PERMISSION_CLASSES": []}
    allow(user, "rq_webhooks.view_run")
    allow(user, "rq_webhooks.add_run", kind="retry")
    for act, before, after in (
        ("pause", "running", "paused"), ("resume", "paused", "running"), ("cancel", "running", "cancelled"),
    ):  # fmt: skip
        within, outside = (Run.objects.create(kind=kind, state=before) for kind in ("retry", "resend"))
        assert steer(user, within, act) in (200, 302)
        assert steer(user, outside, act) == refused
        assert [Run.objects.get(pk=run.pk).state for run in (within, outside)] == [after, before]


def test_pages_offer_only_runs_within_the_permission_to_be_steered(user: User) -> None:
    allow(user, "rq_webhooks.view_run")
    allow(user, "rq_webhooks.add_run", kind="retry")
    within, outside = (Run.objects.create(kind=kind) for kind in ("retry", "resend"))
    offered = browser(user).get(STATUS).content.decode()
    for run, is_offered in ((within, True), (outside, False)):
        page = browser(user).get(reverse("admin:rq_webhooks_run_change", args=[run.pk])).content.decode()
        cancel = reverse("admin:rq_webhooks_run_cancel", args=[run.pk])
        assert (cancel in page, cancel in offered) == (is_offered, is_offered)


@pytest.mark.one_database
def test_only_a_run_within_the_permission_is_begun(user: User, mine: Webhook) -> None:
    allow(user, "rq_webhooks.view_run")
    allow(user, "rq_webhooks.add_run", kind="retry")
    for kind, rest, page in (("discard", 403, 403), ("retry", 201, 302)):
        given = {"kind": kind, "filters": {"webhook": mine.pk}}
        with transaction.atomic():  # a refusal rolls it back
            assert api_client(user).post(f"{API}/runs/", given, format="json").status_code == rest
        for _number in range(runs.AT_ONCE + 1 - Delivery.objects.count()):
            make_site_delivery(mine)
        Run.objects.all().delete()
        address = f"{reverse('admin:rq_webhooks_run_add')}?kind={kind}&webhook={mine.pk}"
        assert browser(user).post(address).status_code == page
        assert [run.kind for run in Run.objects.all()] == ([kind] if page == 302 else [])


@pytest.mark.one_database
def test_a_run_ends_if_the_permission_does_not_include_it_any_more(user: User, mine: Webhook) -> None:
    allow(user, "rq_webhooks.add_run")
    make_site_delivery(mine)
    run = runs.start("discard", {"webhook": mine.pk}, user)
    constrain(user, "rq_webhooks.add_run", kind="retry")
    assert finished(run).state == "failed"
    assert run.problem == "the permission rq_webhooks.add_run of the user bob does not include it any more"
    assert Delivery.objects.in_states(State.FAILED).count() == 1


def since(webhook: Webhook) -> dict[str, Any]:
    return runs.since_filters(webhook, timezone.now() - timedelta(hours=1))


@pytest.mark.one_database
def test_a_backfill_sends_only_deliveries_within_the_permission(user: User, mine: Webhook, theirs: Webhook) -> None:
    """For "mine" and for one object: the constraints of the permission to resend are for single deliveries."""
    allow(user, "rq_webhooks.add_run")
    allow(user, "rq_webhooks.view_webhook")
    allow(user, "rq_webhooks.resend_delivery", webhook__name="mine", event__object_id="1")
    Webhook.objects.update(on_created=True, on_updated=True, enabled=False)
    first, second = make_site_event(1), make_site_event(2)
    for webhook, done, failed in ((mine, 1, 1), (theirs, 0, 2)):
        run = finished(runs.start("backfill", since(webhook), user))
        assert (run.state, run.done, run.failed) == ("done", done, failed)
        assert (
            run.problem
            == f"event {second.pk} ({second}): the permission rq_webhooks.resend_delivery does not include it"
        )
    assert list(Delivery.objects.values_list("webhook", "event")) == [(mine.pk, first.pk)]
    constrain(user, "rq_webhooks.resend_delivery")
    assert finished(runs.start("backfill", since(theirs), user)).done == 2


@pytest.mark.one_database
def test_skipped_changes_are_recovered_only_within_the_permission(user: User, mine: Webhook) -> None:
    allow(user, "rq_webhooks.add_run", "rq_webhooks.view_skip")
    Webhook.objects.update(on_created=True, on_updated=True, enabled=False)
    sites = [Site.objects.create(name=name, slug=name) for name in ("a", "b")]
    Event.objects.all().delete()
    for site in sites:
        make_site_skip(mine, site.pk, object_repr=site.name)
    allow(user, "rq_webhooks.replay_event", object_id=str(sites[0].pk))
    run = finished(runs.start("recover_skipped", since(mine), user))
    assert (run.state, run.done, run.failed) == ("done", 1, 1)
    assert run.problem == "b: the permission rq_webhooks.replay_event does not include it"
    assert [event.object_id for event in Event.objects.all()] == [str(sites[0].pk)]


@pytest.mark.one_database
def test_a_recovery_takes_only_rows_within_the_permissions(user: User, mine: Webhook, theirs: Webhook) -> None:
    allow(user, "rq_webhooks.add_run", "rq_webhooks.view_webhook")
    constrain(user, "rq_webhooks.retry_delivery", webhook__name="mine")
    allow(user, "rq_webhooks.replay_event", object_id="none")
    Webhook.objects.update(enabled=False)
    for webhook in (mine, theirs):
        make_site_delivery(webhook)
        make_site_event(2, webhook_ids=[webhook.pk], error="KeyError")
    for webhook, done in ((mine, 1), (theirs, 0)):
        assert runs.preview("recover", since(webhook), user).count == done
        run = finished(runs.start("recover", since(webhook), user))
        assert (run.state, run.done, run.total) == ("done", done, done)
    assert Delivery.objects.in_states(State.FAILED).get().webhook == theirs
    assert Event.objects.failed().count() == 2


@pytest.mark.cost
@pytest.mark.one_database
@pytest.mark.parametrize(("most", "statements"), [(10, 1), (1, 3)])
def test_a_request_reads_the_keys_of_few_visible_objects_once(
    user: User, mine: Webhook, monkeypatch: Any, most: int, statements: int
) -> None:
    module = import_module(viewable.__module__)
    monkeypatch.setattr(module, "FEW_MODELS", 0)
    monkeypatch.setattr(module, "FEW_KEYS", most)
    allow(user, "testapp.view_shelf", name="seen")
    keys = [Shelf.objects.create(name=name).pk for name in ("seen", "seen", "hidden")]
    events = [make_site_event(key, "shelf", object_type="testapp.shelf") for key in keys]
    with CaptureQueriesContext(connection) as captured:
        found = ids(api_client(user), "events")
    assert sorted(found) == sorted(event.pk for event in events[:2])
    reading = [one for one in captured if Shelf._meta.db_table in one["sql"]]
    assert len(reading) == statements


def test_what_a_user_may_view_is_kept_in_a_request_under_asgi(user: User) -> None:
    async def request() -> list[Any]:
        async with ThreadSensitiveContext():  # as Django's ASGIHandler
            return [await sync_to_async(viewable)(user) for _ in range(2)]

    first, again = async_to_sync(request)()
    assert first is again
    assert async_to_sync(request)()[0] is not first
    assert viewable(user) is not viewable(user)
