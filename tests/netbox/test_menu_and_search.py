"""The menu, the global search, the dashboard's widget, and the alarm on the home page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.urls import reverse
from extras.models import CachedValue

from dcim.models import Site
from tests.support.makers import make_site_delivery, make_site_event, make_webhook
from tests.support.netbox_users import browser, grant, make_user
from webhooks.insight import status
from webhooks.models import State, Webhook

pytestmark = pytest.mark.django_db

ENTRIES = ("status_entry", "webhook_list", "why", "delivery_list", "event_list", "skip_list", "run_list")
TOKEN = "t0k3n-in-the-path"


@pytest.fixture(autouse=True)
def no_latest_alarms() -> Iterator[None]:
    """The alarms of another test are up to 5 s old."""
    status._latest.clear()
    yield
    status._latest.clear()


def menu(user: Any) -> list[str]:
    """The entries of the plugin in the menu that this user has."""
    html = browser(user).get(reverse("account:profile")).content.decode()
    urls = {reverse(f"plugins:rq_webhooks:{name}"): name for name in (*ENTRIES, "webhook_add")}
    found = re.findall(r'<a href="(/plugins/webhooks/[^"]*)"', html)
    return [urls[one] for one in found]


def test_an_admin_has_all_entries() -> None:
    assert sorted(menu(make_user(is_superuser=True))) == sorted([*ENTRIES, "webhook_add"])


def test_a_user_has_the_entries_that_they_may_open() -> None:
    assert menu(make_user()) == []
    assert menu(make_user("view_webhook")) == ["webhook_list", "why"]
    assert menu(make_user("view_delivery")) == ["status_entry", "delivery_list"]
    assert menu(make_user("view_webhook", "add_webhook")) == ["webhook_list", "webhook_add", "why"]


def test_netbox_marks_only_the_entry_of_the_page() -> None:
    urls = [reverse(f"plugins:rq_webhooks:{name}") for name in ENTRIES]
    assert [(one, other) for one in urls for other in urls if other != one and other.startswith(one)] == []


# The search


@pytest.fixture
def webhook(django_capture_on_commit_callbacks: Any) -> Webhook:
    with django_capture_on_commit_callbacks(execute=True):
        return make_webhook(Site, name="CMDB sync", url=f"https://cmdb.example.com:8443/{TOKEN}?key={TOKEN}")


def search(user: Any, term: str) -> str:
    answer = browser(user).get(reverse("search"), {"q": term})
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.fixture
def admin() -> Any:
    return make_user(is_superuser=True)


def test_a_webhook_is_found_by_its_name_and_the_host_of_its_url(admin: Any, webhook: Webhook) -> None:
    url = reverse("plugins:rq_webhooks:webhook", args=[webhook.pk])
    for term in ("CMDB sync", "cmdb.example.com", "8443"):
        assert f'href="{url}"' in search(admin, term)
    assert f'href="{url}"' not in search(admin, "nothing like it")


def test_a_token_in_a_url_is_neither_found_nor_stored(admin: Any, webhook: Webhook) -> None:
    assert reverse("plugins:rq_webhooks:webhook", args=[webhook.pk]) not in search(admin, TOKEN)
    assert not CachedValue.objects.filter(value__contains=TOKEN).exists()


def test_a_template_as_the_host_is_not_indexed(admin: Any, django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        make_webhook(Site, name="templated", url="https://{{ data.custom_fields.host }}/" + TOKEN)
    assert [one.field for one in CachedValue.objects.filter(object_type__app_label="rq_webhooks")] == ["name"]


def test_reindex_finds_webhooks_that_were_there_before(admin: Any) -> None:
    webhook = make_webhook(Site, name="older")
    call_command("reindex", "rq_webhooks", verbosity=0)
    assert reverse("plugins:rq_webhooks:webhook", args=[webhook.pk]) in search(admin, "older")


def test_a_search_shows_only_webhooks_that_the_user_may_view(webhook: Webhook) -> None:
    url = reverse("plugins:rq_webhooks:webhook", args=[webhook.pk])
    assert url not in search(make_user(), "CMDB")
    assert url in search(make_user("view_webhook"), "CMDB")
    user = make_user()
    grant(user, "view_webhook", constraints={"name": "another"})
    assert url not in search(user, "CMDB")


def test_a_deleted_webhook_is_not_found(admin: Any, webhook: Webhook) -> None:
    url = reverse("plugins:rq_webhooks:webhook", args=[webhook.pk])
    webhook.delete()
    assert url not in search(admin, "CMDB")


# The dashboard


def home(user: Any) -> str:
    answer = browser(user).get("/")
    assert answer.status_code == 200
    return answer.content.decode()


def with_widget(user: Any) -> Any:
    """The user, with the widget as the only one."""
    from extras.dashboard.utils import get_default_dashboard

    config = [{"widget": "webhooks.WebhooksWidget", "width": 4, "height": 3, "title": "Webhooks"}]
    dashboard = get_default_dashboard(config)
    dashboard.user = user
    dashboard.save()
    return user


def test_the_widget_can_be_added(admin: Any) -> None:
    html = browser(admin).get(reverse("extras:dashboardwidget_add"), headers={"hx-request": "true"}).content.decode()
    assert 'value="webhooks.WebhooksWidget"' in html


def test_the_widget_names_the_problems(admin: Any) -> None:
    make_site_delivery(make_webhook(Site, name="CMDB sync"), State.FAILED, make_site_event())
    html = home(with_widget(admin))
    assert "1 delivery failed" in html or "CMDB sync" in html
    assert "mdi-alert" in html
    assert reverse("plugins:rq_webhooks:status") in html


def test_the_widget_hides_what_a_user_may_not_view() -> None:
    make_site_delivery(make_webhook(Site, name="CMDB sync"), State.FAILED, make_site_event())
    html = home(with_widget(make_user()))
    assert "CMDB sync" not in html
    assert "You do not have permission to view deliveries." in html


def test_the_home_page_has_an_alarm_if_there_is_a_problem(admin: Any) -> None:
    make_site_delivery(make_webhook(Site, name="CMDB sync"), State.FAILED, make_site_event())
    assert re.search(r"Webhooks: \d+ problem", home(admin))
    assert not re.search(r"Webhooks: \d+ problem", home(make_user("view_webhook")))
    assert not re.search(r"Webhooks: \d+ problem", browser(admin).get(reverse("account:profile")).content.decode())
