"""The site, the workers and the writers reach PostgreSQL through PgBouncer in transaction mode.

Then two statements of one process may run in two sessions of the server, and a session serves many processes.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rest_framework.authtoken.models import Token

from dcim.models import Site
from tests.chaos import ledger, storm
from tests.chaos.crew import Crew, Writer
from tests.chaos.killer import Killer
from tests.chaos.writer import Plan
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.support.pgbouncer import PROGRAM, PgBouncer, pgbouncer
from tests.support.site import serve_site
from tests.support.users import browser
from tests.support.waiting import PATIENCE, until
from tests.support.workers import LOGS, STOCK
from tests.testapp.models import Label
from users.models import User
from webhooks.models import Delivery, Event, State

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.slow,
    pytest.mark.skipif(
        PROGRAM is None and not os.environ.get("CI"), reason="needs PgBouncer (Debian: apt-get install pgbouncer)"
    ),
]

URL = "slow/0.01"

# How psycopg sends statements: as Django does by default, prepared at once, and with parameters bound by the server.
DRIVERS = [{}, {"prepare_threshold": "0"}, {"server_side_binding": "true"}]


class PooledCrew(Crew):
    """Workers and writers that connect through the pooler, each in the next of the driver's ways."""

    def __init__(self, directory: Path, redis_url: str, pooler: PgBouncer) -> None:
        super().__init__(directory, redis_url)
        self._pooler = pooler
        self._drivers = itertools.cycle(DRIVERS)

    def environment(self, **webhooks: Any) -> dict[str, str]:
        url = self._pooler.url(application_name=self._next_name or "another", **next(self._drivers))
        return super().environment(**webhooks) | {"DATABASE_URL": url, "DISABLE_SERVER_SIDE_CURSORS": "1"}


@pytest.fixture
def pooler(tmp_path: Path, database: str) -> Iterator[PgBouncer]:
    with pgbouncer(tmp_path) as started:
        yield started


@pytest.fixture
def crew(
    request: pytest.FixtureRequest, tmp_path: Path, redis: Any, redis_url: str, pooler: PgBouncer
) -> Iterator[Crew]:
    started = PooledCrew(tmp_path, redis_url, pooler)
    started.logs = request.node.stash.setdefault(LOGS, [])
    started.logs.append(pooler.log)
    with started.at_work():
        yield started


class Api:
    """The REST API of the site, and its admin pages, as a superuser."""

    def __init__(self, url: str) -> None:
        self._url = url
        user = User.objects.create_superuser("alice")
        session = browser(user).cookies["sessionid"].value
        token = Token.objects.create(user=user).key
        self._headers = {"Authorization": f"Token {token}", "Cookie": f"sessionid={session}"}

    def send(self, method: str, path: str, **data: Any) -> Any:
        """The answer to a request, from JSON. Raises HTTPError if it was refused."""
        return json.loads(self._send(method, path, json.dumps(data).encode() if data else None) or "null")

    def page(self, path: str) -> str:
        return self._send("GET", path)

    def _send(self, method: str, path: str, data: bytes | None = None) -> str:
        headers = self._headers | {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20 * PATIENCE) as answer:
            content: str = answer.read().decode()
        return content


BATCH = """
import webhooks
from dcim.models import Site
with webhooks.batch():
    for site in Site.objects.order_by("pk"):
        site.facility = "Hall 5"
        site.save()
"""

SITES = 24
ACTIONS = ["created", "updated", "updated"]


def succeeded() -> int:
    return Delivery.objects.in_states(State.SUCCEEDED).count()


def test_saves_batches_retries_and_pages_work_and_leave_nothing_in_the_sessions(
    crew: Crew, pooler: PgBouncer, inbox: Inbox, figures: Figures
) -> None:
    webhook = make_webhook(Site, url=inbox.url(URL))
    failing = make_webhook(Site, on="c", url=inbox.url("status/500"))
    # A busy machine must not end the lease of a worker: its deliveries would be sent again.
    options = {"LEASE": 60, "SWEEP_INTERVAL": 0.5, "RETRY_SCHEDULE": [1], "RETRY_JITTER": 0, "PAUSE_AFTER": 1000}
    names = [crew.hire(**options) for _ in DRIVERS] + [crew.hire(STOCK, **options)]
    with serve_site(crew) as site, ThreadPoolExecutor(6) as threads:
        api = Api(site.url)

        def create_and_update(number: int) -> None:
            created = api.send("POST", "/api/dcim/sites/", name=f"Site {number}", slug=f"site-{number}")
            api.send("PATCH", f"/api/dcim/sites/{created['id']}/", facility="Hall 3")

        list(threads.map(create_and_update, range(SITES)))
        crew.manage("shell", "-c", BATCH)
        inbox.wait_for(3 * SITES, behaviour=URL)
        until(lambda: failing.deliveries.in_states(State.FAILED).count() == SITES, 20, "failing deliveries to fail")

        api.send("PATCH", f"/api/webhooks/webhooks/{failing.pk}/", payload_url=inbox.url("ok"))
        api.send("POST", f"/api/webhooks/deliveries/retry/?webhook={failing.pk}")
        inbox.wait_for(SITES, behaviour="ok")

        for path in ("webhook", "webhook/add", f"webhook/{webhook.pk}/change", "delivery", "event"):
            assert "<html" in api.page(f"/admin/rq_webhooks/{path}/"), path
        for path in ("webhook-backend-status", "dcim/site/add"):
            assert "<html" in api.page(f"/admin/{path}/"), path
        until(lambda: succeeded() == 4 * SITES, 20, storm.report)
    crew.stop_all()

    by_site: dict[int, list[str]] = {}
    for one in inbox.received(URL):
        by_site.setdefault(one.json["data"]["id"], []).append(one.json["event"])
    assert list(by_site.values()) == [ACTIONS] * SITES
    sent = [one.headers["webhook-id"] for one in inbox.received("status/500")]
    retried = [one.headers["webhook-id"] for one in inbox.received("ok")]
    assert len(sent) == 2 * SITES
    assert sorted(retried) == sorted(set(sent))
    figures(f"{pooler.count_transactions()} transactions of {len(names)} workers, a site and a command")
    assert pooler.traces() == []


@pytest.mark.storm  # besides the test above, and test_storm.py
def test_the_storm_goes_on_through_a_pooler_that_is_killed_too(
    crew: Crew,
    pooler: PgBouncer,
    writers: Callable[[Plan], Writer],
    labels: list[int],
    inbox: Inbox,
    figures: Figures,
    is_long: bool,
) -> None:
    changes = 10_000 if is_long else 300
    make_webhook(Label, url=inbox.url(URL))
    began = time.monotonic()
    killer = Killer(crew, workers=3, most=1000 if is_long else 4)
    crowd = [writers(Plan(f"w{n}", changes // 4, labels, pause=0.05, rollbacks=0.1)) for n in range(4)]
    goals = [changes // 3, 2 * changes // 3]

    def restart_pooler() -> None:
        if goals and ledger.count() > goals[0]:
            goals.pop(0)
            pooler.restart()

    storm.rage(killer, crowd, 1700 if is_long else 120, also=restart_pooler)
    account = ledger.settle(inbox.received(URL))
    figures(f"{account}; {killer}, and PgBouncer twice; {time.monotonic() - began:.0f} s")
    crew.stop_all()
    ledger.check_rows()
    account.check()
    assert not goals
    assert killer.kills >= 3
    assert account.committed >= changes
    assert Event.objects.count() == account.committed
    assert pooler.traces() == []
