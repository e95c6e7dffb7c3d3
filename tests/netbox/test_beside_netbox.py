"""NetBox's own event rule and a webhook of the app see the same program of changes. What they send is compared.

``DIFFERENCES`` has every difference with its reason. docs/netbox.md shows the same table.
"""

from __future__ import annotations

import fnmatch
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import django_rq
import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from extras.models import EventRule
from extras.models import Webhook as NetBoxWebhook
from rq import SimpleWorker
from rq.registry import FailedJobRegistry

from tests.netbox.program import STEPS, Hands, models_of_event_rules, superuser
from tests.support.inbox import Inbox, ReceiverProcess
from webhooks.models import Delivery, Event, State, Webhook
from webhooks.registry import registered_models

DOCS = Path(__file__).parents[2] / "docs" / "netbox.md"
# So that there is a test database. The tests use a copy of it.
pytestmark = pytest.mark.django_db

QUEUES = ("high", "default", "low")

ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """A difference that is meant to be. ``key`` and ``steps`` are patterns, as of file names."""

    key: str
    """A path in the body such as ``data.*_count``, or ``an event`` for a whole request."""
    netbox: str
    here: str
    reason: str
    steps: str = "*"
    models: str = "*"

    def explains(self, found: Found) -> bool:
        return (
            fnmatch.fnmatchcase(found.key, self.key)
            and fnmatch.fnmatchcase(found.step, self.steps)
            and fnmatch.fnmatchcase(found.model, self.models)
            and (self.netbox != ABSENT or found.netbox == ABSENT)
            and (self.here != ABSENT or found.here == ABSENT)
        )


DIFFERENCES: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Found:
    """A difference that was seen. A value is its ``repr``."""

    step: str
    model: str
    event: str
    key: str
    netbox: str
    here: str


@dataclass
class Seen:
    """What a step sent: the bodies of NetBox's requests, and those of the app's."""

    netbox: list[dict[str, Any]] = field(default_factory=list)
    here: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Observed:
    steps: dict[str, Seen] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)
    failed_jobs: int = 0
    unsent: list[str] = field(default_factory=list)


def work() -> None:
    """Run what NetBox's worker would run, until its queues are empty."""
    queues = [django_rq.get_queue(name) for name in QUEUES]
    SimpleWorker(queues, connection=queues[0].connection).work(burst=True, logging_level="ERROR")


def subscribe(netbox: Inbox, here: Inbox) -> None:
    """An event rule of NetBox and a webhook of the app, both for all events of all models."""
    content_types = models_of_event_rules()
    webhook = NetBoxWebhook.objects.create(name="beside", payload_url=netbox.url())
    rule = EventRule.objects.create(
        name="beside",
        event_types=["object_created", "object_updated", "object_deleted"],
        action_object_type=ContentType.objects.get_for_model(NetBoxWebhook),
        action_object_id=webhook.pk,
    )
    rule.object_types.set([one.pk for one in content_types])
    mine = Webhook.objects.create(
        name="beside", payload_url=here.url(), on_created=True, on_updated=True, on_deleted=True, prechange=True
    )
    wanted = {model._meta.label_lower for model in registered_models().values()}
    chosen = [one for one in content_types if f"{one.app_label}.{one.model}" in wanted]
    mine.object_types.set(ContentType.objects.filter(pk__in=[one.pk for one in chosen]))


@pytest.fixture(scope="module", params=["ATOMIC_REQUESTS", "NetBox's default"])
def observed(
    request: pytest.FixtureRequest, committed: None, sending: None, receiver_process: ReceiverProcess
) -> Iterator[Observed]:
    """All steps, done once."""
    settings = connections.settings["default"]
    settings["ATOMIC_REQUESTS"] = request.param == "ATOMIC_REQUESTS"
    netbox, here = Inbox(receiver_process), Inbox(receiver_process)
    for name in QUEUES:
        django_rq.get_queue(name).empty()
    hands = Hands(superuser())
    subscribe(netbox, here)
    work()
    seen = Observed()
    begin = [len(netbox.received()), len(here.received())]
    try:
        for step in STEPS:
            try:
                step.run(hands)
                work()
            except Exception as error:
                error.add_note(f"in the step {step.words!r}")
                raise
            bodies = [[one.json for one in inbox.received()] for inbox in (netbox, here)]
            sent = Seen(bodies[0][begin[0] :], bodies[1][begin[1] :])
            begin = [len(one) for one in bodies]
            seen.steps[step.words] = sent
            seen.found += compare(step.words, sent)
        seen.failed_jobs = sum(len(FailedJobRegistry(queue=django_rq.get_queue(name))) for name in QUEUES)
        seen.unsent = [f"{one}: {one.error}" for one in Event.objects.exclude(error="")]
        seen.unsent += map(str, Delivery.objects.exclude(outcome=State.SUCCEEDED))
        yield seen
    finally:
        settings["ATOMIC_REQUESTS"] = False


# Comparing


def compare(step: str, sent: Seen) -> list[Found]:
    """The differences of a step, in whatever order the requests came."""
    found = []
    theirs, ours = by_object(sent.netbox), by_object(sent.here)
    for key in sorted({*theirs, *ours}):
        model, _ = key
        pair = [theirs.get(key, []), ours.get(key, [])]
        for netbox, here in zip(*padded(*pair), strict=True):
            event = (netbox or here or {})["event"]
            if netbox is None or here is None:
                words = [f"{event} of {key}" if body else ABSENT for body in (netbox, here)]
                found.append(Found(step, model, event, "an event", *words))
            else:
                keys = differing(netbox, here)
                found += [Found(step, model, event, path, *values) for path, values in keys.items()]
    return found


def by_object(bodies: list[dict[str, Any]]) -> dict[tuple[str, Any], list[dict[str, Any]]]:
    """The bodies by model and key, those of an object in their order."""
    objects = defaultdict(list)
    for body in bodies:
        objects[body["object_type"], body["data"]["id"]].append(body)
    return objects


def padded(netbox: list[Any], here: list[Any]) -> tuple[list[Any], list[Any]]:
    """Both lists with the same length. The last bodies belong together: they have the last data of an object."""
    length = max(len(netbox), len(here))
    return [None] * (length - len(netbox)) + netbox, [None] * (length - len(here)) + here


def differing(netbox: Any, here: Any, path: str = "") -> dict[str, tuple[str, str]]:
    """The paths of the values that differ, with both values. A number in a list is ``[]``."""
    if isinstance(netbox, dict) and isinstance(here, dict):
        differences = {}
        for key in {*netbox, *here}:
            inner = f"{path}.{key}".lstrip(".")
            if key not in netbox:
                differences[inner] = (ABSENT, repr(here[key]))
            elif key not in here:
                differences[inner] = (repr(netbox[key]), ABSENT)
            else:
                differences |= differing(netbox[key], here[key], inner)
        return differences
    if isinstance(netbox, list) and isinstance(here, list) and len(netbox) == len(here):
        differences = {}
        for one, other in zip(netbox, here, strict=True):
            differences |= differing(one, other, f"{path}[]")
        return differences
    if netbox == here and type(netbox) is type(here):
        return {}
    return {path: (repr(netbox), repr(here))}


def listed(found: list[Found], explained: bool) -> list[Found]:
    return [one for one in found if any(known.explains(one) for known in DIFFERENCES) is explained]


def summary(found: list[Found]) -> str:
    """Each key once, with an example."""
    groups: dict[tuple[str, bool, bool, str], list[Found]] = defaultdict(list)
    for one in found:
        example = one.step if one.key == "an event" else ""  # each of these matters
        groups[one.key, one.netbox == ABSENT, one.here == ABSENT, example].append(one)
    lines = []
    for (key, *_), several in sorted(groups.items()):
        first, models = several[0], Counter(one.model for one in several)
        lines.append(f"{key}: {len(several)} times, {dict(models.most_common(4))}, such as in {first.step!r}")
        lines.append(f"    NetBox: {first.netbox[:300]}\n    here:   {first.here[:300]}")
    return "\n".join(lines)


@pytest.mark.long
def test_every_difference_is_listed(observed: Observed) -> None:
    unlisted = listed(observed.found, explained=False)
    assert not unlisted, f"{len(unlisted)} differences are not listed:\n{summary(unlisted)}"


@pytest.mark.long
def test_every_listed_difference_occurs(observed: Observed) -> None:
    unseen = [known for known in DIFFERENCES if not any(known.explains(one) for one in observed.found)]
    assert not unseen, "these differences are gone:\n" + "\n".join(map(str, unseen))


@pytest.mark.long
def test_both_send_much(observed: Observed) -> None:
    """Else the comparison would compare nothing."""
    counted = [sum(len(getattr(sent, side)) for sent in observed.steps.values()) for side in ("netbox", "here")]
    assert min(counted) > 150, counted
    silent = [words for words, sent in observed.steps.items() if not (sent.netbox or sent.here)]
    assert len(silent) < 12, silent


@pytest.mark.long
def test_no_job_and_no_event_failed(observed: Observed) -> None:
    assert not observed.unsent
    assert not observed.failed_jobs


def table() -> str:
    rows = [f"| {one.key} | {one.netbox} | {one.here} | {one.reason} |" for one in DIFFERENCES]
    return "\n".join(["| key | NetBox | here | why |", "| --- | --- | --- | --- |", *rows])


def test_the_docs_have_the_same_table() -> None:
    assert table() in DOCS.read_text(), f"docs/netbox.md needs this table:\n{table()}"
