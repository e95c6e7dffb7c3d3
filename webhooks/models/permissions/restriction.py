"""The host's ``restrict(queryset, user, action)``, as all querysets of NetBox have it: the rows that a user may act on.

It also applies to the rows of this app, which have no such querysets. So it is looked for in all models of the host.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.apps import apps
from django.db.models import QuerySet

from webhooks.ground.registry.framework import framework

Restrict = Callable[[Any, Any, str], Any]


@dataclass(frozen=True)
class Restriction:
    """A ``restrict()`` of querysets of the host."""

    function: Restrict
    count: int
    """How many models have it."""

    @property
    def path(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"


def restriction() -> Restrict | None:
    """The ``restrict()`` for the rows of this app. None if the host restricts no rows."""
    if of_framework := framework().restriction():
        return of_framework
    restrictions = found_restrictions()
    return restrictions[0].function if restrictions else None


@cache
def found_restrictions() -> tuple[Restriction, ...]:
    """Those of all models of the host, the most common first."""
    counts: Counter[Restrict] = Counter()
    for model in apps.get_models():
        manager = model._default_manager
        if model._meta.app_label != "rq_webhooks" and hasattr(manager, "restrict"):
            counts.update(_function_of(manager))
    return tuple(Restriction(*counted) for counted in counts.most_common())


def _function_of(manager: Any) -> list[Restrict]:
    """The one of the base class, if a subclass overrides it. Empty if its querysets have none that takes a user and an
    action."""
    # Django's _queryset_class: ``get_queryset()`` runs code of the host, which may need a request.
    of_class: type[QuerySet[Any]] = manager._queryset_class
    if not hasattr(of_class, "restrict"):
        of_class = type(manager.get_queryset())
    restrict = next((vars(base)["restrict"] for base in reversed(of_class.__mro__) if "restrict" in vars(base)), None)
    return [restrict] if callable(restrict) and _takes_user_and_action(restrict) else []


def _takes_user_and_action(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None, "view")
    except TypeError:
        return False
    return True
