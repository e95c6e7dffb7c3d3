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
from unittest.mock import patch

import django_rq
import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from extras.models import EventRule
from extras.models import Webhook as NetBoxWebhook
from rq import SimpleWorker
from rq.registry import FailedJobRegistry

from tests.netbox.databases import copied_database
from tests.netbox.program import STEPS, Hands, models_of_event_rules, superuser
from tests.support.inbox import Inbox, ReceiverProcess
from webhooks.ground.registry import registered_models
from webhooks.models import Delivery, Event, State, Webhook

DOCS = Path(__file__).parents[2] / "docs" / "netbox.md"
# So that there is a test database. The tests use a copy of it.
pytestmark = pytest.mark.django_db

QUEUES = ("high", "default", "low")

ABSENT, AN_EVENT = "absent", "an event"
PARTS = ("data", "snapshots.*")


@dataclass(frozen=True)
class Difference:
    """A difference that is meant to be. ``keys`` and ``steps`` are patterns, as of file names."""

    keys: tuple[str, ...]
    """Paths in the body such as ``data.*_count``, or ``an event`` for a whole request."""
    netbox: str
    here: str
    reason: str
    steps: tuple[str, ...] = ("*",)

    def explains(self, found: Found) -> bool:
        return (
            any(fnmatch.fnmatchcase(found.key, key) for key in self.keys)
            and any(fnmatch.fnmatchcase(found.step, step) for step in self.steps)
            and (self.netbox == ABSENT) is (found.netbox == ABSENT)
            and (self.here == ABSENT) is (found.here == ABSENT)
        )


DIFFERENCES = (
    Difference(
        (AN_EVENT,), ABSENT, "sent",
        "No request made the change.",
        ("Shell: save a site", "Shell: delete sites of a queryset", "Job: register a module of scripts"),
    ),
    Difference(
        (AN_EVENT,), ABSENT, "sent", "The REST API created an owner or an owner group.",
        ("REST: give the site an owner",),
    ),
    Difference(
        (AN_EVENT,), "sent", ABSENT, "One transaction creates and deletes the object.",
        ("Shell: create and delete a site in one transaction*",),
    ),
    Difference(
        (AN_EVENT,), "sent", ABSENT, "The change was rolled back.", ("Shell: a transaction that is rolled back*",)
    ),
    Difference(("timestamp",), "the end of the request", "the change", "They are moments of one request."),
    Difference(
        ("model", "username", "request_id", "sequence", "changed"), ABSENT, "a value",
        "More [keys of the payload](payload.md#the-body).",
    ),
    Difference(
        ("data.*_count", "data.tagged_items"), ABSENT, "a number",
        "NetBox has counts only if it read the object through its REST API.",
    ),
    Difference(
        ("data.*_count", "snapshots.postchange.*_count"), "the number before the change", "the number after it",
        "NetBox serializes the object in memory. Here it is read again.",
    ),
    Difference(
        ("data.?_terminations.#.object.*", "data.termination.*"), "without the new cable", "with it",
        "The same.",
    ),
    Difference(
        ("data.members",), "`[]`", "the members", "NetBox takes the members of a deleted virtual chassis out before.",
    ),
    Difference(
        ("data._depth", "snapshots.postchange._depth", "snapshots.postchange.path", "snapshots.postchange.sort_path"),
        "the value before the change", "the value after it",
        "The same. The database computes these columns.",
    ),
    Difference(
        ("snapshots.prechange",), "`null`", "the state before",
        "NetBox's own code changed the object without `snapshot()`.",
    ),
    Difference(
        ("snapshots.*._*",), "a value", ABSENT, "Columns for NetBox's own use."
    ),
    Difference(("snapshots.*.id",), ABSENT, "the key", "All columns are shown."),
    Difference(("snapshots.*.created",), "milliseconds", "microseconds", "As in `data`."),
    Difference(
        ("snapshots.*.object_types.#",), "keys", "names such as `dcim.site`", "Relations are shown as in `data`."
    ),
    Difference(
        ("snapshots.*.attribute_data",), "a value", ABSENT,
        "The name is that in `data`: `attributes`.",
    ),
    Difference(("snapshots.*.attributes",), ABSENT, "a value", "The same."),
    Difference(
        ("snapshots.*.vid_ranges",), "a text of JSON", ABSENT,
        "Such [columns are masked](payload.md#masked-columns).",
    ),
    Difference(
        ("data.utilization",), "a number", ABSENT, "It is no column and no count."
    ),
    Difference(
        ("snapshots.*.event_types", "snapshots.*.extra_choices"), "a text of JSON", "a list", "As in `data`."
    ),
    Difference(
        ("data.rear_ports.#.*", "data.front_ports.#.*"), "before the change", "after it",
        "NetBox saves a port before its `port_mappings`. Here it is read again.",
    ),
    Difference(
        ("data.config_context.*",), ABSENT, "a value",
        "`local_context_data` changed. NetBox shows the context before the change.",
    ),
    Difference(
        tuple(f"{part}.{name}" for name in ("auth_key", "auth_psk", "preshared_key", "secret") for part in PARTS),
        "a key or a secret", ABSENT,
        "[Sensitive fields](install.md#excluded-fields) are left out, [unless you name them](#settings).",
    ),
    Difference(
        (
            "data.config_context.*", "data.data.*", "snapshots.*.data.*",
            "data.local_context_data.*", "snapshots.*.local_context_data.*",
        ),
        "a value with a sensitive name", ABSENT, "The same, at any depth of config contexts.",
    ),
)  # fmt: skip


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


@pytest.fixture(scope="module")
def observed(
    django_db_setup: None, django_db_blocker: Any, sending: None, receiver_process: ReceiverProcess
) -> Iterator[Observed]:
    """All steps, done once, in a NetBox with ``ATOMIC_REQUESTS`` as the docs recommend it."""
    with copied_database(django_db_blocker), patch.dict(connections.settings["default"], {"ATOMIC_REQUESTS": True}):
        yield observe(Inbox(receiver_process), Inbox(receiver_process))


def observe(netbox: Inbox, here: Inbox) -> Observed:
    for name in QUEUES:
        django_rq.get_queue(name).empty()
    hands = Hands(superuser())
    subscribe(netbox, here)
    work()
    seen = Observed()
    counts = [len(inbox.received()) for inbox in (netbox, here)]
    for step in STEPS:
        try:
            step.run(hands)
            work()
        except Exception as error:
            error.add_note(f"in the step {step.words!r}")
            raise
        bodies = [[one.json for one in inbox.received()] for inbox in (netbox, here)]
        sent = Seen(*(one[count:] for one, count in zip(bodies, counts, strict=True)))
        counts = [len(one) for one in bodies]
        seen.steps[step.words] = sent
        seen.found += compare(step.words, sent)
    seen.failed_jobs = sum(len(FailedJobRegistry(queue=django_rq.get_queue(name))) for name in QUEUES)
    seen.unsent = [f"{one}: {one.error}" for one in Event.objects.exclude(error="")]
    seen.unsent += map(str, Delivery.objects.exclude(outcome=State.SUCCEEDED))
    return seen


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
                found.append(Found(step, model, event, AN_EVENT, *words))
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
    """The paths of the values that differ, with both values. A place in a list is ``#``."""
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
            differences |= differing(one, other, f"{path}.#")
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
        example = one.step if one.key == AN_EVENT else ""  # each of these matters
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
    rows = []
    for one in DIFFERENCES:
        keys = ", ".join(key if key == AN_EVENT else f"`{key}`" for key in one.keys)
        rows.append(f"| {keys} | {one.netbox} | {one.here} | {one.reason} |")
    return "\n".join(["| key | NetBox | here | why |", "| --- | --- | --- | --- |", *rows])


def test_the_docs_have_the_same_table() -> None:
    assert table() in DOCS.read_text(), f"docs/netbox.md needs this table:\n{table()}"
