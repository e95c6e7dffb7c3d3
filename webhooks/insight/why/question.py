"""``why()``: find the change that is asked about and its rows, and get a verdict for each webhook.

The number of queries does not depend on the number of webhooks. Rows are never locked or changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models, router
from django.db.models import Case, Q, QuerySet, When
from django.utils.translation import gettext as _

from webhooks.ground import registry
from webhooks.ground.db.session import index_plans
from webhooks.ground.registry.keys import has_key, key_text
from webhooks.ground.registry.registration import Registration
from webhooks.insight.why import rows, stored, unstored
from webhooks.insight.why.causes import (
    ADD_TO_WEBHOOK,
    Cause,
    Target,
    Verdict,
    join,
    not_chosen,
    not_recorded,
    retention,
)
from webhooks.insight.why.rows import StoredChange, Viewer
from webhooks.insight.wording import how_to_register, registration_remedy
from webhooks.models import Action, Event, Skip, Webhook, permissions
from webhooks.models.event import LARGE_FIELDS, PING
from webhooks.models.webhook_secrets import SECRET_FIELDS

# Events of an object that are read, and objects of a request that are answered.
RECENT_EVENTS, MAX_OBJECTS = 20, 100
MAX_REQUEST_ROWS = 2000

# Changes of a webhook's models that are answered, and events that are read for them: no index has the model alone.
MAX_CHANGES, MAX_LAST_EVENTS = 10, 1000


class UnknownObject(LookupError):
    """There is no such model, Event or webhook, or the user may not view it. The message says which."""


def why(
    obj: models.Model | tuple[str, Any] | None = None,
    *,
    event: Event | int | None = None,
    request_id: str = "",
    webhook: Webhook | int | None = None,
    user: Any = None,
) -> list[Verdict]:
    """Say for each webhook, or for one, why nothing arrived, or that it was sent.

    Give one of three: ``obj``, an instance or a pair such as ``("dcim.site", 5)``, about the last change of the object;
    ``event``, an Event or its id; or ``request_id``, about the last change of each object in that request, at most
    ``MAX_OBJECTS``. If nothing is stored of an object, its present state is judged; ``Verdict.change`` is then None.
    A ``webhook`` alone is a question too, about the last changes of its models, at most ``MAX_CHANGES``.

    ``user`` limits the answer to what this user may view. Raises UnknownObject, and TypeError if none or several of
    these are given. Changes nothing.
    """
    given = (obj is not None) + (event is not None) + bool(request_id)
    if given > 1 or (not given and webhook is None):
        raise TypeError("why() takes one of these: an object, event=…, request_id=… or webhook=….")
    question = _Question(webhook, Viewer(user))
    if not given:
        return question.about_last_changes()
    if obj is not None:
        return question.about_object(obj)
    return question.about_event(event) if event is not None else question.about_request(request_id)


class _Question:
    def __init__(self, webhook: Webhook | int | None, viewer: Viewer) -> None:
        self._viewer = viewer
        self._every = list(Webhook.objects.defer(*SECRET_FIELDS).prefetch_related("object_types"))
        visible = permissions.visible_webhooks(viewer.user)
        if webhook is not None:
            pk = webhook.pk if isinstance(webhook, Webhook) else webhook
            visible = visible.filter(pk=pk)
        seen = set(visible.values_list("pk", flat=True))
        self._webhooks = [webhook for webhook in self._every if webhook.pk in seen]
        if webhook is not None and not seen:
            raise UnknownObject(_("There is no webhook %(id)s.") % {"id": pk})

    # An object

    def about_object(self, obj: models.Model | tuple[str, Any]) -> list[Verdict]:
        if isinstance(obj, models.Model) and (verdicts := self._without_events(obj)):
            return verdicts
        registration, pk = _identify(obj)
        label, key = registration.label, key_text(pk)
        if not permissions.may_view_object(self._viewer.user, label, key):
            unknown = _("There is no %(model)s %(key)s, or you may not view it.")
            raise UnknownObject(unknown % {"model": label, "key": key})
        of_object = Q(object_type=label, object_id=key)
        with index_plans(Event.objects.db):
            events = list(self._events(of_object)[:RECENT_EVENTS])
            # One change leaves at most one skip for each webhook.
            skips = list(self._skips(of_object)[: 2 * len(self._every) + 20])
            # Only users with permission for all objects learn whether others have events.
            is_hidden = not permissions.may_view_all(self._viewer.user, registration.model)
            knows_model = bool(events or skips) or is_hidden or Event.objects.filter(object_type=label).exists()
        change = rows.latest(events, skips)
        is_registered = registry.registration_of(registration.model) is not None
        if change is None and not is_registered:
            return self._not_registered(label)
        # Custom events say nothing about the state of the object.
        captured = rows.latest(
            [event for event in events if event.action in Action], [skip for skip in skips if skip.action in Action]
        )
        present = unstored.Present(registration, pk, captured)
        if change is None:
            return unstored.never_stored(self._webhooks, present, self._viewer, knows_model)
        verdicts = self._verdicts([change])
        if not is_registered:
            return [unstored.not_registered(verdict, present) for verdict in verdicts]
        if captured is None or present.lost_action is None:
            return unstored.with_outlooks(verdicts, present, self._viewer)
        since = rows.watched_since(self._every, label, present.lost_action)
        return [unstored.changed_again(verdict, present, present.lost_action, since) for verdict in verdicts]

    def _without_events(self, obj: models.Model) -> list[Verdict]:
        """The verdicts about an instance that no Event can be about; empty if there may be one."""
        if not has_key(obj.pk):
            text = _("The object has no key: it is not saved, or was deleted.")
            return self._same(Cause.NOT_SAVED, text, _('Ask with its model and its key, such as ("dcim.site", 5).'))
        using = router.db_for_write(type(obj), instance=obj)
        if using == Event.objects.db:
            return []
        text = _("The object is in the database %(found)r. Changes are captured in %(captured)r only.")
        text %= {"found": using, "captured": Event.objects.db}
        remedy = _("Keep the models that have webhooks in the database of the webhooks.")
        return self._same(Cause.OTHER_DATABASE, text, remedy)

    def _not_registered(self, label: str) -> list[Verdict]:
        text = _("The model %(model)s is not registered, so no webhook can send it. Nothing is stored of this object.")
        return [self._of_unregistered(webhook, label, text % {"model": label}) for webhook in self._webhooks]

    def _of_unregistered(self, webhook: Webhook, label: str, text: str) -> Verdict:
        chosen = rows.models_of(webhook)
        if label in chosen:
            return Cause.NOT_REGISTERED.verdict(webhook, text, registration_remedy([label]))
        text = join(not_chosen(webhook, Action.UPDATED, label, chosen), text)
        remedy = join(how_to_register([label]), ADD_TO_WEBHOOK)
        return Cause.NOT_CHOSEN.verdict(webhook, text, remedy, target=Target.CAPTURE)

    def _same(self, cause: Cause, text: str, remedy: str, **more: Any) -> list[Verdict]:
        return [cause.verdict(webhook, text, remedy, **more) for webhook in self._webhooks]

    # An Event

    def about_event(self, event: Event | int) -> list[Verdict]:
        pk = event.pk if isinstance(event, Event) else event
        asked = self._events(Q(pk=pk)).first()
        if asked is None:
            unknown = _("Event %(id)s is not stored, or you may not view it.") % {"id": pk}
            raise UnknownObject(join(unknown, retention()))
        replayed = Q(object_type=asked.object_type, object_id=asked.object_id, replay_of=pk)
        with index_plans(Event.objects.db):
            events = list(self._events(rows.near(asked) | replayed))
            skips = list(self._skips(rows.near(asked) & rows.skip_ids_around([asked])))
        replays = [event for event in events if event.replay_of == pk]
        others = [event for event in events if event.replay_of != pk and event.pk != pk]
        wanted_by = () if asked.error else asked.webhook_ids
        skips = [skip for skip in skips if skip.webhook_id not in wanted_by]
        skips.sort(key=lambda skip: abs(skip.timestamp - asked.timestamp))
        return self._verdicts([StoredChange.from_rows(asked, [*replays, asked, *others], skips)])

    # A request

    def about_request(self, request_id: str) -> list[Verdict]:
        # Only users with permission for its rows learn the request of a change.
        user, of_request, skips = self._viewer.user, Q(request_id=request_id), list[Skip]()
        if not (self._viewer.sees_events or self._viewer.sees_skips):
            text = _("To ask about a request, you need the permission %(permissions)s.")
            raise UnknownObject(text % {"permissions": "rq_webhooks.view_event, rq_webhooks.view_skip"})
        with index_plans(Event.objects.db, may_sort=True):
            events = list(permissions.allowed(user, "view", self._events(of_request))[:MAX_REQUEST_ROWS])
            # Skips have no index of requests, but one of times.
            near = rows.skip_ids_around(events) if events else rows.newest_skips()
            if self._viewer.sees_skips:
                skips = list(permissions.allowed(user, "view", self._skips(of_request & near))[:MAX_REQUEST_ROWS])
        if latest := rows.latest_of_each(events, skips):
            return self._verdicts(latest[:MAX_OBJECTS])
        text = _(
            "No event and no recent skipped change of the request %(request)s is stored. Perhaps it changed nothing "
            "that a webhook wants, or its transaction was rolled back."
        )
        remedy = _("Ask about one of the objects instead.")
        return self._same(Cause.NO_TRACE, text % {"request": request_id}, remedy, target=Target.CAPTURE)

    # A webhook

    def about_last_changes(self) -> list[Verdict]:
        """The last change of each object that changed last, the newest first."""
        [webhook] = self._webhooks
        is_wanted = Q(object_type__in=rows.models_of(webhook)) | Q(action__in=webhook.custom_events)
        events, skips = list[Event](), list[Skip]()
        with index_plans(Event.objects.db):
            # A list of changes is more than an answer about one object: it takes the permissions for its rows.
            if self._viewer.sees_events:
                newest = Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
                last = self._events(Q(pk__gt=newest - MAX_LAST_EVENTS) & (is_wanted | Q(action=PING)))
                visible = permissions.allowed(self._viewer.user, "view", last.order_by("-pk"))
                events = [event for event in visible if event.action != PING or webhook.pk in event.webhook_ids]
            if self._viewer.sees_skips:
                own = self._skips(Q(webhook=webhook.pk)).order_by("-pk")
                skips = list(permissions.allowed(self._viewer.user, "view", own)[: 5 * MAX_CHANGES])
        verdicts = self._verdicts(rows.latest_of_each(events, skips)[: -MAX_CHANGES - 1 : -1])
        return [*self._about_unregistered(webhook), *verdicts]

    def _about_unregistered(self, webhook: Webhook) -> list[Verdict]:
        """A verdict about the models of the webhook that are not registered, if it has any: they leave no rows."""
        models = registry.unregistered(rows.models_of(webhook))
        if not models or not webhook.enabled:
            return []
        return [Cause.NOT_REGISTERED.verdict(webhook, not_recorded(models), registration_remedy(models))]

    # The rows

    def _events(self, chosen: Q) -> QuerySet[Event]:
        """Without large columns, the newest first."""
        large = [name for name in LARGE_FIELDS if name != "webhook_ids"]
        has_data = Case(When(data="", then=False), default=True, output_field=models.BooleanField())
        chosen_events = (
            Event.objects.filter(chosen).annotate(has_data=has_data).defer(*large).select_related("undispatched")
        )
        return permissions.of_viewable_objects(self._viewer.user, chosen_events)

    def _skips(self, chosen: Q) -> QuerySet[Skip]:
        return permissions.of_viewable_objects(self._viewer.user, Skip.objects.filter(chosen))

    def _verdicts(self, asked: Sequence[StoredChange]) -> list[Verdict]:
        """The verdicts for each of these changes and each webhook."""
        events = [event for change in asked for event in change.events]
        skips = [skip for change in asked for skip in change.skips]
        deliveries = rows.read_deliveries({webhook.pk for webhook in self._webhooks}, [event.pk for event in events])
        self._viewer.look_up([*events, *skips, *deliveries.by_event.values(), *deliveries.heads.values()])
        return [
            stored.judge(webhook, change, deliveries, self._viewer) for change in asked for webhook in self._webhooks
        ]


# The object that is asked about


def _identify(obj: models.Model | tuple[str, Any]) -> tuple[Registration, Any]:
    """The registration of the model or of its parent, else a default one, and the primary key. Raises UnknownObject."""
    if isinstance(obj, models.Model):
        model, pk = type(obj), obj.pk
    else:
        label, pk = obj
        try:
            model = apps.get_model(label)
        except (LookupError, ValueError):
            raise UnknownObject(_("There is no model %(model)s.") % {"model": label}) from None
    touched = registry.registrations_touched(model)  # its parents first, the model itself last
    registration = touched[-1] if touched else registry.registration_or_default(model)
    if isinstance(obj, models.Model):  # a child may have another key than its parent's row
        pk = getattr(obj, registration.model._meta.pk.attname, pk)
    try:
        return registration, registration.normalize_pk(pk)
    except ValidationError:
        if isinstance(obj, models.Model):
            return registration, pk
        impossible = _("%(key)r cannot be the key of an object of %(model)s.")
        raise UnknownObject(impossible % {"key": pk, "model": registration.label}) from None
