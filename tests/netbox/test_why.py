"""“Why didn't it fire?” in NetBox's layout."""

from __future__ import annotations

from typing import Any

import pytest
from dcim.models import Site
from django.test import Client
from django.urls import reverse

from tests.support.makers import make_site_delivery, make_site_event, make_webhook
from tests.support.netbox_users import browser, grant, make_user
from webhooks.models import State

pytestmark = pytest.mark.django_db

WHY = "/plugins/webhooks/why/"


@pytest.fixture
def site() -> Any:
    return Site.objects.create(name="AMS1", slug="ams1")


def ask(client: Client, **question: Any) -> str:
    answer = client.get(WHY, question)
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_page_asks_about_models_and_webhooks(admin_client: Client) -> None:
    assert reverse("plugins:rq_webhooks:why") == WHY
    webhook = make_webhook(Site, name="CMDB sync")
    html = ask(admin_client)
    assert '<option value="dcim.site">' in html
    assert f'<option value="{webhook.pk}">CMDB sync</option>' in html


def test_the_answer_has_a_verdict_with_its_way_out(admin_client: Client, site: Any) -> None:
    webhook = make_webhook(Site, name="CMDB sync")
    delivery = make_site_delivery(webhook, State.FAILED, make_site_event(site.pk))
    html = ask(admin_client, object_type="dcim.site", object_id=site.pk)
    assert "It was given up at" in html
    assert f'href="{reverse("plugins:rq_webhooks:webhook", args=[webhook.pk])}"' in html
    assert f'href="{reverse("plugins:rq_webhooks:delivery", args=[delivery.pk])}"' in html
    assert f'action="{reverse("plugins:rq_webhooks:delivery_retry", args=[delivery.pk])}"' in html


def test_an_object_is_found_by_its_name(admin_client: Client, site: Any) -> None:
    make_webhook(Site, name="only creations", on="c")
    assert "only creations" in ask(admin_client, object_type="dcim.site", object_id="AMS1")


def test_an_unknown_object_is_a_problem_in_words(admin_client: Client) -> None:
    html = ask(admin_client, object_type="dcim.site", object_id="nowhere")
    assert 'role="alert"' in html
    assert "nowhere" in html


def test_what_was_asked_stays_in_the_form(admin_client: Client) -> None:
    html = ask(admin_client, object_type="dcim.site", object_id='"><b>', event="")
    assert 'value="&quot;&gt;&lt;b&gt;"' in html
    assert '<option value="dcim.site" selected>' in html


def test_only_who_may_view_or_change_webhooks_may_ask() -> None:
    assert browser(make_user("view_delivery")).get(WHY).status_code == 403
    assert browser(make_user("view_webhook")).get(WHY).status_code == 200
    assert browser(make_user("change_webhook")).get(WHY).status_code == 200


def test_a_user_with_constraints_gets_verdicts_of_their_webhooks_only(site: Any) -> None:
    make_webhook(Site, name="mine")
    make_webhook(Site, name="not mine")
    user = make_user("view_webhook", constraints={"name": "mine"})
    grant(user, "view_delivery", "view_event", "dcim.view_site")
    html = ask(browser(user), object_type="dcim.site", object_id=site.pk)
    assert ">mine<" in html
    assert "not mine" not in html


def test_a_user_with_constraints_learns_nothing_of_other_objects(site: Any) -> None:
    make_site_delivery(make_webhook(Site), State.FAILED, make_site_event(site.pk))
    user = make_user("view_webhook", "view_delivery", "view_event")
    grant(user, "dcim.view_site", constraints={"name": "another"})
    assert "It was given up at" not in ask(browser(user), object_type="dcim.site", object_id=site.pk)


def test_an_object_is_chosen_from_the_rest_api(admin_client: Client, site: Any) -> None:
    webhook = make_webhook(Site, name="CMDB sync")
    make_site_delivery(webhook, State.FAILED, make_site_event(site.pk))
    html = ask(admin_client, object_type="dcim.site")
    assert 'data-url="/api/dcim/sites/"' in html
    assert "It was given up at" not in html
    html = ask(admin_client, object_type="dcim.site", object=site.pk, object_id="")
    assert "It was given up at" in html
    assert f'<option value="{site.pk}" selected>AMS1</option>' in html.replace("\n", " ").replace(" >", ">").replace("  ", " ")
    assert f'value="{site.pk}">' not in html


def test_an_entered_id_counts_more_than_a_chosen_object(admin_client: Client, site: Any) -> None:
    make_site_delivery(make_webhook(Site), State.FAILED, make_site_event(site.pk))
    other = Site.objects.create(name="FRA1", slug="fra1")
    assert "It was given up at" in ask(admin_client, object_type="dcim.site", object=other.pk, object_id=site.pk)


def test_the_chooser_shows_no_object_that_the_user_may_not_view(site: Any) -> None:
    user = make_user("view_webhook")
    grant(user, "dcim.view_site", constraints={"name": "another"})
    html = ask(browser(user), object_type="dcim.site", object=site.pk)
    assert 'data-url="/api/dcim/sites/"' in html
    assert "AMS1" not in html
    assert "data-url" not in ask(browser(user), object_type="dcim.region")
