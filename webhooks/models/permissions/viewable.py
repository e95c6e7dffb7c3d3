"""The objects that one user may view by the host's permissions, and by ``restrict()`` of their models.

A host may constrain the permissions for a hundred models, and a page asks a dozen times. So this is kept for each user
and request, and a query of ``restrict()`` is built and compiled once, only for models that stored rows have.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from asgiref.sync import SyncToAsync
from django.apps import apps
from django.contrib.auth import get_permission_codename
from django.core.signals import request_finished, request_started
from django.db import models, router
from django.db.models import BooleanField, F, QuerySet
from django.utils.module_loading import import_string

from webhooks.ground.conf import conf
from webhooks.ground.db import NOTHING, Statement, as_sql, distinct_values, fetch_all, is_postgresql
from webhooks.ground.registry.keys import key_text_sql
from webhooks.models import Event
from webhooks.models.event import PING_OBJECT_TYPE
from webhooks.models.permissions.unfiltered import is_unfiltered

M = TypeVar("M", bound=models.Model)

Model = type[models.Model]

# The labels of Events without an object: tests, and custom events.
WITHOUT_OBJECT = (PING_OBJECT_TYPE, "")

# The values of MAY_VIEW that also decide about objects without rows. A callable of the host only filters rows.
BY_MODEL, BY_RESTRICTION = "webhooks.models.permissions.by_model", "webhooks.models.permissions.by_restriction"

# The default of MAY_VIEW_ALL.
BY_QUERY = "webhooks.models.permissions.by_query"

# PostgreSQL plans each subquery in each statement, which takes longer than to run it. For more models than this, a
# request reads the keys of each model with at most so many visible objects.
FEW_MODELS, FEW_KEYS = 10, 100

_request: ContextVar[object | None] = ContextVar("webhooks_request", default=None)
"""Another object in each request. None outside of one: there, a user may live for long, and nothing is kept.

Under ASGI, Django sends its signals in another context. There, asgiref has such an object."""


def _this_request() -> object | None:
    return _request.get() or SyncToAsync.thread_sensitive_context.get(None)


def _begin_request(**signal: Any) -> None:
    _request.set(object())


def _end_request(**signal: Any) -> None:
    _request.set(None)


request_started.connect(_begin_request)
request_finished.connect(_end_request)


def has_perm(user: Any, permission: str) -> bool:
    """Whether the user has this permission. A user model without ``has_perm`` gives none."""
    return hasattr(user, "has_perm") and bool(user.has_perm(permission))


def sees_all(user: Any) -> bool:
    return bool(getattr(user, "is_superuser", False) and user.is_active)


def may_view_model(user: Any, model: Model) -> bool:
    meta = model._meta
    return has_perm(user, f"{meta.app_label}.{get_permission_codename('view', meta)}")


def may_view_all(user: Any, model: Model) -> bool:
    """Whether the user may view every object of the model, future ones included. By ``MAY_VIEW_ALL``."""
    if sees_all(user):
        return True
    return may_view_model(user, model) and bool(import_string(conf.may_view_all)(user, model))


def viewable(user: Any) -> Viewable:
    """What the user may view, read once in a request."""
    kept = getattr(user, "_webhooks_viewable", None)
    if isinstance(kept, Viewable) and kept.is_current():
        return kept
    new = Viewable(user)
    with suppress(AttributeError):  # a user of the host may have no dictionary
        user._webhooks_viewable = new
    return new


class Viewable:
    """What a user who is no superuser may view. Use it in one request."""

    def __init__(self, user: Any) -> None:
        self._user = user
        self._context = self._current_context()
        self._models: dict[str, Model] | None = None
        self._restricted: dict[Model, QuerySet[Any] | None] = {}
        self._conditions: dict[tuple[Model, str], _Conditions] = {}

    def __reduce__(self) -> Any:
        return dict, ()  # a host may pickle the user

    @staticmethod
    def _current_context() -> tuple[object | None, str, str]:
        return _this_request(), conf.may_view, conf.may_view_all

    def is_current(self) -> bool:
        return self._context[0] is not None and self._context == self._current_context()

    @property
    def models(self) -> dict[str, Model]:
        """The models of which the user may view some objects, by their labels. No proxies: Events have the concrete
        model. Also models that are not registered: a custom event may be about any object, and Events outlast a
        registration."""
        if self._models is None:
            concrete = (model for model in apps.get_models() if not model._meta.proxy)
            self._models = {model._meta.label_lower: model for model in concrete if may_view_model(self._user, model)}
        return self._models

    @property
    def labels(self) -> list[str]:
        """The labels of these models, and of Events without an object."""
        return [*self.models, *WITHOUT_OBJECT]

    def restricted(self, model: Model) -> QuerySet[Any] | None:
        """The objects that ``restrict()`` of the model returns. None if it has none."""
        if model not in self._restricted:
            restrict = getattr(model._default_manager, "restrict", None)
            self._restricted[model] = restrict(self._user, "view") if restrict else None
        return self._restricted[model]

    def is_unrestricted(self, model: Model) -> bool:
        """Whether ``restrict()`` of the model has no filter. A filter that all rows of today pass is one."""
        objects = self.restricted(model)
        return objects is None or is_unfiltered(objects)

    def filter(self, rows: QuerySet[M]) -> QuerySet[M]:
        """The Events or skips among ``rows`` of objects that the user may view."""
        if not any(hasattr(model._default_manager, "restrict") for model in self.models.values()):
            return rows.filter(object_type__in=sorted(self.labels))
        key = rows.model, rows.db
        if key not in self._conditions:
            self._conditions[key] = self._conditions_for(*key)
        conditions = self._conditions[key]
        if not (conditions.partly or conditions.known):
            return rows.filter(object_type__in=conditions.whole)
        return rows.filter(_IsViewable(conditions))

    def _conditions_for(self, of: Model, using: str) -> _Conditions:
        whole, partly = list[str](), list[tuple[str, Statement]]()
        for label in distinct_values(using, of._meta.db_table, "object_type"):
            model = self.models.get(label)
            if label in WITHOUT_OBJECT or (model and self._sees_whole(model)):
                whole.append(label)
            elif model and (keys := self._keys_sql(model, using)):
                partly.append((label, keys))
        if self._context[0] is None or len(partly) <= FEW_MODELS or not is_postgresql(using):
            return _Conditions(whole, partly)
        few = _read_few_keys(using, partly)
        known = [f"{label} {key}" for label, keys in few.items() for key in keys]
        return _Conditions(whole, [condition for condition in partly if condition[0] not in few], known)

    def _sees_whole(self, model: Model) -> bool:
        # Not by the default of MAY_VIEW_ALL: it asks MAY_VIEW, and a callable of the host may ask for this filter.
        if self.is_unrestricted(model):
            return True
        return conf.may_view_all != BY_QUERY and may_view_all(self._user, model)

    def _keys_sql(self, model: Model, using: str) -> Statement | None:
        """The keys of the objects, as Events have them. None if there can be none, or if the objects are in another
        database than the Events: no statement reads both."""
        objects = self.restricted(model)
        if objects is None or router.db_for_write(model) != router.db_for_write(Event):
            return None
        keys = objects.order_by().annotate(webhooks_key=key_text_sql(model, using)).values("webhooks_key")
        statement, parameters = as_sql(keys.using(using))
        return None if statement == NOTHING else (statement, parameters)


def _read_few_keys(using: str, partly: Sequence[tuple[str, Statement]]) -> dict[str, list[str]]:
    """The keys by label, for the labels that have at most ``FEW_KEYS``. In one statement."""
    selects = [f"(SELECT %s, * FROM ({keys}) AS k (key) LIMIT {FEW_KEYS + 1})" for _label, (keys, _of_keys) in partly]
    parameters = [value for label, (_keys, of_keys) in partly for value in (label, *of_keys)]
    readable: dict[str, list[str]] = {label: [] for label, _keys in partly}
    for label, key in fetch_all(using, " UNION ALL ".join(selects), parameters):
        readable[label].append(key)
    return {label: keys for label, keys in readable.items() if len(keys) <= FEW_KEYS}


class _Conditions:
    """The labels of which a user may view all objects, those of which some, with a statement for their keys, and the
    ``known`` objects of others, such as "dcim.site 5"."""

    def __init__(
        self, whole: Sequence[str], partly: Sequence[tuple[str, Statement]], known: Sequence[str] = ()
    ) -> None:
        self.whole, self.partly, self.known = whole, partly, list(known)


class _IsViewable(models.Expression):
    """Whether the object of an Event or a skip is among those of the conditions."""

    def __init__(self, conditions: _Conditions) -> None:
        super().__init__(output_field=BooleanField())
        self._conditions = conditions
        self._columns: list[Any] = [F("object_type"), F("object_id")]

    def get_source_expressions(self) -> list[Any]:
        return self._columns

    def set_source_expressions(self, exprs: Sequence[Any]) -> None:
        self._columns = list(exprs)

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        (label, label_params), (key, key_params) = map(compiler.compile, self._columns)
        whole, parameters = self._conditions.whole, list[Any]()
        parts = []
        if whole:
            parts.append(f"{label} IN ({', '.join(['%s'] * len(whole))})")
            parameters += [*label_params, *whole]
        for name, (keys, of_keys) in self._conditions.partly:
            parts.append(f"({label} = %s AND {key} IN ({keys}))")
            parameters += [*label_params, name, *key_params, *of_keys]
        if self._conditions.known:
            parts.append(f"{label} || ' ' || {key} = ANY (%s::text[])")
            parameters += [*label_params, *key_params, self._conditions.known]
        return f"({' OR '.join(parts)})", parameters
