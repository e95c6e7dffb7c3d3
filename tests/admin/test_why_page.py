"""The page “Why didn't it fire?”."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.html import strip_tags

from dcim.models import Device, Site
from tests.support.admin_pages import page, staff
from tests.support.makers import make_delivery, make_event, make_site_event, make_webhook
from tests.testapp.models import Gadget, Thing
from webhooks.models import State, Webhook

WHY = reverse("webhooks_why")

pytestmark = [pytest.mark.usefixtures("database", "redis"), pytest.mark.one_database]


def ask(client: Client, **question: object) -> str:
    """The visible text of the answer, without seconds."""
    shown = unescape(strip_tags(page(client, WHY, **question).partition("wh-why-form")[2].partition("</form>")[2]))
    return re.sub(r"\d+ s ago", "now", " ".join(shown.split()))


@pytest.fixture
def active_only() -> Webhook:
    return make_webhook(Site, name="Active only", conditions={"attr": "status.value", "value": "active"})


def test_an_object_gets_a_verdict_for_each_webhook_with_rule_and_values(
    admin_client: Client, active_only: Webhook
) -> None:
    disabled = make_webhook(Site, name="Old CMDB", enabled=False)
    make_webhook(Device, name="Devices")
    site = Site.objects.create(name="Berlin", slug="berlin", status="planned")
    shown = ask(admin_client, object_type="dcim.site", object_id=site.pk)
    assert "Berlin created dcim.site" in shown
    assert "skipped Active only" in shown
    assert 'The condition wants status.value eq "active". It was "planned".' in shown
    assert "skipped Old CMDB" in shown
    assert "The webhook was disabled" in shown
    assert "1 webhook does not send this model or action" in shown
    links = page(admin_client, WHY, object_type="dcim.site", object_id=site.pk)
    assert (
        f'<a href="{reverse("admin:rq_webhooks_webhook_change", args=[disabled.pk])}" aria-label="Enable the' in links
    )
    assert ask(admin_client, object_type="dcim.site", object_id="Berlin") == shown, "its name will do"
    request_id = make_site_event(request_id="r1").request_id
    assert "dcim.site" in ask(admin_client, request_id=request_id)


def test_each_way_out_is_a_button_on_the_spot(admin_client: Client) -> None:
    failed = make_delivery(make_webhook(Thing, name="CMDB"), State.FAILED, reason="HTTP 401", error_kind="http_4xx")
    shown = page(admin_client, WHY, delivery=failed.pk)
    assert f'action="{reverse("admin:rq_webhooks_delivery_retry", args=[failed.pk])}"' in shown
    assert "It was given up" in shown
    paused = make_webhook(Thing, name="Chat", paused_at="2026-11-26T02:00:00Z", paused_by="jane")
    waiting = make_delivery(paused)
    shown = page(admin_client, WHY, event=waiting.event_id)
    assert f'action="{reverse("admin:rq_webhooks_webhook_resume", args=[paused.pk])}"' in shown
    broken = make_event(paused, error="Traceback\nKeyError: 'x'")
    shown = page(admin_client, WHY, event=broken.pk)
    assert f'action="{reverse("admin:rq_webhooks_event_replay", args=[broken.pk])}"' in shown
    assert "KeyError: &#x27;x&#x27;" in shown
    viewer = page(staff("view_webhook", "view_delivery"), WHY, delivery=failed.pk)
    assert reverse("admin:rq_webhooks_delivery_retry", args=[failed.pk]) not in viewer


def test_a_webhook_alone_shows_the_last_changes_of_its_models(admin_client: Client, active_only: Webhook) -> None:
    assert "No recent change of its models is stored." in ask(admin_client, webhook=active_only.pk)
    for number, status in enumerate(("active", "planned")):
        Site.objects.create(name=f"Site {number}", slug=f"site-{number}", status=status)
    make_event(make_webhook(Device), object_type="dcim.device")
    shown = ask(admin_client, webhook=active_only.pk)
    assert shown.index("Site 1 created") < shown.index("Site 0 created"), "the newest first"
    assert "not taken by a worker yet" in shown
    assert "dcim.device" not in shown


def test_a_name_that_several_objects_have_asks_which_one(admin_client: Client, active_only: Webhook) -> None:
    devices = [Device.objects.create(name="switch", site=Site.objects.create(name=name, slug=name)) for name in "ab"]
    shown = page(admin_client, WHY, object_type="dcim.device", object_id="switch")
    assert all(f"?object_type=dcim.device&amp;object_id={one.pk}" in shown for one in devices)
    assert "Which of these?" in shown


def test_an_object_with_another_kind_of_key_is_found_by_its_name(admin_client: Client, active_only: Webhook) -> None:
    make_webhook(Gadget)
    gadget = Gadget.objects.create(name="fan")
    assert f"testapp.gadget {gadget.pk}" in ask(admin_client, object_type="testapp.gadget", object_id="fan")


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ({"object_type": "dcim.site", "object_id": "77"}, "Nothing is stored of the last change"),
        (
            {"object_type": "dcim.site", "object_id": "Bonn"},
            "No object of dcim.site has the id or the exact name",
        ),
        ({"object_type": "no.such", "object_id": "1"}, "There is no model no.such."),
        ({"object_id": "1"}, "Choose the model of the object"),
        ({"event": "12345678"}, "Event 12345678 is not stored, or you may not view it."),
        ({"event": "x"}, "Event x is not stored"),
        ({"delivery": "x"}, "Delivery x is not stored"),
        ({"webhook": "4711"}, "There is no webhook 4711."),
    ],
)
def test_an_unanswerable_question_says_why(
    admin_client: Client, active_only: Webhook, question: dict[str, str], problem: str
) -> None:
    assert problem in ask(admin_client, **question)


def test_it_shows_only_what_the_user_may_view(active_only: Webhook) -> None:
    site = Site.objects.create(name="Berlin", slug="berlin", status="planned")
    assert staff("view_delivery").get(WHY).status_code == 403
    shown = ask(staff("view_webhook"), object_type="dcim.site", object_id=site.pk)
    assert "To see more, you need the permission rq_webhooks.view_skip." in shown
    shown = ask(staff("view_webhook", "view_skip"), object_type="dcim.site", object_id=site.pk)
    assert 'wants status.value eq "active"' in shown
    assert "planned" not in shown, "the value is data of the object"


@pytest.mark.cost
def test_the_number_of_queries_does_not_grow(admin_client: Client, active_only: Webhook) -> None:
    site = Site.objects.create(name="Berlin", slug="berlin", status="planned")
    ContentType.objects.get_for_models(Site, Device)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            page(admin_client, WHY, object_type="dcim.site", object_id=site.pk)
        return len(captured)

    queries()
    few = queries()
    for _ in range(10):
        make_webhook(Site, Device, conditions={"attr": "name", "value": "x"})
    site.save()
    assert queries() == few
