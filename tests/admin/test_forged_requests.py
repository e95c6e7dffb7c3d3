"""Another site, open in an admin's browser, cannot press a button."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from dcim.models import Site
from tests.support.makers import make_site_delivery, make_webhook
from users.models import User
from webhooks.models import Delivery, Event, Run, Webhook

pytestmark = [pytest.mark.one_database, pytest.mark.usefixtures("db", "redis")]


@pytest.fixture
def delivery() -> Delivery:
    Run.objects.create(kind="retry")
    return make_site_delivery(make_webhook(Site))


def stored() -> list[Any]:
    """All rows."""
    return [list(model.objects.order_by("pk").values()) for model in (Webhook, Delivery, Event, Run)]


def test_no_button_works_without_the_token_or_by_get(delivery: Delivery) -> None:
    user = User.objects.create_superuser("admin")
    forged, own = Client(enforce_csrf_checks=True), Client()
    forged.force_login(user)
    own.force_login(user)
    rows = {
        "webhook": (delivery.webhook_id, ("try", "ping", "enable", "pause", "resume")),
        "delivery": (delivery.pk, ("retry", "resend", "discard")),
        "event": (delivery.event_id, ("replay",)),
        "run": (Run.objects.get().pk, ("pause", "resume", "cancel")),
    }
    before = stored()
    for model, (pk, acts) in rows.items():
        for act in acts:
            address = reverse(f"admin:rq_webhooks_{model}_{act}", args=[pk])
            assert (forged.post(address).status_code, own.get(address).status_code) == (403, 405), address
    for address in (
        *(
            reverse(f"admin:rq_webhooks_webhook_{page}", args=[delivery.webhook_id])
            for page in ("recover", "backfill", "recover_skipped")
        ),
        f"{reverse('admin:rq_webhooks_run_add')}?kind=retry&state=failed",
    ):
        assert (forged.post(address).status_code, own.get(address).status_code) == (403, 200), address
    for act, address in (
        ("disable", reverse("admin:rq_webhooks_webhook_changelist")),
        ("discard_chosen", reverse("admin:rq_webhooks_delivery_changelist")),
    ):
        chosen = [delivery.webhook_id, delivery.pk]
        assert forged.post(address, {"action": act, "_selected_action": chosen}).status_code == 403
    assert stored() == before


def test_the_api_takes_no_request_of_a_session_without_the_token(delivery: Delivery) -> None:
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("admin"))
    before = stored()
    for address in (f"deliveries/{delivery.pk}/retry/", f"webhooks/{delivery.webhook_id}/ping/", "runs/", "webhooks/"):
        assert client.post(f"/api/webhooks/{address}", {}, format="json").status_code == 403, address
        transaction.set_rollback(False)  # REST framework has marked the transaction of the test
    assert stored() == before
