"""Which models may have webhooks, and which serializer turns each into JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.dispatch import Signal
from django.utils.module_loading import import_string

from webhooks.sensitive import is_sensitive, sensitive_fields

# Sent with ``model`` after a model was registered, so that receivers can be connected for it.
registered = Signal()


# What a serializer may be called beside the default one, which has no name.
SERIALIZER_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")


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
        """A primary key as the database has it: an instance has it as somebody wrote it, a UUID in capitals say.
        Raises ValidationError for what can be none."""
        return self.model._meta.pk.to_python(given)

    def serializer_class(self, name: str = "") -> type[Any]:
        """The serializer class of this name, or the default one. Raises ImproperlyConfigured, naming what was
        looked for."""
        if name and name not in self.serializers:
            raise ImproperlyConfigured(f"No serializer of {self.label} is called {name!r}.")
        said: Any = self.serializers[name] if name else self.serializer
        if said is None:
            said = conventional_path(self.model)
        return _imported(said, self.label) if isinstance(said, str) else said

    @cached_property
    def _secretly(self) -> frozenset[str]:
        fields = [(one.name, type(one).__name__) for one in self.model._meta.get_fields()]
        return sensitive_fields(self.model.__name__, fields) - self.include_sensitive

    @property
    def has_secret_key(self) -> bool:
        """Whether the primary key itself is a secret, as that of REST framework's tokens."""
        key = self.model._meta.pk.name
        return key in self._secretly or self.is_sensitive(key)

    def name_of(self, instance: models.Model) -> str:
        """What an object is called: in a model such as Token by its key, for ``str()`` may be the token."""
        if "display" in self._secretly:
            return f"{self.model._meta.verbose_name} {instance.pk}"
        return str(instance)

    def is_left_out(self, name: str) -> bool:
        """Whether this field of the object itself is not sent."""
        return name in self.exclude or name in self._secretly or self.is_sensitive(name)

    def is_sensitive(self, name: str) -> bool:
        """Whether a key of this name is not sent, however deep in the data it stands."""
        return is_sensitive(name) and name not in self.include_sensitive


_registrations: dict[type[models.Model], Registration] = {}

# The app that an event belongs to, and what it is called there.
EVENT_NAME = re.compile(r"([a-z_][a-z0-9_]*)\.[A-Za-z0-9_][A-Za-z0-9_.-]*")
EVENT_NAME_LENGTH = 100

# Labels of the custom events by their names.
_events: dict[str, str] = {}


def register(
    model: type[models.Model] | str,
    serializer: Any = None,
    queryset: Callable[[], models.QuerySet[Any]] | None = None,
    *,
    serializers: Mapping[str, Any] | None = None,
    exclude: Collection[str] = (),
    include_sensitive: Collection[str] = (),
) -> None:
    """Let webhooks be defined for ``model``: a class, or its label "dcim.Site".

    ``serializer`` is a DRF serializer class or its dotted path; without it, the class named
    ``<app>.api.serializers.<Model>Serializer`` is used. ``serializers`` are others, by names that a webhook can
    choose: ``{"brief": BriefSiteSerializer}``. ``queryset`` (a callable) gives the queryset that the object is
    read from.

    ``exclude`` names fields that are left out of the data, whatever the serializer, and of the snapshots. Fields
    whose names say that they are secret (``webhooks.sensitive``) are left out by themselves, nested ones too,
    unless ``include_sensitive`` names them. Registering a model again replaces its registration.

    Raises LookupError for a label that names no model, and ImproperlyConfigured for an abstract or a proxy
    model (a change of a proxy is a change of its concrete model), for one whose primary key is a secret, and for names
    that cannot be used.
    """
    if isinstance(model, str):
        model = apps.get_model(model)
    registration = Registration(
        model,
        serializer,
        queryset,
        _named_serializers(model, serializers or {}),
        _names(model, "exclude", exclude),
        _names(model, "include_sensitive", include_sensitive),
    )
    if problem := _problem(registration):
        raise ImproperlyConfigured(f"webhooks cannot be registered for {model.__module__}.{model.__name__}, {problem}")
    _registrations[model] = registration
    registered.send(sender=model, model=model)


def _problem(registration: Registration) -> str:
    """Why a model cannot have webhooks; nothing where it can."""
    meta = registration.model._meta
    if meta.abstract or meta.proxy:
        kind = "an abstract" if meta.abstract else "a proxy"
        return f"which is {kind} model: register the concrete model that holds its rows."
    if registration.has_secret_key:
        return (
            f"whose primary key {meta.pk.name!r} is a secret, and would be told as the id of the object. If it is "
            f"none, say include_sensitive=[{meta.pk.name!r}]."
        )
    return ""


def _named_serializers(model: type[models.Model], serializers: Mapping[Any, Any]) -> dict[str, Any]:
    for name, serializer in serializers.items():
        if not isinstance(name, str) or not SERIALIZER_NAME.fullmatch(name):
            raise ImproperlyConfigured(
                f"A serializer of {model._meta.label_lower} cannot be called {name!r}: use up to 50 letters, digits, "
                "hyphens and underscores."
            )
        if not serializer:
            raise ImproperlyConfigured(f"The serializer {name!r} of {model._meta.label_lower} is {serializer!r}.")
    return dict(serializers)


def _names(model: type[models.Model], what: str, names: Any) -> frozenset[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ImproperlyConfigured(f"{what} of {model._meta.label_lower} must be a list of names, not {names!r}.")
    return frozenset(names)


def unregister(model: type[models.Model]) -> None:
    """Forget a model; nothing happens for one that is not registered."""
    _registrations.pop(model, None)


def register_event(name: str, label: str = "") -> None:
    """Let webhooks be sent for an event that is no change of a model: ``webhooks.send(name, …)``.

    ``name`` is that of an app and one of your own, "dcim.rack_audited", of 100 characters at the most; ``label`` is
    what admins pick, "Rack audited". Raises ImproperlyConfigured for a name that cannot be used.
    """
    found = EVENT_NAME.fullmatch(str(name)) if len(str(name)) <= EVENT_NAME_LENGTH else None
    if not found or (apps.ready and found[1] not in apps.app_configs):
        raise ImproperlyConfigured(
            f"An event cannot be called {name!r}: it needs the label of an installed app, a dot and a name, such as "
            f'"dcim.rack_audited", and {EVENT_NAME_LENGTH} characters at the most.'
        )
    _events[name] = label or name


def unregister_event(name: str) -> None:
    """Forget a custom event; nothing happens for one that is not registered."""
    _events.pop(name, None)


def custom_events() -> dict[str, str]:
    """The labels of the custom events, by their names, in the order of these."""
    return dict(sorted(_events.items()))


def unknown_events(names: Any) -> str:
    """What is wrong with the names of custom events that a webhook wants, in words; nothing where all is right."""
    if not isinstance(names, list):
        return 'Give a list of names, such as ["dcim.rack_audited"].'
    unknown = ", ".join(str(name) for name in names if name not in list(_events))
    known = ", ".join(custom_events()) or "none"
    if not unknown and len(set(names)) < len(names):
        return "Name each event once."
    return f"No event is registered as {unknown}. These are: {known}." if unknown else ""


def serializer_names() -> list[str]:
    """What the serializers of all models are called, beside the default ones."""
    return sorted({name for registration in _registrations.values() for name in registration.serializers})


def without_serializer(name: str, labels: Iterable[str]) -> list[str]:
    """Those of these registered models that have no serializer of this name."""
    found = [registration_by_label(label) for label in sorted(labels)]
    return [one.label for one in found if one is not None and name and name not in one.serializers]


def register_listed(labels: Iterable[str]) -> None:
    """Register the models of the ``MODELS`` setting. Those registered in code keep what they said; labels that
    name nothing are left to ``manage.py check`` (webhooks.E003)."""
    for label in labels:
        try:
            models_listed = list(listed(label))
        except LookupError:
            continue
        for model in models_listed:
            if model not in _registrations:
                register(model)


def listed(label: str) -> Iterator[type[models.Model]]:
    """The models that "dcim.site" or "dcim.*" names. Raises LookupError, saying what there is none of."""
    app_label, _, name = label.partition(".")
    if name != "*":
        yield apps.get_model(app_label, name)
        return
    for model in apps.get_app_config(app_label).get_models():
        if not _problem(Registration(model)) and has_conventional_serializer(model):
            yield model


def registrations() -> list[Registration]:
    """All registrations, sorted by label."""
    return sorted(_registrations.values(), key=lambda registration: registration.label)


def registration_of(model: type[models.Model]) -> Registration | None:
    """The registration of a model class or of the concrete model behind a proxy."""
    return _registrations.get(model._meta.concrete_model or model)


def registration_or_default(model: type[models.Model]) -> Registration:
    """The registration of a model; of one that has none, what it would be by default."""
    return registration_of(model) or Registration(model._meta.concrete_model or model)


def registration_by_label(label: str) -> Registration | None:
    """The registration of "dcim.site", or None where there is none or no such model."""
    try:
        return registration_of(apps.get_model(label))
    except (LookupError, ValueError):
        return None


def registrations_touched(model: type[models.Model]) -> list[Registration]:
    """The registrations that a save of ``model`` concerns: its own and those of the parents it inherits rows from."""
    return [_registrations[member] for member in family(model) if member in _registrations]


@cache  # every save asks
def family(model: type[models.Model]) -> tuple[type[models.Model], ...]:
    """The concrete model, and those that it inherits rows from."""
    concrete = model._meta.concrete_model or model
    return (concrete, *concrete._meta.get_parent_list())


def conventional_path(model: type[models.Model]) -> str:
    """Where NetBox-style projects keep the serializer of a model."""
    return f"{apps.get_app_config(model._meta.app_label).name}.api.serializers.{model.__name__}Serializer"


def has_conventional_serializer(model: type[models.Model]) -> bool:
    module_path, _, name = conventional_path(model).rpartition(".")
    try:
        module = import_module(module_path)
    except ModuleNotFoundError as error:
        # Only "this app has no such module" means no: an import that fails inside it must be seen.
        if error.name and module_path.startswith(error.name):
            return False
        raise
    return hasattr(module, name)


def _imported(path: str, label: str) -> type[Any]:
    try:
        imported: type[Any] = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"No serializer for {label}: importing {path} failed ({error}). Name one in "
            f"webhooks.register({label!r}, serializer=…), or define {path}."
        ) from error
    return imported
