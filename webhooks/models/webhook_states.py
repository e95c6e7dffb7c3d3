"""The states of webhooks: enabled, paused, probed, stopped, being deleted; their columns, and the changes of them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Cast, Concat, Substr
from django.dispatch import Signal
from django.utils.translation import gettext_lazy as _

from webhooks.ground.db import DatabaseNow, atomically
from webhooks.ground.text import clean, username_of
from webhooks.models.columns import EMPTY, USERNAME_LENGTH, WriteDBManager, alters_data, default

if TYPE_CHECKING:
    from webhooks.models.webhook import Webhook  # noqa: F401 - a string below names it

# The columns that count failures, as they are without a failure.
NO_FAILURES: dict[str, Any] = {"failures_in_a_row": 0, "failing_since": None, "probe_at": None, "probes": 0}

IS_PAUSED = Q(enabled=True) & (Q(probe_at__isnull=False) | Q(paused_at__isnull=False))


# Sent with ``using`` after webhooks were marked as deleted. Django's own signals follow when the rows go.
deleted = Signal()


class DisabledReason(models.TextChoices):
    """Why a webhook was disabled automatically."""

    GONE = "gone", _("the receiver answered 410 Gone: it wants no more deliveries")
    FAILING = "failing", _("every attempt failed for longer than DISABLE_AFTER")


class WebhookState(models.Model):
    """The columns of a webhook that say whether it fails, is paused or is disabled. No form writes them."""

    last_success_at = models.DateTimeField(_("last success at"), null=True, blank=True, editable=False)
    last_failure_at = models.DateTimeField(_("last failure at"), null=True, blank=True, editable=False)
    last_failure = models.TextField(_("last failure"), **EMPTY, editable=False)
    error_kind = models.CharField(max_length=30, **EMPTY, editable=False, help_text=_("The kind of the last failure."))
    failures_in_a_row = models.PositiveIntegerField(**default(0), editable=False)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    probe_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text=_("Set while it is paused for its failures.")
    )
    probes = models.PositiveIntegerField(**default(0), editable=False)
    paused_at = models.DateTimeField(
        _("paused at"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When a user paused it. Empty: no user did, or one resumed it."),
    )
    paused_by = models.CharField(
        _("paused by"), max_length=USERNAME_LENGTH, **EMPTY, editable=False, help_text=_("The user who paused it.")
    )
    resumed_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text=_("When sending last resumed after a stop.")
    )
    hastened_to = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="Set while the sweep makes more failed heads of lanes due after a resume.",
    )
    disabled_reason = models.CharField(
        _("disabled reason"),
        max_length=20,
        choices=DisabledReason.choices,
        **EMPTY,
        editable=False,
        help_text=_("Why it was disabled automatically."),
    )
    disabled_at = models.DateTimeField(
        _("disabled at"), null=True, blank=True, editable=False, help_text=_("Since when it is disabled.")
    )
    disabled_by = models.CharField(
        _("disabled by"), max_length=USERNAME_LENGTH, **EMPTY, editable=False, help_text=_("The user who disabled it.")
    )
    deleted_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text=_("Set while its deliveries are being deleted.")
    )

    class Meta:
        abstract = True


class WebhookQuerySet(models.QuerySet["Webhook"]):
    @alters_data
    def update(self, **values: Any) -> int:
        """As Django's. ``enabled=True`` also clears the failures of webhooks that were disabled, as a save does."""
        if values.get("enabled") is True and values.keys().isdisjoint(NO_FAILURES):
            fresh = NO_FAILURES | {"disabled_reason": "", "disabled_at": None, "disabled_by": ""}
            kept = {name: Case(When(enabled=True, then=F(name)), default=Value(value)) for name, value in fresh.items()}
            resumed_at = Case(When(enabled=True, then=F("resumed_at")), default=DatabaseNow())
            values = kept | {"resumed_at": resumed_at} | values
        return super().update(**values)

    def paused(self) -> WebhookQuerySet:
        """Webhooks that a user paused, or that are paused because their receivers fail."""
        return self.filter(IS_PAUSED)

    def probed(self) -> WebhookQuerySet:
        """Webhooks that are paused because their receivers fail, until a probe succeeds."""
        return self.filter(enabled=True, paused_at=None).exclude(probe_at=None)

    def pausable(self) -> WebhookQuerySet:
        return self.filter(enabled=True, paused_at=None)

    def stopped(self) -> WebhookQuerySet:
        """Webhooks that a user paused, or that are disabled. Nothing is sent to them, not even a probe."""
        return self.filter(Q(enabled=False) | Q(paused_at__isnull=False))

    def being_deleted(self) -> WebhookQuerySet:
        """Webhooks that are no longer used. The sweep deletes them after the last of their deliveries."""
        return self.exclude(deleted_at=None)

    @alters_data
    def resume(self) -> int:
        """Send to paused webhooks again at once, and clear their failures."""
        resumed = {"resumed_at": DatabaseNow(), "paused_at": None, "paused_by": "", **NO_FAILURES}
        return atomically(lambda: self.paused().update(**resumed), self.db)

    @alters_data
    def pause(self, user: object) -> int:
        """Stop sending until a user resumes them."""
        return self.pausable().update(paused_at=DatabaseNow(), paused_by=clean(username_of(user), USERNAME_LENGTH))

    @alters_data
    def probe(self) -> int:
        """Send the next probe at once to webhooks that get probes."""
        return atomically(lambda: self.probed().update(probe_at=DatabaseNow()), self.db)

    @alters_data
    def record_success(self) -> int:
        """Clear the failures, and end a pause that they caused."""
        resumed_at = Case(When(probe_at=None, then=F("resumed_at")), default=DatabaseNow())
        return self.update(last_success_at=DatabaseNow(), resumed_at=resumed_at, **NO_FAILURES)

    @alters_data
    def delete(self) -> tuple[int, dict[str, int]]:
        """Hide and disable them at once. The sweep deletes their deliveries and then the rows.

        Each gets a new name that is unique, and loses its identifier, so that both are free.
        """
        keys = list(self.order_by().values_list("pk", flat=True))
        end = Value(f" {secrets.token_hex(4)})")
        name = Concat(Substr("name", 1, 100), Value(" (being deleted, "), Cast("pk", models.CharField()), end)
        webhooks = self.model.with_deleted.using(self.db).filter(pk__in=keys, deleted_at=None)
        count = webhooks.update(enabled=False, deleted_at=DatabaseNow(), name=name, identifier=None)
        deleted.send(self.model, using=self.db)
        return count, {self.model._meta.label: count}

    delete.queryset_only = True  # type: ignore[attr-defined]

    @alters_data
    def delete_rows(self) -> int:
        """Delete the rows themselves, with everything of them."""
        return super().delete()[0]

    delete_rows.queryset_only = True  # type: ignore[attr-defined]

    @alters_data
    def delete_expired_secrets(self) -> int:
        """Delete previous secrets that no longer sign. Call it in a transaction."""
        expired = self.filter(previous_secret_until__lte=DatabaseNow()).select_for_update(skip_locked=True, no_key=True)
        free = self.filter(pk__in=list(expired.values_list("pk", flat=True)))
        return free.update(previous_secret="", previous_secret_until=None)  # nosec B106 # empty


WithDeletedManager = WriteDBManager.from_queryset(WebhookQuerySet)


class ActiveManager(WithDeletedManager):
    """All webhooks that are not being deleted."""

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(deleted_at=None)
