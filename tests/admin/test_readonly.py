"""What the pages of deliveries and events share."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from tests.support.admin_pages import (
    change_of,
    page,
)
from tests.support.makers import make_attempt, make_site_delivery, make_site_event
from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.models import Attempt, Delivery, Event, Webhook


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
