"""What webhooks cost the code that saves or deletes: time and statements, compared with the same without webhooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import cycle
from typing import Any
from unittest import mock

from django.conf import settings
from django.db import connection, reset_queries, transaction
from django.db.models.signals import pre_delete
from django.test.utils import CaptureQueriesContext, override_settings
from django.utils import timezone

from core.models import Tag
from dcim.api.serializers import DeviceSerializer
from dcim.models import Device, Interface, Site
from scripts.benchmark.measure import Condition, Work, median_seconds, without_webhooks
from scripts.benchmark.sample_data import make_devices, make_interfaces
from scripts.benchmark.servers import UNREACHABLE, Bench
from scripts.benchmark.targets import Figure, Measurement, Measurements, Workload, difference_at_most, ratio_at_most
from webhooks.ground.db import django_internals
from webhooks.models import Event, Skip, Webhook

DEVICES = 100


class Saves:
    """Saves the same devices again and again, in one transaction each time. No worker runs."""

    def __init__(self, bench: Bench) -> None:
        bench.clear()
        self.devices = make_devices(bench.size(DEVICES, 4))

    def change(self, device: Device) -> None:
        device.save()

    def change_all(self) -> None:
        with transaction.atomic():
            for device in self.devices:
                self.change(device)

    @contextmanager
    def plain(self) -> Iterator[Work]:
        """Without this app."""
        with without_webhooks():
            yield self.change_all

    @contextmanager
    def serialized(self) -> Iterator[Work]:
        """Only the serializer, on objects that are read from the database, like the ones that webhooks send."""
        fresh = [Device.objects.get(pk=device.pk) for device in self.devices]
        yield lambda: serialize(fresh)

    @contextmanager
    def with_webhooks(self, webhooks: Sequence[Webhook]) -> Iterator[Work]:
        """With only these webhooks. The others are marked as deleted: a disabled one would store skips."""
        Webhook.with_deleted.update(enabled=False, deleted_at=timezone.now())
        chosen = Webhook.with_deleted.filter(pk__in=[webhook.pk for webhook in webhooks])
        chosen.update(enabled=True, deleted_at=None)
        yield self.change_all

    @contextmanager
    def without_skips(self, webhooks: Sequence[Webhook]) -> Iterator[Work]:
        """The same, while changes that a webhook does not want leave no rows."""
        with override_settings(WEBHOOKS={**settings.WEBHOOKS, "SKIP_DAYS": 0}), self.with_webhooks(webhooks) as work:
            yield work

    def microseconds(self, rounds: int, *conditions: Condition) -> list[float]:
        """Microseconds for each device under each condition. Deletes the events afterwards."""
        seconds = median_seconds(rounds, *conditions)
        Event.objects.all()._raw_delete("default")
        return [1_000_000 * taken / len(self.devices) for taken in seconds]

    def counts(self, name: str, ours: Condition, *others: Condition) -> Measurements:
        """Statements for each device, compared with the sum of the other conditions: where they share round trips, and
        as with a Django that the app was not tested with."""

        def compare() -> Measurement:
            return Measurement(self.statements(ours), sum(map(self.statements, others)))

        merged = compare()
        with mock.patch.object(django_internals, "merges_statements", return_value=False):
            return {f"{name}-queries": merged, f"{name}-plain-queries": compare()}

    def statements(self, condition: Condition) -> float:
        """Statements for each device, without the fixed ones of a transaction."""
        many = min(20, len(self.devices))
        few = many // 2
        return (self._count_statements(condition, many) - self._count_statements(condition, few)) / (many - few)

    def _count_statements(self, condition: Condition, count: int) -> int:
        all_devices, self.devices = self.devices, self.devices[:count]
        reset_queries()  # Django keeps only the last 9,000, and the count would be wrong beyond that
        try:
            with condition() as work, CaptureQueriesContext(connection) as captured:
                work()
            return len(captured)
        finally:
            self.devices = all_devices


class TagEdits(Saves):
    """Replaces the tag of each device."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        tags = [Tag.objects.create(name=f"Benchmark {number}", slug=f"benchmark-{number}") for number in range(2)]
        self._tags = {device.pk: cycle(tags) for device in self.devices}

    def change(self, device: Device) -> None:
        device.tags.set([next(self._tags[device.pk])])


def serialize(devices: Sequence[Device]) -> None:
    with transaction.atomic():
        for device in devices:
            _ = DeviceSerializer(device, context={"request": None}).data


def measure_unsubscribed(bench: Bench) -> Iterator[Measurements]:
    saves = Saves(bench)
    for_sites = [bench.webhook(UNREACHABLE, Site) for _ in range(10)]
    while True:
        ours, plain = saves.microseconds(bench.size(30, 3), partial(saves.with_webhooks, for_sites), saves.plain)
        yield {"save-unsubscribed": Measurement(ours, plain)}


def measure_subscribed(bench: Bench) -> Iterator[Measurements]:
    saves = Saves(bench)
    one = [bench.webhook(UNREACHABLE, Device)]
    conditions: list[Condition] = [partial(saves.with_webhooks, one), saves.plain, saves.serialized]
    while True:
        ours, plain, serializer = saves.microseconds(bench.size(6, 2), *conditions)
        yield {"save-subscribed": Measurement(ours, plain + serializer), **saves.counts("save", *conditions)}


def measure_many_subscribers(bench: Bench) -> Iterator[Measurements]:
    saves = Saves(bench)
    hundred = [bench.webhook(UNREACHABLE, Device) for _ in range(100)]
    conditions: list[Condition] = [partial(saves.with_webhooks, webhooks) for webhooks in (hundred, hundred[:1])]
    while True:
        yield {"save-crowd": Measurement(*saves.microseconds(bench.size(8, 2), *conditions))}


def measure_skipped(bench: Bench) -> Iterator[Measurements]:
    """A webhook with a condition that says no, compared with the same while no skips are stored."""
    saves = Saves(bench)
    picky = [bench.webhook(UNREACHABLE, Device, conditions={"attr": "name", "value": "no device has this name"})]
    conditions: list[Condition] = [partial(saves.with_webhooks, picky), partial(saves.without_skips, picky)]
    while True:
        microseconds = saves.microseconds(bench.size(6, 2), *conditions)
        Skip.objects.all()._raw_delete("default")
        yield {"save-skipped": Measurement(*microseconds), **saves.counts("save-skipped", *conditions)}


def measure_prechange(name: str, changes: type[Saves], bench: Bench) -> Iterator[Measurements]:
    """A webhook that includes the previous state, compared with one that does not."""
    saves = changes(bench)
    webhooks = [bench.webhook(UNREACHABLE, Device, prechange=prechange) for prechange in (True, False)]
    conditions: list[Condition] = [partial(saves.with_webhooks, [webhook]) for webhook in webhooks]
    while True:
        microseconds = saves.microseconds(bench.size(4, 2), *conditions)
        yield {name: Measurement(*microseconds), **saves.counts(name, *conditions)}


ROWS = 1000


def delete_and_roll_back(device: Device) -> None:
    """Delete a device without the commit, so that the next delete finds the same rows."""
    with transaction.atomic():
        Device.objects.get(pk=device.pk).delete()
        transaction.set_rollback(True)


def empty_receiver(sender: Any, **kwargs: Any) -> None:
    """Do nothing. Any receiver of pre_delete makes Django load the rows before it deletes them."""


@contextmanager
def with_empty_receiver(work: Work) -> Iterator[Work]:
    with without_webhooks():
        for sender in (Device, Interface):
            pre_delete.connect(empty_receiver, sender=sender)
        yield work


def measure_delete(bench: Bench) -> Iterator[Measurements]:
    [device] = make_devices(1)
    make_interfaces(device, bench.size(ROWS, 100))
    bench.webhook(UNREACHABLE, Site)
    delete = partial(delete_and_roll_back, device)
    conditions: list[Condition] = [lambda: nullcontext(delete), lambda: with_empty_receiver(delete)]
    while True:
        ours, empty = median_seconds(bench.size(20, 2), *conditions)
        yield {"delete": Measurement(1000 * ours, 1000 * empty)}


IN_ALL = f"in a transaction of {DEVICES}"
SAVE = f"a save of a device with one subscriber, {IN_ALL}"
WITH_SERIALIZER = "a plain save and the serializer alone"


PLAIN_SAVE = "a plain save"
WITHOUT = "without the previous state"


def _statements(name: str, what: str, against: str, limit: int) -> tuple[Figure, Figure]:
    what, target = f"statements of {what}", difference_at_most(limit, "statements")
    return (
        Figure(f"{name}-queries", what, "statements", against, target),
        Figure(f"{name}-plain-queries", f"{what}, with plain savepoints", "statements", against, target),
    )


UNSUBSCRIBED = Workload(
    "save-unsubscribed",
    (
        Figure(
            "save-unsubscribed",
            f"a save of a device without subscribers, {IN_ALL}",
            "µs",
            PLAIN_SAVE,
            ratio_at_most(1.05),
        ),
    ),
    measure_unsubscribed,
)
SUBSCRIBED = Workload(
    "save-subscribed",
    (
        Figure("save-subscribed", SAVE, "µs", WITH_SERIALIZER, ratio_at_most(1.5)),
        *_statements("save", SAVE, WITH_SERIALIZER, 4),
    ),
    measure_subscribed,
)
MANY_SUBSCRIBERS = Workload(
    "save-crowd",
    (
        Figure(
            "save-crowd",
            f"a save of a device with 100 subscribers, {IN_ALL}",
            "µs",
            "with one subscriber",
            ratio_at_most(1.05),
        ),
    ),
    measure_many_subscribers,
)


def _prechange(name: str, changes: type[Saves], what: str, more_statements: int) -> Workload:
    what = f"{what} with the previous state, {IN_ALL}"
    figures = (
        Figure(name, what, "µs", WITHOUT, ratio_at_most(1.25)),
        *_statements(name, what, WITHOUT, more_statements),
    )
    return Workload(name, figures, partial(measure_prechange, name, changes))


SKIPPED = Workload(
    "save-skipped",
    (
        Figure(
            "save-skipped",
            f"a save of a device that the one webhook does not want, {IN_ALL}",
            "µs",
            "without a record of it",
            ratio_at_most(1.25),
        ),
        *_statements("save-skipped", f"a save that a webhook does not want, {IN_ALL}", "without a record of it", 1),
    ),
    measure_skipped,
)
PRECHANGE = (
    _prechange("save-before", Saves, "a save of a device", 1),
    _prechange("edit-before", TagEdits, "another tag for a device", 4),
)
DELETE = Workload(
    "delete",
    (
        Figure(
            "delete",
            f"a delete that cascades to {ROWS:,} registered rows, without subscribers",
            "ms",
            "with an empty delete receiver",
            ratio_at_most(1.1),
        ),
    ),
    measure_delete,
)
