"""Verdicts about changes that left nothing: the object as it is now shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, partial
from typing import Any

from django.db import models
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.capture.bulk import TrackedQuerySet
from webhooks.capture.context import Actor
from webhooks.capture.matching import Budget, EventContext, match
from webhooks.capture.serialize import Payload, serialize_or_error, stored_snapshot
from webhooks.capture.subscriptions import Filters, Subscriptions
from webhooks.ground import payloads, registry
from webhooks.ground.conf import conf
from webhooks.ground.db import to_utc
from webhooks.ground.payloads import snapshots
from webhooks.ground.registry.registration import Registration
from webhooks.ground.text import clean, last_line
from webhooks.ground.text.json_text import json_equal
from webhooks.insight.why.causes import (
    ADD_TO_WEBHOOK,
    ENABLE,
    RECOVER_SKIPPED,
    SAVE_AGAIN,
    Cause,
    Target,
    Verdict,
    disabled,
    join,
    later,
    not_chosen,
    not_recorded,
    retention,
    retention_days,
    turned_off,
)
from webhooks.insight.why.rows import StoredChange, Viewer, models_of, with_known_data
from webhooks.insight.why.stored import rule_remedy
from webhooks.insight.wording import exact_time, registration_remedy, sentence, skip_reason
from webhooks.models import Action, Event, Skip, Webhook
from webhooks.models.skip import Rule

# How objects change without being captured. The second text is for models with ``webhooks.WebhookManager``.
DELETED = gettext_lazy("raw SQL, a data migration or a cascade in the database")
TRACKED_CREATED = gettext_lazy("bulk_create(ignore_conflicts=True), raw SQL, a data migration or loaddata")
WAYS: dict[Action | None, tuple[Any, Any]] = {
    Action.CREATED: (gettext_lazy("bulk_create(), raw SQL, a data migration or loaddata"), TRACKED_CREATED),
    Action.UPDATED: (
        gettext_lazy(
            "update(), bulk_update(), raw SQL, a data migration, loaddata, a save of its parent row, "
            "or the delete of a related object"
        ),
        gettext_lazy(
            "raw SQL, a data migration, loaddata, a save of its parent row, or the delete of a related object"
        ),
    ),
    Action.DELETED: (DELETED, DELETED),
    None: (  # created or updated
        gettext_lazy("update(), bulk_update(), bulk_create(), raw SQL, a data migration or loaddata"),
        TRACKED_CREATED,
    ),
}
TRACKED = gettext_lazy("To capture update(), bulk_create() and bulk_update(), give the model webhooks.WebhookManager.")


class Present:
    """The object that is asked about, as it is now. ``last`` is its last captured change, None if none is stored."""

    def __init__(self, registration: Registration, pk: Any, last: StoredChange | None) -> None:
        self.registration, self.label, self.last = registration, registration.label, last
        instance: Any = registration.find(registration.rows(Event.objects.db), pk)
        self.instance: models.Model | None = instance
        self.is_tracked = isinstance(registration.model._default_manager.get_queryset(), TrackedQuerySet)
        """Whether its manager captures bulk operations."""
        self.payload = cache(partial(serialize_or_error, registration, instance))
        """Its payload by the name of a serializer, or why that fails."""

    @property
    def last_saved(self) -> datetime | None:
        """By its ``auto_now`` fields. None if it has none."""
        columns = self.registration.model._meta.concrete_fields
        names = [column.attname for column in columns if isinstance(column, models.DateTimeField) and column.auto_now]
        times = [getattr(self.instance, name, None) for name in names]
        return max((moment for moment in times if isinstance(moment, datetime)), default=None)

    @cached_property
    def lost_action(self) -> Action | None:
        """What happened to the object after its last captured change and left nothing. None if nothing did."""
        is_deleted = self.last is not None and self.last.action == Action.DELETED
        if self.instance is None:
            return None if is_deleted else Action.DELETED
        if is_deleted:
            return Action.CREATED
        return Action.UPDATED if self.differs else None

    @property
    def differs(self) -> tuple[str, ...]:
        """Its own fields that differ from the last Event. Values of related objects do not count."""
        return tuple(self._differences)

    @cached_property
    def _differences(self) -> dict[str, bool]:
        """The fields that differ in the snapshots, and which of them are many-to-many relations.

        Snapshots leave out ``auto_now`` fields and values of related objects. Fields that only one snapshot has do not
        count: the serializer may have changed since.
        """
        known = with_known_data(self.last) if self.last and self.instance else None
        last = Event.objects.filter(pk=known.pk).first() if known else None
        if last is None:
            return {}
        names = ["", *json.loads(last.serializers or "{}")]
        name = next((name for name in names if payloads.has_serializer(last, name)), "")
        before = json.loads(last.snapshots or "{}").get("postchange")
        if not isinstance(before, Mapping):
            return {}
        now, fields = self._snapshot(name)
        differs = sorted(name for name in now.keys() & before.keys() if not json_equal(now[name], before[name]))
        return {name: name in fields and bool(fields[name].many_to_many) for name in differs}

    def _snapshot(self, serializer: str) -> tuple[dict[str, Any], snapshots.Fields]:
        """Its snapshot by this serializer, and the fields. Without a serializer, the stored columns alone."""
        payload = self.payload(serializer)
        if isinstance(payload, Payload):
            return json.loads(payload.snapshot), snapshots.snapshot_fields(self.registration, serializer)
        if registry.registration_of(self.registration.model) or self.instance is None:
            return {}, {}  # its events fail, and say why
        return json.loads(stored_snapshot(self.registration, self.instance)), {}

    @property
    def lost(self) -> str:
        """A sentence about ``lost_action``."""
        match self.lost_action:
            case Action.CREATED:
                return _("The object exists again, but no event says that it was created.")
            case Action.DELETED:
                return _("The object is gone, but no event says that it was deleted.")
        text = _("The object differs from its last event in %(fields)s.") % {"fields": ", ".join(self.differs)}
        # An object that the relations show may have a new name.
        is_name = all(self._differences.values())
        return join(text, _("Perhaps a related object has a new name.") if is_name else "")

    def ways(self, action: Action | None) -> str:
        """How such a change happens without being captured."""
        return str(WAYS[action][self.is_tracked])


def changed_again(verdict: Verdict, present: Present, action: Action, since: datetime | None) -> Verdict:
    """The verdict about a change after the last stored one. ``since`` is when webhooks certainly wanted such a change;
    None if that is not known."""
    webhook = verdict.webhook
    lost = join(present.lost, _("Nothing is stored of that change."))
    common: dict[str, Any] = {"changed": present.differs, "earlier": verdict}
    if text := not_chosen(webhook, action, present.label, models_of(webhook)):
        return Cause.NOT_CHOSEN.verdict(webhook, join(present.lost, text), ADD_TO_WEBHOOK, **common)
    if not conf.enabled:
        return replace(turned_off(webhook, _("Changes are not recorded.")), **common)
    remedy = _save_again(webhook, present)
    if doubt := _doubt(present, since):
        cause, text = doubt
        return cause.verdict(webhook, join(lost, text), remedy, **common)
    text = _("It was not captured: it came by %(ways)s, or webhooks were turned off.")
    text %= {"ways": present.ways(action)}
    if action != Action.DELETED and not present.is_tracked:
        remedy = join(remedy, TRACKED)
    return Cause.NO_SIGNAL.verdict(webhook, join(lost, text), remedy, **common)


def not_registered(verdict: Verdict, present: Present) -> Verdict:
    """The verdict about an object with stored changes, if its model is not registered any more."""
    webhook = verdict.webhook
    if present.label not in models_of(webhook):
        return verdict
    text = join(present.lost if present.lost_action else "", not_recorded([present.label]))
    remedy = registration_remedy([present.label])
    return Cause.NOT_REGISTERED.verdict(webhook, text, remedy, changed=present.differs, earlier=verdict)


def _doubt(present: Present, since: datetime | None) -> tuple[Cause, str] | None:
    """Why a change that left nothing may still have been captured, or unwanted; None if it was neither."""
    captured_at = present.last.timestamp if present.last else None
    newest = max(to_utc(moment) for moment in (present.last_saved, captured_at) if moment)
    if _is_past_retention(newest):
        text = _("Perhaps its event was deleted, or no enabled webhook wanted it.")
        return Cause.UNKNOWN, join(text, retention())
    if not since:
        return Cause.NO_SUBSCRIBER, _("Perhaps no enabled webhook wanted it, or its skips were deleted.")
    if newest < since:
        text = _("Perhaps no enabled webhook wanted it before %(time)s.") % {"time": exact_time(since)}
        return Cause.NO_SUBSCRIBER, text
    return None


def _is_past_retention(moment: datetime) -> bool:
    """Whether an Event of this time may be deleted already."""
    return to_utc(moment) < datetime.now(UTC) - timedelta(days=retention_days())


def never_stored(webhooks: Sequence[Webhook], present: Present, viewer: Viewer, knows_model: bool) -> list[Verdict]:
    """The verdicts about an object without any stored change. It is judged as it is now.

    ``knows_model`` says whether a change of any other object of the model is stored, or may be.
    """
    outlooks = _outlooks(webhooks, present, viewer) if present.instance else {}
    verdicts = []
    for webhook in webhooks:
        labels = models_of(webhook)
        if present.label not in labels:
            text = not_chosen(webhook, Action.UPDATED, present.label, labels)
            verdicts.append(Cause.NOT_CHOSEN.verdict(webhook, text, ADD_TO_WEBHOOK))
        elif not conf.enabled:
            verdicts.append(turned_off(webhook, _("Changes are not recorded.")))
        else:
            cause, text = _by_last_save(webhook, present, knows_model)
            now, remedy = outlooks.get(webhook.pk) or _as_it_is_now(webhook, present)
            sentences = (text, now) if present.instance else (now, text)  # a wrong key explains everything
            verdicts.append(cause.verdict(webhook, join(*sentences), remedy, target=Target.WEBHOOK))
    return verdicts


def _by_last_save(webhook: Webhook, present: Present, knows_model: bool) -> tuple[Cause, str]:
    """What the time of the last save says, if the model keeps it in an ``auto_now`` field."""
    nothing, saved = _("No change of this object is stored."), present.last_saved
    values = {"model": present.label, "ways": present.ways(None), "days": retention_days()}
    if saved is None:
        others = _("Nothing is stored of any other %(model)s either: perhaps the model was registered only recently.")
        reasons = _(
            "Possible reasons: it has not changed since the webhook was saved at %(time)s; it changed by %(ways)s, "
            "which are not captured; the change was rolled back; webhooks were turned off; or the event was deleted, "
            "after %(days)g days or more."
        ) % (values | {"time": exact_time(webhook.last_updated)})
        return Cause.NO_TRACE, join(nothing, "" if knows_model else others % values, reasons)
    last = join(nothing, _("It was last saved at %(time)s.") % {"time": exact_time(saved)})
    if edited := later(webhook, saved):
        cause, text = edited
        return cause, join(last, text)
    if _is_past_retention(saved):
        return Cause.DELETED, join(last, retention())
    text = _(
        "The webhook is older. Possible reasons: it was written by %(ways)s, which are not captured; webhooks were "
        "turned off; or the model was not registered then."
    )
    return Cause.NO_TRACE, join(last, text % values)


def with_outlooks(verdicts: Sequence[Verdict], present: Present, viewer: Viewer) -> list[Verdict]:
    """The verdicts, and which conditions that refused the last change accept the object now. A skip has no data to
    compare: so a bulk update after it is seen in no other way."""
    asked = [
        verdict.webhook
        for verdict in verdicts
        if verdict.rule == Rule.CONDITION and Action.UPDATED in verdict.webhook.actions
    ]
    if not asked or present.instance is None:
        return list(verdicts)
    refused = _outlooks(asked, present, viewer)
    accepting = {webhook.pk for webhook in asked} - refused.keys()
    return [_with_outlook(verdict, present) if verdict.webhook.pk in accepting else verdict for verdict in verdicts]


def _with_outlook(verdict: Verdict, present: Present) -> Verdict:
    webhook = verdict.webhook
    text, _again = _as_it_is_now(webhook, present)
    return replace(
        verdict, text=join(verdict.text, text), remedy=join("" if webhook.enabled else ENABLE, RECOVER_SKIPPED)
    )


def _outlooks(webhooks: Sequence[Webhook], present: Present, viewer: Viewer) -> dict[int, tuple[str, str]]:
    """Why webhooks that want updates of the model would not get one of this object, each with the remedy."""
    outlooks = dict[int, tuple[str, str]]()
    wanting = {
        webhook.pk: webhook
        for webhook in webhooks
        if Action.UPDATED in webhook.actions and present.label in models_of(webhook)
    }
    # With a place for skips: without one, there would be no reasons.
    chosen = Subscriptions(filters={pk: Filters.of(webhook) for pk, webhook in wanting.items()}, disabled={})
    for serializer, ids in chosen.by_serializer(wanting).items():
        payload = present.payload(serializer)
        if isinstance(payload, str):
            text = _("Judged by the object as it is now: its data cannot be written.")
            remedy = join(_("Correct the serializer."), SAVE_AGAIN)
            outlooks |= dict.fromkeys(ids, (_with_error(text, payload, viewer), remedy))
        else:
            outlooks |= _refusals([wanting[pk] for pk in ids], chosen, payload, viewer)
    return outlooks


def _refusals(
    webhooks: Sequence[Webhook], chosen: Subscriptions, payload: Payload, viewer: Viewer
) -> dict[int, tuple[str, str]]:
    """Which filters refuse an update with this payload, each with the remedy."""
    reasons = dict[int, tuple[str, str]]()
    context = EventContext(Action.UPDATED, payload.data, payload.columns()["snapshots"], "", Actor())
    matched = match([webhook.pk for webhook in webhooks], chosen, context, Budget())
    for webhook in webhooks:
        if refusal := matched.refusals.get(webhook.pk):
            skip = Skip(action=Action.UPDATED, rule=refusal.rule, detail=refusal.detail)
            text = _("Judged by the object as it is now: an update would be skipped.")
            reasons[webhook.pk] = join(text, skip_reason(skip, viewer.shows_actual)), rule_remedy(webhook, skip)
        elif webhook.pk in matched.errored:
            error = context.errors[chosen.filters[webhook.pk].conditions]
            text = _("Judged by the object as it is now: the conditions of the webhook fail.")
            text = _with_error(text, clean(last_line(f"{type(error).__name__}: {error}")), viewer)
            reasons[webhook.pk] = text, join(_("Correct the conditions of the webhook."), SAVE_AGAIN)
    return reasons


def _with_error(text: str, error: str, viewer: Viewer) -> str:
    return join(text, sentence(error)) if viewer.sees_events else text


def _as_it_is_now(webhook: Webhook, present: Present) -> tuple[str, str]:
    """What an update of the object would lead to if no filter refuses it, and the remedy."""
    if present.instance is None:
        return _("There is no such object now."), _("Check the key of the object.")
    if Action.UPDATED not in webhook.actions:
        text = _(
            "Judged by the object as it is now: an update would not be sent. The actions of the webhook: %(wanted)s."
        )
        wanted = ", ".join(str(action.label) for action in webhook.actions) or _("none")
        remedy = join(_("To send updates, choose the action in the webhook."), SAVE_AGAIN)
        return text % {"wanted": wanted}, remedy
    if not webhook.enabled:
        text = _("Judged by the object as it is now: an update would be sent if the webhook were enabled.")
        return join(text, disabled(webhook)), _save_again(webhook, present)
    return _("Judged by the object as it is now: an update would be sent."), _save_again(webhook, present)


def _save_again(webhook: Webhook, present: Present) -> str:
    if present.instance is None:
        return _("Correct the receiver by hand: there is no object to save again.")
    return join("" if webhook.enabled else ENABLE, SAVE_AGAIN)
