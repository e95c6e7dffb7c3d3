"""The tab “Webhooks” on the pages of objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from netbox.registry import registry as netbox_registry
from utilities.views import get_action_url, get_viewname

from dcim.models import Region, Site
from tests.support.makers import make_site_delivery, make_site_event, make_site_skip, make_webhook
from tests.support.netbox_users import browser, grant, make_user
from webhooks import register, unregister
from webhooks.contrib.netbox.pages.object_tab import TAB
from webhooks.ground.registry import registered_models
from webhooks.models import QueuedDelivery, State, Webhook

pytestmark = pytest.mark.django_db

READS = ("view_webhook", "view_delivery", "view_event", "view_skip", "dcim.view_site")
TOKEN = "t0k3n-in-the-path"


@pytest.fixture
def site() -> Any:
    return Site.objects.create(name="AMS1", slug="ams1")


@pytest.fixture
def webhook() -> Webhook:
    return make_webhook(Site, name="CMDB sync", url=f"https://cmdb.example.com/{TOKEN}")


def tab_url(instance: Any) -> str:
    return str(get_action_url(instance, action="webhooks", kwargs={"pk": instance.pk}))


def show(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200
    return answer.content.decode()


def tab_of(client: Client, instance: Any) -> str:
    """The text of the tab on the object's own page: its label and the badge. Empty without the tab."""
    html = show(client, instance.get_absolute_url())
    found = re.search(rf'<a href="{re.escape(tab_url(instance))}"[^>]*>(.*?)</a>', html, re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", found[1]).split()) if found else ""


# The tab


def test_every_registered_model_with_a_page_has_the_tab() -> None:
    without = []
    for label, model in registered_models().items():
        try:
            reverse(get_viewname(model), kwargs={"pk": 1})
        except NoReverseMatch:
            continue
        try:
            reverse(get_viewname(model, "webhooks"), kwargs={"pk": 1})
        except NoReverseMatch:
            without.append(label)
    assert without == ["extras.script"]  # its page has neither the usual address nor the usual tabs


def test_a_model_that_is_registered_again_has_one_tab(webhook: Webhook) -> None:
    register(Site)
    names = [view["name"] for view in netbox_registry["views"]["dcim"]["site"]]
    assert names.count("webhooks") == 1


@pytest.fixture
def unregistered_region() -> Iterator[Any]:
    unregister(Region)
    yield Region.objects.create(name="Europe", slug="europe")
    register(Region)


def test_a_model_that_is_not_registered_any_more_has_none(admin_client: Client, unregistered_region: Any) -> None:
    assert tab_of(admin_client, unregistered_region) == ""


def test_the_tab_is_there_without_a_delivery(admin_client: Client, site: Any) -> None:
    assert tab_of(admin_client, site) == "Webhooks"


@pytest.mark.parametrize("ordered", [True, False])
def test_the_badge_counts_what_is_not_sent_or_failed(
    admin_client: Client, site: Any, webhook: Webhook, ordered: bool
) -> None:
    another = make_webhook(Site, ordered=ordered)
    for state in (State.FAILED, State.PENDING, State.SUCCEEDED, State.DISCARDED):
        make_site_delivery(another, state, make_site_event(site.pk))
    make_site_delivery(webhook, State.FAILED, make_site_event(site.pk))
    make_site_delivery(webhook, State.FAILED, make_site_event(site.pk + 1))
    assert tab_of(admin_client, site) == "Webhooks 3"


def test_who_may_view_neither_webhooks_nor_deliveries_has_no_tab(site: Any) -> None:
    assert tab_of(browser(make_user("dcim.view_site")), site) == ""
    assert tab_of(browser(make_user("dcim.view_site", "view_webhook")), site) == "Webhooks"
    assert tab_of(browser(make_user("dcim.view_site", "change_webhook")), site) == "Webhooks"
    assert tab_of(browser(make_user("dcim.view_site", "view_delivery")), site) == "Webhooks"


def test_the_badge_counts_only_what_the_user_may_view(site: Any, webhook: Webhook) -> None:
    for one in (webhook, make_webhook(Site, name="not mine")):
        make_site_delivery(one, State.FAILED, make_site_event(site.pk))
    user = make_user("dcim.view_site", "view_webhook")
    assert tab_of(browser(user), site) == "Webhooks"
    user = make_user("dcim.view_site", "view_delivery")
    grant(user, "view_webhook", constraints={"name": "CMDB sync"})
    assert tab_of(browser(user), site) == "Webhooks 1"


def test_the_badge_counts_the_deliveries_of_an_object_within_a_constraint(site: Any, webhook: Webhook) -> None:
    make_site_delivery(webhook, State.FAILED, make_site_event(site.pk))
    user = make_user("view_delivery", "view_webhook")
    grant(user, "dcim.view_site", constraints={"name": site.name})
    assert tab_of(browser(user), site) == "Webhooks 1"


@pytest.mark.parametrize("is_superuser", [True, False])
def test_the_badge_costs_each_page_of_an_object_one_query(site: Any, webhook: Webhook, is_superuser: bool) -> None:
    make_site_delivery(webhook, State.FAILED, make_site_event(site.pk))
    client = browser(make_user(*READS, is_superuser=is_superuser))

    def queries() -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            show(client, site.get_absolute_url())
        return [one["sql"] for one in captured]

    queries()  # caches of NetBox
    with_badge = queries()
    with patch.object(TAB, "badge", None):
        without_badge = queries()
    assert len(with_badge) == len(without_badge) + 1
    assert sum("rq_webhooks" in one for one in without_badge) == 0


# Its page


def test_the_page_shows_webhooks_deliveries_and_skips(admin_client: Client, site: Any, webhook: Webhook) -> None:
    delivery = make_site_delivery(webhook, State.FAILED, make_site_event(site.pk))
    other = make_site_delivery(webhook, State.SUCCEEDED, make_site_event(site.pk + 1))
    make_site_skip(webhook, site.pk)
    html = show(admin_client, tab_url(site))
    assert f'href="{reverse("plugins:rq_webhooks:webhook", args=[webhook.pk])}"' in html
    assert f'href="{reverse("plugins:rq_webhooks:delivery", args=[delivery.pk])}"' in html
    assert str(other.pk) not in html
    assert "HTTP 503" in html
    assert "status.value" in html
    assert f'action="{reverse("plugins:rq_webhooks:delivery_retry", args=[delivery.pk])}"' in html
    assert f"{reverse('plugins:rq_webhooks:why')}?object_type=dcim.site&amp;object_id={site.pk}" in html
    assert 'class="nav-link active"' in html


def test_a_delivery_between_attempts_can_be_sent_now(admin_client: Client, site: Any, webhook: Webhook) -> None:
    event, later = make_site_event(site.pk), timezone.now() + timedelta(hours=1)
    delivery = make_site_delivery(webhook, State.PENDING, event, attempt_count=1, due_at=later)
    html = show(admin_client, tab_url(site))
    url = reverse("plugins:rq_webhooks:delivery_retry", args=[delivery.pk])
    assert f'action="{url}"' in html
    assert "Retry now" in html
    admin_client.post(url, {"return_url": tab_url(site)})
    assert url not in show(admin_client, tab_url(site)), "it is due now"


@pytest.mark.parametrize(
    ("state", "fields", "refreshes"),
    [
        (State.SENDING, {}, True),
        (State.PENDING, {}, True),
        (State.PENDING, {"due_at": timezone.now() + timedelta(hours=1)}, False),
        (State.WAITING, {}, False),
        (State.FAILED, {}, False),
    ],
    ids=["sent now", "due now", "due later", "waits", "failed"],
)
def test_the_deliveries_refresh_themselves_while_a_worker_sends_one(
    admin_client: Client, site: Any, webhook: Webhook, state: State, fields: dict[str, Any], refreshes: bool
) -> None:
    make_site_delivery(webhook, State.SUCCEEDED, make_site_event(site.pk))
    make_site_delivery(webhook, state, make_site_event(site.pk), **fields)
    refreshing = f'id="wh-deliveries" hx-get="{tab_url(site)}"'
    assert (refreshing in show(admin_client, tab_url(site))) is refreshes
    answer = admin_client.get(tab_url(site), headers={"HX-Request": "true"})
    assert ("HX-Refresh" in answer.headers) is not refreshes, "at the end, the badge and the buttons change, too"


def test_the_deliveries_refresh_themselves_until_a_change_has_some(admin_client: Client, site: Any) -> None:
    make_site_event(site.pk)
    assert 'id="wh-deliveries" hx-get=' not in show(admin_client, tab_url(site))
    make_site_event(site.pk, dispatched=False)
    assert 'id="wh-deliveries" hx-get=' in show(admin_client, tab_url(site))


def test_a_delivery_that_ends_between_two_queries_is_shown(admin_client: Client, site: Any, webhook: Webhook) -> None:
    """Its row is as it was before the end, and its row in the queue is gone."""
    delivery = make_site_delivery(webhook, State.SENDING, make_site_event(site.pk), outcome="")
    QueuedDelivery.objects.filter(pk=delivery.pk).delete()
    assert str(delivery.pk) in show(admin_client, tab_url(site))


def test_an_object_is_sent_as_it_is_now(admin_client: Client, site: Any, webhook: Webhook) -> None:
    make_site_event(site.pk, webhook_ids=[webhook.pk])
    newest = make_site_event(site.pk, webhook_ids=[webhook.pk])
    html = show(admin_client, tab_url(site))
    assert "Send it as it is now" in html
    url = reverse("plugins:rq_webhooks:event_replay", args=[newest.pk])
    assert f'action="{url}"' in html
    answer = admin_client.post(url, {"return_url": tab_url(site)})
    assert answer.status_code == 302
    assert answer["Location"] == tab_url(site)
    assert newest.__class__.objects.filter(replay_of=newest.pk, object_id=str(site.pk)).exists()


def test_an_object_without_an_event_has_no_button(admin_client: Client, site: Any) -> None:
    assert "Send it as it is now" not in show(admin_client, tab_url(site))


def test_a_viewer_sees_neither_tokens_nor_buttons(site: Any, webhook: Webhook) -> None:
    make_site_delivery(webhook, State.FAILED, make_site_event(site.pk), reason=f"no answer from {TOKEN}")
    html = show(browser(make_user(*READS)), tab_url(site))
    assert "https://cmdb.example.com/" in html
    assert TOKEN not in html
    assert "Send it as it is now" not in html
    assert "delivery_retry" not in html
    assert "/retry/" not in html


def test_the_tab_of_an_object_that_the_user_may_not_view_is_not_found(site: Any, webhook: Webhook) -> None:
    user = make_user("view_webhook", "view_delivery")
    assert browser(user).get(tab_url(site)).status_code == 403
    grant(user, "dcim.view_site", constraints={"name": "another"})
    assert browser(user).get(tab_url(site)).status_code == 404


def test_who_may_view_neither_webhooks_nor_deliveries_cannot_open_it(site: Any) -> None:
    assert browser(make_user("dcim.view_site", "view_event")).get(tab_url(site)).status_code == 403


def test_a_user_with_constraints_sees_only_their_webhooks(site: Any, webhook: Webhook) -> None:
    other = make_webhook(Site, name="not mine")
    make_site_delivery(other, State.FAILED, make_site_event(site.pk))
    make_site_skip(other, site.pk)
    user = make_user("dcim.view_site", "view_delivery", "view_skip", "view_event")
    grant(user, "view_webhook", constraints={"name": "CMDB sync"})
    html = show(browser(user), tab_url(site))
    assert "CMDB sync" in html
    assert "not mine" not in html


def test_the_number_of_queries_does_not_depend_on_the_number_of_rows(
    admin_client: Client, site: Any, webhook: Webhook
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            show(admin_client, tab_url(site))
        return len(captured)

    def fill(count: int) -> None:
        for _number in range(count):
            make_site_delivery(webhook, State.FAILED, make_site_event(site.pk))
            make_site_skip(webhook, site.pk)

    fill(1)
    queries()  # caches of NetBox
    few = queries()
    fill(12)
    assert queries() <= few
