"""The admin's pages of webhooks, deliveries and events, as an admin's browser asks for them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.models import Q, QuerySet
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from dcim.models import Device, Site
from tests.support.makers import (
    make_attempt,
    make_site_deliveries,
    make_site_delivery,
    make_site_event,
    make_webhook,
    to_view_objects,
)
from tests.support.observing import committed_before_each_chunk
from webhooks.admin import counting, search
from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.admin.filters import first_id
from webhooks.admin.pagination import CappedPaginator
from webhooks.db import new_id
from webhooks.models import Attempt, Delivery, Event, State, Webhook
from webhooks.models.event import CUT
from webhooks.workers import jobs

NASTY = '<script>alert("x")</script>'
ESCAPED = "&lt;script&gt;alert("

WEBHOOKS = reverse("admin:webhooks_webhook_changelist")
DELIVERIES = reverse("admin:webhooks_delivery_changelist")
EVENTS = reverse("admin:webhooks_event_changelist")


def staff(*permissions: str) -> Client:
    """The browser of somebody who may do only this, such as ``view_delivery``, and view the objects of the site."""
    user = User.objects.create_user(f"user {uuid4()}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(Q(codename__in=permissions) | to_view_objects()))
    client = Client()
    client.force_login(user)
    return client


def page(client: Client, address: str, **query: Any) -> str:
    """What a page says, which must be there."""
    response = client.get(address, query)
    assert response.status_code == 200, response
    return response.content.decode()


def told(client: Client, address: str, **data: Any) -> list[str]:
    """Post, follow to the next page, and give the messages that it shows."""
    response = client.post(address, data, follow=True)
    assert response.status_code == 200, response
    return [str(message) for message in response.context["messages"]]


def change_of(row: Webhook | Delivery | Event) -> str:
    return reverse(f"admin:webhooks_{row._meta.model_name}_change", args=[row.pk])


def do(deed: str, delivery: Delivery) -> str:
    return reverse(f"admin:webhooks_delivery_{deed}", args=[delivery.pk])


def statements(client: Client, address: str, **query: Any) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        page(client, address, **query)
    return [one["sql"] for one in captured]


@pytest.fixture
def webhook(db: None) -> Webhook:
    return make_webhook(Site, name="CMDB")


def form(**changes: Any) -> dict[str, Any]:
    """What a browser sends for a good webhook."""
    sites = ContentType.objects.get_for_model(Site)
    filled = {
        "name": "CMDB", "enabled": "on", "object_types": [sites.pk], "on_created": "on",
        "payload_url": "https://cmdb.example/hook", "http_method": "POST", "content_type": "application/json",
        "additional_headers": "", "body_template": "", "secret": "", "secret_headers": "",
        "ssl_verification": "on", "ca_file_path": "", "timeout": "", "ordered": "on",
    }  # fmt: skip
    return {name: value for name, value in (filled | changes).items() if value is not None}


class TestDefiningAWebhook:
    def test_the_registered_models_are_offered_under_their_apps_and_no_others(self, admin_client: Client) -> None:
        shown = page(admin_client, reverse("admin:webhooks_webhook_add"))
        user = ContentType.objects.get_for_model(User)
        assert "<legend>DCIM</legend>" in shown
        assert f'name="object_types" value="{ContentType.objects.get_for_model(Site).pk}"' in shown
        assert f'name="object_types" value="{user.pk}"' not in shown

    def test_a_good_form_defines_one(self, admin_client: Client) -> None:
        told(admin_client, reverse("admin:webhooks_webhook_add"), **form(secret="s3cret"))
        webhook = Webhook.objects.get()
        assert (webhook.name, webhook.secret, webhook.actions) == ("CMDB", "s3cret", ["created"])
        assert [one.model for one in webhook.object_types.all()] == ["site"]

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"object_types": []}, "Choose at least one model."),
            ({"on_created": None}, "Choose at least one action (created, updated, deleted) or one custom event."),
            ({"payload_url": "ftp://cmdb.example/"}, "Enter an http:// or https:// URL."),
            ({"payload_url": "javascript:alert(1)"}, "Enter an http:// or https:// URL."),
            ({"payload_url": "http://2130706433/"}, "is an odd way to write 127.0.0.1: write that."),
            ({"payload_url": "http://169.254.169.254/"}, "169.254.169.254 is a cloud metadata address, where nothing"),
            ({"payload_url": "http://u:p@cmdb.example/"}, "a user name or a password in it, which everybody would see"),
            ({"payload_url": "http://bad.example/"}, "bad.example resolves to a forbidden address: 169.254.0.1 is"),
            ({"payload_url": ""}, "This field is required."),
            ({"payload_url": "https://cmdb.example/{{ data.id"}, "Line 1: unexpected end of template"),
            ({"payload_url": "ftp://cmdb.example/{{ data.id }}"}, "Enter an http:// or https:// URL."),
            ({"payload_url": "http://169.254.169.254/{{ data.id }}"}, "is a cloud metadata address, where nothing"),
            ({"body_template": "{\r\n{{ data.id }\r\n}"}, "Line 2: unexpected"),
            ({"body_template": "{{ data.id | nope }}"}, "Line 1: No filter named"),
            ({"additional_headers": "X-A: 1\r\nno colon"}, "Line 2: there is no colon in"),
            ({"additional_headers": "X-A: 1\r\nhost: a.example"}, "Line 2: host is not for a template to set"),
            ({"content_type": "json"}, "Enter a content type, such as application/json."),
            ({"http_method": "HEAD"}, "HEAD is not one of the available choices"),
            ({"timeout": "121"}, "less than or equal to 120"),
            ({"ssl_verification": None, "ca_file_path": "/ca.pem"}, "A CA file has no effect"),
        ],
    )
    def test_a_bad_form_is_refused_and_says_why_once(
        self, admin_client: Client, names: dict[str, list[str]], changes: dict[str, Any], error: str
    ) -> None:
        names["bad.example"] = ["10.0.0.1", "169.254.0.1"]
        response = admin_client.post(reverse("admin:webhooks_webhook_add"), form(**changes))
        assert response.content.decode().count(error) == 1
        assert not Webhook.objects.exists()

    @pytest.mark.parametrize(
        "url",
        [
            "https://cmdb.example/{{ data.id }}",
            "https://{{ data.host }}/in",
            "{% if data.site %}https://a.example/{% else %}https://b.example/{% endif %}",
            "http{{ 's' }}://cmdb.example/",
            "HTTPS://cmdb.example:8443{{ path }}",
        ],
    )
    def test_templates_are_taken_as_they_are(self, admin_client: Client, url: str) -> None:
        headers = "X-Event: {{ event }}\r\nX-By: {{ username | header_safe }}"
        said = {"http_method": "PATCH", "content_type": "text/x; charset=utf-8", "body_template": "{{ data | tojson }}"}
        told(
            admin_client,
            reverse("admin:webhooks_webhook_add"),
            **form(payload_url=url, additional_headers=headers, **said),
        )
        webhook = Webhook.objects.get()
        assert {name: getattr(webhook, name) for name in said} == said
        assert (webhook.payload_url, webhook.additional_headers.splitlines()) == (url, headers.splitlines())

    def test_the_usual_content_types_are_suggested(self, admin_client: Client) -> None:
        shown = page(admin_client, reverse("admin:webhooks_webhook_add"))
        assert 'list="id_content_type_suggestions"' in shown
        assert '<option value="application/x-www-form-urlencoded">' in shown

    def test_who_may_only_view_sees_no_headers(self, webhook: Webhook) -> None:
        Webhook.objects.update(additional_headers="Authorization: Token t0ps3cret")
        shown = page(staff("view_webhook"), change_of(webhook))
        assert "shown to users who may change the webhook" in shown
        assert "t0ps3cret" not in shown

    def test_one_whose_destination_is_no_longer_allowed_can_be_disabled_and_not_enabled(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        forbidden = {"payload_url": "http://169.254.169.254/"}
        Webhook.objects.update(**forbidden)
        told(admin_client, change_of(webhook), **form(**forbidden, enabled=None))
        assert not Webhook.objects.get().enabled
        response = admin_client.post(change_of(webhook), form(**forbidden))
        assert "is a cloud metadata address" in response.content.decode()
        assert not Webhook.objects.get().enabled

    @pytest.mark.parametrize(("was", "left"), [("True", "on"), ("False", None)])
    def test_a_form_that_was_opened_before_it_was_switched_does_not_switch_it_back(
        self, admin_client: Client, webhook: Webhook, was: str, left: str | None
    ) -> None:
        Webhook.objects.update(enabled=not left, disabled_reason="HTTP 410 Gone" if left else "")
        opened = form(name="renamed", enabled=left) | {"initial-enabled": was}
        [warning, success] = told(admin_client, change_of(webhook), **opened)
        assert f"“renamed” was {'disabled' if left else 'enabled'} while its form was open, and stays so" in warning
        assert ("(HTTP 410 Gone)" in warning) == bool(left)
        assert "was changed successfully" in success
        assert Webhook.objects.values_list("name", "enabled").get() == ("renamed", not left)

    @pytest.mark.parametrize(("was", "wanted"), [("True", None), ("False", "on")])
    def test_a_switch_in_the_form_switches(
        self, admin_client: Client, webhook: Webhook, was: str, wanted: str | None
    ) -> None:
        Webhook.objects.update(enabled=not wanted)
        assert f'name="initial-enabled" value="{was}"' in page(admin_client, change_of(webhook))
        [success] = told(admin_client, change_of(webhook), **form(enabled=wanted) | {"initial-enabled": was})
        assert "was changed successfully" in success
        assert Webhook.objects.get().enabled == bool(wanted)

    def test_its_page_says_what_is_wrong_with_it(self, admin_client: Client, webhook: Webhook) -> None:
        assert "wh-finding" not in page(admin_client, change_of(webhook))
        Webhook.objects.update(failures_in_a_row=10, last_failure="HTTP 503", probe_at=timezone.now())
        told = "is paused after 10 failed attempts, the last one with: HTTP 503."
        shown = page(admin_client, change_of(webhook))
        assert told in shown
        assert "The status page and the list of webhooks resume it at once." in shown
        Webhook.objects.update(enabled=False, probe_at=None, disabled_reason="HTTP 410 Gone")
        assert "was disabled automatically: HTTP 410 Gone." in page(staff("view_webhook"), change_of(webhook))

    def test_a_model_that_is_not_registered_is_refused(self, admin_client: Client) -> None:
        users = ContentType.objects.get_for_model(User)
        response = admin_client.post(reverse("admin:webhooks_webhook_add"), form(object_types=[users.pk]))
        assert "is not one of the available choices" in response.content.decode()
        assert not Webhook.objects.exists()

    def test_models_that_are_no_longer_registered_are_named(self, admin_client: Client, webhook: Webhook) -> None:
        through = Webhook.object_types.through
        through.objects.create(webhook=webhook, contenttype=ContentType.objects.get_for_model(User))
        assert "no longer registered, and dropped when you save: auth.user" in page(admin_client, change_of(webhook))


class TestSecret:
    @pytest.fixture
    def signed(self, db: None) -> Webhook:
        return make_webhook(Site, name="signed", secret="hush-hush")

    def test_it_is_never_shown_again(self, admin_client: Client, signed: Webhook) -> None:
        for shown in (page(admin_client, change_of(signed)), page(admin_client, WEBHOOKS)):
            assert "hush-hush" not in shown
        assert "A secret is set. Leave this empty to keep it." in page(admin_client, change_of(signed))

    def test_not_even_when_the_form_has_errors(self, admin_client: Client, signed: Webhook) -> None:
        response = admin_client.post(change_of(signed), form(name="", secret="another-one"))
        assert "another-one" not in response.content.decode()
        assert list(response.context["errors"]) == [
            ["This field is required."],
            ["Enter it again: nothing was saved, and what was entered is not shown."],
        ]

    def test_who_may_only_view_does_not_see_it(self, signed: Webhook) -> None:
        shown = page(staff("view_webhook"), change_of(signed))
        assert "A secret is set." in shown
        assert "hush-hush" not in shown

    @pytest.mark.parametrize(
        ("sent", "kept"),
        [({"secret": ""}, "hush-hush"), ({"secret": "new"}, "new"), ({"clear_secret": "on"}, "")],
    )
    def test_empty_keeps_it_text_replaces_it_and_a_box_clears_it(
        self, admin_client: Client, signed: Webhook, sent: dict[str, str], kept: str
    ) -> None:
        told(admin_client, change_of(signed), **form(name="signed", **sent))
        signed.refresh_from_db()
        assert signed.secret == kept

    def test_new_and_clear_at_once_is_refused(self, admin_client: Client, signed: Webhook) -> None:
        response = admin_client.post(change_of(signed), form(secret="new", clear_secret="on"))
        assert "not both" in response.content.decode()
        signed.refresh_from_db()
        assert signed.secret == "hush-hush"

    @pytest.mark.parametrize(
        ("sent", "kept"),
        [
            ({}, "X-Token: hush"),
            ({"secret_headers": "X-Other: new"}, "X-Other: new"),
            ({"clear_secret_headers": "on"}, ""),
        ],
    )
    def test_secret_headers_are_handled_alike(
        self, admin_client: Client, signed: Webhook, sent: dict[str, str], kept: str
    ) -> None:
        Webhook.objects.update(secret_headers="X-Token: hush")
        shown = page(admin_client, change_of(signed))
        assert "A text with secret headers is set. Leave this empty to keep it." in shown
        assert "X-Token" not in shown
        told(admin_client, change_of(signed), **form(name="signed", **sent))
        assert Webhook.objects.get().secret_headers == kept

    def test_bad_secret_headers_are_refused_without_being_shown(self, admin_client: Client, signed: Webhook) -> None:
        response = admin_client.post(change_of(signed), form(secret_headers="X-Token: hush\nHost: hush"))
        shown = response.content.decode()
        assert "Line 2: Host cannot be set" in shown
        assert "hush" not in shown

    def test_what_the_database_keeps_cannot_be_entered(self, admin_client: Client, signed: Webhook) -> None:
        response = admin_client.post(change_of(signed), form(secret=signed.secret.stored))
        assert "which marks encrypted texts" in response.content.decode()

    def test_keys_that_cannot_be_used_are_said_so_at_the_field(
        self, admin_client: Client, webhooks_settings: Any
    ) -> None:
        webhooks_settings(ENCRYPTION_KEYS=["no key"])
        response = admin_client.post(reverse("admin:webhooks_webhook_add"), form(secret="new"))
        assert "ENCRYPTION_KEYS" in response.content.decode()
        assert not Webhook.objects.exists()

    def test_a_save_that_leaves_it_is_not_logged_as_a_change_of_it(self, admin_client: Client, signed: Webhook) -> None:
        told(admin_client, change_of(signed), **form(name="renamed"))
        assert "ecret" not in LogEntry.objects.get().change_message


class TestListOfWebhooks:
    def test_it_tells_how_each_is_doing(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 3)
        make_site_delivery(webhook, State.WAITING)
        Webhook.objects.update(failures_in_a_row=2, last_failure="HTTP 500", last_failure_at=timezone.now())
        shown = page(admin_client, WEBHOOKS)
        assert 'state=failed">3</a>' in shown
        assert 'state=open">1</a>' in shown
        assert "failing" in shown
        assert "HTTP 500" in shown

    def test_its_queries_do_not_grow_with_the_webhooks(self, admin_client: Client, webhook: Webhook) -> None:
        page(admin_client, WEBHOOKS)
        few = len(statements(admin_client, WEBHOOKS))
        for _ in range(20):
            make_site_deliveries(make_webhook(Site, Device), 2)
        assert len(statements(admin_client, WEBHOOKS)) == few

    @pytest.mark.parametrize(
        ("action", "before", "wakes"),
        [
            ("disable", {"enabled": True}, []),
            ("enable", {"enabled": False}, [jobs.wake_up]),
            ("enable", {"enabled": True}, []),
            ("resume", {"probe_at": timezone.now()}, [jobs.wake_up]),
        ],
    )
    def test_a_worker_is_woken_for_what_can_go_out_now(
        self,
        admin_client: Client,
        webhook: Webhook,
        django_capture_on_commit_callbacks: Any,
        action: str,
        before: dict[str, Any],
        wakes: list[Any],
    ) -> None:
        Webhook.objects.update(**before)
        with django_capture_on_commit_callbacks() as callbacks:
            told(admin_client, WEBHOOKS, action=action, _selected_action=[webhook.pk])
        assert callbacks == wakes

    @pytest.mark.parametrize(
        ("action", "before", "after", "message"),
        [
            ("disable", {"enabled": True}, False, "1 webhook is disabled now."),
            ("disable", {"enabled": False}, False, "1 webhook was disabled already."),
            ("enable", {"enabled": False, "disabled_reason": "410 Gone"}, True, "1 webhook is enabled now."),
        ],
    )
    def test_webhooks_are_enabled_and_disabled(
        self, admin_client: Client, webhook: Webhook, action: str, before: dict[str, Any], after: bool, message: str
    ) -> None:
        Webhook.objects.update(**before)
        assert told(admin_client, WEBHOOKS, action=action, _selected_action=[webhook.pk]) == [message]
        webhook.refresh_from_db()
        assert (webhook.enabled, webhook.disabled_reason) == (after, "")

    def test_those_that_leave_the_list_by_it_are_counted_nevertheless(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        Webhook.objects.update(enabled=False)
        messages = told(admin_client, f"{WEBHOOKS}?enabled__exact=0", action="enable", _selected_action=[webhook.pk])
        assert messages == ["1 webhook is enabled now."]

    def test_a_paused_one_is_resumed(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(probe_at=timezone.now() + timedelta(hours=1), failures_in_a_row=20)
        messages = told(admin_client, WEBHOOKS, action="resume", _selected_action=[webhook.pk])
        assert messages == ["1 webhook is sent to again."]
        webhook.refresh_from_db()
        assert not webhook.is_paused
        assert LogEntry.objects.get().change_message == "Resumed."


class TestDeletingWebhooks:
    def test_one_says_how_many_deliveries_go_with_it(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 3)
        make_site_delivery(webhook, State.WAITING)
        shown = page(admin_client, reverse("admin:webhooks_webhook_delete", args=[webhook.pk]))
        assert "4 deliveries go with it (1 not sent yet, 3 failed), and every attempt to send them." in shown

    def test_several_say_it_for_each(self, admin_client: Client, webhook: Webhook) -> None:
        other = make_webhook(Site, name="Chat")
        make_site_delivery(other)
        chosen = {"action": "delete_selected", "_selected_action": [webhook.pk, other.pk]}
        shown = admin_client.post(WEBHOOKS, chosen).content.decode()
        assert "1 delivery goes with it (1 failed)" in shown
        assert "No deliveries go with it." in shown
        told(admin_client, WEBHOOKS, **chosen, post="yes")
        assert not Webhook.objects.exists()

    def test_everything_goes_and_is_not_loaded(self, admin_client: Client, webhook: Webhook) -> None:
        other = make_site_delivery(make_webhook(Site))
        for delivery in make_site_deliveries(webhook, 30):
            make_attempt(delivery)
        address = reverse("admin:webhooks_webhook_delete", args=[webhook.pk])
        with CaptureQueriesContext(connection) as captured:
            told(admin_client, address, post="yes")
        assert list(Delivery.objects.all()) == [other]
        assert not Attempt.objects.exists()
        read = [one["sql"] for one in captured if one["sql"].startswith('SELECT "webhooks_delivery"')]
        assert read
        assert '"reason"' not in "".join(read), "only their keys are read"

    def test_who_may_not_delete_is_refused(self, webhook: Webhook) -> None:
        address = reverse("admin:webhooks_webhook_delete", args=[webhook.pk])
        assert staff("view_webhook", "change_webhook").get(address).status_code == 403


class TestListOfDeliveries:
    def test_it_tells_what_an_admin_looks_for(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_delivery(webhook, event=make_site_event(12, "AMS1", action="created"))
        shown = page(admin_client, DELIVERIES)
        for text in ("AMS1", "dcim.site 12, created", "CMDB", "HTTP 503 Service Unavailable", "wh-failed"):
            assert text in shown

    def test_it_tells_when_the_next_attempt_is(self, admin_client: Client, webhook: Webhook) -> None:
        later = timezone.now() + timedelta(minutes=10, seconds=5)
        make_site_delivery(webhook, State.PENDING, next_attempt_at=later)
        assert "in 10 min" in page(admin_client, DELIVERIES)
        Webhook.objects.update(enabled=False)
        assert "next when enabled" in page(admin_client, DELIVERIES)

    def test_its_queries_do_not_grow_with_the_rows(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 2)
        page(admin_client, DELIVERIES)
        few = len(statements(admin_client, DELIVERIES))
        make_site_deliveries(make_webhook(Site), 30)
        assert len(statements(admin_client, DELIVERIES)) == few

    def test_nothing_is_counted_to_the_end(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 2)
        counts = [sql for sql in statements(admin_client, DELIVERIES) if "COUNT(" in sql]
        assert len(counts) == 1
        assert f"LIMIT {CappedPaginator.most + 1}" in counts[0]

    def test_more_than_can_be_paged_through_is_said(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(CappedPaginator, "most", 3)
        make_site_deliveries(webhook, 5)
        assert "these are the newest 3" in page(admin_client, DELIVERIES)

    @pytest.mark.parametrize(
        "query",
        [
            {"state": "failed"},
            {"webhook__id__exact": "WEBHOOK"},
            {"model": "dcim.site"},
            {"event_action": "updated"},
            {"within": "hour"},
        ],
    )
    def test_it_is_filtered(self, admin_client: Client, webhook: Webhook, query: dict[str, str]) -> None:
        make_site_delivery(webhook, event=make_site_event(1, "wanted"))
        day_ago = first_id(timezone.now() - timedelta(days=1))
        unwanted = make_site_event(2, "unlike", object_type="dcim.device", action="created")
        make_site_delivery(make_webhook(Site), State.SUCCEEDED, unwanted, pk=day_ago)
        query = {name: str(webhook.pk) if value == "WEBHOOK" else value for name, value in query.items()}
        shown = page(admin_client, DELIVERIES, **query)
        assert "wanted" in shown
        assert "unlike" not in shown

    def test_not_ended_means_three_states(self, admin_client: Client, webhook: Webhook) -> None:
        for number, state in enumerate(State):
            make_site_delivery(webhook, state, make_site_event(number, f"site-{state}"))
        shown = page(admin_client, DELIVERIES, state="open")
        assert [state for state in State if f"site-{state}" in shown] == ["waiting", "pending", "sending"]

    @pytest.mark.parametrize("term", ["4711", "dcim.site:4711", "frankf", "DELIVERY", "REQUEST"])
    def test_it_is_searched_by_object_delivery_and_request(
        self, admin_client: Client, webhook: Webhook, term: str
    ) -> None:
        request = str(uuid4())
        wanted = make_site_delivery(webhook, event=make_site_event(4711, "Frankfurt", request_id=request))
        make_site_delivery(webhook, event=make_site_event(1, "Amsterdam"))
        term = {"DELIVERY": str(wanted.pk), "REQUEST": request}.get(term, term)
        shown = page(admin_client, DELIVERIES, q=term)
        assert "Frankfurt" in shown
        assert "Amsterdam" not in shown

    def test_names_are_looked_for_among_the_newest_events(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(search, "NEWEST", 1)
        make_site_delivery(webhook, event=make_site_event(1, "Frankfurt"))
        make_site_delivery(webhook, event=make_site_event(2, "Amsterdam"))
        assert "Frankfurt" not in page(admin_client, DELIVERIES, q="frank")
        assert "Amsterdam" in page(admin_client, DELIVERIES, q="amst")


class TestOneDelivery:
    def test_it_shows_what_is_sent_and_what_came_back(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "Zürich", username="jstretch", data='{"id":12,"name":"Z\\u00fcrich"}')
        delivery = make_site_delivery(webhook, event=event)
        make_attempt(delivery, response_headers={"Server": "nginx"}, response_body="Sorry & bye", worker="w-1")
        shown = page(admin_client, change_of(delivery))
        for text in (
            "Zürich",
            "jstretch",
            "given up",
            "47 ms",
            "503",
            "nginx",
            "Sorry &amp; bye",
            "w-1",
            str(delivery.pk),
        ):
            assert text in shown
        assert "&quot;name&quot;: &quot;Zürich&quot;" in shown  # to be read
        assert "&quot;name&quot;:&quot;Z\\u00fcrich&quot;" in shown  # as it is sent

    def test_a_form_is_shown_as_a_form(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(content_type="application/x-www-form-urlencoded")
        assert "event=updated&amp;timestamp=" in page(admin_client, change_of(make_site_delivery(webhook)))

    def test_a_body_from_a_template_is_shown_as_it_is_sent(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(body_template="<{{ event }} of {{ model }}>")
        assert "&lt;updated of site&gt;" in page(admin_client, change_of(make_site_delivery(webhook)))

    def test_a_pending_one_says_when_it_goes(self, admin_client: Client, webhook: Webhook) -> None:
        later, earlier = (timezone.now() + timedelta(hours=hours) for hours in (2, -2))
        delivery = make_site_delivery(webhook, State.PENDING, next_attempt_at=later, reason="HTTP 503")
        assert "; the last attempt failed: <strong>HTTP 503" in page(admin_client, change_of(delivery))
        assert "in 2 h" in page(admin_client, change_of(delivery))
        Delivery.objects.update(next_attempt_at=earlier)
        assert "due now" in page(admin_client, change_of(delivery))
        Webhook.objects.update(probe_at=later)
        shown = page(admin_client, change_of(delivery))
        assert "waits because the webhook is paused" in shown
        assert "due now" not in shown

    def test_the_length_of_a_body_is_told_in_bytes(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(body_template="Zürich")
        assert "(7 bytes)" in page(admin_client, change_of(make_site_delivery(webhook)))

    def test_a_template_that_fails_shows_why_nothing_is_sent(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(body_template="{{ data.nope.deeper }}")
        shown = page(admin_client, change_of(make_site_delivery(webhook)))
        assert "Nothing is sent: the body could not be rendered: line 1: UndefinedError" in shown
        assert "bytes)" not in shown

    def test_nothing_that_an_object_or_a_receiver_says_becomes_markup(self, admin_client: Client) -> None:
        webhook = make_webhook(Site, name=f"hook {NASTY}", url=f"https://x.example/?{NASTY}")
        event = make_site_event(
            NASTY, NASTY, username=NASTY, request_id=NASTY, data=f'{{"a":"{NASTY[8:14]}"}}', request=f'"{NASTY[:8]}"'
        )
        delivery = make_site_delivery(webhook, event=event, reason=NASTY)
        make_attempt(delivery, response_headers={NASTY: NASTY}, response_body=NASTY, worker=NASTY)
        broken = make_site_event(2, NASTY, error=NASTY, data="", dispatched_at=None)
        status = reverse("webhooks_backend_status")
        for address in (DELIVERIES, EVENTS, WEBHOOKS, status, *map(change_of, (delivery, event, broken, webhook))):
            shown = page(admin_client, address)
            assert NASTY not in shown, address
            assert "<script>alert" not in shown, address
            assert ESCAPED in shown, address

    def test_it_tells_who_waits_behind_whom(self, admin_client: Client, webhook: Webhook) -> None:
        head = make_site_delivery(webhook, State.PENDING, reason="HTTP 500", attempt_count=1)
        first, second, third = (make_site_delivery(webhook, State.WAITING) for _ in range(3))
        make_site_delivery(webhook, State.WAITING, make_site_event(2))
        shown = " ".join(page(admin_client, change_of(second)).split())
        assert "Number 3 in line" in shown
        assert f'href="{change_of(head)}">the one that goes now</a>' in shown
        assert f'1 waits behind it; the next is <a href="{change_of(third)}"' in shown
        assert "It is the first in line" in page(admin_client, change_of(head))
        assert "It is no longer in line" in page(
            admin_client, change_of(make_site_delivery(webhook, event=make_site_event(3)))
        )
        assert change_of(first) in page(admin_client, change_of(head))

    def test_a_long_lane_is_counted_no_further_than_it_says(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(counting, "EACH", 2)
        head, *waiting = [make_site_delivery(webhook, state) for state in (State.PENDING, *[State.WAITING] * 4)]
        assert "2+ wait behind it" in page(admin_client, change_of(head))
        assert "Number 2+ in line" in page(admin_client, change_of(waiting[-1]))
        assert "Number 2 in line" in page(admin_client, change_of(waiting[0]))

    def test_the_next_one_may_be_taken_while_the_page_is_made(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        head, after = make_site_delivery(webhook, State.PENDING), make_site_delivery(webhook, State.WAITING)
        first = QuerySet.first

        def take_and_read(rows: QuerySet[Any]) -> Any:
            if "waiting" in str(rows.query):
                Delivery.objects.filter(pk=after.pk).update(state=State.SUCCEEDED)
            return first(rows)

        monkeypatch.setattr(QuerySet, "first", take_and_read)
        assert "behind it; the next" not in page(admin_client, change_of(head))

    def test_its_queries_do_not_grow_with_its_attempts_or_its_lane(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        delivery = make_site_delivery(webhook, State.PENDING)
        make_attempt(delivery)
        page(admin_client, change_of(delivery))
        few = len(statements(admin_client, change_of(delivery)))
        for number in range(20):
            make_attempt(delivery, number=number)
            make_site_delivery(webhook, State.WAITING)
        assert len(statements(admin_client, change_of(delivery))) == few

    def test_an_unknown_one_is_not_found_politely(self, admin_client: Client, webhook: Webhook) -> None:
        address = reverse("admin:webhooks_delivery_change", args=[new_id()])
        assert "doesn" in admin_client.get(address, follow=True).content.decode()
        assert admin_client.post(reverse("admin:webhooks_delivery_retry", args=["nonsense"])).status_code == 404


class TestRetryAndDiscard:
    def test_a_button_retries_one(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        assert do("retry", delivery) in page(admin_client, change_of(delivery))
        assert told(admin_client, do("retry", delivery)) == ["1 delivery will be sent again."]
        delivery.refresh_from_db()
        assert delivery.state == State.PENDING
        entry = LogEntry.objects.get()
        assert (entry.object_id, entry.change_message) == (str(delivery.pk), "Retried.")

    def test_a_button_discards_one(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook, State.PENDING)
        assert told(admin_client, do("discard", delivery)) == ["1 delivery is discarded and will not be sent."]
        delivery.refresh_from_db()
        assert delivery.state == State.DISCARDED
        assert LogEntry.objects.get().change_message == "Discarded."

    @pytest.mark.parametrize("deed", ["retry", "discard"])
    def test_a_link_does_nothing(self, admin_client: Client, webhook: Webhook, deed: str) -> None:
        assert admin_client.get(do(deed, make_site_delivery(webhook))).status_code == 405

    @pytest.mark.parametrize("deed", ["retry", "discard"])
    def test_who_may_view_may_not_therefore_do_it(self, webhook: Webhook, deed: str) -> None:
        delivery = make_site_delivery(webhook)
        viewer = staff("view_delivery")
        assert do(deed, delivery) not in page(viewer, change_of(delivery))
        assert f"{deed}_chosen" not in page(viewer, DELIVERIES)
        assert viewer.post(do(deed, delivery)).status_code == 403
        viewer.post(DELIVERIES, {"action": f"{deed}_chosen", "_selected_action": [delivery.pk]})
        delivery.refresh_from_db()
        assert delivery.state == State.FAILED

    def test_who_has_the_permission_may(self, webhook: Webhook) -> None:
        client = staff("view_delivery", "retry_delivery")
        assert told(client, do("retry", make_site_delivery(webhook))) == ["1 delivery will be sent again."]

    def test_many_are_retried_and_the_rest_is_accounted_for(self, admin_client: Client, webhook: Webhook) -> None:
        chosen = [*make_site_deliveries(webhook, 3), make_site_delivery(webhook, State.SUCCEEDED)]
        ids = [delivery.pk for delivery in chosen]
        assert told(admin_client, DELIVERIES, action="retry_chosen", _selected_action=ids) == [
            "3 deliveries will be sent again; "
            "1 was left as it is: only failed, discarded or pending ones can be retried, and none of a deleted webhook."
        ]
        assert LogEntry.objects.count() == 3

    def test_many_are_discarded(self, admin_client: Client, webhook: Webhook) -> None:
        chosen = [
            make_site_delivery(webhook),
            make_site_delivery(webhook, State.SUCCEEDED),
            make_site_delivery(webhook, State.SENDING),
        ]
        ids = [delivery.pk for delivery in chosen]
        assert told(admin_client, DELIVERIES, action="discard_chosen", _selected_action=ids) == [
            "1 delivery is discarded and will not be sent; 2 had ended or are being sent, and stay as they are."
        ]

    def test_very_many_leave_one_log_entry(self, admin_client: Client, webhook: Webhook) -> None:
        ids = [delivery.pk for delivery in make_site_deliveries(webhook, 101)]
        told(admin_client, DELIVERIES, action="retry_chosen", _selected_action=ids)
        assert LogEntry.objects.get().object_repr == "101 deliveries of CMDB"

    def test_a_lane_is_retried_in_its_order(self, admin_client: Client, webhook: Webhook) -> None:
        ids = [make_site_delivery(webhook).pk for _ in range(3)]
        told(admin_client, DELIVERIES, action="retry_chosen", _selected_action=ids[::-1])
        assert list(Delivery.objects.order_by("event_id").values_list("state", flat=True)) == [
            "pending",
            "waiting",
            "waiting",
        ]

    def test_select_all_takes_no_more_than_it_says(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(CappedPaginator, "most", 3)
        oldest = make_site_deliveries(webhook, 5)[0]
        chosen = {"action": "retry_chosen", "_selected_action": [oldest.pk], "select_across": "1"}
        assert told(admin_client, DELIVERIES, **chosen) == ["3 deliveries will be sent again."]

    def test_no_worker_waits_for_the_last_of_many(self, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        committed = committed_before_each_chunk(monkeypatch)
        chosen = [delivery.pk for delivery in make_site_deliveries(make_webhook(Site), 3)]
        told(staff("view_delivery", "retry_delivery"), DELIVERIES, action="retry_chosen", _selected_action=chosen)
        assert committed == [0, 2]

    def test_deliveries_cannot_be_added_changed_or_deleted(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        assert admin_client.get(reverse("admin:webhooks_delivery_add")).status_code == 403
        assert admin_client.post(change_of(delivery), {"state": "succeeded"}).status_code == 403
        assert admin_client.post(reverse("admin:webhooks_delivery_delete", args=[delivery.pk])).status_code == 403


class TestEvents:
    def test_one_shows_its_data_and_its_deliveries(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "AMS1", username="jstretch")
        delivery = make_site_delivery(webhook, event=event)
        shown = page(admin_client, change_of(event))
        for text in ("AMS1", "jstretch", "&quot;name&quot;: &quot;AMS1&quot;", change_of(delivery), "CMDB"):
            assert text in shown

    @pytest.mark.parametrize(("changed", "shown"), [('["name","tags"]', "name, tags"), ("[]", "nothing"), ("", None)])
    def test_one_shows_what_changed_where_that_is_known(
        self, admin_client: Client, changed: str, shown: str | None
    ) -> None:
        found = page(admin_client, change_of(make_site_event(12, "AMS1", changed=changed)))
        assert ("<dt>Fields</dt>" in found) == (shown is not None)
        assert shown is None or f"<dt>Fields</dt><dd>{shown}</dd>" in found

    def test_one_of_which_nobody_knows_who_wants_it_says_so(self, admin_client: Client) -> None:
        failed = make_site_event(1, "AMS1", error="It could not be told", dispatched_at=None)
        assert "It could not be told who wants this change" in page(admin_client, change_of(failed))
        Event.objects.update(dispatched_at=failed.timestamp)
        assert "no webhook wanted it then" in page(admin_client, change_of(failed))

    @pytest.mark.parametrize(
        ("fields", "pill", "sentence", "button"),
        [
            ({"data": "", "error": "KeyError"}, "could not be made", "There is no payload of this change", "of today"),
            ({"error": "Undecided"}, "undecided", "could not be told who wants", "with the data of today"),
            ({"error": f"{CUT}depth 4"}, "cut", "too deep in a chain", "as the first of a new chain"),
        ],
    )
    def test_each_kind_of_failure_is_told_apart(
        self, admin_client: Client, fields: dict[str, Any], pill: str, sentence: str, button: str
    ) -> None:
        failed = make_site_event(dispatched_at=None, **fields)
        shown = page(admin_client, change_of(failed))
        assert sentence in shown
        assert re.search(rf"<button[^>]*>Replay [^<]*{button}</button>", shown)
        for listed in (shown, page(admin_client, EVENTS)):
            assert f'wh-failed">{pill}</span>' in listed

    def test_the_list_tells_the_kinds_of_failure_without_the_data(self, admin_client: Client) -> None:
        make_site_event(1, dispatched_at=None, error="KeyError")
        few = statements(admin_client, EVENTS)
        make_site_event(2, dispatched_at=None, error="KeyError", data="")
        assert len(statements(admin_client, EVENTS)) == len(few)

    def test_a_failed_one_shows_its_traceback_and_can_be_found(self, admin_client: Client, webhook: Webhook) -> None:
        failed = make_site_event(1, "broken", data="", error="Traceback:\nKeyError: 'name'", dispatched_at=None)
        make_site_event(2, "sound")
        assert "KeyError: &#x27;name&#x27;" in page(admin_client, change_of(failed))
        shown = page(admin_client, EVENTS, state="failed")
        assert "broken" in shown
        assert "sound" not in shown

    def test_its_list_is_not_counted_to_the_end_and_its_queries_do_not_grow(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        make_site_event()
        page(admin_client, EVENTS)
        few = statements(admin_client, EVENTS)
        for key in range(20):
            make_site_delivery(webhook, event=make_site_event(key))
        assert len(statements(admin_client, EVENTS)) == len(few)
        assert all("LIMIT" in sql for sql in few if "COUNT(" in sql)

    def test_a_failed_one_is_sent_with_the_data_of_today(self, admin_client: Client) -> None:
        site = Site.objects.create(name="Lisbon", slug="lis")
        webhook = make_webhook(Site)
        failed = make_site_event(
            site.pk, "old name", data="", error="KeyError", dispatched_at=None, webhook_ids=[webhook.pk]
        )
        address = reverse("admin:webhooks_event_replay", args=[failed.pk])
        assert address in page(admin_client, change_of(failed))
        assert told(admin_client, address) == ["1 event is replayed."]
        made = Event.objects.get(replay_of=failed.pk)
        assert '"Lisbon"' in made.data
        assert change_of(made) in page(admin_client, change_of(failed))
        assert change_of(failed) in page(admin_client, change_of(made))
        assert LogEntry.objects.get().change_message == "Replayed."

    def test_one_that_cannot_be_sent_again_says_why(self, admin_client: Client, webhook: Webhook) -> None:
        gone = make_site_event(99, "gone", data="", error="KeyError", dispatched_at=None, webhook_ids=[webhook.pk])
        messages = told(admin_client, EVENTS, action="replay_chosen", _selected_action=[gone.pk])
        assert messages == ["Nothing is sent for “gone”: the object is gone."]

    def test_who_may_only_view_may_not_replay(self, webhook: Webhook) -> None:
        failed = make_site_event(1, error="KeyError", dispatched_at=None)
        assert staff("view_event").post(reverse("admin:webhooks_event_replay", args=[failed.pk])).status_code == 403


@pytest.mark.parametrize("room", [DeliveryAdmin, EventAdmin])
def test_a_page_is_made_of_what_is_deleted_while_it_is_made(
    admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch, room: Any
) -> None:
    delivery = make_site_delivery(webhook, event=make_site_event(1, "Lisbon"))
    make_attempt(delivery)
    detail = room.detail

    def delete_and_show(self: Any, request: Any, row: Any) -> Any:
        for rows in (Attempt.objects.all(), Delivery.objects.all(), Event.objects.all()):
            rows.delete()
        return detail(self, request, row)

    monkeypatch.setattr(room, "detail", delete_and_show)
    assert "Lisbon" in page(admin_client, change_of(delivery if room is DeliveryAdmin else delivery.event))


def test_the_app_and_its_lists_lead_to_the_status_page(admin_client: Client) -> None:
    status = reverse("webhooks_backend_status")
    for address in (WEBHOOKS, DELIVERIES, EVENTS, reverse("admin:app_list", args=["webhooks"])):
        assert f'href="{status}"' in page(admin_client, address)
    assert status not in page(staff("view_webhook"), WEBHOOKS)


@pytest.mark.parametrize("asked", ["additional_headers__startswith", "secret__contains", "body_template__regex"])
def test_nobody_asks_for_headers_letter_by_letter(webhook: Webhook, asked: str) -> None:
    viewer = staff("view_webhook")
    assert viewer.get(WEBHOOKS, {asked: "A"}).status_code == 400
    assert viewer.get(WEBHOOKS, {"enabled__exact": "1", "name__exact": "C"}).status_code == 200


STATUS = reverse("webhooks_backend_status")
MANY_DIGITS = "9" * 5_000


@pytest.mark.parametrize(
    ("address", "status"),
    [
        *((f"{rows}?{key}=%00", 200) for rows in (EVENTS, DELIVERIES) for key in ("model", "event_action", "q")),
        (f"{WEBHOOKS}?name__regex=(", 400),
        (f"{WEBHOOKS}?name=%00", 400),
        (f"{WEBHOOKS}?name__exact=a&enabled__exact=1", 200),
        (f"{WEBHOOKS}?object_types__id__exact=1", 200),
        (f"{STATUS}retry-all/?webhook={MANY_DIGITS}", 404),
        (f"{STATUS}retry-all/?webhook=%00", 404),
    ],
)
def test_no_odd_address_is_an_error_of_the_server(
    database: str, redis: Any, admin_user: User, address: str, status: int
) -> None:
    client = Client()
    client.force_login(admin_user)
    assert client.get(address).status_code == status


def test_nothing_odd_that_is_posted_is_an_error_of_the_server(database: str, redis: Any, admin_user: User) -> None:
    client = Client()
    client.force_login(admin_user)
    posted = {"custom_events": "\0", "object_types": [MANY_DIGITS, "\0", "1"], "on_created": "on"}
    assert client.post(f"{WEBHOOKS}try/", posted).status_code == 200
    for pk in (MANY_DIGITS, "\0", "-1", ""):
        assert client.post(f"{STATUS}resume/", {"webhook": pk}).status_code == 302
