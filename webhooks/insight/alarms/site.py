"""Alarms of the whole site: workers, Redis, our own proxy and network, failed events, and the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.ground.conf import conf
from webhooks.ground.db.clock import CLOCK_TOLERANCE
from webhooks.ground.registry.framework import framework
from webhooks.ground.text import last_line
from webhooks.insight.alarms.alarm import Alarm, Level, Problem
from webhooks.insight.counts import TOTAL_CAP
from webhooks.insight.overview import Overview
from webhooks.insight.wording import listed, number, span
from webhooks.models import State
from webhooks.models.statistic import DAY
from webhooks.workers.status import Backend, RegisteredWorker

# Seconds that something may be due before it is a problem.
PATIENCE = 60

# The part of the retention for which old deliveries may be left: a partition has an eighth of it.
LATE = 0.25

# An alarm names so many silent workers.
MAX_NAMED = 3


def stopped(overview: Overview, backend: Backend, is_enabled: bool) -> Iterator[Alarm]:
    """The problems that stop all sending."""
    waiting = overview.open + overview.undispatched
    if not is_enabled:
        text = _("Webhooks are turned off: changes are not recorded, and nothing is sent. Stored deliveries wait.")
        remedy = _('Set WEBHOOKS["ENABLED"] = True in the settings, then restart the site and the workers.')
        yield Alarm(Problem.TURNED_OFF, text, remedy, Level.ERROR, waiting=waiting)
    if backend.error:
        text = _("Redis cannot be used: %(error)s") % {"error": backend.error}
        remedy = _(
            "Check that Redis runs, and the setting RQ_QUEUES. Changes are still recorded. A running WebhookWorker "
            "delivers them without Redis; other workers continue when Redis is back."
        )
        yield Alarm(Problem.REDIS, text, remedy, Level.ERROR, waiting=waiting)
        return
    if backend.is_suspended:
        text = _("The workers are suspended (rq suspend). Only a WebhookWorker that started before still delivers.")
        remedy, command = _("Resume them, with the URL of your Redis:"), "rq resume --url redis://…"
        level = Level.WARNING if backend.serving else Level.ERROR
        yield Alarm(Problem.SUSPENDED, text, remedy, level, command, waiting=waiting)
    if not backend.start_command:
        return  # nothing says which workers Django's tasks have
    # If each has gone silent, the queues that they served are of no interest.
    if all(worker.is_silent for worker in backend.workers):
        problem, text = Problem.NO_WORKER, _("No worker is running, so nothing is delivered.")
    elif not backend.serving and not backend.is_suspended:
        problem = Problem.NO_WORKER_OF_QUEUE
        text = _("No running worker serves the queue “%(queue)s”, so nothing is delivered.") % {"queue": backend.queue}
    else:
        return
    command, since = backend.start_command, overview.last_sweep
    yield Alarm(problem, text, _("Start one:"), Level.ERROR, command, since=since, waiting=waiting)


def workers(backend: Backend) -> Iterator[Alarm]:
    """Workers of the wrong class, silent ones, and ones with a wrong clock."""
    if backend.error:
        return
    if backend.serving and not any(worker.is_shipped for worker in backend.serving):
        text = _(
            "Only stock rq workers are running. They send retries, and the deliveries of a worker that died, only "
            "after a change or manage.py webhooks_sweep has woken them."
        )
        remedy = _('Set RQ = {"WORKER_CLASS": "%(name)s"} in the settings, or start the worker with:')
        shipped = framework().worker_class
        command = f"{backend.start_command} --worker-class {shipped}"
        yield Alarm(Problem.STOCK_WORKERS, text, remedy % {"name": shipped}, command=command)
    if silent := [worker for worker in backend.workers if worker.is_silent]:
        yield _silent(silent)
    for worker in backend.workers:
        yield from _clock(worker)


def _silent(workers: Sequence[RegisteredWorker]) -> Alarm:
    """One alarm for all of them: a machine that stops takes several workers with it."""
    first, count = max(workers, key=lambda worker: worker.silence), len(workers)
    text = ngettext(
        "The worker “%(name)s” has not reported for %(span)s: it hangs or was killed.",
        "%(count)s workers have not reported, the first for %(span)s: they hang or were killed. They are %(names)s.",
        count,
    ) % {
        "name": first.label,
        "span": span(first.silence),
        "count": number(count),
        "names": listed([worker.label for worker in workers[:MAX_NAMED]], count),
    }
    remedy = ngettext(
        "Restart it if it still runs. Another worker takes over its deliveries. Redis forgets it after a few minutes.",
        "Restart the ones that still run. Other workers take over their deliveries. Redis forgets them after a few "
        "minutes.",
        count,
    )
    return Alarm(Problem.SILENT_WORKER, text, remedy, since=first.last_heartbeat)


def _clock(worker: RegisteredWorker) -> Iterator[Alarm]:
    if abs(worker.clock_offset) > CLOCK_TOLERANCE:
        text = _("The clock of worker “%(name)s” is %(span)s behind the database's.")
        if worker.clock_offset > 0:
            text = _("The clock of worker “%(name)s” is %(span)s ahead of the database's.")
        text %= {"name": worker.label, "span": span(abs(worker.clock_offset))}
        remedy = _(
            "Its requests carry the database's time all the same. Let NTP set the clock of its machine, and see "
            "whether it runs there:"
        )
        yield Alarm(Problem.CLOCK, text, remedy, command="timedatectl")


def faults(overview: Overview, backend: Backend) -> Iterator[Alarm]:
    """Faults of our own proxy, network, settings and keys."""
    # With nothing to send, the worker does not know whether the fault is over.
    level = Level.ERROR if overview.open else Level.WARNING
    for fault in backend.faults:
        text, kind = f"{fault.text}.", fault.kind
        waiting, since = overview.open, fault.since
        yield Alarm(Problem.FAULT, text, kind.remedy(), level, since=since, waiting=waiting, error_kind=kind.value)


def undispatched(overview: Overview, backend: Backend, now: datetime) -> Iterator[Alarm]:
    """Changes that no worker has made into deliveries."""
    since, count = overview.undispatched_since, overview.undispatched
    if since and (now - since).total_seconds() > PATIENCE:
        text = ngettext(
            "%(count)s change recorded but not dispatched, the oldest %(span)s ago.",
            "%(count)s changes recorded but not dispatched, the oldest %(span)s ago.",
            count,
        ) % {"count": number(count, TOTAL_CAP), "span": span((now - since).total_seconds())}
        remedy = _("A worker is running. Look into its log for an error, then restart it.") if backend.serving else ""
        yield Alarm(Problem.UNDISPATCHED, text, remedy, Level.ERROR, since=since)


def configuration(overview: Overview) -> Iterator[Alarm]:
    """Labels of the setting ``MODELS`` that register no model; no webhook, or disabled ones only."""
    for label in overview.labels_without_models:
        text = _('WEBHOOKS["MODELS"] lists “%(label)s”, which registers no model: no changes of it are recorded.')
        remedy = _("Correct it, or define the serializers of its models. This names them, and where they belong:")
        yield Alarm(Problem.NO_MODEL, text % {"label": label}, remedy, Level.ERROR, "python manage.py check")
    if "webhooks" in overview.hidden or overview.hides_some_webhooks or overview.has_more_webhooks:
        return
    if any(webhook.enabled for webhook in overview.webhooks):
        return
    if overview.webhooks:
        text = _("Every webhook is disabled, so changes are not recorded.")
        yield Alarm(Problem.ALL_DISABLED, text, _("Enable one."))
    else:
        text = _("No webhook is defined, so changes are not recorded.")
        remedy = _("Add one: on the pages of webhooks, by the REST API, or with manage.py webhooks_apply.")
        yield Alarm(Problem.NO_WEBHOOK, text, remedy)


def tables(overview: Overview) -> Iterator[Alarm]:
    """Events that failed, deleted webhooks with many rows, and old rows that are left."""
    if count := overview.failed_events:
        # Changes that could not be serialized, or that another error kept from every webhook.
        newest = next(iter(overview.newest_failed_events), None)
        text = ngettext(
            "%(count)s event failed, so nothing was sent.", "%(count)s events failed, so nothing was sent.", count
        ) % {"count": number(count, TOTAL_CAP)}
        if newest:
            shown = {"object": newest.name, "error": last_line(newest.error)}
            text += " " + _("The newest: %(object)s, %(error)s") % shown
        remedy = _("Open one of them to see its error. Correct the cause, then replay them.")
        yield Alarm(Problem.FAILED_EVENTS, text, remedy, since=newest.timestamp if newest and count == 1 else None)
    if count := overview.being_deleted:
        text = ngettext(
            "%(count)s webhook is being deleted. Workers delete its deliveries in the background, a thousand every few "
            "seconds.",
            "%(count)s webhooks are being deleted. Workers delete their deliveries in the background, a thousand every "
            "few seconds.",
            count,
        ) % {"count": number(count, TOTAL_CAP)}
        yield Alarm(Problem.BEING_DELETED, text, level=Level.NOTE)
    yield from _retention(overview)


def _retention(overview: Overview) -> Iterator[Alarm]:
    """Succeeded deliveries that workers cannot delete as fast as they send."""
    retention = conf.retention_days[State.SUCCEEDED] * DAY
    if overview.backlog <= max(60, retention * LATE):
        return
    text = _(
        "Workers delete succeeded deliveries %(span)s after their retention of %(retention)s: they send more than they "
        "can delete. The tables grow."
    ) % {"span": span(overview.backlog), "retention": span(retention)}
    remedies = {
        "sqlite": _("Start more workers, or use PostgreSQL: there, workers delete whole partitions."),
        "not_partitioned": _("Start more workers. The tables have no partitions, which workers delete at once."),
        "not_owner": _("Let the database's user own the tables of webhooks: workers then delete whole partitions."),
        "no_create": _("Let the database's user create tables: workers then delete whole partitions."),
    }
    other = _(
        "Start more workers. If a transaction is open for long, end it: it keeps workers from deleting partitions."
    )
    yield Alarm(Problem.RETENTION, text, remedies.get(overview.obstacle, other))
