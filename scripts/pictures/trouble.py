"""Every kind of trouble that the pages show: some of it real, by the worker, and some written as rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.utils import timezone

from dcim.models import Rack, Site
from demo.startup import Demo
from webhooks.insight import history
from webhooks.models import Delivery, Event, QueuedDelivery, Run, RunState, State, Statistic, Webhook
from webhooks.models.statistic import DELAY, DURATION, Period
from webhooks.operations import webhooks as acts

SITES = (
    ("Antwerp ANR1", "anr01"), ("Berlin BER2", "ber02"), ("Copenhagen CPH1", "cph01"), ("Dublin DUB3", "dub03"),
    ("Frankfurt FRA5", "fra05"), ("Ghent GNE1", "gne01"), ("Helsinki HEL1", "hel01"), ("Lyon LYS2", "lys02"),
    ("Madrid MAD1", "mad01"), ("Oslo OSL1", "osl01"), ("Prague PRG2", "prg02"), ("Zurich ZRH4", "zrh04"),
)  # fmt: skip

HOURS = 24


@dataclass(frozen=True)
class Plan:
    """A webhook for all sites. ``busy`` is about how many attempts it makes an hour, ``failing`` their share."""

    name: str
    path: str
    busy: int = 100
    failing: float = 0.0
    kind: str = "http_503"
    fields: tuple[tuple[str, Any], ...] = ()


PLANS = (
    Plan("CMDB sync", "cmdb/answers-401", 240, 0.2, "http_401", (("prechange", True),)),
    Plan("DNS updater", "dns", 600),
    Plan("Billing export", "billing/answers-410", 40, 0.01, "http_410"),
    Plan("Access control", "doors", 20),
    Plan("Firewall rules", "firewall/always-fails", 90, 0.04, "http_503"),
    Plan("Change tickets", "tickets", 55, 0.0, "", (("conditions", {"attr": "status.value", "value": "retired"}),)),
    Plan("Monitoring", "monitoring", 310, 0.003, "answer_timeout"),
    Plan("Capacity planning", "capacity", 12),
    Plan("Floor plans", "floors", 7),
)


def cause(demo: Demo) -> None:
    """Fill the database of a running demo."""
    user = get_user_model().objects.get(email="admin@example.com")
    found = {plan.name: _define(plan, demo) for plan in PLANS}
    _busy_day(found)
    _failed_event(found["DNS updater"])
    history.record(user, [found["CMDB sync"]], history.CHANGE, [{"changed": {"fields": ["Secret"]}}])
    for name, slug in SITES:
        demo.site.call("POST", "/api/dcim/sites/", {"name": name, "slug": slug, "status": "planned"})
    _wait(demo, lambda: Delivery.objects.in_states(State.SUCCEEDED).count() >= 4 * len(SITES), "the first requests")
    acts.pause(Webhook.objects.filter(pk=found["Access control"].pk), "jane.doe")
    for number, site in enumerate(Site.objects.filter(name__in=[name for name, _ in SITES]).order_by("name")):
        change: dict[str, Any] = {"status": "active", "description": f"Rack row {number + 1} is in service"}
        demo.site.call("PATCH", f"/api/dcim/sites/{site.pk}/", change)
    circuit = demo.site.call("GET", "/api/circuits/circuits/")["results"][0]["id"]
    demo.site.call("PATCH", f"/api/circuits/circuits/{circuit}/", {"description": "Moved to another carrier"})
    _wait(demo, lambda: Webhook.objects.filter(enabled=False).exists(), "the webhook that is gone")
    _wait(demo, lambda: Webhook.objects.probed().exists(), "a webhook that is paused")
    _wait(demo, lambda: Delivery.objects.failed().exists(), "a failed delivery")
    acts.ping(found["DNS updater"], user)
    _wait(demo, lambda: _gave_up(found["Firewall rules"]), "the last attempts")
    _age(found)
    _runs(found["Firewall rules"])


def _define(plan: Plan, demo: Demo) -> Webhook:
    webhook = Webhook.objects.create(
        name=plan.name,
        payload_url=f"{demo.receiver_url}/{plan.path}",
        secret=demo.webhook_secret,
        **dict.fromkeys(("on_created", "on_updated", "on_deleted"), True),
        **dict(plan.fields),
    )
    webhook.object_types.set(ContentType.objects.get_for_models(Site, Rack).values())
    return webhook


def _busy_day(found: dict[str, Webhook]) -> None:
    """The statistics of a day that was busy at noon."""
    chance = random.Random(7)  # noqa: S311 # nosec B311 # the same pictures each time
    rows = []
    now = int(datetime.now(UTC).timestamp())
    for plan in PLANS:
        for hour in range(HOURS):
            start = (now - hour * Period.HOUR) // Period.HOUR * Period.HOUR
            daily = 0.35 + 0.65 * max(0.0, 1 - abs(start // Period.HOUR % 24 - 13) / 9)
            attempted = round(plan.busy * daily * chance.uniform(0.8, 1.2))
            failed = round(attempted * plan.failing * chance.uniform(0.2, 1.8) * (3 if hour < 3 else 0.5))
            for kind, count in (("", attempted - failed), (plan.kind, failed)):
                if count > 0:
                    rows.append(_statistic(found[plan.name], start, kind, count, chance))
    Statistic.objects.bulk_create(rows, ignore_conflicts=True)


def _statistic(webhook: Webhook, start: int, kind: str, count: int, chance: random.Random) -> Statistic:
    durations, delays = (
        [max(1, round(chance.lognormvariate(middle, 0.6))) for _ in range(count)] for middle in (3.6, 4.4)
    )
    columns = dict.fromkeys([*DURATION.buckets, *DELAY.buckets], 0)
    for histogram, times in ((DURATION, durations), (DELAY, delays)):
        for one in times:
            columns[histogram.bucket(one)] += 1
        columns[histogram.total] = sum(times)
    return Statistic(
        webhook=webhook, period=Period.HOUR, start=start, error_kind=kind, attempted=count, **columns,
        given_up=count // 9 if kind else 0,
    )  # fmt: skip


def _gave_up(webhook: Webhook) -> bool:
    """Whether all deliveries of a webhook failed. Its receiver always fails, so it is resumed whenever it is paused."""
    is_over = not QueuedDelivery.objects.filter(webhook=webhook).exclude(state=State.FAILED).exists()
    chosen = Webhook.objects.filter(pk=webhook.pk)
    (chosen if is_over else chosen.probed()).resume()
    return is_over


def _age(found: dict[str, Webhook]) -> None:
    """The trouble began hours ago."""
    now = timezone.now()
    begun = {
        "CMDB sync": {"failing_since": now - timedelta(hours=2, minutes=11), "probe_at": now + timedelta(minutes=9)},
        "Access control": {"paused_at": now - timedelta(minutes=52)},
        "Billing export": {"disabled_at": now - timedelta(hours=7), "last_failure_at": now - timedelta(hours=7)},
    }
    for name, columns in begun.items():
        Webhook.objects.filter(pk=found[name].pk).update(**columns)
    LogEntry.objects.filter(object_id=str(found["CMDB sync"].pk)).update(
        action_time=now - timedelta(hours=2, minutes=13)
    )


def _failed_event(webhook: Webhook) -> None:
    error = (
        "Traceback (most recent call last):\n"
        '  File "/srv/site/dcim/api/serializers.py", line 61, in get_power_feed\n'
        "    return rack.power_feeds.get().name\n"
        "dcim.models.PowerFeed.DoesNotExist: PowerFeed matching query does not exist."
    )
    Event.objects.create(
        action="updated", object_type="dcim.rack", object_id="17", object_repr="Rack A-17", error=error,
        webhook_ids=[webhook.pk], username="jane.doe", request_id="7f1d3c52-8a4e-4c57-9a51-2f5a8f0f6f10",
        timestamp=timezone.now() - timedelta(minutes=12),
    )  # fmt: skip


def _runs(webhook: Webhook) -> None:
    now = timezone.now()
    columns = {"filters": {"webhook": webhook.pk}, "requested_by": "admin", "counts": {str(webhook.pk): 12_000}}
    Run.objects.create(
        kind="retry", state=RunState.DONE, total=12_000, done=11_988, skipped=12,
        created=now - timedelta(hours=2), finished_at=now - timedelta(hours=2) + timedelta(seconds=41), **columns,
    )  # fmt: skip
    begun = now - timedelta(minutes=26)
    Run.objects.create(kind="resend", state=RunState.PAUSED, total=12_000, done=8_100, created=begun, **columns)


def _wait(demo: Demo, is_there: Callable[[], bool], what: str) -> None:
    demo.programs.wait_for(is_there, what, "rqworker")
