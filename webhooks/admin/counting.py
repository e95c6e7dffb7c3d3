"""Counts that end somewhere: of long tables, no more is told than that there are so many or more."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

# Counts over all rows say "10,000+" beyond this; those of one webhook or one lane, of which a page has many, "1,000+".
ALL, EACH = 10_000, 1000


def capped(rows: QuerySet[Any], cap: int) -> QuerySet[Any]:
    """The keys of up to one more than ``cap`` of them: enough to tell that there are more."""
    return rows.order_by().values("pk")[: cap + 1]
