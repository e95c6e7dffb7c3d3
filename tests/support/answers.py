"""What a user reads about a delivery: each page of the admin, and each response of the REST API."""

from __future__ import annotations

from django.urls import reverse

from tests.support.admin_pages import STATUS
from tests.support.users import api_client, browser
from users.models import User
from webhooks.models import Delivery

API = "/api/webhooks"

# Part of everything about a site, and of nothing about a device.
MARK = "xyzzy"


def pages_of(delivery: Delivery) -> list[str]:
    """Every page of the admin that may show the delivery or its event."""
    event = delivery.event
    lists = [f"admin:rq_webhooks_{model}_changelist" for model in ("webhook", "delivery", "event", "skip")]
    return [
        STATUS, f"{STATUS}parts/", reverse("admin:index"), reverse("admin:app_list", args=["rq_webhooks"]),
        *map(reverse, lists),
        f"{reverse('admin:rq_webhooks_delivery_changelist')}?q={MARK}",
        f"{reverse('admin:rq_webhooks_delivery_changelist')}?q={delivery.pk}",
        f"{reverse('admin:rq_webhooks_delivery_changelist')}?q=dcim.site:1",
        f"{reverse('admin:rq_webhooks_event_changelist')}?q={MARK}",
        f"{reverse('admin:rq_webhooks_skip_changelist')}?q=dcim.site:1",
        *(reverse(f"admin:rq_webhooks_delivery_{what}", args=[delivery.pk]) for what in ("change", "history")),
        f"{reverse('admin:rq_webhooks_delivery_change', args=[delivery.pk])}?attempt=1",
        reverse("admin:rq_webhooks_run_changelist"),
        f"{reverse('admin:rq_webhooks_run_add')}?kind=resend&object_type={event.object_type}",
        f"{reverse('admin:rq_webhooks_run_add')}?kind=replay&object_type={event.object_type}",
        *(reverse(f"admin:rq_webhooks_event_{what}", args=[event.pk]) for what in ("change", "history")),
        *(
            reverse(f"admin:rq_webhooks_webhook_{what}", args=[delivery.webhook_id])
            for what in ("change", "history", "delete")
        ),
        *(
            f"{reverse(f'admin:rq_webhooks_webhook_{what}', args=[delivery.webhook_id])}?hours=168"
            for what in ("recover", "backfill", "recover_skipped")
        ),
        *(
            f"{reverse('webhooks_why')}?{question}"
            for question in (
                f"delivery={delivery.pk}", f"event={event.pk}", f"webhook={delivery.webhook_id}",
                f"object_type={event.object_type}&object_id={event.object_id}",
            )
        ),
    ]  # fmt: skip


def addresses_of(delivery: Delivery) -> list[str]:
    return [
        f"{API}/webhooks/", f"{API}/webhooks/{delivery.webhook_id}/", f"{API}/webhooks/{delivery.webhook_id}/skips/",
        f"{API}/deliveries/", f"{API}/deliveries/?state=failed", f"{API}/deliveries/{delivery.pk}/",
        f"{API}/events/", f"{API}/events/?failed=true", f"{API}/events/{delivery.event_id}/",
        f"{API}/why/?event={delivery.event_id}",
        f"{API}/why/?object_type={delivery.event.object_type}&object_id={delivery.event.object_id}",
        f"{API}/status/", f"{API}/statistics/",
    ]  # fmt: skip


def answers(user: User, delivery: Delivery) -> dict[str, str]:
    """The text of each page and response, without the search terms that a page repeats."""
    found = {}
    client, api = browser(user), api_client(user)
    for address in pages_of(delivery):
        said = client.get(address, follow=True).content.decode()
        found[address] = said.replace(f'value="{MARK}"', "").replace(f"q={MARK}", "")
    for address in addresses_of(delivery):
        found[address] = api.get(address, HTTP_ACCEPT="application/json").content.decode()
    return found
