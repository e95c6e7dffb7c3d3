"""Verdicts about changes that left nothing: the object as it is now shows them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

from django.db import models
from django.db.models import OuterRef, Subquery
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks import payloads
from webhooks.capture import subscriptions
from webhooks.capture.bulk import TrackedQuerySet
from webhooks.capture.context import Actor
from webhooks.capture.matching import Budget, EventContext, match
from webhooks.capture.serialize import Payload, serialize_or_error
from webhooks.capture.subscriptions import Subscriptions
from webhooks.conf import conf
from webhooks.db import to_utc
from webhooks.models import Action, Event, Skip, Webhook
from webhooks.operations.why.rows import StoredChange, Viewer, with_known_data
from webhooks.operations.why.stored import not_chosen, rule_remedy
from webhooks.operations.why.verdict import (
    ADD_TO_WEBHOOK,
    ENABLE,
    SAVE_AGAIN,
    Cause,
    Target,
    Verdict,
    changed_after,
    disabled,
    join,
    models_of,
    retention_days,
    turned_off,
)
from webhooks.operations.wording import exact_time, skip_reason
from webhooks.payloads import snapshots
from webhooks.registry.registration import Registration
from webhooks.text import clean, json_equal, last_line

# How objects change without a signal of Django, or with one that is not captured.
RAW_SQL, MIGRATION = gettext_lazy("raw SQL"), gettext_lazy("a data migration")
UNSIGNALLED: dict[Action, list[Any]] = {
    Action.CREATED: ["bulk_create()", RAW_SQL, MIGRATION, "loaddata"],
    Action.UPDATED: ["update()", "bulk_update()", RAW_SQL, MIGRATION, "loaddata"],
    Action.DELETED: [RAW_SQL, MIGRATION, gettext_lazy("a cascade in the database")],
}
# What is left of these ways if the manager of the model captures bulk operations.
LEFT_WITH_MANAGER = {"update()": "", "bulk_update()": "", "bulk_create()": "bulk_create(ignore_conflicts=True)"}
TRACKED = gettext_lazy("To capture update(), bulk_create() and bulk_update(), give the model webhooks.WebhookManager.")


@dataclass
class Present:
    """The object that is asked about, as it is now."""

    registration: Registration
    instance: models.Model | None
    """None if there is no such object."""
    is_deleted: bool
    """Whether its last Event says that it was deleted."""
    knows_model: bool
    """Whether an Event of any object of the model is stored."""
    captured_at: datetime | None
    """When its last captured change happened. None if none is stored."""
    differs: tuple[str, ...] = ()
    """Its own fields that differ from the last Event. Values of related objects do not count."""
    differs_in_relations: bool = False
    """Whether these are all many-to-many relations: then an object that they show may have a new name."""
    data_errors: dict[int, str] = field(default_factory=dict)
    """Why its data cannot be written for webhooks, by the serializers that they use."""
    refusals: dict[int, Skip] = field(default_factory=dict)
    """Why webhooks would skip an update of it."""
    filter_errors: dict[int, str] = field(default_factory=dict)
    """Why the conditions of webhooks fail for it."""

    @property
    def label(self) -> str:
        return self.registration.label

    @property
    def exists(self) -> bool:
        return self.instance is not None

    @property
    def is_tracked(self) -> bool:
        """Whether its manager captures bulk operations."""
        return isinstance(self.registration.model._default_manager.all(), TrackedQuerySet)

    @property
    def last_saved(self) -> datetime | None:
        """By its ``auto_now`` fields. None if it has none."""
        columns = self.registration.model._meta.concrete_fields
        names = [one.attname for one in columns if isinstance(one, models.DateTimeField) and one.auto_now]
        times = [getattr(self.instance, name, None) for name in names]
        return max((one for one in times if isinstance(one, datetime)), default=None)

    @property
    def lost(self) -> str:
        """What happened to the object after its last Event and left nothing; empty if nothing did."""
        if self.exists and self.is_deleted:
            return _("The object exists again, but no event says that it was created.")
        if not self.exists and not self.is_deleted:
            return _("The object is gone, but no event says that it was deleted.")
        if not self.differs:
            return ""
        text = _("The object differs from its last event in %(fields)s.") % {"fields": ", ".join(self.differs)}
        return join(text, _("Perhaps a related object has a new name.") if self.differs_in_relations else "")

    @property
    def lost_action(self) -> Action:
        if not self.exists:
            return Action.DELETED
        return Action.CREATED if self.is_deleted else Action.UPDATED

    def unsignalled(self, *actions: Action) -> str:
        """How such changes happen without being captured."""
        left = LEFT_WITH_MANAGER if self.is_tracked else {}
        found = dict.fromkeys(str(left.get(way, way)) for action in actions for way in UNSIGNALLED[action])
        ways = [way for way in found if way]
        return _("%(ways)s or %(last)s") % {"ways": ", ".join(ways[:-1]), "last": ways[-1]}


def look(
    registration: Registration, pk: Any, last: StoredChange | None, webhooks: Sequence[Webhook], knows_model: bool
) -> Present:
    """The object now, compared with its last captured change, and judged by the filters of these webhooks."""
    instance = registration.find(registration.rows(Event.objects.db), pk)
    is_deleted = last is not None and last.action == Action.DELETED
    present = Present(registration, instance, is_deleted, knows_model, last.timestamp if last else None)
    if instance is None:
        return present
    payload_of = cache(partial(serialize_or_error, registration, instance))
    _note_refusals(present, payload_of, webhooks)
    known = with_known_data(last) if last else None
    if known and (event := Event.objects.filter(pk=known.pk).first()):
        _note_differences(present, payload_of, event)
    return present


def _note_refusals(present: Present, payload_of: Callable[[str], Payload | str], webhooks: Sequence[Webhook]) -> None:
    """Note why webhooks that want updates of the model would not get one of this object."""
    wanting = [one.pk for one in webhooks if Action.UPDATED in one.actions and present.label in models_of(one)]
    chosen = subscriptions.read(Event.objects.db)
    if not chosen.keeps_skips:  # then it would give no reasons
        chosen = replace(chosen, disabled=Subscriptions())
    for serializer, ids in chosen.by_serializer(wanting).items():
        payload = payload_of(serializer)
        if isinstance(payload, str):
            present.data_errors |= dict.fromkeys(ids, payload)
            continue
        context = EventContext(Action.UPDATED, payload.data, payload.columns()["snapshots"], "", Actor())
        matched = match(ids, chosen, context, Budget())
        for webhook, refusal in matched.refusals.items():
            present.refusals[webhook] = Skip(action=Action.UPDATED, rule=refusal.rule, detail=refusal.detail)
        for webhook in matched.errored:
            error = context.errors[chosen.filters[webhook].conditions]
            present.filter_errors[webhook] = clean(last_line(f"{type(error).__name__}: {error}"))


def _note_differences(present: Present, payload_of: Callable[[str], Payload | str], last: Event) -> None:
    """Note the fields that differ in the snapshots, which leave out ``auto_now`` fields and values of related objects.
    Fields that only one snapshot has do not count: the serializer may have changed since."""
    names = ["", *json.loads(last.serializers or "{}")]
    name = next((name for name in names if payloads.has_serializer(last, name)), "")
    payload, before = payload_of(name), json.loads(last.snapshots or "{}").get("postchange")
    if isinstance(payload, str) or not isinstance(before, Mapping):
        return
    now = json.loads(payload.snapshot)
    differs = sorted(name for name in now.keys() & before.keys() if not json_equal(now[name], before[name]))
    fields = snapshots.snapshot_fields(present.registration, name)
    relations = {name for name, one in fields.items() if one.many_to_many}
    present.differs, present.differs_in_relations = tuple(differs), relations.issuperset(differs)


def changed_again(verdict: Verdict, present: Present, since: datetime | None) -> Verdict:
    """The verdict about a change after the last stored one. ``since`` is when webhooks certainly wanted such a change;
    None if that is not known."""
    webhook, action = verdict.webhook, present.lost_action
    lost = join(present.lost, _("Nothing is stored of that change."))
    common: dict[str, Any] = {"changed": present.differs, "earlier": verdict}
    if text := not_chosen(webhook, action, present.label, models_of(webhook)):
        text = join(present.lost, text)
        return Verdict(webhook, Cause.NOT_CHOSEN, text, str(ADD_TO_WEBHOOK), Target.WEBHOOK, **common)
    if not conf.enabled:
        return replace(turned_off(webhook, _("Changes are not recorded.")), **common)
    remedy = _save_again(webhook, present)
    if doubt := _doubt(present, since):
        cause, text = doubt
        return Verdict(webhook, cause, join(lost, text), remedy, Target.WEBHOOK, **common)
    text = _("It was not captured: it came by %(ways)s, or webhooks were turned off.")
    text %= {"ways": present.unsignalled(action)}
    if action != Action.DELETED and not present.is_tracked:
        remedy = join(remedy, TRACKED)
    return Verdict(webhook, Cause.NO_SIGNAL, join(lost, text), remedy, Target.CAPTURE, **common)


def _doubt(present: Present, since: datetime | None) -> tuple[Cause, str] | None:
    """Why a change that left nothing may still have been captured, or unwanted; None if it was neither."""
    newest = max(to_utc(one) for one in (present.last_saved, present.captured_at) if one)
    if _is_past_retention(newest):
        text = _("Perhaps its event was deleted, or no enabled webhook wanted it.")
        days = _("Events are deleted after %(days)g days or more.") % {"days": retention_days()}
        return Cause.UNKNOWN, join(text, days)
    if not since:
        return Cause.NO_SUBSCRIBER, _("Perhaps no enabled webhook wanted it, or its skips were deleted.")
    if newest < since:
        text = _("Perhaps no enabled webhook wanted it before %(time)s.") % {"time": exact_time(since)}
        return Cause.NO_SUBSCRIBER, text
    return None


def _is_past_retention(moment: datetime) -> bool:
    """Whether an Event of this time may be deleted already."""
    return to_utc(moment) < datetime.now(UTC) - timedelta(days=retention_days())


def never_stored(webhook: Webhook, present: Present, viewer: Viewer) -> Verdict:
    """The verdict about an object without any stored change. It is judged as it is now."""
    labels = models_of(webhook)
    if present.label not in labels:
        text = not_chosen(webhook, Action.UPDATED, present.label, labels)
        return Verdict(webhook, Cause.NOT_CHOSEN, text, str(ADD_TO_WEBHOOK), Target.WEBHOOK)
    if not conf.enabled:
        return turned_off(webhook, _("Changes are not recorded."))
    cause, text = _by_last_save(webhook, present)
    now, remedy = _("There is no such object now."), _("Check the key of the object.")
    if present.exists:
        now, remedy = _as_it_is_now(webhook, present, viewer)
    return Verdict(webhook, cause, join(text, now), remedy, Target.WEBHOOK)


def _by_last_save(webhook: Webhook, present: Present) -> tuple[Cause, str]:
    """What the time of the last save says, if the model keeps it in an ``auto_now`` field."""
    nothing, saved = _("No change of this object is stored."), present.last_saved
    values: dict[str, Any] = {
        "model": present.label,
        "created": exact_time(webhook.created),
        "changed": exact_time(webhook.last_updated),
        "ways": present.unsignalled(Action.UPDATED, Action.CREATED),
        "days": retention_days(),
    }
    if saved is None:
        return Cause.NO_TRACE, join(nothing, _without_time(webhook, present) % values)
    last = join(nothing, _("It was last saved at %(time)s.") % {"time": exact_time(saved)})
    if to_utc(saved) < to_utc(webhook.created):
        return Cause.CREATED_LATER, join(last, _("The webhook was created later, at %(created)s.") % values)
    if changed_after(webhook, saved):
        text = _("The webhook was changed later, at %(changed)s, and perhaps did not want the object before.")
        return Cause.CHANGED_LATER, join(last, text % values)
    if _is_past_retention(saved):
        return Cause.DELETED, join(last, _("Events are deleted after %(days)g days or more.") % values)
    text = _(
        "The webhook is older. Possible reasons: it was written by %(ways)s, which are not captured; webhooks were "
        "turned off; or the model was not registered then."
    )
    return Cause.NO_TRACE, join(last, text % values)


def _without_time(webhook: Webhook, present: Present) -> str:
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
    if present.knows_model:
        return reasons
    others = _("Nothing is stored of any other %(model)s either: perhaps the model was registered only recently.")
    return join(others, reasons)


def _as_it_is_now(webhook: Webhook, present: Present, viewer: Viewer) -> tuple[str, str]:
    """What an update of the object would lead to, and the remedy."""
    if error := present.data_errors.get(webhook.pk):
        text = _("Judged by the object as it is now: its data cannot be written.")
        if viewer.sees_events:
            text = _("Judged by the object as it is now: its data cannot be written (%(error)s).")
        return text % {"error": error}, join(_("Correct the serializer."), SAVE_AGAIN)
    if error := present.filter_errors.get(webhook.pk):
        text = _("Judged by the object as it is now: the conditions of the webhook fail.")
        if viewer.sees_events:
            text = _("Judged by the object as it is now: the conditions of the webhook fail (%(error)s).")
        return text % {"error": error}, join(_("Correct the conditions of the webhook."), SAVE_AGAIN)
    if Action.UPDATED not in webhook.actions:
        text = _(
            "Judged by the object as it is now: an update would not be sent. The actions of the webhook: %(wanted)s."
        )
        wanted = ", ".join(str(one.label) for one in webhook.actions) or _("none")
        remedy = join(_("To send updates, choose the action in the webhook."), SAVE_AGAIN)
        return text % {"wanted": wanted}, remedy
    if skip := present.refusals.get(webhook.pk):
        text = _("Judged by the object as it is now: an update would be skipped.")
        return join(text, skip_reason(skip, viewer.shows_actual)), rule_remedy(webhook, skip)
    if not webhook.enabled:
        text = _("Judged by the object as it is now: an update would be sent if the webhook were enabled.")
        return join(text, disabled(webhook)), _save_again(webhook, present)
    return _("Judged by the object as it is now: an update would be sent."), _save_again(webhook, present)


def _save_again(webhook: Webhook, present: Present) -> str:
    if not present.exists:
        return _("Correct the receiver by hand: there is no object to save again.")
    return join("" if webhook.enabled else ENABLE, SAVE_AGAIN)


def watched_since(webhooks: Iterable[Webhook], label: str, action: Action) -> datetime | None:
    """Since when (UTC) each such change certainly leaves an Event or a skip; None if that is not known.

    A webhook with filters leaves a skip, if skips are stored, and only as long as they are.
    """
    times, filtered = list[datetime](), dict[int, datetime]()
    for one in webhooks:
        if one.enabled and label in models_of(one) and action in one.actions:
            begun = max(to_utc(one.created), to_utc(one.last_updated))
            if one.conditions or one.changed_fields or one.only_changes or one.excluded_usernames:
                filtered[one.pk] = begun
            else:
                times.append(begun)
    if filtered and conf.keeps_skips:
        times += [max(filtered[pk], skips_since) for pk, skips_since in _skips_since(filtered)]
    return min(times, default=None)


def _skips_since(webhooks: Collection[int]) -> list[tuple[int, datetime]]:
    """Since when (UTC) all skips of each of these webhooks are stored: older ones may be too old or too many."""
    since = datetime.now(UTC) - timedelta(days=conf.skip_days)
    most = conf.skips_per_webhook
    newest = Skip.objects.filter(webhook=OuterRef("pk")).order_by("-pk").values("timestamp")
    found = Webhook.objects.filter(pk__in=webhooks).values_list("pk", Subquery(newest[most - 1 : most]))
    return [(pk, max(since, to_utc(oldest)) if oldest else since) for pk, oldest in found]
