"""Pages over a table too long to be counted."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.utils.functional import cached_property

from webhooks.admin import counting


class CappedPaginator(Paginator):
    """Counts no further than ``most``, and pages through that many: the first of what the order puts first."""

    most = counting.ALL

    @cached_property
    def _counted(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return counting.capped(rows, self.most).count()

    @cached_property
    def count(self) -> int:
        return min(self._counted, self.most)

    @property
    def is_capped(self) -> bool:
        """Whether there is more than it pages through."""
        return self._counted > self.most
