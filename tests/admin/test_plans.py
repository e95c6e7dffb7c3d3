"""What the pages read of large tables right after an incident, with statistics of PostgreSQL that are old."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.support.admin_pages import DELIVERIES, EVENTS, STATUS, WEBHOOKS, change_of
from tests.support.incident import DESCRIPTIONS, analyze, described_by, insert_deliveries
from tests.support.makers import make_webhook
from tests.support.plans import executed_plans
from tests.support.users import browser
from tests.testapp.models import Thing
from webhooks.admin.delivery import DeliveryAdmin
from webhooks.api.base import NewestFirst
from webhooks.insight import counts, overview, paging
from webhooks.models import Delivery, QueuedDelivery, State, Webhook, filters, partitions
from webhooks.pages import status as status_page

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.postgresql]

FINISHED, OPEN, FAILED, DISCARDED = 6000, 2000, 2000, 200
TOTAL_CAP, EACH_CAP = 500, 100

API, API_EVENTS = reverse("webhooks-api:delivery-list"), reverse("webhooks-api:event-list")
WHY = reverse("webhooks_why")
# Some statements read the queue once, up to the end. None reads the finished deliveries.
MOST_ROWS, MOST_BUFFERS = OPEN + FAILED + DISCARDED, 4 * (OPEN + FAILED)


def fresh_statistics(webhook: Webhook) -> None:
    """Statistics of the tables as they are now. The fixture reads them after the tables are filled."""


@pytest.fixture(params=[*DESCRIPTIONS, fresh_statistics])
def down(
    request: pytest.FixtureRequest, database: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Webhook]:
    """A webhook that was down, with deliveries in every state. Most of the failed ones have just been retried."""
    for module in (counts, overview, status_page):
        monkeypatch.setattr(module, "TOTAL_CAP", TOTAL_CAP, raising=False)
        monkeypatch.setattr(module, "EACH_CAP", EACH_CAP, raising=False)
    monkeypatch.setattr(paging, "TOTAL_CAP", TOTAL_CAP)
    for name in ("LOOK_THROUGH", "LOOK_THROUGH_SCATTERED"):
        monkeypatch.setattr(paging, name, (50, 500))
    monkeypatch.setattr(filters, "FEW_EVENTS", 500)
    monkeypatch.setattr(DeliveryAdmin, "list_per_page", 20)
    monkeypatch.setattr(NewestFirst, "page_size", 20)
    partitions.make_ahead()  # a statement may read each of them
    down, healthy = make_webhook(Thing), make_webhook(Thing)
    describe: Callable[[Webhook], None] = request.param
    with described_by(describe, down):
        insert_deliveries(healthy, FINISHED, FINISHED, State.SUCCEEDED)
        insert_deliveries(down, FAILED, 100, State.FAILED)
        insert_deliveries(down, OPEN, 10)
        now = timezone.now()
        retried = list(QueuedDelivery.objects.failed().values_list("pk", flat=True)[: FAILED // 2])
        QueuedDelivery.objects.filter(pk__in=retried).update(state=State.PENDING, due_at=now, failed_at=None)
        Delivery.objects.filter(pk__in=retried).update(outcome="", noted_end=None)
        discarded = list(QueuedDelivery.objects.in_states(State.WAITING).values_list("pk", flat=True)[:DISCARDED])
        QueuedDelivery.objects.filter(pk__in=discarded).delete()
        ended = Delivery.objects.filter(pk__in=discarded)
        ended.update(outcome=State.DISCARDED, noted_end=now, discarded_at=now)
        if describe is fresh_statistics:
            analyze()
        yield down


@pytest.fixture
def client(down: Webhook) -> Client:
    boss: Any = get_user_model().objects.create(email="boss", is_staff=True, is_superuser=True)
    return browser(boss)


@pytest.mark.cost
def test_no_page_reads_the_finished_deliveries(down: Webhook, client: Client) -> None:
    pages = [STATUS, f"{STATUS}parts/", reverse("admin:index"), WEBHOOKS, change_of(down)]
    queue = QueuedDelivery.objects.order_by()
    pages += [f"{WHY}?webhook={down.pk}", f"{WHY}?webhook={down.pk}&object_type=testapp.thing&object_id=x"]
    pages += [f"{WHY}?delivery={queue.in_states(state)[:1][0].pk}" for state in (State.FAILED, State.WAITING)]
    for state in [*State.values, "open"]:
        pages += [f"{DELIVERIES}?state={state}", f"{DELIVERIES}?state={state}&webhook={down.pk}"]
    for state in State.values:
        pages += [f"{API}?state={state}", f"{API}?state={state}&webhook={down.pk}"]
    # An object with deliveries of both webhooks, and filters that match nothing.
    of_object = ("object_type=testapp.thing&object_id=old-1", "object_type=testapp.thing&object_id=x")
    of_events = (*of_object, "request_id=x", "user=x", "action=x", "object_type=x")
    for address in (DELIVERIES, API):
        for query in (*of_events, "status=418", "error_kind=refused", "user=x&state=failed"):
            pages += [f"{address}?{query}", f"{address}?webhook={down.pk}&{query}"]
    pages += [f"{address}?{query}" for address in (EVENTS, API_EVENTS) for query in of_events]
    pages += [f"{DELIVERIES}?q=x", f"{EVENTS}?q=x", f"{API}?name=x", f"{API_EVENTS}?name=x"]
    pages += [f"{EVENTS}?state=failed", f"{API_EVENTS}?failed=true"]
    with executed_plans() as executed:
        assert {client.get(address).status_code for address in pages} == {200}
    greedy = [one for one in executed if one.rows > MOST_ROWS or one.buffers > MOST_BUFFERS]
    # How much of PostgreSQL's own tables is read depends on when autovacuum has last looked at them.
    greedy = [one for one in greedy if "pg_stat_user_tables" not in str(one)]
    assert len(executed) > len(pages)
    assert "\n".join(sorted({str(one)[:500] for one in greedy})) == ""
