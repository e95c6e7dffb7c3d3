"""Pages of long lists. What a page reads depends neither on the size of a table nor on its statistics.

A list goes from the newest row to older ones. The address of the next page has a cursor, the last row of this page, so
there is no last page to stop at. If filters leave few rows, a page looks through a limited number of rows, shows what
it found, and says how far it looked. If it found nothing, a script asks for the next page, until one has a match.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet, UUIDField
from django.http import HttpRequest

from webhooks.db import Among, index_plans
from webhooks.models.selection import rows_in_order
from webhooks.operations.counts import TOTAL_CAP, capped

# A page looks through this many rows for matches: first a few, then many. Rows next to each other in the table cost
# less than rows that an index finds here and there.
LOOK_THROUGH, LOOK_THROUGH_SCATTERED = (1_000, 10_000), (500, 3_000)

# Events that one page reads deliveries of, and how often.
EVENTS_AT_ONCE, ROUNDS = 500, 4


@dataclass(frozen=True)
class Found:
    """The primary keys of one page of a list, the newest first."""

    keys: list[Any] = field(default_factory=list)
    older: str = ""
    """The cursor of the next page. Empty at the end of the list."""
    is_cut: bool = False
    """Whether the page ends because it looked through enough rows: it may have found fewer than fit."""
    count: int | None = None
    """The number of rows in the whole list, one more than ``TOTAL_CAP`` if there are more. None: not counted."""

    @property
    def is_empty_so_far(self) -> bool:
        """Whether it looked through enough rows without a match, and older ones may match."""
        return self.is_cut and not self.keys


Keep = Callable[[list[Any]], Collection[Any]]
"""Takes the keys of some rows, and returns the ones that match."""


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


class KeysetList(ChangeList):
    """The list of an admin page, page by page from the newest row to older ones. ``filter_form`` and
    ``read_list()`` of the ModelAdmin find the rows of a page."""

    model_admin: Any

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        """All rows that the user may view: actions choose from them by their keys."""
        self.filter_specs, self.has_filters, self.has_active_filters = [], False, False
        self.form = self.model_admin.filter_form(request)
        return self.root_queryset

    def get_results(self, request: HttpRequest) -> None:
        self.found = self.model_admin.read_list(request, self.form)
        with index_plans(self.root_queryset.db):
            self.result_list: Any = rows_in_order(self.model_admin.rows_of_list(self.root_queryset), self.found.keys)
        self.model_admin.prepare(request, self.result_list)
        count = self.found.count
        self.result_count = len(self.result_list) if count is None else count
        self.show_full_result_count = self.can_show_all = self.multi_page = False
        self.show_admin_actions, self.full_result_count = True, None
        self.paginator = Paginator(self.result_list, max(1, self.list_per_page))
