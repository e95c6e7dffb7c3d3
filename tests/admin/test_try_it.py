"""“Try it” on the form of a webhook: the exact request for a real object, and a test that sends it."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags

import webhooks
from dcim.admin import SiteAdmin
from dcim.models import Device, Site
from tests.support.admin_pages import change_of, form, staff
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.support.users import browser, make_user
from webhooks.ground.security.url_policy import redacted
from webhooks.models import Delivery, Event, Webhook, permissions

NEW = reverse("admin:rq_webhooks_webhook_try_new")

pytestmark = [pytest.mark.usefixtures("database", "redis"), pytest.mark.one_database]


@pytest.fixture
def site() -> Site:
    return Site.objects.create(name="Amsterdam", slug="ams", status="active")


@pytest.fixture
def admin(admin_client: Client) -> Client:
    return admin_client


def try_it(client: Client, of: Any = None, address: str = NEW, do: str = "show", **changes: Any) -> str:
    """The visible text of the panel after a press of the button, for this object."""
    sample = {"try": do, "try_action": "updated"}
    if of is not None:
        sample |= {"try_model": of._meta.label_lower, "try_object": str(of.pk)}
    answer = client.post(address, form(**changes) | sample)
    assert answer.status_code == 200, answer
    return " ".join(unescape(strip_tags(answer.content.decode())).split())


def test_an_unsaved_form_shows_the_exact_request_of_a_real_object(admin: Client, site: Site) -> None:
    shown = try_it(
        admin,
        site,
        name="",
        on_updated="on",
        payload_url="https://cmdb.example/{{ data.slug }}",
        secret="hush-hush",
        secret_headers="Authorization: Token t0ps3cret",
        additional_headers="X-Model: {{ model }}",
        body_template='{"name": {{ data.name | tojson }}, "by": "{{ username }}"}',
    )
    assert "would be sent Amsterdam updated. The webhook sends such a change." in shown
    assert "POST https://cmdb.example/ams" in shown
    assert "X-Model: site" in shown
    assert "X-Webhook-Test: true" in shown
    assert '"name": "Amsterdam", "by": "admin@example.com"' in shown
    assert re.search(r"Authorization: \*+ ", shown)
    assert re.search(r"webhook-signature: \*+ ", shown)
    assert "t0ps3cret" not in shown
    assert "hush-hush" not in shown
    assert not Webhook.objects.exists()


def test_each_problem_names_its_field(admin: Client, site: Site) -> None:
    templates = {"payload_url": "https://cmdb.example/{{ data.a.b }}", "body_template": "{{ data.status.c.d }}"}
    shown = try_it(admin, site, **templates)
    assert "Payload URL: the URL could not be rendered" in shown
    assert "Body template: the body could not be rendered" in shown
    assert "Send as a test" not in shown
    assert "Conditions: This is not JSON" in try_it(admin, site, conditions="{")
    assert "There is no site with the key 77" in try_it(admin, Site(pk=77))
    assert "Choose an object" in try_it(admin, Site(pk=""))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"on_updated": None}, "The webhook does not send objects that are updated."),
        ({"object_types": "devices"}, "The webhook does not send dcim.site."),
        (
            {"conditions": json.dumps({"attr": "status.value", "value": "retired"})},
            'The condition wants status.value eq "retired". It was "active".',
        ),
        ({"excluded_usernames": "admin@example.com"}, "Changes by admin@example.com are ignored."),
        ({"conditions": json.dumps({"attr": "nope", "value": 1})}, "'nope' is missing"),
    ],
)
def test_the_verdict_says_which_rule_skips_the_change(
    admin: Client, site: Site, changes: dict[str, Any], verdict: str
) -> None:
    if changes.get("object_types"):
        changes = {"object_types": [ContentType.objects.get_for_model(Device).pk]}
    shown = try_it(admin, site, **{"on_updated": "on", **changes})
    assert "would be skipped" in shown
    assert verdict in shown
    assert "POST https://cmdb.example/hook" in shown, "the request is shown all the same"


def test_filters_of_changes_are_judged_by_the_last_update(admin: Client, site: Site) -> None:
    asked = {"on_updated": "on", "changed_fields": "status"}
    assert "No earlier update of this object is stored" in try_it(admin, site, **asked)
    make_webhook(Site, prechange=True)
    site.status = "planned"
    site.save()
    assert "The webhook sends such a change." in try_it(admin, site, **asked)
    assert "Only status changed, and none of name." in try_it(admin, site, **asked | {"changed_fields": "name"})


def test_a_test_is_sent_and_its_answer_shown_and_nothing_is_stored(admin: Client, site: Site, inbox: Inbox) -> None:
    url = inbox.url("fail-first/1")
    shown = try_it(admin, site, do="send", payload_url=url, secret="hush-hush")
    [request] = inbox.wait_for(1)
    assert request.headers["x-webhook-test"] == "true"
    assert request.json["data"]["name"] == "Amsterdam"
    signature = hmac.new(b"hush-hush", request.body, hashlib.sha512).hexdigest()
    assert request.headers["x-hook-signature"] == signature, "the typed secret signs"
    assert "failed HTTP 503" in shown
    assert "look at its load" in shown
    assert not Event.objects.exists()
    assert not Delivery.objects.exists()


def test_a_stored_webhook_is_tried_as_the_form_has_it_and_stays_as_it_is(
    admin: Client, site: Site, inbox: Inbox
) -> None:
    webhook = make_webhook(Site, url="http://127.0.0.1:1/old", name="CMDB", secret_headers="X-Token: t0ps3cret")
    address = reverse("admin:rq_webhooks_webhook_try", args=[webhook.pk])
    for nothing in ("", " ", "\n\u00a0"):
        refused = try_it(admin, site, address, do="send", payload_url=inbox.url(), secret_headers=nothing)
        assert "They would go to the new destination: enter them again, or clear them." in refused
    assert not inbox.received(), "stored secret headers never go to another receiver"
    cleared = {"secret_headers": None, "clear_secret_headers": "on"}
    assert "accepted HTTP 200" in try_it(admin, site, address, do="send", payload_url=inbox.url("ok/1"), **cleared)
    assert "x-token" not in inbox.wait_for(1)[0].headers
    shown = try_it(admin, site, address, do="send", payload_url=inbox.url(), secret_headers="X-Token: mine")
    assert "accepted HTTP 200" in shown
    [_, request] = inbox.wait_for(2)
    assert request.headers["x-token"] == "mine"
    webhook.refresh_from_db()
    assert (webhook.payload_url, webhook.secret_headers) == ("http://127.0.0.1:1/old", "X-Token: t0ps3cret")
    said = LogEntry.objects.values_list("change_message", flat=True)
    assert list(said) == [f"Sent dcim.site updated as a test: POST {redacted(inbox.url())}"] * 2
    history = reverse("admin:rq_webhooks_webhook_history", args=[webhook.pk])
    of_nothing_else = browser(make_user("view_webhook", sees_objects=False)).get(history).content.decode()
    assert "Sent dcim.site updated as a test: POST" in of_nothing_else
    assert "Amsterdam" not in of_nothing_else


def test_a_test_of_an_unsaved_webhook_is_in_the_history(site: Site, inbox: Inbox) -> None:
    user = make_user("add_webhook", "view_webhook")
    method = {"http_method": "DELETE", "name": "probe"}
    assert "accepted HTTP 200" in try_it(browser(user), site, do="send", payload_url=inbox.url("ok/s3cret"), **method)
    [entry] = LogEntry.objects.all()
    assert (entry.user, entry.object_id, entry.object_repr) == (user, None, "probe (not saved)")
    assert entry.change_message == f"Sent dcim.site updated as a test: DELETE {redacted(inbox.url('ok/s3cret'))}"
    assert "s3cret" not in entry.change_message


def test_the_guards_of_a_delivery_hold_for_a_test(admin: Client, site: Site, names: dict[str, list[str]]) -> None:
    assert "is a cloud metadata address" in try_it(admin, site, payload_url="http://169.254.169.254/")
    names["rebound.example"] = ["169.254.0.1"]
    url = "http://{{ 'rebound' }}.example/"
    assert "resolves to a forbidden address" in try_it(admin, site, do="send", payload_url=url)


def test_an_object_is_found_by_its_id_or_by_the_search_of_its_own_pages(
    admin: Client, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        Site.objects.create(name=f"Ghent {number}", slug=f"gnt-{number}", facility="Hall 3")
    newest = Site.objects.latest("pk")
    assert "Amsterdam" not in try_it(admin, newest)
    for term in (str(site.pk), "amsterd"):
        assert "would be sent Amsterdam updated" in try_it(admin, newest, on_updated="on", try_find=term), term
    assert "would be sent Ghent 11 updated" in try_it(admin, newest, on_updated="on", try_find="hall")
    assert "Choose an object" in try_it(admin, newest, try_find="nowhere")
    monkeypatch.setattr(SiteAdmin, "search_fields", ())
    assert "Choose an object" in try_it(admin, newest, try_find="amsterd")


def test_a_search_of_the_host_shows_no_object_that_the_user_may_not_view(
    admin: Client, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permissions, "viewable_objects", lambda user, model: model.objects.exclude(pk=site.pk))
    monkeypatch.setattr(SiteAdmin, "get_search_results", lambda *args: (Site.objects.all(), False))
    assert "Amsterdam" not in try_it(admin, Site(pk=1), try_find="amsterd")


@pytest.fixture
def audit(site: Site) -> str:
    """The value of a stored custom event about the site in the list of models."""
    make_webhook(Site, custom_events=["dcim.rack_audited"])
    webhooks.send("dcim.rack_audited", site, {"by": "jane", "missing": 2})
    return "event:dcim.rack_audited"


def test_a_custom_event_is_tried_with_the_data_of_the_newest_one_or_other_data(
    admin: Client, audit: str, inbox: Inbox
) -> None:
    chosen = {"custom_events": "dcim.rack_audited", "try_model": audit, "payload_url": inbox.url()}
    shown = try_it(admin, **chosen)
    assert "would be sent Amsterdam dcim.rack_audited. The webhook sends such a change." in shown
    assert '"missing": 2' in shown
    assert '"object_type": "dcim.site"' in shown
    entered = {"try_data_dcim.rack_audited": '{"missing": 0}'}
    assert "accepted HTTP 200" in try_it(admin, do="send", **chosen, **entered)
    [request] = inbox.wait_for(1)
    assert (request.json["event"], request.json["data"]) == ("dcim.rack_audited", {"missing": 0})
    wanted = {"conditions": json.dumps({"attr": "missing", "value": 0, "op": "gt"})}
    assert "The condition wants missing gt 0. It was 0." in try_it(admin, **chosen, **entered, **wanted)
    assert "The webhook does not send dcim.rack_audited." in try_it(admin, **chosen | {"custom_events": []})
    assert "The data of the event is not JSON" in try_it(admin, **chosen, **{"try_data_dcim.rack_audited": "{"})
    assert Event.objects.count() == 1


def test_the_data_of_a_stored_custom_event_needs_the_permission_for_payloads(audit: str) -> None:
    for client in (staff("add_webhook", "view_event"), staff("add_webhook", "read_payload_event")):
        shown = try_it(client, custom_events="dcim.rack_audited", try_model=audit)
        assert "would be sent" in shown
        assert "jane" not in shown


def test_only_objects_that_the_user_may_view_are_offered_and_sent(site: Site, inbox: Inbox) -> None:
    of_devices = browser(make_user("add_webhook", "change_webhook", "read_payload_event", sees_objects=False))
    assert "You may not view objects of this model." in try_it(of_devices, site, do="send", payload_url=inbox.url())
    add = of_devices.get(reverse("admin:rq_webhooks_webhook_add")).content.decode()
    assert 'value="dcim.site"' not in add
    without_payloads = staff("add_webhook", "change_webhook")
    shown = try_it(without_payloads, site, body_template="{{ data.name }}", on_updated="on")
    assert "To see it, you need the permission rq_webhooks.read_payload_event." in shown
    assert "hush" not in shown
    assert not inbox.received()


def test_it_needs_permission_to_change_the_webhook(site: Site) -> None:
    webhook = make_webhook(Site)
    viewer = staff("view_webhook")
    for address in (NEW, reverse("admin:rq_webhooks_webhook_try", args=[webhook.pk])):
        assert viewer.post(address, form()).status_code == 403
    assert "wh-try" not in viewer.get(change_of(webhook)).content.decode()
    assert viewer.get(NEW).status_code in (403, 405)
