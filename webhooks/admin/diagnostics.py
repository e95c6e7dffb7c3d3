"""Why did nothing arrive? Each diagnosis names the problem, the object and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.urls import reverse

from webhooks.admin.counts import EACH_CAP, TOTAL_CAP, Overview, open_count
from webhooks.admin.display import count_of, deliveries, span
from webhooks.admin.filters import deliveries_url
from webhooks.models.delivery import State
from webhooks.workers.redis import Backend

# Seconds that something may be due before it is a problem.
PATIENCE = 60

# The page names this many webhooks with problems, and as many silent workers.
MAX_NAMED = 20

WORKER_CLASS = "webhooks.workers.WebhookWorker"


class Level(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    GOOD = "good"


@dataclass(frozen=True)
class Diagnosis:
    """``remedy`` says what to do, ``command`` what to type; ``url`` and ``link`` are the address and text of a link."""

    level: Level
    text: str
    remedy: str = ""
    command: str = ""
    url: str = ""
    link: str = ""


def diagnose(overview: Overview, backend: Backend, is_enabled: bool, now: datetime) -> list[Diagnosis]:
    """All problems, the worst first. Without problems, one diagnosis that says so."""
    found = [
        *_site(backend, is_enabled),
        *_workers(backend),
        *(_queues(overview, backend, now) if is_enabled else ()),
        *_webhooks(overview, now),
        *_failures(overview),
    ]
    return by_level(found) or [_all_well(overview)]


def by_level(found: list[Diagnosis]) -> list[Diagnosis]:
    return sorted(found, key=lambda one: list(Level).index(one.level))


def _site(backend: Backend, is_enabled: bool) -> Iterator[Diagnosis]:
    if not is_enabled:
        yield Diagnosis(
            Level.ERROR,
            "Webhooks are turned off: changes are not recorded, and nothing is sent. Stored deliveries wait.",
            'Set WEBHOOKS = {"ENABLED": True} in the settings, then restart the site and the workers.',
        )
    if backend.error:
        yield Diagnosis(
            Level.ERROR,
            f"Redis cannot be used: {backend.error}",
            "Check that Redis runs, and the setting RQ_QUEUES. Changes are still recorded. A running WebhookWorker "
            "delivers them without Redis; other workers continue when Redis is back.",
        )
    if backend.is_suspended:
        yield Diagnosis(
            Level.WARNING if backend.serving else Level.ERROR,
            "The workers are suspended (rq suspend). Only a WebhookWorker that started before still delivers.",
            "Resume them, with the URL of your Redis:",
            "rq resume --url redis://…",
        )


def _workers(backend: Backend) -> Iterator[Diagnosis]:
    if backend.error:
        return
    command = f"python manage.py rqworker {backend.queue}"
    if not backend.workers:
        yield Diagnosis(Level.ERROR, "No worker is running, so nothing is delivered.", "Start one:", command)
    elif not backend.serving and not backend.is_suspended:
        yield Diagnosis(
            Level.ERROR,
            f"No running worker serves the queue “{backend.queue}”, so nothing is delivered "
            f"({count_of(len(backend.workers), 'worker')} registered).",
            "Start one:",
            command,
        )
    elif backend.serving and not any(worker.is_shipped for worker in backend.serving):
        yield Diagnosis(
            Level.WARNING,
            "Only stock rq workers are running. They retry, and take over from dead workers, only when a change or "
            "manage.py webhooks_sweep wakes them.",
            f'Set RQ = {{"WORKER_CLASS": "{WORKER_CLASS}"}} in the settings, or start the worker with:',
            f"{command} --worker-class {WORKER_CLASS}",
        )
    for worker in [worker for worker in backend.workers if worker.is_silent][:MAX_NAMED]:
        yield Diagnosis(
            Level.WARNING,
            f"The worker “{worker.name}” has not reported for {span(worker.silence)}: it hangs or was killed.",
            "Restart it if it still runs. Another worker takes over its deliveries. Redis forgets it after a few "
            "minutes.",
        )


def _queues(overview: Overview, backend: Backend, now: datetime) -> Iterator[Diagnosis]:
    """Changes and deliveries that are due but not sent."""
    has_worker, since = bool(backend.serving), overview.undispatched_since
    if since and (now - since).total_seconds() > PATIENCE:
        yield Diagnosis(
            Level.ERROR,
            f"{count_of(overview.undispatched, 'change', cap=TOTAL_CAP)} recorded but not dispatched, the oldest "
            f"{span((now - since).total_seconds())} ago.",
            "A worker is running. Look into its log for an error, then restart it." if has_worker else "",
        )
    late = [
        (webhook, (now - webhook.due_since).total_seconds())
        for webhook in overview.webhooks
        if webhook.enabled and not webhook.is_paused and webhook.due_since
    ]
    for webhook, seconds in [one for one in late if one[1] > PATIENCE][:MAX_NAMED]:
        yield Diagnosis(
            Level.WARNING if has_worker else Level.ERROR,
            f"Deliveries of “{webhook.name}” are due but not sent, the oldest for {span(seconds)}.",
            "The workers hang or cannot keep up. Restart them, or start more." if has_worker else "",
            url=deliveries_url(state=State.PENDING.value, webhook__id__exact=webhook.pk),
            link="Show its pending deliveries",
        )
    if overview.being_deleted:
        yield Diagnosis(
            Level.NOTE,
            f"{count_of(overview.being_deleted, 'deleted webhook')} still had many deliveries. Workers delete them in "
            "the background, a thousand every few seconds.",
        )


def _webhooks(overview: Overview, now: datetime) -> Iterator[Diagnosis]:
    if "webhooks" in overview.hidden:
        return
    listed = {"url": reverse("admin:webhooks_webhook_changelist"), "link": "Open the list of webhooks"}
    if not overview.webhooks:
        yield Diagnosis(Level.WARNING, "No webhook is defined, so changes are not recorded.", "Add one.", **listed)
    elif not any(webhook.enabled for webhook in overview.webhooks) and not overview.has_more_webhooks:
        yield Diagnosis(
            Level.WARNING, "Every webhook is disabled, so changes are not recorded.", "Enable one.", **listed
        )
    yield from by_level([one for webhook in overview.webhooks for one in diagnose_webhook(webhook, now)])[:MAX_NAMED]


def diagnose_webhook(webhook: Any, now: datetime) -> Iterator[Diagnosis]:
    """The problems of one webhook, read by ``with_counts``."""
    page = {"url": reverse("admin:webhooks_webhook_change", args=[webhook.pk]), "link": "Open the webhook"}
    name, unsent, retrying = f"“{webhook.name}”", open_count(webhook), webhook.retrying
    if not webhook.enabled:
        reason = f"{name} was disabled automatically: {webhook.disabled_reason}." if webhook.disabled_reason else ""
        verb = "waits" if unsent == 1 else "wait"
        waiting = f"{deliveries(unsent, EACH_CAP)} of {name} {verb} because the webhook is disabled." if unsent else ""
        if text := f"{reason} {waiting}".strip():
            remedy = "Enable it, or discard its deliveries." if unsent else "Enable it."
            yield Diagnosis(Level.WARNING, text, remedy, **page)
        return
    if webhook.unreadable:
        yield Diagnosis(
            Level.ERROR,
            f"The {' and the '.join(webhook.unreadable)} of {name} cannot be decrypted with the keys in the settings. "
            "Every attempt fails.",
            "Restore the missing key in the settings, or enter the value again. Then retry the failed deliveries.",
            **page,
        )
    if webhook.is_paused:
        wait = (webhook.probe_at - now).total_seconds()
        stored = f"{deliveries(unsent, EACH_CAP)} stored. " if unsent else ""
        yield Diagnosis(
            Level.WARNING,
            f"{name} is paused after {count_of(webhook.failures_in_a_row, 'failed attempt')}. The last error was: "
            f"{webhook.last_failure}. {stored}The next probe is {f'in {span(wait)}' if wait > 0 else 'due'}.",
            "Sending continues when a probe succeeds. To continue now, resume it on the status page or in the list of "
            "webhooks.",
            **page,
        )
    elif webhook.failures_in_a_row and retrying:
        yield Diagnosis(
            Level.WARNING,
            f"The last attempt for {name} failed: {webhook.last_failure}. {deliveries(retrying, EACH_CAP)} "
            f"{'is' if retrying == 1 else 'are'} retried automatically.",
            **page,
        )


def _failures(overview: Overview) -> Iterator[Diagnosis]:
    if failed := overview.counts.get(State.FAILED, 0):
        yield Diagnosis(
            Level.WARNING,
            f"{deliveries(failed, TOTAL_CAP)} failed and will not be retried automatically.",
            "Fix the causes below, then retry.",
            url="#failed",
            link="Show the failed deliveries",
        )
    if failed := overview.failed_events:
        yield Diagnosis(
            Level.WARNING,
            f"{count_of(failed, 'event', cap=TOTAL_CAP)} failed, so nothing was sent.",
            "Fix the causes below, then replay.",
            url="#failed-events",
            link="Show the failed events",
        )


def _all_well(overview: Overview) -> Diagnosis:
    changes = f"{count_of(overview.undispatched, 'change', cap=TOTAL_CAP)} to dispatch" if overview.undispatched else ""
    under_way = f"{deliveries(overview.open, TOTAL_CAP)} under way" if overview.open else ""
    waiting = ", ".join(filter(None, (changes, under_way))) or "nothing is waiting"
    if overview.hidden:
        return Diagnosis(Level.NOTE, f"Nothing is wrong with what you may view: {waiting}, and a worker is running.")
    return Diagnosis(Level.GOOD, f"All is well: {waiting}, nothing has failed, and a worker is running.")
