"""Registered models and custom events, which webhooks can choose, and reserved identifiers, which they cannot."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import models
from django.dispatch import Signal
from django.utils.translation import gettext

from webhooks.ground.conf import conf
from webhooks.ground.registry.framework import framework as current_framework
from webhooks.ground.registry.registration import Registration, conventional_paths, conventional_serializer

if TYPE_CHECKING:
    from django.contrib.contenttypes.models import ContentType

# Sent with ``model`` after a model was registered, to connect receivers for it.
registered = Signal()

_SERIALIZER_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")

_registrations: dict[type[models.Model], Registration] = {}

# Models that an app unregistered in its ``ready()``, before those of ``MODELS`` are registered.
_kept_out: set[type[models.Model]] = set()


def register(
    model: type[models.Model] | str,
    serializer: Any = None,
    queryset: Callable[[], models.QuerySet[Any]] | None = None,
    *,
    serializers: Mapping[str, Any] | None = None,
    exclude: Collection[str] = (),
    include_sensitive: Collection[str] = (),
    also_on: Collection[type[models.Model] | str] = (),
) -> None:
    """Let webhooks be defined for ``model``: a class, or its label "dcim.Site".

    ``serializer`` is a DRF serializer class or its dotted path. The default is the class named
    ``<app>.api.serializers.<Model>Serializer`` or ``<app>.serializers.<Model>Serializer``. ``serializers`` are
    others by their names, which a webhook can choose: ``{"brief": BriefSiteSerializer}``. ``queryset`` (a callable)
    returns the queryset to read an object from.

    ``exclude`` names fields to leave out of the data of every serializer, and of the snapshots, also where a serializer
    shows them under another name. Fields with sensitive names, such as "password", are left out at any depth, unless
    ``include_sensitive`` or the setting ``INCLUDE_SENSITIVE`` names them. Registering a model again replaces its
    registration.

    ``also_on`` are models with a foreign key to this one, as classes or labels: a change of a row of theirs is an
    update of the object that it points to. If one has several such keys, add a name: "dcim.Interface:device".

    Raises LookupError for an unknown label. Raises ImproperlyConfigured for invalid names, for a model with a secret
    primary key, and for an abstract or a proxy model. A change of a proxy is a change of its concrete model.
    """
    if isinstance(model, str):
        app_label, _, name = model.partition(".")
        model = apps.get_model(app_label, name)
    lists = {"exclude": exclude, "include_sensitive": include_sensitive, "also_on": also_on}
    for option, names in lists.items():
        if isinstance(names, str):  # else its letters would be the names
            raise ImproperlyConfigured(f"{option} of {model._meta.label_lower} must be a list of names, not {names!r}.")
    for chosen in serializers or {}:
        if not _SERIALIZER_NAME.fullmatch(chosen):
            raise ImproperlyConfigured(
                f"A serializer of {model._meta.label_lower} cannot be called {chosen!r}: use up to 50 letters, digits, "
                "hyphens and underscores."
            )
    included = _included(model).union(include_sensitive)
    registration = Registration(
        model, serializer, queryset, serializers or {}, frozenset(exclude), included, tuple(also_on)
    )
    if problem := registration.problem:
        raise ImproperlyConfigured(f"A model cannot be registered for webhooks. {problem}")
    if apps.models_ready:
        registration.parents_of  # noqa: B018 # raises for a mistake
    _registrations[model] = registration
    registered.send(sender=model, model=model)


def _included(model: type[models.Model]) -> frozenset[str]:
    """The fields of a model that the setting ``INCLUDE_SENSITIVE`` names."""
    chosen = conf.include_sensitive
    label = model._meta.label_lower
    return frozenset(name for key, names in chosen.items() if key.lower() == label for name in names)


def _default_registration(model: type[models.Model]) -> Registration:
    return Registration(model, include_sensitive=_included(model))


def unregister(model: type[models.Model]) -> None:
    """Remove the registration of a model, if it has one. In ``ready()``, also keep ``MODELS`` from registering it."""
    _registrations.pop(model, None)
    if not apps.ready:
        _kept_out.add(model)


# The MODELS setting


def register_listed(labels: Iterable[str]) -> None:
    """Register the models of the ``MODELS`` setting. Code wins. A check reports unknown labels."""
    for label in labels:
        try:
            listed = models_listed(label)
        except LookupError:
            continue
        for model in listed:
            if model not in _registrations and model not in _kept_out:
                register(model)


def register_created(model: type[models.Model]) -> bool:
    """Register a model that an app creates at run time, if ``MODELS`` lists it. Returns whether it did.

    Its class is not ready yet, so this neither builds its serializer nor looks at other models.
    """
    meta = model._meta
    listed = {"*", f"{meta.app_label}.*", meta.label_lower}
    is_model = not (meta.auto_created or meta.proxy) and meta.apps is apps
    if not is_model or listed.isdisjoint(conf.models) or not current_framework().creates(model):
        return False
    _registrations.setdefault(model, _default_registration(model))
    return True


def models_listed(label: str) -> list[type[models.Model]]:
    """The models that a label of ``MODELS`` registers: the named one, or those with a serializer that match a
    pattern. Raises LookupError for an unknown app or model."""
    if is_pattern(label):
        return [model for model in models_matching(label) if conventional_serializer(model)]
    app_label, _, name = label.partition(".")
    return [apps.get_model(app_label, name)]


def is_pattern(label: str) -> bool:
    return label == "*" or label.endswith(".*")


def labels_without_models(labels: Iterable[str]) -> list[str]:
    """The labels of ``MODELS`` that register nothing: unknown ones, and patterns that match no registered model."""
    return [label for label in labels if not _has_models(label)]


def _has_models(label: str) -> bool:
    try:
        # A model that is listed by name may be unregistered on purpose.
        return any(map(_is_registered, _chosen_models(label))) if is_pattern(label) else bool(models_listed(label))
    except LookupError:
        return False


def _is_registered(model: type[models.Model]) -> bool:
    # In this order: to look for secrets in a model takes time.
    return registration_of(model) is not None and not _default_registration(model).problem


def missing_serializer_paths(label: str, listed: Iterable[str]) -> list[str]:
    """Where the serializer of an unregistered model was looked for, if a pattern of ``MODELS`` matches the model."""
    is_meant = not {"*", f"{label.partition('.')[0]}.*"}.isdisjoint(listed)
    model = model_of(label) if is_meant else None
    return [] if model is None or _default_registration(model).problem else conventional_paths(model)


def models_matching(pattern: str) -> list[type[models.Model]]:
    """The models of "dcim.*", or with "*" of all apps but Django's, that can have webhooks. Raises LookupError for an
    unknown app."""
    return [model for model in _chosen_models(pattern) if not _default_registration(model).problem]


def _chosen_models(pattern: str) -> Iterator[type[models.Model]]:
    if pattern == "*":
        chosen = [app for app in apps.get_app_configs() if not app.name.startswith("django.")]
    else:
        chosen = [apps.get_app_config(pattern.removesuffix(".*"))]
    return chain.from_iterable(app.get_models() for app in chosen)


# Lookups


def registrations() -> list[Registration]:
    """All registrations, sorted by label."""
    return sorted(_registrations.values(), key=lambda known: known.label)


def registered_models() -> dict[str, type[models.Model]]:
    """The registered models by their labels, sorted."""
    return {known.label: known.model for known in registrations()}


def registration_of(model: type[models.Model]) -> Registration | None:
    """The registration of a model, or of the concrete model of a proxy."""
    return _registrations.get(model._meta.concrete_model or model)


def registration_or_default(model: type[models.Model]) -> Registration:
    """The registration of a model, or one with all defaults."""
    return registration_of(model) or _default_registration(model._meta.concrete_model or model)


def model_of(label: str) -> type[models.Model] | None:
    """The model with this label, registered or not. None if the site has none."""
    try:
        return apps.get_model(label)
    except (LookupError, ValueError):
        return None


def is_model(label: str) -> bool:
    """Whether the site has a model with this label, registered or not."""
    return model_of(label) is not None


def registration_by_label(label: str) -> Registration | None:
    """The registration of "dcim.site"; None if it has none, or there is no such model."""
    model = model_of(label)
    return registration_of(model) if model else None


def unregistered(labels: Iterable[str]) -> list[str]:
    """The labels among these that are not registered, sorted. A proxy has the label of its concrete model."""
    return sorted({*labels} - registered_models().keys())


def registrations_touched(model: type[models.Model]) -> list[Registration]:
    """The registrations that a save of ``model`` concerns: of its multi-table parents and the model, in the order in
    which Django saves and so locks their rows."""
    return [_registrations[member] for member in _tables(model) if member in _registrations]


@cache  # every save asks
def _tables(model: type[models.Model]) -> tuple[type[models.Model], ...]:
    """The models whose tables have a row of an object, in the order in which Django saves these rows."""
    concrete = model._meta.concrete_model or model
    parents = [table for parent in concrete._meta.parents for table in _tables(parent)]
    return tuple(dict.fromkeys((*parents, concrete)))


def unlocked_before(model: type[models.Model], update_fields: Collection[str] | None) -> list[Registration]:
    """The registrations of parents whose rows a save locks too late for Django's order, or not at all: it writes none
    of their columns, and those of a later table."""
    touched = []
    for table in _tables(model)[:-1]:
        own = [field for field in table._meta.local_concrete_fields if not field.primary_key and not field.generated]
        if own and (update_fields is None or any({field.name, field.attname} & {*update_fields} for field in own)):
            break
        if table in _registrations:
            touched.append(_registrations[table])
    return touched


@cache
def save_locks_row(model: type[models.Model]) -> bool:
    """Whether saving an object always locks its row. With several tables, Django locks only rows with changed columns,
    and a model with nothing but a key has none. An unmanaged model may have a view."""
    *parents, concrete = _tables(model)
    meta = concrete._meta
    return not parents and meta.managed and not set(meta.concrete_fields).issubset(meta.pk_fields)


def serializer_names() -> list[str]:
    """The names of the additional serializers of all models."""
    return sorted({name for registration in _registrations.values() for name in registration.serializers})


def models_without_serializer(name: str, labels: Iterable[str]) -> list[str]:
    """The labels of the registered models among ``labels`` that have no serializer of this name."""
    registrations = [registration_by_label(label) for label in sorted(labels)]
    return [known.label for known in registrations if known is not None and name and name not in known.serializers]


# Content types: the models of a webhook


def label_of(content_type: ContentType) -> str:
    """The label of the model, such as "dcim.site", as registrations, Events and payloads have it."""
    return f"{content_type.app_label}.{content_type.model}"


class Unregistered(LookupError):
    """No registered models have these ``labels``."""

    def __init__(self, labels: Collection[str]) -> None:
        super().__init__(", ".join(labels))
        self.labels = labels


def object_types_of(labels: Collection[str], kept: Iterable[ContentType] = ()) -> list[ContentType]:
    """The content types of the models with these labels. Raises Unregistered, unless ``kept`` has the model: a stored
    webhook may have models that are no longer registered."""
    from django.contrib.contenttypes.models import ContentType  # importable only once all apps are loaded

    registered, missing = registered_models(), unregistered(labels)
    own = {label_of(model): model for model in kept} if missing else {}
    if refused := [label for label in missing if label not in own]:
        raise Unregistered(refused)
    known = ContentType.objects.get_for_models(*(registered[label] for label in labels if label in registered))
    return [*known.values(), *(own[label] for label in missing)]


def registered_object_types() -> models.QuerySet[ContentType]:
    """The content types of the registered models, for an admin to choose from."""
    from django.contrib.contenttypes.models import ContentType

    content_types = ContentType.objects.get_for_models(*registered_models().values())
    return ContentType.objects.filter(pk__in=[row.pk for row in content_types.values()]).order_by("app_label", "model")


def refuse_unregistered(pks: set[int]) -> None:
    """Raise ValidationError, with the labels, if some of these content types are not registered."""
    from django.contrib.contenttypes.models import ContentType

    # A proxy has the registration of its concrete model, and the label differs.
    chosen = set(map(label_of, ContentType.objects.filter(pk__in=pks)))
    if refused := unregistered(chosen):
        raise ValidationError(
            f"No webhook can be sent for {', '.join(refused)}: not registered. Name it in the setting "
            'WEBHOOKS["MODELS"] or call webhooks.register() for it.'
        )


# Custom events

# The label of an app, a dot, and a name.
_EVENT_NAME = re.compile(r"([a-z_][a-z0-9_]*)\.[A-Za-z0-9_][A-Za-z0-9_.-]*")
EVENT_NAME_LENGTH = 100

# Labels by names.
_custom_events: dict[str, str] = {}


def register_event(name: str, label: str = "") -> None:
    """Let webhooks be sent for an event of the project: ``webhooks.send(name, …)``.

    ``name`` has the label of an app, a dot and a name, "dcim.rack_audited", in up to 100 characters. ``label`` is
    the text that admins choose, "Rack audited". Raises ImproperlyConfigured for an invalid name.
    """
    matched = _EVENT_NAME.fullmatch(str(name)) if len(str(name)) <= EVENT_NAME_LENGTH else None
    if not matched or (apps.ready and matched[1] not in {*apps.app_configs, "webhooks"}):
        raise ImproperlyConfigured(
            f"An event cannot be called {name!r}: it needs the label of an installed app, a dot and a name, such as "
            f'"dcim.rack_audited", and {EVENT_NAME_LENGTH} characters at the most.'
        )
    _custom_events[name] = label or name


def unregister_event(name: str) -> None:
    """Remove a custom event, if it is registered."""
    _custom_events.pop(name, None)


def custom_events(reserved: Reserved | None = None) -> dict[str, str]:
    """The labels of the custom events by their names, sorted by name. Those of ``reserved`` webhooks are among them."""
    return dict(sorted((_custom_events | (dict(reserved.events) if reserved else {})).items()))


def custom_events_problem(names: Any, reserved: Reserved | None = None) -> str:
    """Why a webhook cannot have these names of custom events; empty if it can."""
    if not isinstance(names, list):
        return gettext('Give a list of names, such as ["dcim.rack_audited"].')
    known = list(custom_events(reserved))  # a list, because values from JSON may have no hash
    if unknown := [str(name) for name in names if name not in known]:
        refusal = gettext("No event is registered as %(names)s. These are: %(known)s.")
        return refusal % {"names": ", ".join(unknown), "known": ", ".join(known) or gettext("none")}
    return gettext("Name each event once.") if len(set(names)) < len(names) else ""


# Reserved identifiers


@dataclass(frozen=True)
class Reserved:
    """Webhooks that code creates. Their identifiers begin with ``prefix``."""

    prefix: str
    purpose: str
    """What they are for, "copies of NetBox's webhooks"."""
    fixed: Collection[str]
    """The settings that only the code changes."""
    remedy: str
    """Where a user changes them instead, as a sentence."""
    events: Mapping[str, str] = field(default_factory=dict)
    """Custom events that only these webhooks have, with their labels. Nothing sends them by name."""

    @property
    def problem(self) -> str:
        """Why a user cannot choose such an identifier."""
        text = gettext("Identifiers that begin with “%(prefix)s” are reserved for %(purpose)s.")
        return text % {"prefix": self.prefix, "purpose": self.purpose}


_reserved: dict[str, Reserved] = {}


def reserve_identifiers(reserved: Reserved) -> None:
    """Reserve identifiers of webhooks. Users can neither choose nor change them, nor the fixed settings of these
    webhooks. Files for webhooks_apply leave these webhooks alone."""
    _reserved[reserved.prefix] = reserved


def unregistered_events(names: Collection[str], identifier: str | None) -> list[str]:
    """The custom events among these that are not registered for the webhook with this identifier."""
    known = custom_events(reserved_for(identifier)) if names else {}
    return [name for name in names if name not in known]


def reserved_for(identifier: str | None) -> Reserved | None:
    """The webhooks that this identifier is reserved for. None if a user can choose it."""
    return next((reserved for reserved in _reserved.values() if (identifier or "").startswith(reserved.prefix)), None)
