"""The state of each thing before and after each committed transaction, by PostgreSQL's own account.

Deferred triggers run when a transaction commits, and never for a rolled back row. They know nothing about webhooks.
Transactions that change the same thing commit one after the other, so the state before is the last one after. A change
whose event failed is no such transaction: if PostgreSQL ended its lock by a deadlock, it ran beside its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from tests.support.inbox import Received
from webhooks.ground.db import fetch_all

State = dict[str, Any]

_WATCH = """
CREATE TABLE chaos_change (
    number bigserial PRIMARY KEY, xact xid8 NOT NULL, thing text NOT NULL, state jsonb NOT NULL, UNIQUE (xact, thing)
);
CREATE TABLE chaos_event (event bigint PRIMARY KEY, xact xid8 NOT NULL);
CREATE FUNCTION chaos_see_thing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_change (xact, thing, state)
    SELECT pg_current_xact_id(), thing.id, json_build_object(
        'name', thing.name, 'status', thing.status, 'labels', (
            SELECT COALESCE(json_agg(label.name ORDER BY label.name), '[]') FROM testapp_thing_labels AS held
            JOIN testapp_label AS label ON label.id = held.label_id WHERE held.thing_id = thing.id
        )
    ) FROM testapp_thing AS thing WHERE thing.id = (to_jsonb(COALESCE(NEW, OLD)) ->> TG_ARGV[0])::bigint
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE FUNCTION chaos_see_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_event VALUES (NEW.id, pg_current_xact_id());
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER chaos_things AFTER INSERT OR UPDATE OR DELETE ON testapp_thing
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos_see_thing('id');
CREATE CONSTRAINT TRIGGER chaos_labels AFTER INSERT OR UPDATE OR DELETE ON testapp_thing_labels
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos_see_thing('thing_id');
CREATE CONSTRAINT TRIGGER chaos_events AFTER INSERT ON rq_webhooks_event
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos_see_event();
UPDATE testapp_thing SET name = name;
"""

_UNWATCH = """
DROP TRIGGER IF EXISTS chaos_things ON testapp_thing;
DROP TRIGGER IF EXISTS chaos_labels ON testapp_thing_labels;
DROP TRIGGER IF EXISTS chaos_events ON rq_webhooks_event;
DROP FUNCTION IF EXISTS chaos_see_thing, chaos_see_event;
DROP TABLE IF EXISTS chaos_change, chaos_event;
"""


@contextmanager
def watching() -> Iterator[None]:
    """PostgreSQL notes each committed transaction that changes a thing in this block."""
    with connection.cursor() as cursor:
        cursor.execute(_UNWATCH + _WATCH)
        try:
            yield
        finally:
            cursor.execute(_UNWATCH)


@dataclass(frozen=True)
class Change:
    """What one transaction did to one thing, and the ids of its Events, by whether they failed."""

    thing: str
    before: State
    after: State
    events: list[int]
    failed: list[int]


def changes() -> list[Change]:
    """The changes committed in the block of ``watching`` so far."""
    events = """ARRAY(
        SELECT event.id FROM chaos_event JOIN rq_webhooks_event AS event ON event.id = chaos_event.event
        WHERE chaos_event.xact = seen.xact AND event.object_id = seen.thing AND (event.error <> '') = {}
    )"""
    found = fetch_all(
        "default",
        f"""
        SELECT thing, earlier::text, state::text, {events.format("false")}, {events.format("true")} FROM (
            SELECT *, LAG(state) OVER (PARTITION BY thing ORDER BY number) AS earlier FROM chaos_change
        ) AS seen WHERE earlier IS NOT NULL ORDER BY number
        """,
    )
    return [Change(thing, json.loads(before), json.loads(after), *ids) for thing, before, after, *ids in found]


@dataclass
class Verdict:
    """How the payloads differ from the committed changes."""

    committed: int
    compared: int
    lost: list[Any] = field(default_factory=list)
    invented: list[Any] = field(default_factory=list)
    wrong: list[Any] = field(default_factory=list)
    unknown: list[Any] = field(default_factory=list)
    failed: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.committed} changes committed, {self.compared} payloads: {len(self.lost)} lost, "
            f"{len(self.invented)} invented, {len(self.wrong)} with a wrong state before or after, "
            f"{len(self.unknown)} with an unknown one before, {len(self.failed)} events failed"
        )

    def check(self, unread: int) -> None:
        """``unread`` states could not be read, which was logged."""
        problems = (self.lost, self.invented, self.wrong)
        assert not any(problems), f"{self}; the first ones: {[problem[:3] for problem in problems]}"
        assert len(self.unknown) <= unread, self.unknown[:3]


def judge(committed: list[Change], received: Iterable[Received], only_changes: bool) -> Verdict:
    """Compare the payloads of one webhook with the committed changes. ``only_changes``: it skips the others."""
    payloads = {one.json["sequence"]: one.json["snapshots"] for one in received}
    verdict = Verdict(len(committed), len(payloads))
    beside_failed = _beside_failed(committed)
    for change in committed:
        found = [payloads.pop(event) for event in change.events if event in payloads]
        if change.failed:
            verdict.failed.append(change)
        elif not found and (not only_changes or (change.before != change.after and change not in beside_failed)):
            verdict.lost.append(change)
        for snapshots in found if change not in beside_failed else ():
            _compare(verdict, change, snapshots, only_changes)
        verdict.invented += found[1:]
    # An edit of a relation that adds and removes nothing changes no row.
    for snapshots in payloads.values():
        if snapshots["prechange"] is None:
            verdict.unknown.append(snapshots)
        elif only_changes or snapshots["prechange"] != snapshots["postchange"]:
            verdict.invented.append(snapshots)
    return verdict


def _beside_failed(committed: Iterable[Change]) -> list[Change]:
    """The changes just before and after a failed one of the same thing."""
    last: dict[str, Change] = {}
    found = []
    for change in committed:
        if (earlier := last.get(change.thing)) and (earlier.failed or change.failed):
            found += [earlier, change]
        last[change.thing] = change
    return found


def _compare(verdict: Verdict, change: Change, snapshots: State, only_changes: bool) -> None:
    before, after = snapshots["prechange"], snapshots["postchange"]
    if not change.after.items() <= after.items() or not change.before.items() <= (before or change.before).items():
        verdict.wrong.append((change, snapshots))
    if before is None:
        verdict.unknown.append(change)
    elif only_changes and change.before == change.after:
        verdict.invented.append(change)
