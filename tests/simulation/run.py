"""One run of a story, and the search for the shortest part of it that still fails."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.simulation import invariants
from tests.simulation.databases import Server
from tests.simulation.site import Site
from tests.simulation.story import ADMIN, LASTS, Entry, lines, write
from tests.simulation.world import Failure, Process
from webhooks.models import Delivery, Webhook
from webhooks.operations import webhooks as operations

# Simulated seconds after the last fault within which all must be sent: a lease, the longest wait for an attempt, and
# that of a lane.
AT_REST_WITHIN = 150.0
LOOK_EVERY = 2.0


@dataclass(frozen=True)
class Result:
    """How a story went. ``problem`` is empty if all promises held."""

    seed: int
    story: Sequence[Entry]
    problem: str
    steps: int
    lasted: float
    """Simulated seconds."""
    trace: str = ""

    @property
    def kind(self) -> str:
        """The problem without its numbers: a shorter story may break the same promise at another place."""
        return "".join(letter for letter in self.problem.partition(":")[0] if not letter.isdigit())

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.problem or 'all promises held'}\n{lines(self.story)}"


def run(
    seed: int, server: Server, story: Sequence[Entry] | None = None, trace: Callable[[str], None] | None = None
) -> Result:
    """Run the story of a seed, or a part of it."""
    story = write(seed, server.vendor == "postgresql") if story is None else story
    site = Site(seed, server)
    site.world.trace = trace
    problem = detail = ""
    try:
        with site.open(seed):
            _live(site, list(story))
    except Failure as failure:
        problem = str(failure)
    except Exception as error:
        problem, detail = f"{type(error).__name__} ended a process: {error}", traceback.format_exc()
    return Result(seed, story, problem, site.world.steps, site.world.now, detail)


def _live(site: Site, story: list[Entry]) -> None:
    world = site.world
    slack = invariants.stalls(story)
    checked = 0

    def look(process: Process) -> None:
        nonlocal checked
        invariants.lanes(site)
        received = site.receivers.received
        for one in received[checked:]:
            invariants.addresses(site, one, slack)
        checked = len(received)

    site.databases.on_commit = look
    for entry in story:
        world.at(entry.at, _performed(site, entry))
    world.run(LASTS)
    site.heal()
    for seconds in (0, 20, 40):  # a worker that was stopped may record the end of a receiver meanwhile
        world.at(LASTS + seconds, lambda: site.webs[ADMIN].serve(lambda: _let_all_go_on(site)))
    world.run(LASTS + LOOK_EVERY)
    while not invariants.is_at_rest(site):
        if world.now > LASTS + AT_REST_WITHIN:
            left = site.query("SELECT delivery_id, webhook_id, state, due_at FROM rq_webhooks_queue LIMIT 5")
            raise Failure(f"{AT_REST_WITHIN:.0f} s after the last fault there is work left: {left}")
        world.run(world.now + LOOK_EVERY)
    if site.query("SELECT 1 FROM rq_webhooks_queue LIMIT 1"):  # what the schedule has given up
        site.webs[ADMIN].serve(lambda: Delivery.objects.failed().retry("admin"))
        world.run(world.now + 20)
    for check in invariants.AT_THE_END:
        check(site, story)


def _performed(site: Site, entry: Entry) -> Callable[[], None]:
    def perform() -> None:
        site.world.log(f"--- {entry}")
        entry.perform(site)

    return perform


def _let_all_go_on(site: Site) -> None:
    """What an admin does when all is over."""
    site.stopped.clear()
    webhooks = Webhook.objects.all()
    operations.set_enabled(webhooks, site.admin, True)
    operations.resume(webhooks, site.admin)


def shorten(result: Result, server: Server) -> Result:
    """Leave out parts of a story while the rest breaks the same promise: halves first, then smaller parts."""
    best, size = result, max(1, len(result.story) // 2)
    while size:
        begin = 0
        while begin < len(best.story):
            part = [*best.story[:begin], *best.story[begin + size :]]
            tried = run(result.seed, server, part)
            if tried.problem and tried.kind == result.kind:
                best = tried
            else:
                begin += size
        size //= 2
    return best
