"""Pages of long lists, for the admin and the REST API. What a page reads depends neither on the size of a table nor on
its statistics.

A list goes from the newest row to older ones. The address of the next page has a cursor, the last row of this page, so
there is no last page to stop at. If filters leave few rows, a page looks through a limited number of rows, shows the
matches, and says how far it looked. If it found nothing, a client asks for the next page, until one has a match.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet, UUIDField

from webhooks.ground import registry
from webhooks.ground.db import Among
from webhooks.ground.db.session import index_plans
from webhooks.ground.security.encryption import Unreadable, unveil, veil
from webhooks.ground.text import as_uuid
from webhooks.insight.counts import TOTAL_CAP, capped
from webhooks.models import Delivery, Event, Run, Skip, permissions
from webhooks.models.filters import EVENT_FILTERS, FILTERS, WITH_OTHERS, Filters, Index, Rows, rows_in_order, select

M = TypeVar("M", bound=Model)

# A page looks through this many rows for matches: first a few, then more. Rows next to each other in the table cost
# less than rows that an index finds here and there.
LOOK_THROUGH, LOOK_THROUGH_SCATTERED = (1_000, 2_000, 5_000), (500, 1_000, 2_000)

# Events that one page reads deliveries of, and how often.
EVENTS_AT_ONCE, ROUNDS = 500, 4

# Each number with so many digits is a key that the database accepts.
KEY_DIGITS = 18


# A list that generic views page reads the keys of at least so many rows.
KEYS_AT_ONCE = 100


@dataclass(frozen=True)
class Found:
    """One page of a list: its primary keys, the newest first, and its rows."""

    keys: list[Any] = field(default_factory=list)
    older: str = ""
    """The cursor of the next page. Empty at the end of the list."""
    is_cut: bool = False
    """Whether the page ends because it looked through enough rows: it may have found fewer than fit."""
    count: int | None = None
    """The number of rows in the whole list, one more than ``TOTAL_CAP`` if there are more. None: not counted."""
    rows: list[Any] = field(default_factory=list)
    """Only ``LongList.page`` reads them."""

    @property
    def is_empty_so_far(self) -> bool:
        """Whether it looked through enough rows without a match, and older ones may match."""
        return self.is_cut and not self.keys


Find = Callable[..., Found]

Keep = Callable[[list[Any]], Collection[Any]]
"""Takes the keys of some rows, and returns the ones that match."""


class LongList(Generic[M]):
    """The rows of a long table that match some filters and that a user may view, the newest first.

    ``page()`` reads by a cursor, and takes the same time for every page.

    Views without cursors use it as a queryset, such as Django's ``ListView`` and ``Paginator``, or django-tables2. They
    get no further than ``TOTAL_CAP`` rows. If few rows match the filters, they get the matches among the rows that one
    page looks through: then ``is_cut`` says whether older ones may match.
    """

    ordered = True

    def __init__(self, find: Find, rows: QuerySet[M]) -> None:
        """``find`` takes a cursor and a size. ``rows`` has the columns that a page shows."""
        self.model, self._find, self._rows = rows.model, find, rows
        self._found, self._read = Found(), 0  # the first keys, and how many were asked for

    def page(self, size: int, before: str = "", *, offset: int = 0, counts: bool = True) -> Found:
        """The page of this size after a cursor, and after more rows. Raises ValueError for a cursor of another list."""
        found = self._find(before, offset + size, counts=counts)
        keys = found.keys[offset:]
        return replace(found, keys=keys, rows=self._rows_of(keys))

    def count(self) -> int:
        """The number of rows, or of matches among the rows that it looked through, at most ``TOTAL_CAP``."""
        if self._read_keys(KEYS_AT_ONCE).count is not None:
            return min(self._found.count or 0, TOTAL_CAP)
        return len(self._read_keys(TOTAL_CAP).keys)

    __len__ = count

    @property
    def is_cut(self) -> bool:
        """Whether older rows may match, which it did not look at."""
        return self._read_keys(KEYS_AT_ONCE).is_cut

    def __getitem__(self, part: Any) -> Any:
        if not isinstance(part, slice):
            return self[part : part + 1][0]
        start, stop = part.start or 0, TOTAL_CAP if part.stop is None else min(part.stop, TOTAL_CAP)
        if start < 0 or stop < 0 or part.step is not None:
            raise ValueError("Negative indexes and steps are not supported.")
        return self._rows_of(self._read_keys(stop).keys[start:stop])

    def __iter__(self) -> Iterator[M]:
        return iter(self[:])

    def order_by(self, *names: str) -> LongList[M]:
        """The order is fixed: another one would read the whole table."""
        return self

    def _read_keys(self, count: int) -> Found:
        if count > self._read and (not self._read or self._found.older):
            count = max(count, KEYS_AT_ONCE)
            known = self._found.count
            found = self._find("", count, counts=not self._read)
            self._found, self._read = replace(found, count=found.count if known is None else known), count
        return self._found

    def _rows_of(self, keys: Sequence[Any]) -> list[M]:
        with index_plans(self._rows.db):
            return rows_in_order(self._rows, keys)


def read_page(
    ordered: QuerySet[Any],
    matching: QuerySet[Any] | Keep | None,
    before: str,
    size: int,
    *,
    is_scattered: bool = False,
    counts: bool = True,
) -> Found:
    """Read a page of ``ordered`` rows, which an index finds newest first.

    ``matching`` has the rows that also match the other filters, or finds them; None without other filters. ``before``
    is the cursor. ``is_scattered`` means that the rows lie here and there in the table. With ``counts``, it also counts
    the list, if that is cheap. Raises ValueError for a cursor of another list.
    """
    keep = _among(matching) if isinstance(matching, QuerySet) else matching
    look_through = LOOK_THROUGH_SCATTERED if is_scattered else LOOK_THROUGH
    keys, edge = _read_keys(_before(ordered, before), keep, size + 1, look_through)
    is_full = len(keys) > size
    last = keys[size - 1] if is_full else edge
    count = None
    if not before and last is None:
        count = len(keys)
    elif keep is None and counts:
        count = capped(ordered.order_by(), TOTAL_CAP).count()
    return Found(keys[:size], "" if last is None else str(last), edge is not None and not is_full, count)


def _among(matching: QuerySet[Any]) -> Keep:
    key = matching.model._meta.pk
    key_type: Any = "uuid" if isinstance(key, UUIDField) else "bigint"

    def keep(keys: list[Any]) -> Collection[Any]:
        return matching.filter(Among(key.name, keys, key_type)).order_by().values_list("pk", flat=True)

    return keep


def _before(rows: QuerySet[Any], cursor: str) -> QuerySet[Any]:
    try:
        return rows.filter(pk__lt=rows.model._meta.pk.to_python(cursor)) if cursor else rows
    except ValidationError:
        raise ValueError(f"{cursor!r} is no cursor") from None


def _read_keys(
    ordered: QuerySet[Any], keep: Keep | None, limit: int, look_through: Sequence[int]
) -> tuple[list[Any], Any]:
    """Up to ``limit`` keys of matching rows, and the last key that it looked at; None at the end of the table."""
    every = ordered.values_list("pk", flat=True)
    if keep is None:
        return list(every[:limit]), None
    kept, last = list[Any](), None
    for most in look_through:
        keys = list((every if last is None else every.filter(pk__lt=last))[:most])
        found = set(keep(keys)) if keys else ()
        kept += [key for key in keys if key in found]
        if len(keys) < most:
            return kept[:limit], None
        last = keys[-1]
        if len(kept) >= limit:
            break
    return kept[:limit], last


def read_page_by_events(
    ordered: QuerySet[Any], matching: QuerySet[Any] | None, deliveries: QuerySet[Any], before: str, size: int
) -> Found:
    """As ``read_page``, but through events: a page of ``deliveries`` of these events, the newest events first."""
    event, _, last = before.partition(".")
    if last and len(event) > KEY_DIGITS:
        raise ValueError(f"{before!r} is no cursor")
    cursor = str(int(event) + 1) if last else event
    keys, found = list[tuple[int, Any]](), Found()
    for _round in range(ROUNDS):
        found = read_page(ordered, matching, cursor, EVENTS_AT_ONCE, counts=False)
        rows = deliveries.filter(event__in=found.keys).order_by("-event_id", "-pk")
        if last:
            rows = rows.filter(Q(event__lt=int(event)) | Q(event=int(event), pk__lt=UUID(last)))
        keys += rows.values_list("event_id", "pk")[: size + 1 - len(keys)]
        cursor = found.older
        if len(keys) > size or found.is_cut or not cursor:
            break
    if len(keys) > size:
        return Found([pk for _, pk in keys[:size]], "{}.{}".format(*keys[size - 1]))
    count = len(keys) if not before and not cursor else None
    return Found([pk for _, pk in keys], cursor, bool(cursor), count)


# The lists of the rows that match the filters and that the user may view. ``rows`` has the columns that a page shows.


def list_deliveries(filters: Filters, user: Any, rows: QuerySet[Delivery] | None = None) -> LongList[Delivery]:
    rows = permissions.visible_deliveries(user, Delivery.objects.for_list()) if rows is None else rows
    return LongList(partial(_concealed, _find_deliveries, filters, user), rows)


def search_deliveries(filters: Filters, user: Any, rows: QuerySet[Delivery]) -> LongList[Delivery]:
    """As ``list_deliveries``, for a list with a search: a term that is the id of a delivery finds this one, if it
    matches the other filters."""
    searched = "name" if "name" in filters else "request_id"
    if (pk := as_uuid(filters.get(searched, ""))) and rows.filter(pk=pk).exists():
        others = {name: value for name, value in filters.items() if name != searched}
        chosen = permissions.found_deliveries(user, select("deliveries", others, rows.filter(pk=pk)), others)
        pks = [pk] if chosen.exists() else []
        return LongList(lambda *args, **kwargs: Found(pks, count=len(pks)), rows)
    return list_deliveries(filters, user, rows)


def list_events(filters: Filters, user: Any, rows: QuerySet[Event] | None = None) -> LongList[Event]:
    rows = permissions.visible_events(user, Event.objects.for_list()) if rows is None else rows
    return LongList(partial(_concealed, _find_events, filters, user), rows)


def list_skips(filters: Filters, user: Any, rows: QuerySet[Skip] | None = None) -> LongList[Skip]:
    rows = permissions.visible_skips(user).select_related("webhook") if rows is None else rows
    return LongList(partial(_concealed, _find_skips, filters, user), rows)


def list_runs(filters: Filters, rows: QuerySet[Run]) -> LongList[Run]:
    """The runs among ``rows`` of this ``state`` and ``kind``."""
    return LongList(partial(read_page, rows.filter(**filters), None), rows)


def _concealed(find: Find, filters: Filters, user: Any, before: str, size: int, *, counts: bool = True) -> Found:
    """The cursor of a page that was cut names a row that the user may be unable to view: encrypt it."""
    try:
        found = find(filters, user, unveil(before), size, counts=counts)
    except Unreadable as error:
        raise ValueError(f"{before!r} is no cursor") from error
    if not found.is_cut or permissions.sees_everything(user):
        return found
    return replace(found, older=veil(found.older))


# Each of these finds the keys of a page of such a list. ``counts`` is as for ``read_page``. Raises ValueError for a
# cursor of another list.


def _find_deliveries(filters: Filters, user: Any, before: str, size: int, *, counts: bool) -> Found:
    if are_found_by_events(filters):
        return _find_by_events(filters, user, before, size)
    if not permissions.may_view_deliveries(user):
        return Found(count=0)
    ordered, indexed, index = in_order("deliveries", filters, Delivery.objects.all())
    is_scattered = index.is_scattered or any(FILTERS[name].cost == "lookup" for name in filters)
    with index_plans(Delivery.objects.db):
        rest = _rest_of(filters, indexed, user)
        return read_page(ordered, rest, before, size, is_scattered=is_scattered, counts=counts)


# Stands for none: it chooses nothing.
NO_INDEX = Index("events", 0, is_scattered=False)


def in_order(kind: Rows, filters: Filters, rows: Any) -> tuple[Any, set[str], Index]:
    """The rows that the best index for these filters finds, the newest first, the filters that it regards, and this
    index. A page looks through the rows for the other filters."""
    best, answered = NO_INDEX, set[str]()
    indexes = [(index, name) for name in filters for index in FILTERS[name].indexes if index.kind == kind]
    for index, name in sorted(indexes, key=lambda one: one[0].rank):
        if best is NO_INDEX or index.rank == WITH_OTHERS:
            chosen = (
                index.find(rows, filters[name], filters) if index.find else select(kind, {name: filters[name]}, rows)
            )
            if chosen is not None:
                rows, best = chosen, best if index.rank == WITH_OTHERS else index
                answered |= {name, *index.also} & filters.keys()
    return rows.order_by("-pk"), answered, best


def are_found_by_events(filters: Filters) -> bool:
    """Whether the events are the best way to the deliveries: an index finds the events, or they alone decide."""
    of_events = {name: filters[name] for name in filters if name in EVENT_FILTERS}
    if not of_events or of_events.keys() == filters.keys():
        return bool(of_events)
    if filters.keys() <= {*EVENT_FILTERS, "webhook"} and any(FILTERS[name].cost == "event" for name in of_events):
        return True
    return in_order("events", of_events, Event.objects.all())[2] is not NO_INDEX


def _without(filters: Filters, names: Collection[str]) -> Filters:
    return {name: value for name, value in filters.items() if name not in names}


def _split(filters: Filters) -> tuple[Filters, Filters]:
    """The filters of events, and the others."""
    return {name: filters[name] for name in filters if name in EVENT_FILTERS}, _without(filters, EVENT_FILTERS)


def _rest_of(filters: Filters, indexed: set[str], user: Any) -> Keep | None:
    """Chooses the deliveries that match the other filters, and that the user may view. None if all do."""
    of_events, rest = _split(_without(filters, indexed))
    if not (of_events or rest or permissions.is_partial(user)):
        return None

    # A query for each table: old statistics mislead a join.
    def keep(keys: list[Any]) -> Collection[Any]:
        rows = select("deliveries", rest, Delivery.objects.filter(Among("id", keys, "uuid")))
        found = dict(permissions.found_deliveries(user, rows, filters).order_by().values_list("pk", "event_id"))
        if not of_events:
            return found
        events = Event.objects.filter(Among("id", set(found.values()))).order_by()
        wanted = set(select("events", of_events, events).values_list("pk", flat=True))
        return [pk for pk, event in found.items() if event in wanted]

    return keep


def _find_by_events(filters: Filters, user: Any, before: str, size: int) -> Found:
    of_events, rest = _split(filters)
    ordered, indexed, _index = in_order("events", of_events, Event.objects.all())
    matching: Any = select("events", of_events) if of_events.keys() - indexed else None
    deliveries = permissions.found_deliveries(user, select("deliveries", rest), filters)
    with index_plans(Delivery.objects.db, may_sort=True):
        return read_page_by_events(ordered, matching, deliveries, before, size)


def _find_events(filters: Filters, user: Any, before: str, size: int, *, counts: bool) -> Found:
    events = Event.objects.all() if permissions.may_view_events(user) else Event.objects.none()
    if "webhook" in filters and not permissions.visible_webhooks(user).filter(pk=filters["webhook"]).exists():
        return Found(count=0)
    ordered, indexed, index = in_order("events", filters, events)
    matching, rest = None, _without(filters, indexed)
    if rest or permissions.is_partial(user):
        matching = permissions.visible_events(user, select("events", rest))
    with index_plans(Event.objects.db, may_sort=index.may_sort):
        return read_page(ordered, matching, before, size, is_scattered=index.is_scattered, counts=counts)


def _find_skips(filters: Filters, user: Any, before: str, size: int, *, counts: bool) -> Found:
    skips = Skip.objects.all() if permissions.may_view_skips(user) else Skip.objects.none()
    ordered, indexed, index = in_order("skips", filters, skips)
    matching, rest = None, _without(filters, indexed)
    if rest or permissions.is_partial(user):
        matching = permissions.visible_skips(user, select("skips", rest, skips))
    with index_plans(Skip.objects.db, may_sort=index.may_sort):
        return read_page(ordered, matching, before, size, is_scattered=index.is_scattered, counts=counts)


def search_filters(term: str, model: type[Event | Skip], user: Any) -> dict[str, Any]:
    """The filters that a search term means: an object by "dcim.site:12" or its id, a request, or else a part of
    the names of objects. An id counts if the rows of ``model`` have it, as far as the user may view them."""
    term, rows = term.strip(), model._default_manager
    label, colon, key = term.partition(":")
    if registry.registration_by_label(label):
        return {"object_type": label.lower()} | ({"object_id": key.strip()} if colon else {})
    with index_plans(rows.db):
        of_object = rows.filter(object_type__in=[*registry.registered_models()], object_id=term)
        if permissions.of_viewable_objects(user, of_object).exists():
            return {"object_id": term}
        # Skips have no index of requests.
        of_request = permissions.visible_events(user, Event.objects.filter(request_id=term))
        return {"request_id": term} if of_request.exists() else {"name": term}
