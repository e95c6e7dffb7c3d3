"""Verdicts about changes that left nothing. No queries: they judge the object as it is now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.conf import conf
from webhooks.db import to_utc
from webhooks.models import Action, Webhook
from webhooks.operations.skip_reasons import skip_reason
from webhooks.operations.why.present import Present
from webhooks.operations.why.recorded import Rows, not_chosen, rule_remedy
from webhooks.operations.why.verdicts import (
    ADD_TO_WEBHOOK,
    ENABLE,
    SAVE_AGAIN,
    Cause,
    Target,
    Verdict,
    at_webhook,
    changed_after,
    disabled,
    join,
    retention_days,
    turned_off,
)
from webhooks.operations.why.viewer import Viewer
from webhooks.operations.wording import exact_time

# How objects change without a signal of Django, or with one that is not captured.
RAW_SQL, MIGRATION = gettext_lazy("raw SQL"), gettext_lazy("a data migration")
UNSIGNALLED: dict[Action, list[Any]] = {
    Action.CREATED: ["bulk_create()", RAW_SQL, MIGRATION, "loaddata"],
    Action.UPDATED: ["update()", "bulk_update()", RAW_SQL, MIGRATION, "loaddata"],
    Action.DELETED: [RAW_SQL, MIGRATION, gettext_lazy("a cascade in the database")],
}
CAPTURED_WITH_MANAGER = ("update()", "bulk_create()", "bulk_update()")
TRACKED = gettext_lazy("To capture update(), bulk_create() and bulk_update(), give the model webhooks.WebhookManager.")


@dataclass(frozen=True)
class Asked:
    """The object that is asked about, as it is now."""

    label: str
    present: Present
    is_tracked: bool = False
    """Whether its manager captures bulk operations."""
    knows_model: bool = True
    """Whether an Event of any object of the model is stored."""
    is_deleted: bool = False
    """Whether its last Event says that it was deleted."""

    @property
    def lost(self) -> str:
        """What happened to the object after its last Event and left nothing; empty if nothing did."""
        if self.present.exists and self.is_deleted:
            return _("The object exists again, but no event says that it was created.")
        if not self.present.exists and not self.is_deleted:
            return _("The object is gone, but no event says that it was deleted.")
        if not self.present.differs:
            return ""
        text = _("The object differs from its last event in %(fields)s.") % {"fields": ", ".join(self.present.differs)}
        if self.present.differs_in_relations:
            text = join(text, _("Perhaps a related object has a new name."))
        return text

    def unsignalled(self, action: Action) -> str:
        """How such a change happens without being captured."""
        ways = [str(way) for way in UNSIGNALLED[action] if not (self.is_tracked and way in CAPTURED_WITH_MANAGER)]
        return _("%(ways)s or %(last)s") % {"ways": ", ".join(ways[:-1]), "last": ways[-1]}

    @property
    def lost_action(self) -> Action:
        if not self.present.exists:
            return Action.DELETED
        return Action.CREATED if self.is_deleted else Action.UPDATED


def changed_again(verdict: Verdict, asked: Asked, rows: Rows, since: datetime | None) -> Verdict:
    """The verdict about a change after the last stored one. ``since`` is when webhooks certainly wanted such a change;
    None if that is not known."""
    webhook, action = verdict.webhook, asked.lost_action
    lost = join(asked.lost, _("Nothing is stored of that change."))
    common: dict[str, Any] = {"changed": asked.present.differs, "earlier": verdict}
    if text := not_chosen(webhook, action, asked.label, rows.models[webhook.pk]):
        return at_webhook(webhook, Cause.NOT_CHOSEN, join(asked.lost, text), str(ADD_TO_WEBHOOK), **common)
    if not conf.enabled:
        return replace(turned_off(webhook, _("Changes are not recorded.")), **common)
    remedy = _save_again(webhook, asked)
    moments = (asked.present.last_saved, verdict.change.timestamp if verdict.change else None)
    if not since or not any(one and to_utc(one) >= since for one in moments):
        if since:
            text = _("Perhaps no enabled webhook wanted it before %(time)s.") % {"time": exact_time(since)}
        else:
            text = _("Perhaps no enabled webhook wanted it, or its skips were deleted.")
        return at_webhook(webhook, Cause.NO_SUBSCRIBER, join(lost, text), remedy, **common)
    text = _("It was not captured: it came by %(ways)s, or webhooks were turned off.")
    text %= {"ways": asked.unsignalled(action)}
    if action != Action.DELETED and not asked.is_tracked:
        remedy = join(remedy, TRACKED)
    return Verdict(webhook, Cause.NO_SIGNAL, join(lost, text), remedy, Target.CAPTURE, **common)


def never_stored(webhook: Webhook, asked: Asked, rows: Rows, viewer: Viewer) -> Verdict:
    """The verdict about an object without any stored change. It is judged as it is now."""
    if asked.label not in rows.models[webhook.pk]:
        text = not_chosen(webhook, Action.UPDATED, asked.label, rows.models[webhook.pk])
        return at_webhook(webhook, Cause.NOT_CHOSEN, text, str(ADD_TO_WEBHOOK))
    if not conf.enabled:
        return turned_off(webhook, _("Changes are not recorded."))
    cause, text = _by_last_save(webhook, asked, rows.now)
    if not asked.present.exists:
        text = join(text, _("There is no such object now."))
        return at_webhook(webhook, cause, text, _("Check the key of the object."))
    now, remedy = _as_it_is_now(webhook, asked, viewer)
    return at_webhook(webhook, cause, join(text, now), remedy)


def _by_last_save(webhook: Webhook, asked: Asked, now: datetime) -> tuple[Cause, str]:
    """What the time of the last save says, if the model keeps it in an ``auto_now`` field."""
    nothing, saved = _("No change of this object is stored."), asked.present.last_saved
    values: dict[str, Any] = {
        "model": asked.label,
        "created": exact_time(webhook.created),
        "changed": exact_time(webhook.last_updated),
        "ways": asked.unsignalled(Action.UPDATED),
        "days": retention_days(),
    }
    if saved is None:
        return Cause.NO_TRACE, join(nothing, _without_time(webhook, asked) % values)
    last = join(nothing, _("It was last saved at %(time)s.") % {"time": exact_time(saved)})
    if to_utc(saved) < to_utc(webhook.created):
        return Cause.CREATED_LATER, join(last, _("The webhook was created later, at %(created)s.") % values)
    if changed_after(webhook, saved):
        text = _("The webhook was changed later, at %(changed)s, and perhaps did not want the object before.")
        return Cause.CHANGED_LATER, join(last, text % values)
    if to_utc(saved) < now - timedelta(days=retention_days()):
        return Cause.DELETED, join(last, _("Events are deleted after %(days)g days or more.") % values)
    text = _(
        "The webhook is older. Possible reasons: it was written by %(ways)s, which are not captured; webhooks were "
        "turned off; or the model was not registered then."
    )
    return Cause.NO_TRACE, join(last, text % values)


def _without_time(webhook: Webhook, asked: Asked) -> str:
    """The possible reasons if nothing says when the object was saved."""
    if changed_after(webhook, webhook.created + timedelta(seconds=1)):
        reasons = _(
            "Possible reasons: it has not changed since the webhook was changed at %(changed)s; it changed by "
            "%(ways)s, which are not captured; the change was rolled back; webhooks were turned off; or the event was "
            "deleted, after %(days)g days or more."
        )
    else:
        reasons = _(
            "Possible reasons: it has not changed since the webhook was created at %(created)s; it changed by "
            "%(ways)s, which are not captured; the change was rolled back; webhooks were turned off; or the event was "
            "deleted, after %(days)g days or more."
        )
    if asked.knows_model:
        return reasons
    others = _("Nothing is stored of any other %(model)s either: perhaps the model was registered only recently.")
    return join(others, reasons)


def _as_it_is_now(webhook: Webhook, asked: Asked, viewer: Viewer) -> tuple[str, str]:
    """What an update of the object would lead to, and the remedy."""
    present = asked.present
    if present.error:
        text = _("Judged by the object as it is now: its data cannot be written.")
        if viewer.sees_events:
            text = _("Judged by the object as it is now: its data cannot be written (%(error)s).")
        return text % {"error": present.error}, join(_("Correct the serializer."), SAVE_AGAIN)
    if error := present.filter_errors.get(webhook.pk):
        text = _("Judged by the object as it is now: the conditions of the webhook fail.")
        if viewer.sees_events:
            text = _("Judged by the object as it is now: the conditions of the webhook fail (%(error)s).")
        return text % {"error": error}, join(_("Correct the conditions of the webhook."), SAVE_AGAIN)
    if Action.UPDATED not in webhook.actions and webhook.actions:
        text = _(
            "Judged by the object as it is now: an update would not be sent. The actions of the webhook: %(wanted)s."
        )
        wanted = ", ".join(str(one.label) for one in webhook.actions)
        remedy = join(_("To send updates, choose the action in the webhook."), SAVE_AGAIN)
        return text % {"wanted": wanted}, remedy
    if skip := present.refusals.get(webhook.pk):
        text = _("Judged by the object as it is now: an update would be skipped.")
        return join(text, skip_reason(skip, viewer.shows_actual)), rule_remedy(webhook, skip)
    if not webhook.enabled:
        text = _("Judged by the object as it is now: an update would be sent if the webhook were enabled.")
        return join(text, disabled(webhook)), _save_again(webhook, asked)
    return _("Judged by the object as it is now: an update would be sent."), _save_again(webhook, asked)


def _save_again(webhook: Webhook, asked: Asked) -> str:
    if not asked.present.exists:
        return _("Correct the receiver by hand: there is no object to save again.")
    return join("" if webhook.enabled else ENABLE, SAVE_AGAIN)


def watched_since(webhooks: Iterable[Webhook], rows: Rows, label: str, action: Action) -> datetime | None:
    """Since when (UTC) each such change certainly leaves an Event or a skip; None if that is not known.

    A webhook with filters leaves a skip, if skips are stored, and only as long as they are.
    """
    skips_since = rows.now - timedelta(days=conf.skip_days)
    times = []
    for one in webhooks:
        if one.enabled and label in rows.models[one.pk] and action in one.actions:
            has_filters = one.conditions or one.changed_fields or one.only_changes or one.excluded_usernames
            begun = max(to_utc(one.created), to_utc(one.last_updated))
            if not has_filters:
                times.append(begun)
            elif conf.keeps_skips:
                times.append(max(begun, skips_since))
    return min(times, default=None)
