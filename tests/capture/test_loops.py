"""Loop protection, and ignored users."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Permission
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from rest_framework.test import APIClient

import webhooks
from dcim.models import Site
from tests.support.admin_pages import form, messages_after, page
from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import events, make_webhook
from users.models import User
from webhooks.capture.context import RequestActor, acting, parse_depth
from webhooks.ground import headers
from webhooks.ground.db import fetch_all
from webhooks.ground.headers import DEPTH
from webhooks.models import Event, Webhook
from webhooks.models.validators import MAX_USERNAMES, check_usernames
from webhooks.operations import replays

pytestmark = pytest.mark.usefixtures("database", "redis")


@pytest.fixture
def root() -> User:
    return User.objects.create_superuser("root")


@pytest.fixture
def api(root: User) -> APIClient:
    client = APIClient()
    client.force_authenticate(root)
    return client


@pytest.fixture
def browser(root: User) -> Client:
    client = Client()
    client.force_login(root)
    return client


def rename(api: APIClient, site: Site, name: str, **headers: str) -> Event:
    answer = api.patch(f"/api/dcim/sites/{site.pk}/", {"name": name}, format="json", headers=headers)
    assert answer.status_code == 200, answer.content
    return events(Site)[-1]


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("header", "depth"),
    [
        ("1", 1), ("2", 2), ("3", 3), ("03", 3), ("4", 0), ("0", 0), ("-1", 0), ("+1", 0), ("1.0", 0), ("", 0),
        (" ", 0), ("9" * 5000, 0),
        ("1,1", 0), ("1, 2", 0), ("1;2", 0), ("1_0", 0), ("٣", 0), ("³", 0), ("0x1", 0), ("1e0", 0), ("one", 0),
        ("1\n2", 0), ("1\0", 0), ("true", 0), ("null", 0), ("<script>", 0), ("' OR 1=1 --", 0),
    ],
)  # fmt: skip
def test_only_a_depth_that_a_webhook_can_have_said_counts(header: str, depth: int) -> None:
    assert parse_depth(header) == depth


def test_a_change_is_one_deeper_than_the_depth_of_its_request(api: APIClient, inbox: Inbox) -> None:
    make_webhook(Site, url=inbox.url())
    site = Site.objects.create(name="a", slug="a")
    depths = [rename(api, site, f"after {said}", **{DEPTH: said}).depth for said in ("", "1", "2", "99", "x")]
    assert depths == [1, 2, 3, 1, 1]
    with webhooks.actor("robot", depth=3):
        site.save()
    assert events(Site)[-1].depth == 3
    drain()
    assert [one.headers[DEPTH.lower()] for one in inbox.received()] == ["1", "1", "2", "3", "1", "1", "3"]


def test_a_depth_beyond_its_column_is_recorded_as_the_largest() -> None:
    make_webhook(Site)
    with webhooks.actor("robot", depth=40_000):
        Site.objects.create(name="a", slug="a")
    [event] = events(Site)
    assert (event.depth, event.is_loop_protected) == (32_767, True)


def change_by(user: Any, name: str, depth: str = "") -> list[Event]:
    """What two changes in one request of this user record."""
    request = RequestFactory().post("/there/", headers={DEPTH: depth} if depth else {})
    request.user = user
    with acting(RequestActor(request)), transaction.atomic():
        Site.objects.create(name=name, slug=name)
        Site.objects.create(name=f"{name} 2", slug=f"{name}-2")
    return events(Site)[-2:]


def user_with(*permissions: str, **fields: Any) -> User:
    user = User.objects.create_user(f"user {User.objects.count()}", **fields)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


def test_a_depth_counts_only_from_users_with_the_permission(app_log: pytest.LogCaptureFixture) -> None:
    make_webhook(Site)
    for number, user in enumerate((user_with("chain_webhook"), user_with(is_superuser=True))):
        assert [event.depth for event in change_by(user, f"believed {number}", "2")] == [3, 3]
    assert "is ignored" not in app_log.text
    others = (user_with("change_webhook"), user_with("chain_webhook", is_active=False), AnonymousUser())
    for number, user in enumerate(others):
        assert [event.depth for event in change_by(user, f"ignored {number}", "3")] == [1, 1]
        assert {event.error for event in events(Site)} == {""}
    said = [record.getMessage() for record in app_log.records if "is ignored" in record.getMessage()]
    assert said[0] == (
        f"{DEPTH} of /there/ is ignored: {others[0].get_username()} lacks the permission rq_webhooks.chain_webhook"
    )
    assert len(said) == 3, "one for each request"


def test_only_a_request_that_says_a_depth_asks_for_permissions() -> None:
    make_webhook(Site)
    user = user_with("chain_webhook")

    def asked(name: str, depth: str) -> bool:
        with CaptureQueriesContext(connection) as queries:
            change_by(User.objects.get(pk=user.pk), name, depth)
        return any("auth_permission" in one["sql"] for one in queries)

    assert asked("a", "1")
    assert not asked("b", "")
    assert not asked("c", "99")


def test_a_change_is_saved_and_sent_where_permissions_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    make_webhook(Site)
    user = user_with("chain_webhook")
    monkeypatch.setattr(User, "has_perm", lambda *args: fetch_all("default", "SELECT permission FROM no_such_table"))
    assert [(event.depth, event.username) for event in change_by(user, "a", "2")] == [(1, user.email)] * 2
    assert "The permissions of the user of /there/ cannot be read" in app_log.text


def test_no_template_and_no_secret_header_says_how_deep_it_is(inbox: Inbox) -> None:
    assert headers.is_reserved(DEPTH)
    assert "X-Webhook-Depth cannot be set" in headers.problem(f"{DEPTH}: 9")
    webhook = make_webhook(Site, url=inbox.url(), additional_headers="{{ 'x-webhook-' }}depth: 9")
    with pytest.raises(ValidationError, match="is not for a template to set"):
        Webhook(
            name="n", payload_url="http://127.0.0.1:1/", on_created=True, additional_headers=f"{DEPTH}: 1"
        ).full_clean()
    Site.objects.create(name="a", slug="a")
    drain()
    assert not inbox.received()
    assert "is not for a template to set" in webhook.deliveries.get().reason


def test_a_change_that_is_too_deep_is_loop_protected_and_may_begin_a_new_chain(
    api: APIClient, browser: Client, inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(MAX_DEPTH=1)
    make_webhook(Site, url=inbox.url())
    site = Site.objects.create(name="a", slug="a")
    cut = rename(api, site, "b", **{DEPTH: "1"})
    assert cut.is_loop_protected
    begin = "Loop protection: depth 2 of a chain of changes that webhooks caused; MAX_DEPTH allows 1."
    assert cut.error.startswith(begin)
    assert json.loads(cut.data)["name"] == "b"
    drain()
    assert len(inbox.received()) == 1

    shown = page(browser, reverse("admin:rq_webhooks_event_change", args=[cut.pk]))
    assert "depth 2 of a chain" in shown
    assert "Replay as the first of a new chain" in shown
    assert "loop protection</span>" in page(browser, reverse("admin:rq_webhooks_event_changelist"))
    assert "Loop protection: depth 2 of a chain" in page(browser, reverse("webhooks_backend_status"))

    # The replay sends the recorded data, although the object has changed.
    Site.objects.filter(pk=site.pk).update(name="changed without a signal")
    assert messages_after(browser, reverse("admin:rq_webhooks_event_replay", args=[cut.pk])) == ["1 event replayed."]
    drain()
    [again] = [one for one in inbox.received() if one.json.get("replay_of") == cut.pk]
    assert (again.json["data"]["name"], again.headers[DEPTH.lower()]) == ("b", "1")
    assert "replayed</span>" in page(browser, reverse("admin:rq_webhooks_event_changelist"))
    [replayed] = replays.replay([cut])
    assert replayed.problem == "it has been replayed already"


def test_changes_by_users_that_are_left_out_are_not_sent(api: APIClient, root: User, inbox: Inbox) -> None:
    picky, other = (
        make_webhook(Site, url=inbox.url("ok/picky"), excluded_usernames=["root", "nobody"]),
        make_webhook(Site, url=inbox.url("ok/other"), excluded_usernames=["Root", "roo", "root "]),
    )
    site = Site.objects.create(name="a", slug="a")
    rename(api, site, "b")
    assert [event.webhook_ids for event in events(Site)] == [[picky.pk, other.pk], [other.pk]]
    # As of the event: a later edit of the webhook has no effect on it.
    Webhook.objects.update(excluded_usernames=[])
    drain()
    assert [one.json["event"] for one in inbox.received("ok/picky")] == ["created"]
    assert [one.json["event"] for one in inbox.received("ok/other")] == ["created", "updated"]


def test_nothing_is_serialized_if_all_webhooks_ignore_the_user(
    api: APIClient, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_webhook(Site, excluded_usernames=["root"])
    site = Site.objects.create(name="a", slug="a")
    monkeypatch.setattr("webhooks.capture.serialize.serialize", None)
    api.patch(f"/api/dcim/sites/{site.pk}/", {"name": "b"}, format="json")
    assert len(events()) == 1


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["a", "b"], ""), ([], ""), (["Ünal", "x" * 150], ""),
        ("root", "Enter a list"), ({"a": 1}, "Enter a list"), ([1], "Enter a list"), ([""], "Enter a list"),
        ([" "], "Enter a list"), (["a", "a"], "each of them once"), ([None], "Enter a list"), ([["a"]], "Enter a list"),
        (["x" * 151], "No user can have this name"), (["a\nb"], r"No user can have this name: a\nb"),
        (["a\u202eb"], "No user can have"), (["\ud800"], "No user can have"),
        ([str(number) for number in range(MAX_USERNAMES + 1)], "Enter at most 100 names. There are 101."),
    ],
)  # fmt: skip
def test_only_names_that_users_can_have_are_left_out(names: Any, refused: str) -> None:
    if not refused:
        check_usernames(names)
        return
    with pytest.raises(ValidationError) as caught:
        check_usernames(names)
    assert refused in caught.value.messages[0]


def test_users_are_left_out_in_the_form_and_by_the_api(browser: Client, api: APIClient) -> None:
    add = reverse("admin:rq_webhooks_webhook_add")
    assert browser.post(add, form(name="new", excluded_usernames="robot\r\n\r\n sync \r\n")).status_code == 302
    webhook = Webhook.objects.get(name="new")
    assert webhook.excluded_usernames == ["robot", "sync"]
    assert "robot\nsync</textarea>" in page(browser, reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk]))
    refused = browser.post(add, form(name="other", excluded_usernames="robot\nrobot"))
    assert refused.context["adminform"].form.errors["excluded_usernames"] == [
        "Enter a list of user names, each of them once."
    ]
    address = f"/api/webhooks/webhooks/{webhook.pk}/"
    assert api.patch(address, {"excluded_usernames": ["x"]}, format="json").json()["excluded_usernames"] == ["x"]
    answer = api.patch(address, {"excluded_usernames": ["a\0"]}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["excluded_usernames"])
