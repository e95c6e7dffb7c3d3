"""What a save costs the one who saves: a hundred devices in a transaction, over the same without the app."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

from django.db import connection, reset_queries, transaction
from django.test.utils import CaptureQueriesContext

from core.models import Tag
from dcim.api.serializers import DeviceSerializer
from dcim.models import Device, Site
from scripts.benchmark.conditions import Condition, Work, medians, without_webhooks
from scripts.benchmark.figures import Experiment, Figure, Reading, Run, more_at_most, times_at_most
from scripts.benchmark.inventory import make_devices
from scripts.benchmark.lab import Lab
from webhooks.models import Event, Webhook

AT_ONCE = 100
NOWHERE = "http://127.0.0.1:1/"


class Saves:
    """The same devices, saved over and over, with nobody to deliver that meanwhile."""

    def __init__(self, lab: Lab) -> None:
        lab.empty()
        self.devices = make_devices(lab.size(AT_ONCE, 20))

    def save(self) -> None:
        with transaction.atomic():
            for device in self.devices:
                device.save()

    @contextmanager
    def plain(self) -> Iterator[Work]:
        with without_webhooks():
            yield self.save

    @contextmanager
    def serialized(self) -> Iterator[Work]:
        """The serializer's own time, on objects that are read afresh, as what is sent has to be."""
        fresh = [Device.objects.get(pk=device.pk) for device in self.devices]
        yield lambda: serialize(fresh)

    @contextmanager
    def told(self, webhooks: Sequence[Webhook]) -> Iterator[Work]:
        """A save while just these webhooks are enabled."""
        chosen = Webhook.objects.filter(pk__in=[webhook.pk for webhook in webhooks])
        Webhook.objects.update(enabled=False)
        chosen.update(enabled=True)
        yield self.save

    def each(self, rounds: int, *conditions: Condition) -> list[float]:
        """Microseconds for each device; what was recorded is thrown away afterwards."""
        taken = medians(rounds, *conditions)
        Event.objects.all()._raw_delete("default")
        return [seconds * 1_000_000 / len(self.devices) for seconds in taken]

    def queries(self, condition: Condition) -> float:
        """Statements for each device more in a transaction: what a transaction costs once is not among them."""
        return (self._statements(condition, 20) - self._statements(condition, 10)) / 10

    def _statements(self, condition: Condition, count: int) -> int:
        all_of_them, self.devices = self.devices, self.devices[:count]
        reset_queries()  # Django keeps the last 9,000, and counts how many more they have become
        try:
            with condition() as work, CaptureQueriesContext(connection) as captured:
                work()
            return len(captured)
        finally:
            self.devices = all_of_them


class Edits(Saves):
    """The same devices, each of which gets another tag in place of its own, over and over."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        tags = [Tag.objects.create(name=f"Benchmark {number}", slug=f"benchmark-{number}") for number in range(2)]
        self._next = {device.pk: cycle(tags) for device in self.devices}

    def save(self) -> None:
        with transaction.atomic():
            for device in self.devices:
                self.edit(device)

    def edit(self, device: Device) -> None:
        device.tags.set([next(self._next[device.pk])])


class Forms(Edits):
    """The same devices, each of which is saved before it gets another tag, as a form does it."""

    def edit(self, device: Device) -> None:
        device.save()
        super().edit(device)


def serialize(devices: Sequence[Device]) -> None:
    with transaction.atomic():
        for device in devices:
            _ = DeviceSerializer(device, context={"request": None}).data


def measure_unsubscribed(lab: Lab) -> Iterator[Reading]:
    saves = Saves(lab)
    of_others = [lab.webhook(NOWHERE, Site) for _ in range(10)]
    while True:
        ours, plain = saves.each(lab.size(60, 3), lambda: saves.told(of_others), saves.plain)
        yield {"save-unsubscribed": Run(ours, plain)}


def measure_subscribed(lab: Lab) -> Iterator[Reading]:
    saves = Saves(lab)
    one = [lab.webhook(NOWHERE, Device)]
    conditions: list[Condition] = [lambda: saves.told(one), saves.plain, saves.serialized]
    while True:
        ours, plain, serializer = saves.each(lab.size(12, 2), *conditions)
        statements = [saves.queries(condition) for condition in conditions]
        yield {
            "save-subscribed": Run(ours, plain + serializer),
            "save-queries": Run(statements[0], statements[1] + statements[2]),
        }


def measure_crowd(lab: Lab) -> Iterator[Reading]:
    saves = Saves(lab)
    hundred = [lab.webhook(NOWHERE, Device) for _ in range(100)]
    while True:
        many, one = saves.each(lab.size(15, 2), lambda: saves.told(hundred), lambda: saves.told(hundred[:1]))
        yield {"save-crowd": Run(many, one)}


def measure_before(lab: Lab) -> Iterator[Reading]:
    yield from looking_back("save-before", lab, Saves(lab))


def measure_edit_before(lab: Lab) -> Iterator[Reading]:
    yield from looking_back("edit-before", lab, Edits(lab))


def measure_form_before(lab: Lab) -> Iterator[Reading]:
    yield from looking_back("form-before", lab, Forms(lab))


def looking_back(name: str, lab: Lab, saves: Saves) -> Iterator[Reading]:
    """With a webhook that wants the state before, over one that does not."""
    without, wanting = [lab.webhook(NOWHERE, Device)], [lab.webhook(NOWHERE, Device)]
    Webhook.objects.filter(pk=wanting[0].pk).update(prechange=True)
    conditions: list[Condition] = [lambda: saves.told(wanting), lambda: saves.told(without)]
    while True:
        ours, plain = saves.each(lab.size(6, 2), *conditions)
        statements = [saves.queries(condition) for condition in conditions]
        yield {name: Run(ours, plain), f"{name}-queries": Run(*statements)}


MICROSECONDS = "µs"
IN_ALL = f"in a transaction of {AT_ONCE}"
ONE = f"a save of a device with one subscriber, {IN_ALL}"
PLAIN = "a plain save"
WITH_SERIALIZER = "a plain save, and the serializer's own"
NOT_WANTED = "with a subscriber that does not want it"

UNSUBSCRIBED = Experiment(
    "save-unsubscribed",
    (
        Figure(
            "save-unsubscribed",
            f"a save of a device that nobody subscribed to, {IN_ALL}",
            MICROSECONDS,
            PLAIN,
            times_at_most(1.05),
        ),
    ),
    measure_unsubscribed,
)
SUBSCRIBED = Experiment(
    "save-subscribed",
    (
        Figure(
            "save-subscribed",
            ONE,
            MICROSECONDS,
            WITH_SERIALIZER,
            times_at_most(1.5),
        ),
        Figure("save-queries", f"statements of {ONE}", "statements", WITH_SERIALIZER, more_at_most(4, "statements")),
    ),
    measure_subscribed,
)
CROWD = Experiment(
    "save-crowd",
    (
        Figure(
            "save-crowd",
            f"a save of a device with 100 subscribers, {IN_ALL}",
            MICROSECONDS,
            "with one subscriber",
            times_at_most(1.05),
        ),
    ),
    measure_crowd,
)


def before(name: str, what: str, measure: Callable[[Lab], Iterator[Reading]], most: int) -> Experiment:
    """What knowing the state before costs: at most so many statements more."""
    figure = Figure(name, f"{what}, {IN_ALL}", MICROSECONDS, NOT_WANTED, times_at_most(1.25))
    statements = f"statements of {what}, {IN_ALL}"
    queries = Figure(f"{name}-queries", statements, "statements", NOT_WANTED, more_at_most(most, "statements"))
    return Experiment(name, (figure, queries), measure)


BEFORE = before("save-before", "a save of a device whose state before is wanted", measure_before, 1)
EDIT_BEFORE = before("edit-before", "another tag for a device whose state before is wanted", measure_edit_before, 4)
FORM_BEFORE = before(
    "form-before", "a save of a device, and another tag for it, whose state before is wanted", measure_form_before, 4
)
