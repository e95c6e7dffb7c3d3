"""The promises. Each function raises ``Failure`` with a sentence that names what was broken."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tests.simulation.receivers import Received
from tests.simulation.site import Site
from tests.simulation.story import BYSTANDER, UNORDERED, WEBS, Entry, Fault, Hold, Refuse, SetClock, Stall
from tests.simulation.world import Failure

Story = Sequence[Entry]

# Simulated seconds until a request to an address that an admin has left or stopped may still leave.
OLD_ADDRESS = 8.0
# The changes of a webhook are sent within so many seconds, whatever happens to another one.
ISOLATED = 10.0


def lanes(site: Site) -> None:
    """In a lane, at most one delivery is pending or sending, and who ends it promotes the next one at once."""
    heads: Counter[tuple[int, int]] = Counter()
    waiting = set[tuple[int, int]]()
    for pk, webhook, lane, state, in_lane in site.query(
        "SELECT delivery_id, webhook_id, lane, state, in_lane FROM rq_webhooks_queue WHERE lane IS NOT NULL"
    ):
        if not in_lane:
            site.out_of_lane.add(_uuid_text(pk))
        elif state in ("pending", "sending"):
            heads[webhook, lane] += 1
        elif state == "waiting":
            waiting.add((webhook, lane))
    if several := [place for place, count in heads.items() if count > 1]:
        raise Failure(f"a lane has more than one head: {several}")
    if headless := waiting - heads.keys():
        raise Failure(f"deliveries wait in a lane without a head: {sorted(headless)}")


def addresses(site: Site, one: Received, slack: float) -> None:
    """A webhook that an admin has moved, paused, disabled or deleted gets nothing at its old address soon after."""
    since = min(site.left_urls.get(one.url, one.at), site.stopped.get(one.webhook, one.at))
    if one.at - since > OLD_ADDRESS + slack:
        raise Failure(f"{one.url} gets a request {one.at - since:.1f} s after an admin has stopped that")


def nothing_lost(site: Site, story: Story) -> None:
    """Each committed change reaches each webhook that wants it, and at rest its receiver has accepted it."""
    if any(isinstance(entry, Refuse) and entry.process in WEBS for entry in story):
        return  # capture logs its own errors, and records the change as a failed event
    accepted = {(one.webhook, one.object_id, one.state) for one in site.receivers.received if one.is_accepted}
    committed = site.ledger.committed()
    for webhook in site.webhooks.keys() - site.was_disabled - site.was_discarded:
        for pk, states in committed.items():
            for state in states:
                if (webhook, pk, state) not in accepted:
                    raise Failure(f"{webhook} never accepted {pk}={state}, which was committed")


def nothing_invented(site: Site, story: Story) -> None:
    """No request is about a change that was not committed, and each has one webhook-id."""
    committed = {(pk, state) for pk, states in site.ledger.committed().items() for state in states}
    ids: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for one in site.receivers.received:
        if (one.object_id, one.state) not in committed:
            raise Failure(f"{one.webhook} got {one.object_id}={one.state}, which was never committed")
        ids[one.webhook, one.object_id, one.state].add(one.message_id)
    for (webhook, pk, state), known in ids.items():
        if len(known) > 1 and webhook not in site.has_run:
            raise Failure(f"{webhook} got {pk}={state} under {len(known)} ids")


def in_order(site: Site, story: Story) -> None:
    """A state that a receiver has accepted is followed by no older one, unless an admin asked for it."""
    if site.is_clock_wrong:
        return  # a lease may end for the database while its worker sends
    places = {(pk, state): n for pk, states in site.ledger.committed().items() for n, state in enumerate(states)}
    last: dict[tuple[str, str], tuple[int, str]] = {}
    for one in site.receivers.received:
        is_free = one.webhook == UNORDERED or one.is_redelivery or one.message_id in site.out_of_lane
        if not one.is_accepted or is_free or one.webhook in site.has_run:
            continue
        place = places[one.object_id, one.state]
        newest, newest_id = last.get((one.webhook, one.object_id), (-1, ""))
        if place < newest and newest_id not in site.out_of_lane:
            raise Failure(f"{one.webhook} accepted {one.object_id}={one.state} after a newer state")
        last[one.webhook, one.object_id] = max(place, newest), one.message_id


def records_are_true(site: Site, story: Story) -> None:
    """The attempts on record are those that the receivers saw, but for the ones whose workers ended."""
    attempts = "SELECT delivery_id, succeeded, error_kind FROM rq_webhooks_attempt"
    recorded: Counter[tuple[str, bool]] = Counter()
    for pk, succeeded, kind in site.query(attempts):
        if kind != "worker_ended":
            recorded[_uuid_text(pk), bool(succeeded)] += 1
    seen = Counter(one.message_id for one in site.receivers.received)
    accepted = Counter(one.message_id for one in site.receivers.received if one.is_accepted)
    for (pk, succeeded), count in recorded.items():
        if count > (accepted if succeeded else seen)[pk]:
            raise Failure(f"delivery {pk} has {count} attempts on record, more than its receiver saw")
    for pk, *_ in _ended(site):
        if not recorded[pk, True]:
            raise Failure(f"delivery {pk} has succeeded, but no attempt of it")


def attempts_are_numbered(site: Site, story: Story) -> None:
    """The attempts of a delivery are numbered from one."""
    rows = "SELECT delivery_id, COUNT(*), MAX(number) FROM rq_webhooks_attempt GROUP BY delivery_id"
    for pk, count, most in site.query(rows):
        if count != most:
            raise Failure(f"delivery {pk} has {count} attempts, and the last one has the number {most}")


def counts_are_true(site: Site, story: Story) -> None:
    """The statistics count the attempts."""
    [(attempts,)] = site.query("SELECT COUNT(*) FROM rq_webhooks_attempt")
    [(counted,)] = site.query("SELECT COALESCE(SUM(attempted), 0) FROM rq_webhooks_statistic WHERE period = 3600")
    for (deltas,) in site.query("SELECT counts FROM rq_webhooks_statisticdelta"):
        counted += sum(one.get("attempted", 0) for one in json.loads(deltas))
    if attempts != counted and not site.deleted and not site.is_clock_wrong:
        raise Failure(f"the statistics count {counted} attempts, and there are {attempts}")


def isolated(site: Site, story: Story) -> None:
    """Whatever happens to one webhook, the changes of another one are sent within ten seconds."""
    if any(isinstance(entry, Fault | SetClock) for entry in story) or site.has_stock_worker:
        return
    locked = {"1"} if any(isinstance(entry, Hold) and entry.rows in ("lanes", "object") for entry in story) else set()
    held = any(isinstance(entry, Hold) and entry.rows == "lanes" for entry in story)
    first: dict[tuple[str, str], float] = {}
    for one in site.receivers.received:
        if one.webhook == BYSTANDER:
            first.setdefault((one.object_id, one.state), one.at)
    for change, at in site.ledger.committed_at.items():
        late = first.get(change, site.world.now) - at
        if late > ISOLATED and not held and change[0] not in locked:
            raise Failure(f"the change {'='.join(change)} reached the bystander after {late:.1f} s")


def is_at_rest(site: Site) -> bool:
    """Whether nothing is left to do."""
    [(left,)] = site.query(
        "SELECT (SELECT COUNT(*) FROM rq_webhooks_undispatched)"
        " + (SELECT COUNT(*) FROM rq_webhooks_queue WHERE state <> 'failed')"
        " + (SELECT COUNT(*) FROM rq_webhooks_run WHERE state NOT IN ('done', 'failed', 'cancelled'))"
    )
    return not left


def stalls(story: Story) -> float:
    """Seconds for which processes were stopped: meanwhile, what they hold does not notice an edit."""
    return sum(entry.seconds for entry in story if isinstance(entry, Stall))


AT_THE_END = (
    nothing_lost,
    nothing_invented,
    in_order,
    records_are_true,
    attempts_are_numbered,
    counts_are_true,
    isolated,
)


def _ended(site: Site) -> Iterator[tuple[str]]:
    rows = (
        "SELECT id FROM rq_webhooks_delivery WHERE outcome = 'succeeded'"
        " AND id NOT IN (SELECT delivery_id FROM rq_webhooks_queue)"
    )
    for (pk,) in site.query(rows):
        yield (_uuid_text(pk),)


def _uuid_text(pk: object) -> str:
    text = str(pk).replace("-", "")
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
