"""Whether a query returns all rows of its model, by its form alone: also the rows that do not exist yet.

NetBox's ``restrict()`` filters by a subquery, even without constraints: ``pk IN (SELECT pk FROM site)``.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.lookups import In

# Django's sql: no documented name says what a query filters.
from django.db.models.sql import Query
from django.db.models.sql.constants import INNER
from django.db.models.sql.where import AND, WhereNode


def is_unfiltered(rows: Any) -> bool:
    """Whether a queryset can leave out no row. False if its query does not show that.

    A filter that today's rows all pass is a filter.
    """
    return isinstance(rows, models.QuerySet) and _returns_all(rows.query)


def _returns_all(query: Query) -> bool:
    is_cut = query.is_sliced or query.combinator or query.distinct_fields or query.extra_tables
    joined = [join.join_type for alias, join in query.alias_map.items() if query.alias_refcount[alias]]
    return not is_cut and INNER not in joined and _is_always_true(query.where, query)


def _is_always_true(where: WhereNode, query: Query) -> bool:
    if not where.children:
        return not where.negated
    of_children = (_is_true_for_all(child, query) for child in where.children)
    return not where.negated and where.connector == AND and all(of_children)


def _is_true_for_all(condition: Any, query: Query) -> bool:
    """Whether a condition is one of these: always true, or ``pk IN`` all primary keys of the same model."""
    if isinstance(condition, WhereNode):
        return _is_always_true(condition, query)
    if not isinstance(condition, In) or not isinstance(condition.rhs, Query):
        return False
    keys = condition.rhs
    is_same_model = keys.model is not None and _concrete(keys) is _concrete(query)
    return is_same_model and _is_pk(condition.lhs, query) and _selects_pk(keys) and _returns_all(keys)


def _selects_pk(query: Query) -> bool:
    # Without chosen columns, Django compares with the primary key.
    return not query.has_select_fields or (len(query.select) == 1 and _is_pk(query.select[0], query))


def _is_pk(column: Any, query: Query) -> bool:
    is_own = getattr(column, "alias", None) == query.get_initial_alias()
    return is_own and column.target == _concrete(query)._meta.pk


def _concrete(query: Query) -> Any:
    return query.model._meta.concrete_model  # type: ignore[union-attr]
