"""Runs: acts on many rows, such as retry, replay and backfill, which workers execute in the background."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from webhooks import hooks
from webhooks.ground.db import DatabaseNow
from webhooks.models.columns import EMPTY, USERNAME_LENGTH, WriteDBManager, alters_data, default

if TYPE_CHECKING:
    from webhooks.delivery.runs.kinds import RunKind

run_kinds: dict[str, RunKind] = {}
"""The kinds of runs by name. ``operations.kinds`` has the list, and Django's start registers it here."""


def kind_choices() -> list[tuple[str, Any]]:
    return [(kind.name, kind.label) for kind in run_kinds.values()]


class RunState(models.TextChoices):
    """The states of a run. A user pauses, resumes and cancels it; the worker ends it."""

    RUNNING = "running", _("running")
    PAUSED = "paused", _("paused")
    DONE = "done", _("done")
    CANCELLED = "cancelled", _("cancelled")
    FAILED = "failed", _("failed")


OPEN_RUN_STATES = (RunState.RUNNING, RunState.PAUSED)


class RunQuerySet(models.QuerySet["Run"]):
    def running(self) -> RunQuerySet:
        return self.filter(state=RunState.RUNNING)

    def due(self) -> RunQuerySet:
        """Running ones, but for those that wait for open transactions, or that are not ``is_known``."""
        return self.running().filter(Q(look_at=None) | Q(look_at__lte=DatabaseNow()), kind__in=run_kinds)

    @alters_data
    def pause(self) -> int:
        """The worker begins no further step of these."""
        return self.running().update(state=RunState.PAUSED)

    @alters_data
    def resume(self) -> int:
        """Go on with paused runs where they were."""
        taken = F("done") + F("failed") + F("skipped")
        return self.filter(state=RunState.PAUSED).update(
            state=RunState.RUNNING, resumed_at=DatabaseNow(), taken_before=taken
        )

    def tokens_in_steps(self) -> set[uuid.UUID]:
        """The workers that are in a step that may end them, or that such a step has ended."""
        notes = self.running().exclude(note={}).values_list("note", flat=True)
        return {uuid.UUID(note["token"]) for note in notes if note["token"]}

    @alters_data
    def cancel(self) -> int:
        """End runs. Their earlier steps stay as they are."""
        return self.filter(state__in=OPEN_RUN_STATES).update(state=RunState.CANCELLED, finished_at=DatabaseNow())


class Run(models.Model):
    """One act on all rows that match some filters. Workers take it forward step by step.

    The transaction of a step changes rows, and moves the cursor past them. So a worker that is killed leaves nothing
    half done: no row is taken twice, and none is left out.
    """

    kind = models.CharField(_("kind"), max_length=20, choices=kind_choices)
    filters = models.JSONField(
        _("filters"), default=dict, db_default={}, help_text=_("As in the lists of the REST API.")
    )
    requested_by = models.CharField(_("requested by"), max_length=USERNAME_LENGTH, **EMPTY)
    is_restricted = models.BooleanField(
        **default(False), help_text=_("Whether it takes only rows on which the user may act.")
    )
    is_by_user = models.BooleanField(
        **default(False), help_text=_("Whether a user began it. It ends if the user may not begin it any more.")
    )
    same = models.CharField(
        max_length=64,
        **EMPTY,
        help_text=_("A digest of what it does, without its times. Only one with it may be open."),
    )
    request_key = models.CharField(
        max_length=64, **EMPTY, help_text=_("A digest of the form or the Idempotency-Key that began it.")
    )
    state = models.CharField(_("state"), max_length=10, choices=RunState.choices, **default(RunState.RUNNING))
    total = models.PositiveIntegerField(
        _("total"), null=True, blank=True, help_text=_("Rows that it found. Empty: not counted yet.")
    )
    done = models.PositiveIntegerField(_("done"), **default(0))
    failed = models.PositiveIntegerField(
        _("failed"), **default(0), help_text=_("Rows with which it could not be done.")
    )
    skipped = models.PositiveIntegerField(
        _("skipped"), **default(0), help_text=_("Rows that did not match any more, or that need nothing.")
    )
    superseded = models.PositiveIntegerField(
        _("superseded"), **default(0), help_text=_("Superseded deliveries that it left out.")
    )
    problem = models.TextField(_("problem"), **EMPTY, help_text=_("Why the run, or the last row that failed, failed."))
    last_event = models.BigIntegerField(
        **default(0), help_text=_("The newest event when it began. It takes no later one.")
    )
    counted_event = models.BigIntegerField(
        **default(0), help_text=_("The last event up to which its rows are counted, until there is a total.")
    )
    counts = models.JSONField(default=dict, db_default={}, help_text=_("Rows that it found, by webhook. 0: of events."))
    cursors = models.JSONField(
        default=dict, db_default={}, help_text=_("The last event that it has taken, by webhook. 0: of events.")
    )
    note = models.JSONField(
        default=dict, db_default={}, help_text=_("The step that a worker is in, see delivery.runs.risky.")
    )
    late = models.JSONField(default=dict, db_default={}, help_text=_("The open transactions that it waits for."))
    look_at = models.DateTimeField(null=True, blank=True, help_text=_("When it looks for open transactions again."))
    created = models.DateTimeField(_("created"), default=timezone.now, db_default=Now())
    resumed_at = models.DateTimeField(null=True, blank=True, help_text=_("Empty: it was never resumed."))
    taken_before = models.PositiveIntegerField(**default(0), help_text=_("Rows that it was past when it was resumed."))
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)

    webhook_names: dict[int, str]
    """By id, for texts about it: ``operations.runs.name_webhooks`` reads them."""

    objects = WriteDBManager.from_queryset(RunQuerySet)()

    class Meta:
        verbose_name, verbose_name_plural = _("run"), _("runs")
        base_manager_name = "objects"
        default_permissions = ("add", "view")
        ordering = ["-pk"]
        indexes = [models.Index(fields=["id"], name="rq_webhooks_run_running", condition=Q(state="running"))]
        constraints = [
            models.UniqueConstraint(
                fields=["same"], name="rq_webhooks_run_same", condition=Q(state__in=OPEN_RUN_STATES) & ~Q(same="")
            ),
            models.UniqueConstraint(
                fields=["request_key"], name="rq_webhooks_run_request_key", condition=~Q(request_key="")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"

    @property
    def is_known(self) -> bool:
        """Whether this release has its kind. Workers leave a run of another release to those of that release."""
        return self.kind in run_kinds

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_RUN_STATES

    @property
    def taken(self) -> int:
        """Rows that it is past."""
        return self.done + self.failed + self.skipped

    @property
    def percent(self) -> int | None:
        """Rounded down. None before the rows are counted."""
        if self.state == RunState.DONE:
            return 100
        return None if self.total is None else min(100, 100 * self.taken // max(1, self.total))

    @alters_data
    def announce(self) -> None:
        """Call the hooks ``run_finished``, once the transaction that ends it is committed."""

        def finished() -> list[hooks.FinishedRun]:
            counts = self.done, self.failed, self.skipped
            return [hooks.FinishedRun(self.pk, self.kind, self.state, *counts, self.requested_by, self.problem)]

        hooks.announce("run_finished", Run.objects.db, finished)

    @alters_data
    def save_step(self, **columns: Any) -> None:
        """Write what a step has changed."""
        for name, value in columns.items():
            setattr(self, name, value)
        self.save(update_fields=list(columns))
