"""System checks of the setting MODELS and of each registered model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.core.checks import CheckMessage, Error, Info, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import router

from webhooks import registry
from webhooks.conf import conf
from webhooks.registry.registration import Registration, conventional_paths
from webhooks.registry.sources import attributes, serializer_fields, source_names

DEFINE = "Define a serializer at one of these paths, or name one in webhooks.register(…, serializer=…)."
UNSENDABLE = (
    "Until this is corrected, rqworker, runserver and most other commands refuse to start. A web server starts all the "
    "same: it marks every event of such an object as failed, and nothing of it is sent."
)


def check_models(own: str) -> Iterator[CheckMessage]:
    """``own`` is the alias of the database with the tables of webhooks."""
    for label in conf.models:
        try:
            registry.models_listed(label)
        except LookupError as error:
            yield Error(
                f'WEBHOOKS["MODELS"] lists "{label}", which names no model: {error}',
                hint='Use "app_label.model", "app_label.*" for all models of an app that have a serializer, or "*".',
                id="webhooks.E003",
            )
        else:
            if registry.is_pattern(label):
                yield from _check_pattern(label)
    if not registry.registrations() and not conf.models:
        yield Warning(
            "Webhooks are enabled, but no model is registered, so no webhook can select one.",
            hint='List models in WEBHOOKS["MODELS"], or call webhooks.register() in an AppConfig.ready().',
            id="webhooks.W005",
        )
    for registration in registry.registrations():
        yield from _check_registration(registration, own)


def _check_pattern(pattern: str) -> Iterator[CheckMessage]:
    """Report the models that the pattern does not register. For "*", only in apps that have a registered one."""
    meant = registry.models_matching(pattern)
    registered = [model for model in meant if registry.registration_of(model)]
    known = {model._meta.app_label for model in registered or meant}
    missing = [model for model in meant if model not in registered and model._meta.app_label in known]
    paths = "; ".join(f"{model._meta.label} has no {' and no '.join(conventional_paths(model))}" for model in missing)
    if not registered:
        yield Error(
            f'WEBHOOKS["MODELS"] lists "{pattern}", which registers nothing: {paths or "no models"}.',
            hint=f"{DEFINE} If the models are in another app, name that one.",
            id="webhooks.E016",
        )
    elif missing:
        yield Info(
            f'WEBHOOKS["MODELS"] lists "{pattern}", which does not register all models: {paths}.',
            hint=f"{DEFINE} If these need no webhooks, list the others one by one, or add "
            '"webhooks.I001" to SILENCED_SYSTEM_CHECKS.',
            id="webhooks.I001",
        )


def _check_registration(registration: Registration, own: str) -> Iterator[CheckMessage]:
    model, label = registration.model, registration.label
    try:
        classes = [registration.serializer_class(name) for name in ("", *registration.serializers)]
        fields = [serializer_fields(one()) for one in classes] if registration.exclude else []
    except ImproperlyConfigured as error:
        yield Error(str(error), hint=UNSENDABLE, obj=model, id="webhooks.E004")
    except Exception as error:
        problem = f"A serializer of {label} cannot list its fields: {type(error).__name__}: {error}"
        yield Error(problem, hint=UNSENDABLE, obj=model, id="webhooks.E004")
    else:
        yield from _check_exclude(registration, fields)
    if (alias := router.db_for_write(model)) != own:
        yield Error(
            f'{label} is in the database "{alias}", but the tables of webhooks are in "{own}": a change and its event '
            "could not be committed together.",
            hint="Route both to one database, or do not register the model.",
            obj=model,
            id="webhooks.E005",
        )


def _check_exclude(registration: Registration, fields: list[Mapping[str, Any]]) -> Iterator[CheckMessage]:
    """``fields`` has the fields of each serializer. Empty for one that only shows its keys in its output."""
    model = registration.model
    known = {field.name for field in model._meta.get_fields()}.union(attributes(model).keys() - {"pk"}, *fields)
    known.update(name for each in fields for one in each.values() for name in source_names(one))
    unknown = sorted(set(registration.exclude) - known)
    if unknown and all(fields):
        yield Warning(
            f"{', '.join(unknown)} cannot be excluded from {registration.label}: neither the model nor its serializers "
            "have such a field.",
            hint="Correct exclude=… in webhooks.register(): under its real name the field is sent.",
            obj=model,
            id="webhooks.W007",
        )
