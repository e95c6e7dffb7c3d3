"""The status page in NetBox's layout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from redis import Redis
from rq import Queue, Worker

from dcim.models import Site
from tests.netbox.workers import redis_alone
from tests.support.makers import make_site_delivery, make_site_event, make_webhook
from tests.support.netbox_users import browser, grant, make_user
from webhooks.contrib.netbox.worker import NetBoxWebhookWorker
from webhooks.models import Event, Run, State, Webhook
from webhooks.pages.status import StatusPage

pytestmark = pytest.mark.django_db

STATUS, PARTS = "/plugins/webhooks/", "/plugins/webhooks/status/parts/"
SECTIONS = {"wh-problems", "wh-figures", "wh-runs", "wh-webhooks", "wh-failed", "wh-workers"}
TOKEN = "t0k3n-in-the-path"


@pytest.fixture
def viewer() -> Any:
    return make_user("view_delivery", "view_webhook", "view_event", "dcim.view_site")


@pytest.fixture
def redis() -> Iterator[Redis]:
    with redis_alone() as redis:
        yield redis


def sections(html: str) -> set[str]:
    return set(re.findall(r'<section[^>]* id="([\w-]+)"', html))


def make_trouble(name: str = "CMDB sync", **fields: Any) -> Webhook:
    """A webhook whose last delivery failed."""
    webhook = make_webhook(Site, name=name, url=f"https://cmdb.example.com/{TOKEN}", **fields)
    make_site_delivery(webhook, State.FAILED, reason=f"HTTP 503 for {TOKEN}")
    Webhook.objects.filter(pk=webhook.pk).update(
        failures_in_a_row=2, failing_since=timezone.now(), last_failure_at=timezone.now(), error_kind="http_503"
    )
    return webhook


def test_the_page_is_the_first_one_of_the_plugin(admin_client: Client) -> None:
    assert reverse("plugins:rq_webhooks:status") == STATUS
    html = admin_client.get(STATUS).content.decode()
    assert "<title>Status of webhooks | " in re.sub(r"\s+", " ", html).replace("<title> ", "<title>")
    assert sections(html) >= SECTIONS
    assert "No webhook is defined." in html
    assert reverse("plugins:rq_webhooks:webhook_add") in html
    assert sections(admin_client.get(reverse("plugins:rq_webhooks:status_entry")).content.decode()) == sections(html)


def test_a_problem_has_its_way_out(admin_client: Client) -> None:
    webhook = make_trouble()
    html = admin_client.get(STATUS).content.decode()
    assert 'class="wh-cause wh-error"' in html or 'class="wh-cause wh-warning"' in html
    assert f'formaction="{reverse("plugins:rq_webhooks:webhook_ping", args=[webhook.pk])}"' in html
    assert "HTTP 503" in html
    delivery = webhook.deliveries.get()
    assert f'formaction="{reverse("plugins:rq_webhooks:delivery_retry", args=[delivery.pk])}"' in html
    assert f"{reverse('plugins:rq_webhooks:run_add')}?kind=retry" in html


def test_every_link_of_the_core_has_an_address_in_netbox(admin_client: Client, admin_user: Any) -> None:
    make_trouble()
    make_webhook(Site, name="off", enabled=False)
    Event.objects.filter(pk=make_site_event(2).pk).update(error="Traceback\nValueError: broken")
    html = admin_client.get(STATUS).content.decode()
    links = [link for box in StatusPage(admin_user).boxes for link in box.links]
    assert links
    assert all(str(link.label) in html for link in links)


def test_the_parts_are_the_sections_of_the_page(admin_client: Client) -> None:
    make_trouble()
    answer = admin_client.get(PARTS)
    assert sections(answer.content.decode()) == sections(admin_client.get(STATUS).content.decode())
    assert "<html" not in answer.content.decode()
    assert answer["Cache-Control"] == "no-store"


def test_the_buttons_of_a_part_return_to_the_page(admin_client: Client, admin_user: Any) -> None:
    Run.objects.create(kind="retry", requested_by=admin_user.username, filters={"state": ["failed"]}, last_event=0)
    html = admin_client.get(PARTS).content.decode()
    assert set(re.findall(r'name="return_url" value="([^"]*)"', html)) == {STATUS}
    assert "Cancel" in html


def test_who_may_not_view_deliveries_sees_no_status(viewer: Any) -> None:
    assert browser(make_user("view_webhook")).get(STATUS).status_code == 403
    assert browser(make_user("view_webhook")).get(PARTS).status_code == 403
    assert browser(viewer).get(STATUS).status_code == 200


def test_who_may_view_deliveries_but_no_webhooks_sees_an_empty_page() -> None:
    make_trouble()
    client = browser(make_user("view_delivery", "dcim.view_site"))
    html = client.get(STATUS).content.decode()
    assert "(rq_webhooks.view_webhook), so they are left out" in html
    assert "CMDB sync" not in html
    assert client.get("/api/plugins/webhooks/status/").status_code == 200


def test_who_is_not_logged_in_is_asked_to_log_in(client: Client) -> None:
    assert client.get(STATUS).status_code == 302
    assert client.get(PARTS).status_code == 302


def test_a_viewer_sees_neither_tokens_nor_buttons(viewer: Any) -> None:
    make_trouble()
    html = browser(viewer).get(STATUS).content.decode()
    assert "CMDB sync" in html
    assert TOKEN not in html
    assert "formaction=" not in html


def test_a_user_with_constraints_sees_only_their_webhooks() -> None:
    make_trouble("mine")
    make_trouble("not mine")
    user = make_user("view_webhook", constraints={"name": "mine"})
    grant(user, "view_delivery", "view_event", "dcim.view_site")
    html = browser(user).get(STATUS).content.decode()
    assert ">mine<" in html
    assert "not mine" not in html


def test_invisible_characters_are_shown_as_escapes(admin_client: Client) -> None:
    make_site_delivery(make_webhook(Site), event=make_site_event(1, "AMS\u202e1"))
    assert "AMS\\u202e1" in admin_client.get(STATUS).content.decode()


def test_the_number_of_queries_does_not_depend_on_the_number_of_rows(admin_client: Client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(PARTS).status_code == 200
        return len(captured)

    make_trouble()
    queries()  # caches of NetBox
    few = queries()
    for number in range(12):
        make_trouble(f"webhook {number}")
    assert queries() <= few


def test_a_worker_has_the_name_of_the_class_that_runs(admin_client: Client, redis: Redis) -> None:
    NetBoxWebhookWorker([Queue("default", connection=redis)], connection=redis).register_birth()
    html = admin_client.get(PARTS).content.decode()
    assert '<td data-label="Class">NetBoxWebhookWorker</td>' in html


def test_the_command_that_starts_a_worker_is_that_of_netboxs_usual_one(admin_client: Client, redis: Redis) -> None:
    def said() -> str:
        return admin_client.get(PARTS).content.decode()

    assert "python manage.py rqworker high default low<" in said()
    Worker([Queue("default", connection=redis)], connection=redis).register_birth()
    own = "webhooks.contrib.netbox.worker.NetBoxWebhookWorker"
    assert f"python manage.py rqworker high default low --worker-class {own}<" in said()
