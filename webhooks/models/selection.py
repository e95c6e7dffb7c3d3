"""Choose deliveries, events and skips by ``filters``, and by the index that finds them in the order of their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet
from django.utils import timezone

from webhooks import registry
from webhooks.db import Among, index_plans, to_utc
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.event import OVERLAP, Event, EventQuerySet
from webhooks.models.filters import EVENT_FILTERS, OPTIONS, TIMES, select
from webhooks.models.queue import QUEUED_STATES, QueuedDeliveryQuerySet, State
from webhooks.models.skip import Skip

Filters = Mapping[str, Any]
M = TypeVar("M", bound=Model)

# No id has an earlier or a later time, and computing with such a time could overflow.
FIRST_TIME, LAST_TIME = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def filter_time(moment: datetime) -> str:
    """The time of a filter as a run stores it: ISO format, in UTC, no earlier or later than an id can be. A naive
    datetime is in the time zone of the host."""
    aware = timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return to_utc(min(max(aware, FIRST_TIME), LAST_TIME)).isoformat()


def without_options(filters: Filters) -> Filters:
    """Only what chooses rows."""
    return {name: value for name, value in filters.items() if name not in OPTIONS}


def are_queued(filters: Filters) -> bool:
    """Whether the queue has all deliveries that match: it has none that succeeded or were discarded."""
    states = filters.get("state", ())
    return bool(states) and {*states} <= {*QUEUED_STATES}


# Each of these functions narrows rows by the filters that one index finds in the order of the ids. It returns the rows,
# the newest first, and the names of these filters. A page looks through the rows for the rest.


def deliveries_in_order(filters: Filters, deliveries: DeliveryQuerySet) -> tuple[Any, set[str]]:
    names = {"error_kind" if "error_kind" in filters else "webhook"}
    if filters.get("state") == [State.DISCARDED]:
        names = {"state"}
    chosen = {name: filters[name] for name in filters.keys() & (names | TIMES)}
    return select("deliveries", chosen, deliveries).order_by("-pk"), {*chosen}


def queue_in_order(filters: Filters, queue: QueuedDeliveryQuerySet) -> tuple[Any, set[str]]:
    """The rows of the queue for these deliveries."""
    found, indexed = queue.in_states(*filters["state"]), filters.keys() & {"state", "webhook"}
    if (keys := _few_queued(filters, found)) is not None:
        return found.filter(pk__in=keys).order_by("-pk"), indexed
    chosen = {name: filters[name] for name in filters.keys() & {"webhook", *TIMES}}
    return select("deliveries", chosen, found).order_by("-pk"), indexed | chosen.keys()


# The index of each state that begins with the webhook, by the column that follows.
OF_WEBHOOK = {State.FAILED: "failed_at", State.PENDING: "due_at", State.WAITING: "event_id"}


def _few_queued(filters: Filters, rows: QueuedDeliveryQuerySet) -> list[Any] | None:
    """The keys of all rows of one webhook in one state. None if there are many, or if other filters are given."""
    [state, *others] = filters["state"]
    if others or "webhook" not in filters or state not in OF_WEBHOOK:
        return None
    return _few(rows.filter(webhook=filters["webhook"]).order_by("webhook_id", OF_WEBHOOK[state]), FEW_QUEUED)


# A page reads the keys first if at most this many events match, or rows of the queue.
FEW_EVENTS, FEW_QUEUED = 10_000, 1000


def _few(rows: QuerySet[Any], most: int) -> list[Any] | None:
    """The keys of these rows, found by an index. None if there are more than ``most``."""
    with index_plans(rows.db):
        keys = list(rows.values_list("pk", flat=True)[: most + 1])
    return keys if len(keys) <= most else None


def events_in_order(filters: Filters, events: EventQuerySet) -> tuple[Any, set[str]]:
    """A model with few events, and few failed events, are found by their keys."""
    found, indexed = events, {name for name in TIMES if name in filters}
    if "request_id" in filters:
        found = found.filter(request_id=filters["request_id"])
        indexed.add("request_id")
    elif "object_id" in filters:
        found = found.filter(_of_object(filters))
        indexed |= {"object_type", "object_id"}
    elif (keys := _few_keys(filters)) is not None:
        found = found.filter(Among("id", keys))
        indexed.add("object_type" if "object_type" in filters else "failed")
    found = select("events", {name: filters[name] for name in indexed & TIMES}, found)
    # Times have no index: find the ids that belong to them first, by another query.
    if "created_after" in filters:
        found = found.filter(pk__gte=Event.objects.first_since(datetime.fromisoformat(filters["created_after"])))
    if "created_before" in filters:
        last = datetime.fromisoformat(filters["created_before"]) + 2 * OVERLAP
        found = found.filter(pk__lt=Event.objects.first_since(last))
    return found.order_by("-pk"), indexed & filters.keys()


def skips_in_order(filters: Filters, skips: QuerySet[Skip]) -> tuple[Any, set[str]]:
    names = {"object_type", "object_id"} if "object_id" in filters else {"webhook"}
    found = skips.filter(_of_object(filters)) if "object_id" in filters else skips
    chosen = {name: filters[name] for name in filters.keys() & (names | TIMES)}
    return select("skips", chosen, found).order_by("-pk"), {*chosen}


def _of_object(filters: Filters) -> Q:
    """The rows of an object, with the model that their index needs: the one in the filters, or else any."""
    chosen = [filters["object_type"]] if "object_type" in filters else [*registry.registered_models()]
    return Q(object_type__in=chosen, object_id=filters["object_id"])


def _few_keys(filters: Filters) -> list[int] | None:
    """The keys of all events of a model, or of all that failed. None if there are many."""
    if "object_type" in filters:
        of_model = Event.objects.filter(object_type=filters["object_type"])
        return _few(of_model.order_by("object_type", "object_id"), FEW_EVENTS)
    return few_failed() if filters.get("failed") else None


def few_failed() -> list[int] | None:
    """The keys of all events that failed. None if there are many."""
    return _few(Event.objects.failed().order_by("timestamp"), FEW_EVENTS)


def are_found_by_events(filters: Filters) -> bool:
    """Whether the events are the best way to the deliveries: an index finds the events, or they alone decide."""
    if filters.keys() & {"object_id", "request_id"} or (filters and filters.keys() <= EVENT_FILTERS):
        return True
    if "object_type" in filters:
        return _few_keys(filters) is not None
    return "name" in filters and filters.keys() <= {*EVENT_FILTERS, "webhook"}


def rows_in_order(rows: QuerySet[M], keys: Sequence[Any]) -> list[M]:
    """The rows with these primary keys, in the order of the keys. Deleted rows are missing."""
    chosen: Any = rows.by_table() if isinstance(rows, DeliveryQuerySet) else rows.order_by()
    found = {row.pk: row for row in chosen.filter(pk__in=keys)}
    return [found[key] for key in keys if key in found]
