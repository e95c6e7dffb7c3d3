"""What the lists of deliveries and events share, and addresses with unusual values."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client

from tests.support.admin_pages import DELIVERIES, EVENTS, RETRY_ALL, WEBHOOKS, change_of, page
from tests.support.makers import make_attempt, make_site_delivery, make_site_event
from users.models import User
from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.models import Attempt, Delivery, Event, Webhook

MANY_DIGITS = "9" * 5_000


@pytest.mark.parametrize(
    ("address", "status"),
    [
        *(
            (f"{DELIVERIES}?{key}=%00", 200)
            for key in ("q", "object_type", "action", "webhook", "status", "created_after")
        ),
        *((f"{EVENTS}?{key}=%00", 200) for key in ("q", "state", "object_id", "within")),
        (f"{DELIVERIES}?webhook={MANY_DIGITS}", 200),
        (f"{DELIVERIES}?created_after=2026-02-30T00:00", 200),
        (f"{DELIVERIES}?created_after=9999-12-31T23:59:59-12:00", 200),
        (f"{EVENTS}?created_before=0001-01-01T00:00:00%2B12:00", 200),
        (f"{EVENTS}?before=x", 404),
        (f"{DELIVERIES}?before=1.2", 404),
        (f"{DELIVERIES}?event__data__contains=x", 302),
        (f"{WEBHOOKS}?name__regex=(", 400),
        (f"{WEBHOOKS}?enabled__exact=1", 200),
        (f"{WEBHOOKS}?object_types__id__exact=1", 200),
    ],
)
def test_unusual_addresses_cause_no_server_error(
    database: str, redis: Any, admin_user: User, address: str, status: int
) -> None:
    client = Client()
    client.force_login(admin_user)
    assert client.get(address).status_code == status


def test_a_parameter_that_is_no_filter_is_left_out_and_named(admin_client: Client) -> None:
    answer = admin_client.get(f"{DELIVERIES}?p=2&o=1&state=failed&state=pending&webhook=", follow=True)
    assert answer.redirect_chain == [(f"{DELIVERIES}?state=failed&state=pending", 302)]
    assert "This list has no filter “o, p”, so the address was changed." in answer.content.decode()
    assert admin_client.post(f"{DELIVERIES}?sate=failed", {"action": "retry_chosen"}).status_code == 400


@pytest.mark.usefixtures("in_utc")
def test_an_active_filter_is_in_the_words_of_its_declaration(admin_client: Client, webhook: Webhook) -> None:
    given = {"webhook": webhook.pk, "status": 418, "state": "open", "created_after": "2026-05-04T13:00:00"}
    active = page(admin_client, DELIVERIES, **given).partition('class="wh-active"')[2].partition("</ul>")[0]
    for words in ("State: not finished", "Webhook: CMDB", "HTTP status: 418", "Since 2026-05-04 13:00:00 UTC"):
        assert f">{words} <" in active
    assert "Before" not in active


def test_unusual_posts_cause_no_server_error(database: str, redis: Any, admin_user: User) -> None:
    client = Client()
    client.force_login(admin_user)
    posted = {"custom_events": "\0", "object_types": [MANY_DIGITS, "\0", "1"], "on_created": "on"}
    for types in (posted["object_types"], ["9" * 30]):
        for view in ("condition-preview", "try", "add"):
            assert client.post(f"{WEBHOOKS}{view}/", posted | {"object_types": types}).status_code == 200
    for pk in (MANY_DIGITS, "\0", ""):
        assert client.post(f"{RETRY_ALL}&{urlencode({'webhook': pk})}").status_code in (302, 404)


@pytest.mark.parametrize("model_admin", [DeliveryAdmin, EventAdmin])
def test_a_page_is_shown_although_its_row_is_deleted_meanwhile(
    admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch, model_admin: Any
) -> None:
    delivery = make_site_delivery(webhook, event=make_site_event(1, "Lisbon"))
    make_attempt(delivery)
    page_context = model_admin.page_context

    def delete_and_show(self: Any, request: Any, row: Any) -> Any:
        for rows in (Attempt.objects.all(), Delivery.objects.all(), Event.objects.all()):
            rows.delete()
        return page_context(self, request, row)

    monkeypatch.setattr(model_admin, "page_context", delete_and_show)
    assert "Lisbon" in page(admin_client, change_of(delivery if model_admin is DeliveryAdmin else delivery.event))
