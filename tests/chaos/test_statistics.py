"""The statistics have each recorded attempt and each skip exactly once, though workers are killed while they count."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from django.db.models import Sum

from tests.chaos.crew import Crew
from tests.support.draining import sweep_step
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.waiting import until
from tests.testapp.models import Label
from webhooks.delivery.rollup import add_up
from webhooks.models import Attempt, Delivery, Event, Skip, State, Statistic, StatisticDelta, Webhook
from webhooks.models.queue import OPEN_STATES
from webhooks.models.statistic import COUNTS, DELAY, DURATION, Period

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

WORKERS, KILLS = 3, 5


def test_each_attempt_and_each_skip_counts_once_though_workers_are_killed(
    crew: Crew, inbox: Inbox, is_long: bool, figures: Figures
) -> None:
    webhooks = [make_webhook(Label, url=inbox.url(path)) for path in ("ok", "slow/0.01", "status/500")]
    count = 3000 if is_long else 120
    for number in range(count):
        make_event(*webhooks, object_type="testapp.label", object_id=str(number))
    Skip.objects.bulk_create(Skip(webhook=webhook) for webhook in webhooks for _ in range(count))
    options = {
        "SWEEP_INTERVAL": 0.1, "LEASE": 1.5, "RETRY_SCHEDULE": [0.2], "PAUSE_AFTER": 10**6, "BATCH": 40,
        "SKIPS_PER_WEBHOOK": 100,
    }  # fmt: skip
    # A worker does the whole maintenance at its first sweep, so each new one rolls up.
    alive = [crew.hire(**options) for _ in range(WORKERS)]
    for kill in range(1, KILLS + 1):
        goal = 4 * count * kill // (KILLS + 1)
        until(lambda goal=goal: Attempt.objects.count() >= goal, 60, f"{goal} attempts")  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.1))
        crew.by_name[alive.pop(0)].kill()
        alive.append(crew.hire(**options))
        Skip.objects.bulk_create(Skip(webhook=webhook) for webhook in webhooks for _ in range(count))
        sweep_step(add_up, 5)
    until(is_over, 60, "the last deliveries to end")
    for name in alive:
        crew.by_name[name].stop()
    rolled_up = Statistic.objects.filter(period=Period.HOUR).aggregate(total=Sum("attempted"))["total"]
    left, stored = StatisticDelta.objects.count(), Skip.objects.count()
    skips = (KILLS + 1) * count
    while sweep_step(add_up, 1000):
        pass
    attempts = Attempt.objects.count()
    figures(
        f"{attempts} attempts, {KILLS} workers killed; {rolled_up} were rolled up, {left} deltas were left; "
        f"{3 * skips} skips, {stored} of them stored at the end"
    )
    assert rolled_up
    assert stored < 3 * skips, "none was deleted"
    for webhook in webhooks:
        expected = recorded(webhook) | {"skipped": skips}
        assert expected["attempted"]
        assert [counted(webhook, period) for period in Period] == [expected, expected]


def is_over() -> bool:
    return not Event.objects.undispatched().exists() and not Delivery.objects.in_states(*OPEN_STATES).exists()


def counted(webhook: Webhook, period: Period) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for row in Statistic.objects.filter(webhook=webhook, period=period):
        values = {name: getattr(row, name) for name in COUNTS}
        sums.update(
            attempted=row.attempted,
            succeeded=0 if row.error_kind else row.attempted,
            given_up=row.given_up,
            skipped=row.skipped,
            duration=row.duration_total,  # type: ignore[attr-defined]
            durations=sum(values[name] for name in DURATION.buckets),
            delays=sum(values[name] for name in DELAY.buckets),
        )
    return dict(sums)


def recorded(webhook: Webhook) -> dict[str, int]:
    sums: Counter[str] = Counter(given_up=webhook.deliveries.in_states(State.FAILED).count())
    for attempt in Attempt.objects.filter(delivery__webhook=webhook):
        sums.update(
            attempted=1,
            succeeded=int(attempt.succeeded),
            duration=attempt.duration_ms,
            durations=1,
            delays=int(attempt.number == 1),
        )
    return dict(sums)
