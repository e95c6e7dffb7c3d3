"""Pages over a table too long to be counted."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.utils.functional import cached_property


class CappedPaginator(Paginator):  # type: ignore[type-arg]  # not generic at run time
    """Counts no further than ``most``, and pages through that many: the first of what the order puts first."""

    most = 10_000

    @cached_property
    def _counted(self) -> int:
        return int(self.object_list.order_by().values("pk")[: self.most + 1].count())  # type: ignore[union-attr]

    @cached_property
    def count(self) -> int:  # type: ignore[override]
        return min(self._counted, self.most)

    @property
    def is_capped(self) -> bool:
        """Whether there is more than it pages through."""
        return self._counted > self.most
