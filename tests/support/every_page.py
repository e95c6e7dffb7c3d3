"""Rows of every kind, and the addresses of the admin's pages about them."""

from __future__ import annotations

import json
from datetime import timedelta

from django.urls import reverse
from django.utils import timezone

from dcim.models import Site
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_site_skip, make_webhook
from webhooks.models import Delivery, Event, Run, RunState, State, Webhook
from webhooks.operations.kinds import OF_WEBHOOK

ANSWER = json.dumps({"error": "invalid signature", "hint": "compare the secret " * 12})


def fill() -> None:
    """Webhooks, deliveries, events, skips and runs in every state, with long names and texts."""
    now = timezone.now()
    fine = make_webhook(Site, name="DNS updater", prechange=True)
    paused = make_webhook(Site, name="CMDB sync", error_kind="http_401", last_failure="HTTP 401 Unauthorized")
    Webhook.objects.filter(pk=paused.pk).update(
        probe_at=now + timedelta(minutes=4), failures_in_a_row=12, failing_since=now, last_failure_at=now
    )
    stopped = make_webhook(Site, name="Access control")
    Webhook.objects.filter(pk=stopped.pk).update(paused_at=now, paused_by="jane.doe")
    make_webhook(Site, name="An endpoint with a very long name that says a lot about what it is for", enabled=False)
    snapshots = json.dumps(
        {"prechange": {"status": "planned", "tags": ["a"]}, "postchange": {"status": "active", "tags": ["a", "b"]}}
    )
    for number, state in enumerate(State):
        event = make_site_event(
            number, f"Amsterdam AMS{number}", snapshots=snapshots, changed='["status", "tags"]', username="jane.doe",
            request_id="7f1d3c52-8a4e-4c57-9a51-2f5a8f0f6f10", webhook_ids=[paused.pk, fine.pk],
            request=json.dumps({"method": "PATCH", "path": f"/api/dcim/sites/{number}/", "user": "jane.doe"}),
        )  # fmt: skip
        reason = {"reason": "HTTP 401 Unauthorized", "error_kind": "http_401"} if state == State.FAILED else {}
        delivery = make_site_delivery(fine if state == State.SUCCEEDED else paused, state, event, **reason)
        for attempt in (1, 2):
            make_attempt(
                delivery, number=attempt, status=401, response_body=ANSWER, worker="web1:10803",
                request_headers={"Content-Type": "application/json", "webhook-id": str(delivery.pk)},
                response_headers={"Content-Type": "application/json"},
            )  # fmt: skip
    error = "Traceback (most recent call last):\n  File …\nKeyError: 'power_feeds'"
    make_site_event(41, "Rack A-17", error=error, data="", webhook_ids=[fine.pk])
    make_site_skip(fine, username="jane.doe")
    columns = {"filters": {"webhook": paused.pk}, "requested_by": "admin", "counts": {str(paused.pk): 1204}}
    Run.objects.create(kind="retry", state=RunState.PAUSED, total=1204, done=810, **columns)
    Run.objects.create(kind="discard", state=RunState.DONE, total=1204, done=1204, finished_at=now, **columns)


def one_of_each_kind() -> list[str]:
    """The address of one page of each kind, with the row that has most to show."""
    webhook, event = Webhook.objects.get(name="CMDB sync"), Event.objects.earliest("pk")
    rows = [webhook, Delivery.objects.failed().latest("pk"), event, Run.objects.earliest("pk")]
    return [
        reverse("admin:index"), reverse("admin:app_list", args=["rq_webhooks"]), reverse("webhooks_backend_status"),
        f"{reverse('webhooks_why')}?event={event.pk}",
        *(reverse(f"admin:rq_webhooks_webhook_{page}", args=[webhook.pk]) for page in (*OF_WEBHOOK, "delete")),
        *(reverse(f"admin:rq_webhooks_{one}_changelist") for one in ("webhook", "delivery", "event", "skip", "run")),
        *map(_page_of, rows),
    ]  # fmt: skip


def addresses() -> list[str]:
    """One page of each kind, and the pages of one row in each state."""
    webhook, why = Webhook.objects.get(name="CMDB sync"), reverse("webhooks_why")
    succeeded, failed_event = Delivery.objects.in_states(State.SUCCEEDED).latest("pk"), Event.objects.failed().get()
    return [
        *one_of_each_kind(), why, f"{why}?webhook={webhook.pk}", reverse("admin:rq_webhooks_webhook_add"),
        *map(_page_of, [succeeded, failed_event, Run.objects.latest("pk")]),
    ]  # fmt: skip


def _page_of(row: Webhook | Delivery | Event | Run) -> str:
    return reverse(f"admin:rq_webhooks_{row._meta.model_name}_change", args=[row.pk])
