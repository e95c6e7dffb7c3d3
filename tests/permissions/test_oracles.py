"""Rows that a user may not view change no answer: not by a filter, a search, a count, an error or a cursor.

Each test asks twice: with the hidden rows, and without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from difflib import ndiff
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from dcim.models import Device, Site
from tests.support.makers import make_attempt, make_delivery, make_event, make_site_skip, make_webhook
from tests.support.users import ALL_PERMISSIONS, api_client, browser, make_user
from users.models import User
from webhooks.api.deliveries import DeliveryFilters
from webhooks.api.events import EventFilters, SkipFilters
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.security.encryption import unveil
from webhooks.insight import paging
from webhooks.models import Delivery, Event, Run, Skip, State, Webhook
from webhooks.models.ids import first_id
from webhooks.operations.kinds import RUN_KINDS
from webhooks.operations.retries import name_of
from webhooks.pages.forms.filters import DeliveryFilterForm, EventFilterForm, SkipFilterForm

API = "/api/webhooks"
NAME, KEY, REQUEST, USER = "xyzzy", "77", "r-hidden", "bob-hidden"
HIDDEN_KIND = ErrorKind.TLS
OF_WEBHOOKS = {"view_webhook", "add_webhook", "change_webhook", "delete_webhook"}

Ask = Callable[[], Any]


@pytest.fixture
def hidden(db: None, redis: Any) -> Webhook:
    """A webhook and a user that nobody may know, with rows of sites. Among them is a row of a device, of another
    webhook."""
    now = timezone.now()
    User.objects.create_user(USER)
    seen, found = make_webhook(Device, name="CMDB"), make_webhook(Site, Device, name=f"hook {NAME}")
    times = {1: now - timedelta(hours=5), 2: now - timedelta(hours=3), 3: now - timedelta(hours=1)}
    for number, moment in times.items():
        is_hidden = number != 2
        about = {"object_type": "dcim.device", "object_repr": "plugh", "username": "ann", "request_id": "r-1"}
        if is_hidden:
            about = {"object_type": "dcim.site", "object_repr": NAME, "username": USER, "request_id": REQUEST}
        event = make_event(
            found if is_hidden else seen,
            object_id=KEY if is_hidden else "2",
            action="deleted" if is_hidden else "updated",
            dispatched=True,
            timestamp=moment,
            **about,
        )
        state = State.DISCARDED if number == 3 else State.FAILED
        kind = HIDDEN_KIND if is_hidden else ErrorKind.ANSWER_TIMEOUT
        failed = {"error_kind": kind, "reason": "no", "attempt_count": 1, "id": first_id(moment)}
        delivery = make_delivery(found if is_hidden else seen, state, event=event, **failed)
        make_attempt(delivery, status=418 if is_hidden else None)
    make_event(
        found, object_id=KEY, object_type="dcim.site", object_repr=NAME, error="failed", dispatched=True,
        username=USER, request_id=REQUEST, action="deleted", timestamp=times[3],
    )  # fmt: skip
    make_site_skip(found, KEY, object_repr=NAME, username=USER, request_id=REQUEST, action="deleted")
    return found


def hide(webhook: Webhook) -> None:
    """Delete all that is hidden."""
    sites = {"object_type": "dcim.site"}
    Skip.objects.filter(**sites).delete()
    Delivery.objects.filter(event__object_type="dcim.site").delete()
    Event.objects.filter(**sites).delete()
    Webhook.objects.filter(pk=webhook.pk).delete()
    User.objects.filter(email=USER).delete()


def seen_of(response: Any) -> tuple[int, str]:
    """What a user sees of a response, without what each response has new: tokens, and times in words."""
    text = response.content.decode()
    text = re.sub(
        r'name="(csrfmiddlewaretoken|nonce|opened_at)" value="[^"]+"|>[^<]*</time>|since [-\d]+ [\d:]+ UTC', "", text
    )
    messages = [str(one) for one in (response.context or {}).get("messages", ())] if response.context else []
    return response.status_code, f"{response.get('Location', '')} {messages} {text}"


def assert_same(ask: Ask, change: Callable[[], None]) -> tuple[int, str]:
    answers = []
    for is_changed in (False, True):
        with transaction.atomic():
            if is_changed:
                change()
            answers.append(seen_of(ask()))
            transaction.set_rollback(True)
    (status, text), (other_status, other_text) = answers
    differences = [one for one in ndiff(text.splitlines(), other_text.splitlines()) if one[0] in "+-"]
    assert (status, differences) == (other_status, [])
    return status, text


@pytest.fixture(autouse=True)
def one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rest_framework.views.set_rollback", lambda: None)


def viewer(*but: str) -> User:
    """A user with all permissions of the app but these, who may view devices and no sites and users."""
    given = {*ALL_PERMISSIONS, "add_run", "view_run", "view_device"} - {*but}
    return make_user(*sorted(given), sees_objects=False)


def values(webhook: Webhook) -> dict[str, Any]:
    """For each filter, the value that finds hidden rows."""
    now = timezone.now()
    return {
        "object_type": "dcim.site", "object_id": KEY, "action": "deleted", "request_id": REQUEST, "name": NAME,
        "user": USER, "created_after": (now - timedelta(hours=2)).isoformat(),
        "created_before": (now - timedelta(hours=4)).isoformat(), "state": "discarded", "error_kind": HIDDEN_KIND.value,
        "status": 418, "webhook": webhook.pk, "failed": True, "q": NAME, "within": "day", "rule": "condition",
    }  # fmt: skip


def with_type(name: str, found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name]} | ({"object_type": found["object_type"]} if name == "object_id" else {})


@pytest.mark.one_database
@pytest.mark.parametrize("name", sorted({*DeliveryFilters().fields, *EventFilters().fields}))
def test_no_filter_of_rest_finds_hidden_rows(hidden: Webhook, name: str) -> None:
    user, given = viewer(*OF_WEBHOOKS), with_type(name, values(hidden))
    client = api_client(user)
    query = urlencode(given)
    for part, filters in (("deliveries", DeliveryFilters), ("events", EventFilters)):
        if name in filters().fields:
            assert_same(partial(client.get, f"{API}/{part}/?{query}"), partial(hide, hidden))
    if name in DeliveryFilters().fields:
        assert_same(partial(client.post, f"{API}/deliveries/retry/?{query}"), partial(hide, hidden))
    for kind in RUN_KINDS:
        filters = EventFilters if kind == "replay" else DeliveryFilters
        if kind in ("recover", "backfill") or name not in filters().fields:
            continue
        chosen = given | ({"state": [given["state"]]} if "state" in given else {})
        body = {"kind": kind, "filters": chosen, "dry_run": True}
        status, _text = assert_same(partial(client.post, f"{API}/runs/", body, format="json"), partial(hide, hidden))
        assert status < 500


@pytest.mark.one_database
@pytest.mark.parametrize("name", sorted(SkipFilters().fields))
def test_no_filter_of_the_skips_of_a_webhook_finds_hidden_rows(hidden: Webhook, name: str) -> None:
    seen = Webhook.objects.get(name="CMDB")
    make_site_skip(seen, KEY, object_repr=NAME, username=USER, request_id=REQUEST, action="deleted")
    query = urlencode(with_type(name, values(hidden)))
    url = f"{API}/webhooks/{seen.pk}/skips/?{query}"
    assert_same(partial(api_client(viewer()).get, url), partial(hide, hidden))
    assert api_client(make_user(is_superuser=True)).get(url).json()["results"] or name == "created_before"


@pytest.mark.one_database
@pytest.mark.parametrize(
    "name", sorted({*DeliveryFilterForm.base_fields, *EventFilterForm.base_fields, *SkipFilterForm.base_fields})
)
@pytest.mark.parametrize("terms", [(NAME,), (KEY, REQUEST, f"dcim.site:{KEY}")], ids=["value", "terms"])
def test_no_filter_or_search_of_the_admin_finds_hidden_rows(hidden: Webhook, name: str, terms: tuple[str, ...]) -> None:
    if terms != (NAME,) and name != "q":
        terms = ()
    user, found = viewer(*OF_WEBHOOKS), values(hidden)
    client = browser(user)
    moments = {one: found[one][:19] for one in ("created_after", "created_before")}
    forms = {"delivery": DeliveryFilterForm, "event": EventFilterForm, "skip": SkipFilterForm}
    for value in [term if name == "q" else (found | moments)[name] for term in terms]:
        for model, form in forms.items():
            if name not in form.base_fields:
                continue
            if name == "state" and model == "event":
                value = "failed"
            addresses = [f"{reverse(f'admin:rq_webhooks_{model}_changelist')}?{urlencode({name: value})}"]
            kinds = {"delivery": ("retry", "resend", "discard"), "event": ("replay",)}.get(model, ())
            addresses += [
                f"{reverse('admin:rq_webhooks_run_add')}?{urlencode({'kind': kind, name: value})}" for kind in kinds
            ]
            for address in addresses:
                status, _text = assert_same(
                    partial(client.get, address, follow=True),
                    partial(hide, hidden),
                )
                assert status in (200, 302), address


@pytest.mark.one_database
@pytest.mark.parametrize("but", [OF_WEBHOOKS, {*OF_WEBHOOKS, "view_delivery", "view_event", "view_skip"}])
def test_a_hidden_webhook_is_as_unknown_as_an_absent_one(hidden: Webhook, but: set[str]) -> None:
    user = viewer(*but)
    client, pages = api_client(user), browser(user)
    for part in ("", "ping/", "pause/", "resume/", "recover/", "backfill/", "skips/"):
        for method, body in (("get", None), ("post", {"hours": 1, "dry_run": True})):
            url = f"{API}/webhooks/{hidden.pk}/{part}"
            send = getattr(client, method)
            assert_same(partial(send, url, body), partial(hide, hidden))
    for part in ("change", "history", "delete", "recover", "backfill", "ping", "try", "enable", "pause", "resume"):
        for method in ("get", "post"):
            url, send = reverse(f"admin:rq_webhooks_webhook_{part}", args=[hidden.pk]), getattr(pages, method)
            assert_same(partial(send, url), partial(hide, hidden))
    for url in (f"{API}/statistics/?webhook={hidden.pk}", f"{API}/why/?webhook={hidden.pk}"):
        assert_same(partial(client.get, url), partial(hide, hidden))
    body = {"kind": "retry", "filters": {"webhook": hidden.pk}, "dry_run": True}
    status, text = assert_same(partial(client.post, f"{API}/runs/", body, format="json"), partial(hide, hidden))
    assert (status, f"There is no webhook {hidden.pk}." in text) == (400, True)


@pytest.mark.one_database
def test_a_dry_run_names_the_absence_of_a_user_only_to_those_who_may_view_users(hidden: Webhook) -> None:
    body = {"kind": "retry", "filters": {"user": "nobody of this name"}, "dry_run": True}
    stranger = viewer()
    assert api_client(stranger).post(f"{API}/runs/", body, format="json").json()["note"] == ""
    colleague = make_user(*ALL_PERMISSIONS, "add_run", "view_user", sees_objects=False)
    note = api_client(colleague).post(f"{API}/runs/", body, format="json").json()["note"]
    assert note == "There is no user “nobody of this name”."


# Who made a change


def rename() -> None:
    """Another user made the changes, in another request."""
    Event.objects.update(username="zed", request_id="r-other", depth=3, changed='["status"]')


@pytest.fixture
def change(db: None, redis: Any) -> Delivery:
    event = make_event(
        object_type="dcim.device", object_id="2", object_repr="plugh", username="ann", request_id="r-1",
        dispatched=True, changed='["name"]', depth=1,
    )  # fmt: skip
    return make_delivery(make_webhook(Device, name="CMDB"), State.FAILED, event=event, reason="no")


@pytest.mark.one_database
def test_without_the_permission_for_events_nothing_says_who_made_a_change(change: Delivery) -> None:
    user = viewer("view_event", "read_payload_event", "view_skip")
    client, pages = api_client(user), browser(user)
    lists, runs = reverse("admin:rq_webhooks_delivery_changelist"), reverse("admin:rq_webhooks_run_add")
    asked: list[Ask] = [
        partial(pages.get, reverse("admin:rq_webhooks_delivery_change", args=[change.pk]), follow=True),
        partial(pages.get, lists, follow=True),
        partial(client.get, f"{API}/deliveries/{change.pk}/"),
        partial(client.get, f"{API}/deliveries/"),
    ]
    asked += [partial(pages.get, f"{lists}?q={term}", follow=True) for term in ("ann", "r-1")]
    for name, value in (("user", "ann"), ("request_id", "r-1")):
        query = f"{name}={value}"
        asked += [
            partial(client.get, f"{API}/deliveries/?{query}"),
            partial(client.post, f"{API}/deliveries/retry/?{query}"),
            partial(pages.get, f"{lists}?{query}", follow=True),
            partial(client.get, f"{API}/why/?{query}"),
            partial(pages.get, f"{reverse('webhooks_why')}?{query}", follow=True),
        ]
        for kind in ("retry", "resend", "discard", "replay"):
            body = {"kind": kind, "filters": {name: value}, "dry_run": True}
            asked += [
                partial(client.post, f"{API}/runs/", body, format="json"),
                partial(client.post, f"{API}/runs/", body | {"dry_run": False}, format="json"),
                # A client of its own: the list of events, which may not be opened, leaves the message to the next page.
                partial(browser(user).get, f"{runs}?kind={kind}&{query}"),
            ]
    for question in (f"event={change.event_id}", "object_type=dcim.device&object_id=2", f"webhook={change.webhook_id}"):
        asked.append(partial(client.get, f"{API}/why/?{question}"))
        asked.append(partial(pages.get, f"{reverse('webhooks_why')}?{question}", follow=True))
    for ask in asked:
        status, _text = assert_same(ask, rename)
        assert status < 500


@pytest.mark.one_database
def test_a_refused_filter_names_the_permission(change: Delivery) -> None:
    client = api_client(viewer("view_event"))
    expected = ["The filter user requires the permission rq_webhooks.view_event."]
    assert client.get(f"{API}/deliveries/?user=ann").json() == {"user": expected}
    assert client.post(f"{API}/deliveries/retry/?user=ann").json() == {"user": expected}
    body = {"kind": "retry", "filters": {"user": "ann"}, "dry_run": True}
    assert client.post(f"{API}/runs/", body, format="json").json() == {"filters": {"user": expected}}
    assert 'name="user"' not in browser(viewer("view_event")).get(
        reverse("admin:rq_webhooks_delivery_changelist")
    ).content.decode()  # fmt: skip


@pytest.mark.one_database
def test_with_the_permission_for_events_the_page_of_a_delivery_says_who_made_the_change(change: Delivery) -> None:
    user = viewer("read_payload_event")
    shown = browser(user).get(reverse("admin:rq_webhooks_delivery_change", args=[change.pk])).content.decode()
    assert "<strong>ann</strong>" in shown
    assert "request r-1" in shown
    assert len(api_client(user).get(f"{API}/deliveries/?user=ann").json()["results"]) == 1


# Runs of users who may act, and not view


@pytest.mark.one_database
@pytest.mark.parametrize("name", ["object_type", "object_id", "action", "name", "error_kind", "status", "user"])
def test_a_run_of_a_user_who_may_view_no_deliveries_takes_no_filter_by_what_they_have(
    hidden: Webhook, name: str
) -> None:
    client = api_client(viewer("view_delivery", "view_event"))
    for kind in ("retry", "replay"):
        if kind == "replay" and name not in EventFilters().fields:
            continue
        body = {"kind": kind, "filters": with_type(name, values(hidden)), "dry_run": True}
        status, text = assert_same(
            partial(client.post, f"{API}/runs/", body, format="json"),
            partial(hide, hidden),
        )
        assert (status, "requires the permission rq_webhooks.view_" in text) == (400, True)


@pytest.mark.one_database
def test_the_problem_of_a_run_names_an_event_only_to_those_who_may_view_it(hidden: Webhook) -> None:
    run = Run.objects.create(kind="replay", requested_by="root", problem=f"{NAME}: the object is gone")
    about, page = f"{API}/runs/{run.pk}/", reverse("admin:rq_webhooks_run_change", args=[run.pk])
    stranger, root = viewer(), make_user(is_superuser=True)
    for user, names_it in ((stranger, False), (root, True)):
        shown = [api_client(user).get(about), api_client(user).get(f"{API}/runs/"), browser(user).get(page)]
        assert [NAME in response.content.decode() for response in shown] == [names_it] * 3
    Run.objects.update(requested_by=name_of(stranger))
    assert NAME in api_client(stranger).get(about).json()["problem"]


@pytest.mark.one_database
def test_the_page_of_a_run_links_to_no_list_with_a_filter_that_the_user_does_not_have(change: Delivery) -> None:
    run = Run.objects.create(kind="retry", requested_by="root", filters={"user": "ann"})
    page = reverse("admin:rq_webhooks_run_change", args=[run.pk])
    for but, is_linked in (("view_event", False), ("view_skip", True)):
        shown = browser(viewer(but)).get(page).content.decode()
        assert ("?user=ann" in shown) == is_linked


# Cursors


@pytest.mark.one_database
@pytest.mark.parametrize("query", ["", "?user=nobody", "?name=nothing", "?object_type=dcim.device"])
@pytest.mark.parametrize("part", ["deliveries", "events"])
def test_the_cursor_of_an_empty_page_has_no_key_of_a_hidden_row(
    hidden: Webhook, monkeypatch: pytest.MonkeyPatch, part: str, query: str
) -> None:
    Delivery.objects.exclude(event__object_type="dcim.site").delete()
    Event.objects.exclude(object_type="dcim.site").delete()
    for name in ("LOOK_THROUGH", "LOOK_THROUGH_SCATTERED"):
        monkeypatch.setattr(paging, name, (1, 1))
    monkeypatch.setattr(paging, "EVENTS_AT_ONCE", 1)
    monkeypatch.setattr(paging, "ROUNDS", 1)
    client, url = api_client(viewer()), f"{API}/{part}/{query}"
    keys = {str(pk) for model in (Delivery, Event) for pk in model.objects.values_list("pk", flat=True)}
    cursors = set()
    while url:
        answer = client.get(url).json()
        assert answer["results"] == []
        url = answer["next"]
        if url:
            [cursor] = re.findall(r"cursor=([^&]+)", url)
            assert cursor not in keys
            assert unveil(cursor) in keys
            cursors.add(unveil(cursor))
    assert cursors or query == "?object_type=dcim.device"


@pytest.mark.one_database
def test_the_lists_of_the_admin_have_no_key_of_a_hidden_row_either(
    hidden: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOOK_THROUGH", "LOOK_THROUGH_SCATTERED"):
        monkeypatch.setattr(paging, name, (1, 1))
    client = browser(viewer())
    for model in ("delivery", "event", "skip"):
        shown = client.get(reverse(f"admin:rq_webhooks_{model}_changelist")).content.decode()
        for row in (*Delivery.objects.filter(event__object_type="dcim.site"), *Skip.objects.all()):
            assert str(row.pk) not in re.findall(r"before=([^\"&]+)", shown)


@pytest.mark.parametrize("cursor", ["~", "~nonsense", "~" + "A" * 200, "~é"])
def test_an_invented_cursor_is_unknown(hidden: Webhook, cursor: str) -> None:
    user = viewer()
    assert api_client(user).get(f"{API}/events/", {"cursor": cursor}).status_code == 404
    url = reverse("admin:rq_webhooks_event_changelist")
    assert browser(user).get(url, {"before": cursor}).status_code == 404


def test_the_answers_are_compared(hidden: Webhook) -> None:
    """The comparison sees hidden rows where a user may view them."""
    root = make_user(is_superuser=True)
    with pytest.raises(AssertionError):
        assert_same(lambda: api_client(root).get(f"{API}/events/"), partial(hide, hidden))
    assert json.loads(api_client(root).get(f"{API}/events/?user={USER}").content)["results"]
