"""The permissions of users to see and change rows.

Four rules apply together:

- Django's permissions for the models of this app;
- the host's ``restrict()`` for single rows, as NetBox has it;
- the setting ``MAY_VIEW`` for the objects of Events;
- the setting ``MAY_VIEW_ALL`` for the models that a webhook sends: it sends all objects of a model.

``MAY_VIEW`` is the path of ``by_restriction``, of ``by_model``, or of a callable of the host. It takes a user and
Events, and returns the Events that the user may view. It also gets skips, which have the same columns of the object.

A permission to read payloads must not begin with ``view_``: NetBox gives such permissions to every user if its
``EXEMPT_VIEW_PERMISSIONS`` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import models
from django.db.models import F, Q, QuerySet, Subquery
from django.utils.module_loading import import_string

from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.db.session import index_plans
from webhooks.ground.registry.keys import key_text_sql, with_pks
from webhooks.models import Delivery, Event, QueuedDelivery, Skip, Webhook
from webhooks.models.filters import ACTOR_FILTERS
from webhooks.models.permissions.restriction import restriction
from webhooks.models.permissions.unfiltered import is_unfiltered
from webhooks.models.permissions.viewable import (
    BY_MODEL,
    BY_RESTRICTION,
    WITHOUT_OBJECT,
    sees_all,
    viewable,
)
from webhooks.models.permissions.viewable import has_perm as has_perm
from webhooks.models.permissions.viewable import may_view_all as may_view_all
from webhooks.models.permissions.viewable import may_view_model as may_view_model
from webhooks.models.queue import QueuedDeliveryQuerySet

M = TypeVar("M", bound=models.Model)

# A callable of the host for ``MAY_VIEW`` looks for objects in this many Events.
RECENT_EVENTS = 200


@dataclass(frozen=True)
class Operator:
    """The user of a management command. With the database at hand, they may view and do everything."""

    command: str
    name: str = ""
    """In the history. Empty: the command."""
    is_active = is_superuser = True

    def has_perm(self, permission: str) -> bool:
        return True

    def __str__(self) -> str:
        return self.name or f"manage.py {self.command}"


def find_user(username: str) -> Any:
    """The user of this name. None without one, or if no user can have such a name: it may be a number or a UUID."""
    users: Any = get_user_model()._default_manager
    try:
        return users.get_by_natural_key(username)
    except (ObjectDoesNotExist, AttributeError, TypeError, ValueError, ValidationError):
        return None


def allowed(user: Any, action: str, rows: QuerySet[M]) -> QuerySet[M]:
    """The rows on which the user may perform the action: by the permission for the model, and by ``restrict()``."""
    if sees_all(user):
        return rows
    if not has_perm(user, f"rq_webhooks.{action}_{rows.model._meta.model_name}"):
        return rows.none()
    restrict = restriction()
    return restrict(rows, user, action) if restrict else rows


def may(user: Any, action: str, row: models.Model) -> bool:
    """Whether the user may perform the action on one row of this app."""
    if is_restricted(user):
        return allowed(user, action, type(row)._base_manager.filter(pk=row.pk)).exists()
    return has_perm(user, f"rq_webhooks.{action}_{row._meta.model_name}")


def may_all(user: Any, action: str, model: type[models.Model]) -> bool:
    """Whether the user may perform the action on every row of a model of this app, future ones included."""
    return is_unfiltered(allowed(user, action, model._base_manager.order_by()))


def is_restricted(user: Any) -> bool:
    """Whether the user may have permissions for some rows of this app only."""
    return not sees_all(user) and restriction() is not None


def visible_webhooks(user: Any, webhooks: QuerySet[Webhook] | None = None) -> QuerySet[Webhook]:
    """The webhooks that the user may view or change, of these or of all."""
    webhooks = Webhook.objects.all() if webhooks is None else webhooks
    if not is_restricted(user):
        return webhooks if may_view_webhooks(user) else webhooks.none()
    every = Webhook.with_deleted.order_by()
    viewed, changed = (allowed(user, action, every).values("pk") for action in ("view", "change"))
    return webhooks.filter(Q(pk__in=viewed) | Q(pk__in=changed))


def visible_events(user: Any, events: QuerySet[Event] | None = None) -> QuerySet[Event]:
    """The Events that the user may view, with their objects."""
    events = Event.objects.all() if events is None else events
    return of_viewable_objects(user, allowed(user, "view", events))


def visible_deliveries(user: Any, deliveries: QuerySet[Delivery] | None = None) -> QuerySet[Delivery]:
    """The Deliveries that the user may view, with their objects, and with their webhooks if the host restricts rows."""
    deliveries = _of_visible_webhooks(user, Delivery.objects.all() if deliveries is None else deliveries)
    if _hides_objects(user):
        deliveries = deliveries.filter(event__in=of_viewable_objects(user, Event.objects.all()))
    return deliveries


def found_deliveries(user: Any, deliveries: QuerySet[Delivery], filters: Collection[str]) -> QuerySet[Delivery]:
    """The Deliveries that the user may view and find by these filters, which name columns."""
    visible = visible_deliveries(user, deliveries)
    if ACTOR_FILTERS.isdisjoint(filters) or (may_view_events(user) and not is_restricted(user)):
        return visible
    return visible.filter(event__in=visible_events(user, Event.objects.order_by()))


def visible_queue(user: Any) -> QueuedDeliveryQuerySet:
    """The rows of the queue for the Deliveries that the user may view."""
    queue: QueuedDeliveryQuerySet = QueuedDelivery.objects.all()
    if is_partial(user):
        return queue.filter(delivery__in=visible_deliveries(user, Delivery.objects.order_by()).values("pk"))
    return queue if may_view_deliveries(user) else queue.none()


def visible_queue_of(user: Any, label: str, key: str) -> QueuedDeliveryQuerySet:
    """The rows of the queue for the Deliveries of one object that the user may view. Only these: filter for them.

    It costs less than ``visible_queue``, which judges all objects.
    """
    if conf.may_view not in (BY_MODEL, BY_RESTRICTION) or sees_all(user):
        return visible_queue(user)
    queue: QueuedDeliveryQuerySet = QueuedDelivery.objects.all()
    if not may_view_deliveries(user) or not may_view_object(user, label, key):
        return queue.none()
    if is_restricted(user):
        deliveries = _of_visible_webhooks(user, Delivery.objects.order_by())
        queue = queue.filter(delivery__in=deliveries.values("pk"))
    return queue


def visible_skips(user: Any, skips: QuerySet[Skip] | None = None) -> QuerySet[Skip]:
    """The skips that the user may view, with their objects, and with their webhooks if the host restricts rows."""
    return of_viewable_objects(user, _of_visible_webhooks(user, Skip.objects.all() if skips is None else skips))


def _of_visible_webhooks(user: Any, rows: QuerySet[M]) -> QuerySet[M]:
    rows = allowed(user, "view", rows)
    if is_restricted(user):
        rows = rows.filter(webhook__in=visible_webhooks(user, Webhook.with_deleted.order_by()))
    return rows


def visible(user: Any, rows: QuerySet[M]) -> QuerySet[M]:
    """The rows of any model of this app that the user may view."""
    of_model: dict[Any, Callable[..., Any]] = {
        Webhook: visible_webhooks,
        Event: visible_events,
        Delivery: visible_deliveries,
        Skip: visible_skips,
    }
    rule = of_model.get(rows.model)
    return rule(user, rows) if rule else allowed(user, "view", rows)


def of_viewable_objects(user: Any, rows: QuerySet[M]) -> QuerySet[M]:
    """The Events or skips of objects that the user may view, by ``MAY_VIEW`` alone."""
    # A callable of the host knows only the host's users.
    return rows if isinstance(user, Operator) else import_string(conf.may_view)(user, rows)


def may_view_object(user: Any, label: str, key: str) -> bool:
    """Whether the user may view one object of "dcim.site", or its stored rows if it was deleted.

    ``MAY_VIEW`` filters rows. So a callable of the host shows only objects that have an Event or a skip.
    """
    if sees_all(user):
        return True
    if conf.may_view not in (BY_MODEL, BY_RESTRICTION):
        stored: list[QuerySet[Any]] = [Event.objects.all(), Skip.objects.all()]
        of_object = (rows.filter(object_type=label, object_id=key) for rows in stored)
        with index_plans(Event.objects.db):
            return any(of_viewable_objects(user, rows).exists() for rows in of_object)
    if label in WITHOUT_OBJECT:
        return True
    if (model := viewable(user).models.get(label)) is None:
        return False
    objects = _restricted(user, model)
    if objects is None or may_view_all(user, model):
        return True
    return bool(registry.registration_or_default(model).find(objects, key))


def viewable_objects(user: Any, model: type[models.Model]) -> QuerySet[Any]:
    """The objects of a model that the user may view. With a callable of the host for ``MAY_VIEW``, only those with a
    recent Event: the callable filters rows."""
    label, objects = model._meta.label_lower, model._base_manager.using(Event.objects.db)
    if sees_all(user):
        return objects
    if conf.may_view not in (BY_MODEL, BY_RESTRICTION):
        events = of_viewable_objects(user, Event.objects.filter(object_type=label)).order_by("-pk")
        keys = dict.fromkeys(events.values_list("object_id", flat=True)[:RECENT_EVENTS])
        registration = registry.registration_or_default(model)
        return objects.filter(with_pks(model, list(map(registration.normalize_pk, keys))))
    if label not in viewable(user).models:
        return objects.none()
    restricted = _restricted(user, model)
    return objects if restricted is None else restricted.using(objects.db)


def _restricted(user: Any, model: type[models.Model]) -> QuerySet[Any] | None:
    """The objects that the model's ``restrict()`` returns, if it has one and ``MAY_VIEW`` is ``by_restriction``."""
    return viewable(user).restricted(model) if conf.may_view == BY_RESTRICTION else None


def may_view_webhooks(user: Any) -> bool:
    """As in the admin, the permission to change implies the permission to view."""
    return has_perm(user, "rq_webhooks.view_webhook") or may_change_webhooks(user)


def may_view_events(user: Any) -> bool:
    return has_perm(user, "rq_webhooks.view_event")


def may_view_payloads(user: Any, event: Event | None = None) -> bool:
    """Whether the user may view the payload of this Event: data, snapshots, bodies. Without an Event, of all Events,
    and so the values that skips found: constraints for Events cannot be applied to skips."""
    return may(user, "read_payload", event) if event else may_all(user, "read_payload", Event)


def may_view_skips(user: Any) -> bool:
    return has_perm(user, "rq_webhooks.view_skip")


def may_view_deliveries(user: Any) -> bool:
    return has_perm(user, "rq_webhooks.view_delivery")


def may_change_webhooks(user: Any) -> bool:
    """Whether the user may change at least some webhooks."""
    return has_perm(user, "rq_webhooks.change_webhook")


def may_search_urls(user: Any) -> bool:
    """Whether the user sees the whole URL of each webhook. Else they could guess hidden ones by searches."""
    return may_change_webhooks(user) and not is_restricted(user)


def is_partial(user: Any) -> bool:
    """Whether the user may see some Events or Deliveries and not others."""
    return is_restricted(user) or _hides_objects(user)


def sees_everything(user: Any) -> bool:
    """Whether the user may see each row of this app."""
    return sees_all(user) and not is_partial(user)


def _hides_objects(user: Any) -> bool:
    if conf.may_view in (BY_MODEL, BY_RESTRICTION):
        return not sees_all(user)
    return not is_unfiltered(of_viewable_objects(user, Event.objects.all()))


# Callables for MAY_VIEW and MAY_VIEW_ALL, and a part for a host's own


def by_model(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    """The Events of models that the user has Django's permission to view, such as ``dcim.view_site``."""
    return events if sees_all(user) else events.filter(object_type__in=viewable(user).labels)


def by_restriction(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    """The default: as ``by_model``, and only the objects that NetBox's ``restrict(user, action)`` returns. If a model's
    manager has no such method, the permission for the model decides. Events of deleted objects need ``may_view_all``:
    it is no longer known who might have viewed them."""
    if sees_all(user):
        return events
    return viewable(user).filter(events)


def of_objects(objects: QuerySet[Any], *, and_gone: bool = False) -> Q:
    """A filter for the Events of these objects. With ``and_gone`` also for all deleted objects of the model: it is no
    longer known who might have viewed them."""
    model = objects.model._meta.concrete_model
    known = Q(_IsAmong(F("object_id"), _object_ids(objects)))
    if and_gone:
        known |= ~Q(_IsAmong(F("object_id"), _object_ids(model._base_manager.using(objects.db))))
    return Q(object_type=model._meta.label_lower) & known


class _IsAmong(models.Lookup):
    """As ``__in`` a subquery. Django 6.1 refuses that for a model with a composite key: it counts the fields of the
    key, not the selected ones."""

    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        value, parameters = compiler.compile(self.lhs)
        query, more = compiler.compile(self.rhs)
        return f"{value} IN {query}", (*parameters, *more)


def by_query(user: Any, model: type[models.Model]) -> bool:
    """The default of ``MAY_VIEW_ALL``: the query of ``restrict()`` has no filter. A filter that all rows of today pass
    is one. If ``MAY_VIEW`` is a callable of the host, it must return all Events."""
    if conf.may_view not in (BY_MODEL, BY_RESTRICTION):
        return not _hides_objects(user)
    return conf.may_view == BY_MODEL or viewable(user).is_unrestricted(model)


def _object_ids(objects: QuerySet[Any]) -> Subquery:
    """The primary keys as text, as Events store them."""
    text = key_text_sql(objects.model, objects.db)
    return Subquery(objects.order_by().annotate(webhooks_key=text).values("webhooks_key"))
