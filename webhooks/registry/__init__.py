"""Which models may have webhooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.dispatch import Signal

from webhooks.registry.registration import Registration, conventional_serializer

# Sent with ``model`` after a model was registered, so that receivers can be connected for it.
registered = Signal()

# What a serializer may be called beside the default one, which has no name.
SERIALIZER_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")

_registrations: dict[type[models.Model], Registration] = {}


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
    ``<app>.api.serializers.<Model>Serializer`` or ``<app>.serializers.<Model>Serializer`` is used. ``serializers`` are
    others, by names that a webhook can choose: ``{"brief": BriefSiteSerializer}``. ``queryset`` (a callable) gives the
    queryset that the object is read from.

    ``exclude`` names fields that are left out of the data, whatever the serializer, and of the snapshots. Fields
    whose names say that they are secret (``webhooks.registry.sensitive``) are left out by themselves, nested ones too,
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
    if registration.problem:
        what = f"{model.__module__}.{model.__name__}"
        raise ImproperlyConfigured(f"webhooks cannot be registered for {what}, {registration.problem}")
    _registrations[model] = registration
    registered.send(sender=model, model=model)


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
            models_listed = listed(label)
        except LookupError:
            continue
        for model in models_listed:
            if model not in _registrations:
                register(model)


def listed(label: str) -> list[type[models.Model]]:
    """The models that a label of ``MODELS`` registers: the one that it names, or those of a pattern that have a
    serializer. Raises LookupError for an app or a model that does not exist."""
    if is_pattern(label):
        return [model for model in meant(label) if conventional_serializer(model)]
    app_label, _, name = label.partition(".")
    return [apps.get_model(app_label, name)]


def is_pattern(label: str) -> bool:
    return label == "*" or label.endswith(".*")


def meant(pattern: str) -> list[type[models.Model]]:
    """The models of "dcim.*", or with "*" of all apps but Django's own, that could have webhooks. Raises LookupError
    for an app that does not exist."""
    if pattern == "*":
        chosen = [app for app in apps.get_app_configs() if not app.name.startswith("django.")]
    else:
        chosen = [apps.get_app_config(pattern.removesuffix(".*"))]
    return [model for app in chosen for model in app.get_models() if not Registration(model).problem]


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


@cache
def locks_its_rows(model: type[models.Model]) -> bool:
    """Whether a save of an object surely locks its row: not those of several tables, of which it locks what it changes
    columns of; nor one that has nothing but a key."""
    concrete, *parents = family(model)
    return not parents and any(not column.primary_key for column in concrete._meta.concrete_fields)
