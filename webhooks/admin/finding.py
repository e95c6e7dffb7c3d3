"""Find the rows of one page of a list: the deliveries, events or skips that match filters and that a user may view.

Each way begins with rows that an index finds newest first, and looks through a limited number of them for the rest.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from webhooks import permissions, registry
from webhooks.admin.paging import LOOK_THROUGH, LOOK_THROUGH_SCATTERED, Found, Keep, read_page, read_page_by_events
from webhooks.db import Among, index_plans
from webhooks.models import Delivery, Event, QueuedDelivery, Skip
from webhooks.models.ids import first_id
from webhooks.models.selection import (
    EVENT_COLUMNS,
    TIMES,
    Filters,
    are_found_by_events,
    events_in_order,
    in_order,
    select_deliveries,
    select_events,
    select_queued,
)
from webhooks.permissions import visible_queue

# The column of a skip, or the lookup, for each filter.
SKIP_COLUMNS = EVENT_COLUMNS | {"webhook": "webhook", "rule": "rule"}


def find_deliveries(filters: Filters, user: Any, before: str, size: int) -> Found:
    """A page of deliveries. Raises ValueError for a cursor of another list."""
    if are_found_by_events(filters):
        return _deliveries_by_events(filters, user, before, size)
    # The kind of an error leaves fewer rows than a state.
    queued = None if "error_kind" in filters else select_queued(filters, visible_queue(user))
    model: Any = Delivery.without_state if queued is None else QueuedDelivery.objects
    ordered, indexed = in_order(filters, model.all() if permissions.may_view_deliveries(user) else model.none())
    is_scattered = indexed - TIMES or "status" in filters
    look_through = LOOK_THROUGH_SCATTERED if is_scattered else LOOK_THROUGH
    with index_plans(Delivery.objects.db):
        return read_page(ordered, _rest_of(filters, indexed, user), before, size, look_through=look_through)


def _rest_of(filters: Filters, indexed: set[str], user: Any) -> Keep | None:
    """Chooses the deliveries that match the other filters, and that the user may view. None if all do."""
    of_events = {name: value for name, value in filters.items() if name in EVENT_COLUMNS and name not in indexed}
    rest = {name: value for name, value in filters.items() if name not in {*of_events, *indexed}}
    is_partial = permissions.is_partial(user)
    if not (of_events or rest or is_partial):
        return None

    def keep(rows: list[tuple[Any, int]]) -> list[Any]:
        if of_events:
            events = Event.objects.filter(Among("id", {event for _, event in rows})).order_by()
            found = set(select_events(of_events, events).values_list("pk", flat=True))
            rows = [row for row in rows if row[1] in found]
        if rows and (rest or is_partial):
            chosen = Delivery.without_state.filter(Among("id", [pk for pk, _ in rows], "uuid")).order_by()
            visible = permissions.visible_deliveries(user, select_deliveries(rest, chosen))
            kept = set(visible.values_list("pk", flat=True))
            rows = [row for row in rows if row[0] in kept]
        return [pk for pk, _ in rows]

    return keep


def _deliveries_by_events(filters: Filters, user: Any, before: str, size: int) -> Found:
    of_events = {name: value for name, value in filters.items() if name in EVENT_COLUMNS}
    rest = {name: value for name, value in filters.items() if name not in EVENT_COLUMNS}
    ordered, indexed = events_in_order(of_events, Event.objects.all())
    matching: Any = select_events(of_events) if of_events.keys() - indexed else None
    deliveries = permissions.visible_deliveries(user, select_deliveries(rest, Delivery.without_state.all()))
    with index_plans(Delivery.objects.db, may_sort=True):
        return read_page_by_events(ordered, matching, deliveries, before, size)


def find_events(filters: Filters, user: Any, before: str, size: int) -> Found:
    """A page of events. Raises ValueError for a cursor of another list."""
    events = Event.objects.all() if permissions.may_view_events(user) else Event.objects.none()
    ordered, indexed = events_in_order(filters, events)
    rest = filters.keys() - indexed or permissions.is_partial(user)
    matching = permissions.visible_events(user, select_events(filters)) if rest else None
    with index_plans(Event.objects.db, may_sort=bool(indexed - TIMES)):
        return read_page(
            ordered, matching, before, size, look_through=LOOK_THROUGH_SCATTERED if indexed - TIMES else LOOK_THROUGH
        )


def find_skips(filters: Filters, user: Any, before: str, size: int) -> Found:
    """A page of skips. Raises ValueError for a cursor of another list."""
    ordered: Any = Skip.objects.all() if permissions.may_view_skips(user) else Skip.objects.none()
    ordered, indexed = ordered.order_by("-pk"), {name for name in TIMES if name in filters}
    if "object_id" in filters:
        labels = [registration.label for registration in registry.registrations()]
        chosen = [filters["object_type"]] if "object_type" in filters else labels
        ordered = ordered.filter(object_type__in=chosen, object_id=filters["object_id"])
        indexed |= {"object_type", "object_id"}
    elif "webhook" in filters:
        ordered, indexed = ordered.filter(webhook=filters["webhook"]), indexed | {"webhook"}
    for name, lookup in (("created_after", "pk__gte"), ("created_before", "pk__lt")):
        if name in filters:
            ordered = ordered.filter(**{lookup: first_id(datetime.fromisoformat(filters[name]))})
    matching = None
    if filters.keys() - indexed or permissions.is_partial(user):
        columns = {SKIP_COLUMNS[name]: value for name, value in filters.items() if name not in indexed}
        matching = permissions.visible_skips(user, ordered.filter(**columns))
    with index_plans(Skip.objects.db, may_sort="object_id" in filters):
        return read_page(ordered, matching, before, size)
