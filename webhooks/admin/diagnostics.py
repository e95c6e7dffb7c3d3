"""Why did nothing arrive? The situation judged, in sentences, the gravest first. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice

from webhooks.admin.counting import ALL, EACH
from webhooks.admin.display import count_of, deliveries, span
from webhooks.admin.overview import Situation, Standing
from webhooks.models.delivery import State
from webhooks.workers.redis import Backend

# Seconds that something may be due without anybody having a reason to wonder.
PATIENCE = 60

# So many webhooks are named for each kind of trouble.
MOST_NAMED = 10

SHIPPED = "webhooks.workers.WebhookWorker"


class Level(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    GOOD = "good"


@dataclass(frozen=True)
class Finding:
    """A sentence; ``remedy`` says what to do, and ``command`` is what to type."""

    level: Level
    text: str
    remedy: str = ""
    command: str = ""


def judge(situation: Situation, backend: Backend, is_enabled: bool, now: datetime) -> list[Finding]:
    """All that is wrong, or the one finding that nothing is."""
    found = [
        *_switched_off(is_enabled),
        *_redis(backend),
        *_suspended(backend),
        *_workers(backend),
        *_stuck(situation, backend, is_enabled, now),
        *_webhooks(situation, now),
        *_failed(situation),
        *_deleted(situation),
    ]
    return sorted(found, key=lambda finding: list(Level).index(finding.level)) or [_all_well(situation)]


def _switched_off(is_enabled: bool) -> Iterator[Finding]:
    if not is_enabled:
        yield Finding(
            Level.ERROR,
            "Webhooks are turned off: no change is recorded, nothing is sent, and what is on file waits.",
            'To turn them on, set WEBHOOKS = {"ENABLED": True} in the settings and restart the site and the workers.',
        )


def _redis(backend: Backend) -> Iterator[Finding]:
    if backend.error:
        yield Finding(
            Level.ERROR,
            f"Redis cannot be used: {backend.error}",
            "Changes are recorded all the same, and are sent when Redis is back. Until then nobody can say here "
            "which workers are alive; one of the shipped class that is running delivers even without Redis.",
        )


def _suspended(backend: Backend) -> Iterator[Finding]:
    if backend.is_suspended:
        yield Finding(
            Level.WARNING if backend.serving else Level.ERROR,
            "The workers were suspended, by rq suspend: those that start now, that have run another job since, or that "
            "are of rq's own class deliver nothing.",
            "Resume them, with the URL of your Redis:",
            "rq resume --url redis://…",
        )


def _workers(backend: Backend) -> Iterator[Finding]:
    if backend.error:
        return
    command = f"python manage.py rqworker {backend.queue}"
    if not backend.workers:
        yield Finding(Level.ERROR, "No worker is alive: nothing is delivered until one is started.", command=command)
    elif not backend.serving and not backend.is_suspended:
        alive = count_of(len(backend.workers), "worker")
        yield Finding(
            Level.ERROR,
            f"No worker that is alive serves the queue “{backend.queue}” ({alive} registered): nothing is "
            "delivered until one does.",
            command=command,
        )
    elif backend.serving and not any(worker.is_shipped for worker in backend.serving):
        yield Finding(
            Level.WARNING,
            "Only rq's stock worker is running, which works when a change wakes it: retries that fall due, and "
            "what a worker that died had claimed, wait for the next change or for manage.py webhooks_sweep.",
            f'Set RQ = {{"WORKER_CLASS": "{SHIPPED}"}} in the settings, or start the worker with:',
            f"{command} --worker-class {SHIPPED}",
        )
    for worker in [worker for worker in backend.workers if worker.is_silent][:MOST_NAMED]:
        yield Finding(
            Level.WARNING,
            f"The worker “{worker.name}” has not been heard from for {span(worker.silence)}: it hangs or was killed.",
            "Restart it if it still runs. What it had claimed is taken back by another worker, and Redis forgets it "
            "after a few minutes.",
        )


def _deleted(situation: Situation) -> Iterator[Finding]:
    if situation.deleted:
        yield Finding(
            Level.NOTE,
            f"{count_of(situation.deleted, 'webhook')} {'is' if situation.deleted == 1 else 'are'} being deleted, with "
            "many deliveries: workers delete these in the background, a thousand every few seconds.",
        )


def _stuck(situation: Situation, backend: Backend, is_enabled: bool, now: datetime) -> Iterator[Finding]:
    if not is_enabled:
        return
    has_worker, since = bool(backend.serving), situation.undispatched_since
    if since and (now - since).total_seconds() > PATIENCE:
        count = count_of(situation.undispatched, "change", cap=ALL)
        yield Finding(
            Level.ERROR,
            f"{count} recorded and not taken up by a worker; {_waits(since, now)}.",
            "A worker is alive: its log may tell why. Restart it." if has_worker else "",
        )
    for standing in [one for one in situation.webhooks if _is_late(one, now)][:MOST_NAMED]:
        yield Finding(
            Level.WARNING if has_worker else Level.ERROR,
            f"Deliveries of “{standing.name}” are due and not sent; {_waits(standing.due_since, now)}.",
            "The workers cannot keep up, or hang. Start more of them, or restart those that run." if has_worker else "",
        )


def _is_late(standing: Standing, now: datetime) -> bool:
    is_sent_to = standing.enabled and not standing.is_paused
    return bool(is_sent_to and standing.due_since and (now - standing.due_since).total_seconds() > PATIENCE)


def _waits(since: datetime | None, now: datetime) -> str:
    return f"the oldest has waited {span((now - since).total_seconds())}" if since else ""


def _webhooks(situation: Situation, now: datetime) -> Iterator[Finding]:
    if "webhooks" in situation.hidden:
        return
    if not situation.webhooks:
        yield Finding(Level.WARNING, "No webhook is defined: no change is recorded or sent.", "Add one.")
    elif not any(standing.enabled for standing in situation.webhooks) and not situation.has_more_webhooks:
        yield Finding(Level.WARNING, "Every webhook is disabled: no change is recorded or sent.", "Enable one.")
    for describe in TROUBLES:
        yield from islice(filter(None, (describe(one, now) for one in situation.webhooks)), MOST_NAMED)


def of_webhook(standing: Standing, now: datetime) -> list[Finding]:
    """What is wrong with this one, for its own page."""
    return list(filter(None, (describe(standing, now) for describe in TROUBLES)))


def _unreadable(standing: Standing, now: datetime) -> Finding | None:
    if not standing.unreadable or not standing.enabled:
        return None
    return Finding(
        Level.ERROR,
        f"The {' and the '.join(standing.unreadable)} of “{standing.name}” cannot be decrypted with the keys in the "
        "settings: every attempt fails, and its deliveries stay on file.",
        "Put the key back that is missing in the settings, or enter it again at the webhook. Then retry what failed.",
    )


def _disabled(standing: Standing, now: datetime) -> Finding | None:
    if standing.enabled or not (standing.open or standing.disabled_reason):
        return None
    disabled = f"“{standing.name}” was disabled automatically: {standing.disabled_reason}. "
    verb = "waits" if standing.open == 1 else "wait"
    waits = f"{deliveries(standing.open, EACH)} of “{standing.name}” {verb} because the webhook is disabled."
    text = (disabled if standing.disabled_reason else "") + (waits if standing.open else "")
    return Finding(Level.WARNING, text.strip(), "Enable it, or discard them." if standing.open else "Enable it.")


def _paused(standing: Standing, now: datetime) -> Finding | None:
    if not standing.is_paused or standing.probe_at is None:
        return None
    wait = (standing.probe_at - now).total_seconds()
    # None, too, where there are some that the user may not see.
    on_file = f"{deliveries(standing.open, EACH)} on file; the" if standing.open else "The"
    return Finding(
        Level.WARNING,
        f"“{standing.name}” is paused after {count_of(standing.failures_in_a_row, 'failed attempt')}, the last one "
        f"with: {standing.last_failure}. {on_file} next probe is "
        f"{f'in {span(wait)}' if wait > 0 else 'due'}.",
        "It goes on automatically when a probe succeeds. The status page and the list of webhooks resume it at once.",
    )


def _failing(standing: Standing, now: datetime) -> Finding | None:
    if not standing.enabled or standing.is_paused or not (standing.failures_in_a_row and standing.retrying):
        return None
    who = "It is" if standing.retrying == 1 else f"{deliveries(standing.retrying, EACH)} are"
    return Finding(
        Level.WARNING,
        f"“{standing.name}” did not take its last delivery: {standing.last_failure}. {who} tried again automatically.",
    )


TROUBLES = (_unreadable, _disabled, _paused, _failing)


def _failed(situation: Situation) -> Iterator[Finding]:
    failed = situation.counts.get(State.FAILED, 0)
    if failed:
        yield Finding(
            Level.WARNING,
            f"{deliveries(failed, ALL)} failed for good and {'is' if failed == 1 else 'are'} not tried again "
            "unless you retry.",
            "Below is why. When that is put right, retry them.",
        )
    if situation.failed_events:
        yield Finding(
            Level.WARNING,
            f"{count_of(situation.failed_events, 'event', cap=ALL)} failed: nothing was sent of "
            f"{'it' if situation.failed_events == 1 else 'them'}.",
            "Below is why. When that is put right, replay what failed.",
        )


def _all_well(situation: Situation) -> Finding:
    changes = f"{count_of(situation.undispatched, 'change', cap=ALL)} to be taken up" if situation.undispatched else ""
    under_way = f"{deliveries(situation.open, ALL)} under way" if situation.open else ""
    waits = ", ".join(filter(None, (changes, under_way))) or "nothing is waiting"
    if situation.hidden:
        # Which is not to say that all is well.
        return Finding(Level.NOTE, f"Nothing is wrong with what you may see: {waits}, and a worker is alive.")
    return Finding(Level.GOOD, f"All is well: {waits}, nothing has failed, and a worker is alive.")
