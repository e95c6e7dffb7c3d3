"""What pages and claims cost right after an incident: many deliveries were retried or discarded, and no VACUUM ran."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from scripts.benchmark import sample_data
from scripts.benchmark.deliveries import MINIMUM_RATE
from scripts.benchmark.measure import Work, median_seconds
from scripts.benchmark.servers import UNREACHABLE, Bench
from scripts.benchmark.targets import (
    Figure,
    Measurement,
    Measurements,
    NotMeasured,
    Workload,
    ratio_at_most,
    value_at_most,
)
from scripts.benchmark.workloads.backlog import CLAIM_SIZE, STATUS_PAGE, claiming
from tests.support.waiting import until
from webhooks.db import fetch_all
from webhooks.models import Delivery, QueuedDelivery, Run, RunState, Webhook
from webhooks.operations import runs

WEBHOOKS = 50
RETRIED, DISCARDED, KEPT, SUCCEEDED = 100_000, 10_000, 100_000, 790_000
FAILED_LIST = "/admin/rq_webhooks/delivery/?state=failed"

# The other pages of the admin, with the ids of a webhook, its delivery and the event of that, and the time before all.
OTHER_PAGES = (
    "/admin/",
    "/admin/rq_webhooks/delivery/",
    "/admin/rq_webhooks/delivery/?state=succeeded",
    "/admin/rq_webhooks/delivery/?state=failed&webhook={webhook}",
    "/admin/rq_webhooks/delivery/?error_kind=http_401",
    "/admin/rq_webhooks/delivery/{delivery}/change/",
    "/admin/rq_webhooks/event/",
    "/admin/rq_webhooks/event/{event}/change/",
    "/admin/rq_webhooks/skip/",
    "/admin/rq_webhooks/run/",
    "/admin/rq_webhooks/webhook/",
    "/admin/rq_webhooks/webhook/{webhook}/change/",
    "/admin/rq_webhooks/webhook/add/",
    "/admin/rq_webhooks/webhook/{webhook}/delete/",
    "/admin/rq_webhooks/webhook/{webhook}/recover/",
    "/admin/rq_webhooks/webhook/{webhook}/recover/?since={since}",
    "/admin/rq_webhooks/webhook/{webhook}/backfill/?since={since}",
    "/admin/rq_webhooks/run/add/?kind=retry&state=failed",
    "/admin/rq_webhooks/run/add/?kind=retry&state=failed&webhook={webhook}",
    "/admin/rq_webhooks/run/add/?kind=resend&webhook={webhook}",
    "/admin/rq_webhooks/run/add/?kind=discard&state=failed&error_kind=http_401",
    "/admin/rq_webhooks/run/add/?kind=replay&object_type=dcim.device",
    "/admin/webhook-backend-status/why/?event={event}",
    "/admin/webhook-backend-status/why/?webhook={webhook}",
)

# One kind of error for each fate of the failed deliveries.
TO_RETRY, TO_DISCARD, TO_KEEP = "refused", "http_404", "http_401"


def measure_incident(bench: Bench) -> Iterator[Measurements]:
    while True:
        bench.clear()
        client = Client()
        client.force_login(get_user_model().objects.create_superuser("admin"))
        webhooks = [bench.webhook(bench.inbox().url) for _ in range(bench.size(WEBHOOKS, 2))]
        _insert(webhooks, bench)
        sample_data.vacuum()
        kept = Delivery.objects.filter(webhook=webhooks[0], error_kind=TO_KEEP).latest("pk")
        ids = {"webhook": kept.webhook_id, "delivery": kept.pk, "event": kept.event_id}
        ids["since"] = (timezone.now() - timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%SZ")
        addresses = [STATUS_PAGE, FAILED_LIST, *(address.format(**ids) for address in OTHER_PAGES)]
        works = [partial(_showing, client, address) for address in addresses]
        works.append(partial(claiming, bench.webhook(UNREACHABLE)))
        gc.collect()
        gc.freeze()  # a full collection of the benchmark's own objects would take 100 ms of a page
        before = median_seconds(bench.size(9, 1), *works)
        with _without_vacuum():
            _recover(bench)
            after = median_seconds(bench.size(9, 1), *works)
        gc.unfreeze()
        *pages, claim = [Measurement(1000 * late, 1000 * early) for late, early in zip(after, before, strict=True)]
        yield {
            "incident-status": pages[0],
            "incident-list": pages[1],
            "incident-slowest": max(pages, key=lambda page: page.value),
            "incident-claim": claim,
        }


def _insert(webhooks: Sequence[Webhook], bench: Bench) -> None:
    for webhook in webhooks:
        sample_data.insert_succeeded(webhook, bench.size(SUCCEEDED, 40) // len(webhooks))
        for kind, count in ((TO_RETRY, RETRIED), (TO_DISCARD, DISCARDED), (TO_KEEP, KEPT)):
            sample_data.insert_failed(webhook, bench.size(count, 40) // len(webhooks), kind)


@contextmanager
def _without_vacuum() -> Iterator[None]:
    """PostgreSQL's autovacuum could run in some rounds, and not in others."""
    names = [f"rq_webhooks_{name}" for name in ("event", "delivery", "queue", "attempt")]
    # A partitioned table has no such parameter.
    statement = (
        "SELECT oid::regclass::text FROM pg_class LEFT JOIN pg_inherits ON inhrelid = oid "
        "WHERE relkind = 'r' AND COALESCE(inhparent, oid)::regclass::text = ANY (%s)"
    )
    tables = [name for (name,) in fetch_all("default", statement, [names])]
    try:
        for table in tables:
            sample_data.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        yield
    finally:
        for table in tables:
            sample_data.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")


def _recover(bench: Bench) -> None:
    """Retry and discard by runs of a worker, until all is sent."""
    for run_kind, error_kind in (("retry", TO_RETRY), ("discard", TO_DISCARD)):
        runs.start(run_kind, {"state": ["failed"], "error_kind": error_kind}, requested_by="admin")
    patience = 30 + RETRIED / MINIMUM_RATE
    with bench.workers():
        until(lambda: not Run.objects.filter(state=RunState.RUNNING).exists(), patience, "the runs to end", every=0.2)
        until(lambda: not QueuedDelivery.objects.filter(failed_at=None).exists(), patience, "all to be sent", every=0.2)


@contextmanager
def _showing(client: Client, address: str) -> Iterator[Work]:
    def show() -> None:
        if (response := client.get(address)).status_code != 200:
            raise NotMeasured(f"{address} answers {response.status_code}")

    show()  # warm up
    yield show


AFTER = f"after {RETRIED:,} retries and {DISCARDED:,} discards without VACUUM"
BEFORE = "before"
PAGE = ratio_at_most(1.5) & value_at_most(100, "ms")

INCIDENT = Workload(
    "incident",
    (
        Figure("incident-status", f"the status page of {WEBHOOKS} webhooks {AFTER}", "ms", BEFORE, PAGE),
        Figure("incident-list", f"the list of failed deliveries {AFTER}", "ms", BEFORE, PAGE),
        Figure("incident-slowest", f"the slowest of {2 + len(OTHER_PAGES)} admin pages {AFTER}", "ms", BEFORE, PAGE),
        Figure("incident-claim", f"a claim of {CLAIM_SIZE} {AFTER}", "ms", BEFORE, ratio_at_most(1.5)),
    ),
    measure_incident,
)
