"""Fold each alarm under its cause. Pure: it reads nothing, and returns the causes, the worst first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.ground.error_kinds import ErrorKind
from webhooks.insight.alarms import site
from webhooks.insight.alarms.alarm import Alarm, Level, Problem
from webhooks.insight.alarms.webhook import failed, overdue, silent_alarms, webhook_alarms
from webhooks.insight.counts import EACH_CAP, TOTAL_CAP, FailedGroup, open_count
from webhooks.insight.overview import Overview
from webhooks.insight.wording import number
from webhooks.models.queue import State
from webhooks.workers.status import Backend

# At most this many causes are reported.
MAX_ALARMS = 50

# These problems stop all sending.
NO_WORKERS = (Problem.NO_WORKER, Problem.NO_WORKER_OF_QUEUE)
STOPS = (Problem.TURNED_OFF, Problem.REDIS, Problem.SUSPENDED, *NO_WORKERS)

# The receiver itself has one of these problems, whichever webhook sends to it.
OF_RECEIVER = (Problem.PAUSED, Problem.FAILING)


def find_alarms(overview: Overview, backend: Backend, is_enabled: bool, now: datetime) -> list[Alarm]:
    """The causes of all problems of the site, the worst first. If there are none, one that says that all is well."""
    general = [*site.stopped(overview, backend, is_enabled), *site.workers(backend), *site.faults(overview, backend)]
    late = [alarm for webhook in overview.webhooks for alarm in overdue(webhook, now, bool(backend.serving))]
    general, late = _explain_lateness(general, [*site.undispatched(overview, backend, now), *late])
    general, chains = _explain_failures(general, _chains(overview, late))
    failed, roots = _split((_under(*alarms) for alarms in chains), Problem.FAILED_DELIVERIES)
    # Webhooks with one of these problems most likely have it from the same cause.
    unreadable, roots = _split(roots, Problem.UNREADABLE)
    unregistered, silent = _split(
        (alarm for webhook in overview.webhooks for alarm in silent_alarms(webhook, overview.silences.get(webhook.pk))),
        Problem.NOT_REGISTERED,
    )
    unreadable = _of_one_cause(
        unreadable, _("The secrets of %(count)s webhooks cannot be decrypted with the keys in the settings.")
    )
    unregistered = _of_one_cause(
        unregistered, _("Nothing is sent of what is not registered, although %(count)s webhooks want it.")
    )
    general, unreadable = _explain_secrets(general, unreadable)
    of_parts = [
        *general,
        *(alarm for alarm in late if alarm.webhook_id is None),
        *site.configuration(overview),
        *silent,
        *unregistered,
        *unreadable,
        *_by_receiver(roots, overview),
        *_failed(failed, overview),
        *site.tables(overview),
    ]
    of_parts.sort(key=lambda alarm: (list(Level).index(alarm.level), -alarm.waiting))
    return of_parts[:MAX_ALARMS] or [_all_well(overview)]


def _split(alarms: Iterable[Alarm], problem: Problem) -> tuple[list[Alarm], list[Alarm]]:
    """The alarms with this problem, and the others."""
    alarms = list(alarms)
    return [alarm for alarm in alarms if alarm.problem == problem], [
        alarm for alarm in alarms if alarm.problem != problem
    ]


def _under(cause: Alarm, *alarms: Alarm) -> Alarm:
    """The cause with these alarms folded under it, and with what follows from each."""
    flat = ((replace(alarm, consequences=()), *alarm.consequences) for alarm in alarms)
    return replace(cause, consequences=(*cause.consequences, *chain.from_iterable(flat)))


def _explain_lateness(general: list[Alarm], late: list[Alarm]) -> tuple[list[Alarm], list[Alarm]]:
    """Fold delays under their cause: no worker, Redis, or a fault of our own. Returns the causes, and other delays.

    A worker that went silent belongs to "no worker", too.
    """
    stop = next((alarm for alarm in general if alarm.problem in STOPS and alarm.level == Level.ERROR), None)
    cause = stop or next((alarm for alarm in general if alarm.problem == Problem.FAULT), None)
    if cause is None:
        return general, late
    # With a fault of our own, changes are dispatched all the same.
    explained = late if stop else [alarm for alarm in late if alarm.problem == Problem.OVERDUE]
    silent = [alarm for alarm in general if alarm.problem == Problem.SILENT_WORKER and cause.problem in NO_WORKERS]
    folded = _under(cause, *silent, *explained)
    general = [folded if alarm is cause else alarm for alarm in general if alarm not in silent]
    return general, [alarm for alarm in late if alarm not in explained]


def _chains(overview: Overview, late: Iterable[Alarm]) -> list[list[Alarm]]:
    """The alarms of each webhook that has some. Each alarm follows from the ones before it."""
    late_of, groups_of = defaultdict[Any, list[Alarm]](list), defaultdict[int, list[FailedGroup]](list)
    for alarm in late:
        late_of[alarm.webhook_id].append(alarm)
    for group in overview.failed_groups:
        groups_of[group.webhook_id].append(group)
    chains = [
        [*webhook_alarms(webhook), *late_of[webhook.pk], *failed(webhook, groups_of[webhook.pk])]
        for webhook in overview.webhooks
    ]
    return [alarms for alarms in chains if alarms]


def _explain_failures(general: list[Alarm], chains: list[list[Alarm]]) -> tuple[list[Alarm], list[list[Alarm]]]:
    """Fold the chains of webhooks that fail because of a fault of our own under it. Returns the other chains."""
    failing = {alarm.error_kind: list[Alarm]() for alarm in general if alarm.problem == Problem.FAULT}
    others = []
    for alarms in chains:
        is_explained = alarms[0].problem in OF_RECEIVER and alarms[0].error_kind in failing
        if is_explained:
            failing[alarms[0].error_kind] += alarms
        else:
            others.append(alarms)
    return [_under(alarm, *failing.pop(alarm.error_kind, ())) for alarm in general], others


def _explain_secrets(general: list[Alarm], unreadable: list[Alarm]) -> tuple[list[Alarm], list[Alarm]]:
    """Fold the faults of workers that cannot decrypt secrets under the secrets that the site cannot decrypt either.

    Both lack the same key. Returns the other causes, and the secrets.
    """
    faults = [alarm for alarm in general if (alarm.problem, alarm.error_kind) == (Problem.FAULT, ErrorKind.SECRET)]
    if not (faults and unreadable):
        return general, unreadable
    first = replace(unreadable[0], since=faults[0].since, error_kind=ErrorKind.SECRET.value)
    return [alarm for alarm in general if alarm not in faults], [_under(first, *faults), *unreadable[1:]]


def _of_one_cause(alarms: Sequence[Alarm], text: str) -> list[Alarm]:
    """One alarm with this text for all these webhooks: most likely they miss the same key, or the same models."""
    if len(alarms) < 2:
        return list(alarms)
    text, waiting = text % {"count": number(len(alarms))}, sum(alarm.waiting for alarm in alarms)
    return [_under(replace(alarms[0], text=text, webhook_id=None, waiting=waiting, consequences=()), *alarms)]


def _by_receiver(alarms: Iterable[Alarm], overview: Overview) -> list[Alarm]:
    """One alarm for all webhooks that fail alike at one receiver: of the one with the most deliveries in trouble."""
    troubled = {webhook.pk: open_count(webhook) + webhook.failed for webhook in overview.webhooks}
    by_receiver = defaultdict[Any, list[Alarm]](list)
    for alarm in alarms:
        is_alike = alarm.problem in OF_RECEIVER and alarm.error_kind and alarm.receiver
        by_receiver[(alarm.error_kind, alarm.receiver) if is_alike else alarm.webhook_id].append(alarm)

    def order(alarm: Alarm) -> Any:
        return -troubled[alarm.webhook_id or 0], alarm.since is None, alarm.since

    return [_under(*sorted(alike, key=order)) for alike in by_receiver.values()]


def _failed(leftover: Sequence[Alarm], overview: Overview) -> list[Alarm]:
    """One alarm for failed deliveries that nothing else explains, of however many webhooks."""
    if len(leftover) == 1:
        return list(leftover)
    count, cap = overview.counts.get(State.FAILED, 0), TOTAL_CAP
    if leftover:
        failing = {alarm.webhook_id for alarm in leftover}
        failed = [webhook.failed for webhook in overview.webhooks if webhook.pk in failing]
        count, cap = sum(failed), min(cap, sum(min(number, EACH_CAP) for number in failed))
    elif (overview.webhooks and not overview.has_more_webhooks) or count <= _known_failed(overview):
        return []
    text = ngettext(
        "%(count)s delivery failed and will not be retried automatically.",
        "%(count)s deliveries failed and will not be retried automatically.",
        count,
    ) % {"count": number(count, cap)}
    remedy = _("Open one of them to see why it failed. Correct the cause, then retry them.")
    since = min((alarm.since for alarm in leftover if alarm.since), default=None)
    return [Alarm(Problem.FAILED_DELIVERIES, text, remedy, since=since, consequences=tuple(leftover))]


def _known_failed(overview: Overview) -> int:
    """Failed deliveries of webhooks that have an alarm or a note about them."""
    return sum(group.count for group in overview.failed_groups)


def _all_well(overview: Overview) -> Alarm:
    parts = []
    if count := overview.undispatched:
        text = ngettext("%(count)s new change to send", "%(count)s new changes to send", count)
        parts.append(text % {"count": number(count, TOTAL_CAP)})
    if count := overview.open:
        text = ngettext("%(count)s delivery under way", "%(count)s deliveries under way", count)
        parts.append(text % {"count": number(count, TOTAL_CAP)})
    waiting, level = {"waiting": ", ".join(parts) or _("nothing is waiting")}, Level.GOOD
    text = _("All is well: %(waiting)s, nothing has failed, and a worker is running.")
    if overview.hidden or overview.hides_some_webhooks:
        level = Level.NOTE
        text = _("Nothing is wrong with what you may view: %(waiting)s, and a worker is running.")
    return Alarm(Problem.NONE, text % waiting, level=level)
