"""One registered model: how it is serialized, and what of it is not sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.utils.module_loading import import_string

from webhooks.registry.keys import stored
from webhooks.registry.sensitive import is_sensitive, sensitive_fields
from webhooks.text import clean

# Characters of what an object is called.
NAME_LENGTH = 200


@dataclass(frozen=True, eq=False)
class Registration:
    """One registered model: ``label`` is "dcim.site"; ``serializer`` a class, a dotted path, or empty for
    the convention; ``queryset`` a callable that gives the queryset to read the object from, with the
    annotations that its serializer wants; ``serializers`` others by their names; ``exclude`` the fields that are
    left out of what is sent; ``include_sensitive`` those that are not, although their names say so."""

    model: type[models.Model]
    serializer: Any = None
    queryset: Callable[[], models.QuerySet[Any]] | None = None
    serializers: Mapping[str, Any] = field(default_factory=dict, hash=False)
    exclude: frozenset[str] = frozenset()
    include_sensitive: frozenset[str] = frozenset()

    @cached_property
    def label(self) -> str:
        return self.model._meta.label_lower

    def key(self, given: Any) -> Any:
        """A primary key as the database has it. Raises ValidationError for what can be none."""
        return stored(self.model._meta.pk, given)

    def by_key(self, rows: Iterable[models.Model]) -> dict[str, models.Model]:
        """Rows by their keys as text, which is what names an object."""
        return {str(self.key(row.pk)): row for row in rows}

    def serializer_class(self, name: str = "") -> type[Any]:
        """The serializer class of this name, or the default one. Raises ImproperlyConfigured, naming what was
        looked for."""
        if name and name not in self.serializers:
            raise ImproperlyConfigured(f"No serializer of {self.label} is called {name!r}.")
        said: Any = self.serializers[name] if name else self.serializer
        if said is None:
            return self._conventional()
        return _imported(said, self.label) if isinstance(said, str) else said

    def _conventional(self) -> type[Any]:
        try:
            found = conventional_serializer(self.model)
        except ImportError as error:
            raise ImproperlyConfigured(f"No serializer for {self.label}: {error}.") from error
        if found is None:
            raise ImproperlyConfigured(
                f"No serializer for {self.label}: there is no {' and no '.join(conventional_paths(self.model))}. "
                f"Define one of them, or name another in webhooks.register({self.label!r}, serializer=…)."
            )
        return found

    @cached_property
    def _secretly(self) -> frozenset[str]:
        fields = [(one.name, type(one).__name__) for one in self.model._meta.get_fields()]
        return sensitive_fields(self.model.__name__, fields) - self.include_sensitive

    @property
    def problem(self) -> str:
        """Why the model cannot have webhooks; nothing where it can."""
        meta = self.model._meta
        if meta.app_label == "webhooks":
            return "which belongs to webhooks itself: a delivery would cause the next one."
        if meta.abstract or meta.proxy:
            kind = "an abstract" if meta.abstract else "a proxy"
            return f"which is {kind} model: register the concrete model that holds its rows."
        if self.has_secret_key:
            return (
                f"whose primary key {meta.pk.name!r} is a secret, and would be told as the id of the object. If it is "
                f"none, say include_sensitive=[{meta.pk.name!r}]."
            )
        return ""

    @property
    def has_secret_key(self) -> bool:
        """Whether the primary key itself is a secret, as that of REST framework's tokens."""
        key = self.model._meta.pk.name
        return key in self._secretly or self.is_sensitive(key)

    def name_of(self, instance: models.Model) -> str:
        """What an object is called, as an Event has it: in a model such as Token by its key, for ``str()`` may be the
        token."""
        is_secret = "display" in self._secretly
        return clean(f"{self.model._meta.verbose_name} {instance.pk}" if is_secret else str(instance), NAME_LENGTH)

    def is_left_out(self, name: str) -> bool:
        """Whether this field of the object itself is not sent."""
        return name in self.exclude or name in self._secretly or self.is_sensitive(name)

    def is_sensitive(self, name: str) -> bool:
        """Whether a key of this name is not sent, however deep in the data it stands."""
        return is_sensitive(name) and name not in self.include_sensitive


# Where an app keeps its serializers: NetBox-style projects in the first, most others in the second.
PLACES = ("api.serializers", "serializers")


def conventional_paths(model: type[models.Model]) -> list[str]:
    """Where the serializer of a model may be by convention, in the order in which it is looked for."""
    app = apps.get_app_config(model._meta.app_label).name
    return [f"{app}.{place}.{model.__name__}Serializer" for place in PLACES]


def conventional_serializer(model: type[models.Model]) -> type[Any] | None:
    """The first serializer that the convention finds. Raises ImportError if a module is there and fails."""
    for path in conventional_paths(model):
        module, _, name = path.rpartition(".")
        found: type[Any] | None = getattr(_module(module), name, None)
        if found is not None:
            return found
    return None


def _module(path: str) -> Any:
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        # Only "this app has no such module" means no: an import that fails inside it must be seen.
        if error.name and f"{path}.".startswith(f"{error.name}."):
            return None
        raise


def _imported(path: str, label: str) -> type[Any]:
    try:
        imported: type[Any] = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"No serializer for {label}: importing {path} failed ({error}). Name one in "
            f"webhooks.register({label!r}, serializer=…), or define {path}."
        ) from error
    return imported
