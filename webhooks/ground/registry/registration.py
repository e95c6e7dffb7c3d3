"""One registered model: its serializers with their context, and its excluded and sensitive fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from typing import Any
from urllib.parse import urljoin, urlsplit

from django.apps import apps
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import DatabaseError, models
from django.http import HttpRequest
from django.utils.module_loading import import_string
from rest_framework.request import Request
from rest_framework.settings import api_settings

from webhooks.ground.conf import conf
from webhooks.ground.db.django_internals import reading_from
from webhooks.ground.errors import reraise_job_timeout
from webhooks.ground.registry.framework import framework
from webhooks.ground.registry.keys import key_text, normalize_pk
from webhooks.ground.text import NAME_LENGTH, clean

# The modules of an app that may have its serializers: the first in NetBox-style projects, the second in most others.
_SERIALIZER_MODULES = ("api.serializers", "serializers")


class SiteRequest(HttpRequest):
    """A GET of the site's root without cookies, session, user or headers.

    The payload must not depend on the user of the change. With the setting ``BASE_URL``, URLs are absolute, else paths.
    """

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self.method, self.path, self.path_info = "GET", "/", "/"
        self.user = AnonymousUser()
        self.base_url = base_url

    def build_absolute_uri(self, location: str | None = None) -> str:
        path = self.get_full_path() if location is None else str(location)
        return urljoin(self.base_url, path) if self.base_url else path

    def get_host(self) -> str:
        # Without the check of ALLOWED_HOSTS, because it comes from the settings.
        return urlsplit(self.base_url).netloc

    def _get_scheme(self) -> str:
        return urlsplit(self.base_url).scheme or "http"


def serializer_context() -> dict[str, Any]:
    """Return the context of a serializer, as a view of REST framework would."""
    request = Request(SiteRequest(conf.base_url), authenticators=[])
    versioning: Any = api_settings.DEFAULT_VERSIONING_CLASS
    request.version = api_settings.DEFAULT_VERSION
    request.versioning_scheme = versioning() if versioning else None
    return {"request": request, "format": None}


@dataclass(frozen=True, eq=False)
class Registration:
    """One registered model. It has the arguments of ``register``."""

    model: type[models.Model]
    serializer: Any = None
    """A class or a dotted path. None finds the class by convention."""
    queryset: Callable[[], models.QuerySet[Any]] | None = None
    """Returns the queryset to read an object from, with the annotations that its serializer needs."""
    serializers: Mapping[str, Any] = field(default_factory=dict)
    exclude: frozenset[str] = frozenset()
    include_sensitive: frozenset[str] = frozenset()
    also_on: tuple[Any, ...] = ()

    @cached_property
    def parents_of(self) -> list[models.ForeignKey[Any, Any]]:
        """The foreign keys to this model from the models in ``also_on``. Raises ImproperlyConfigured for one that has
        none, or several, and LookupError for an unknown label."""
        return [self._foreign_key(label) for label in self.also_on]

    def _foreign_key(self, given: Any) -> models.ForeignKey[Any, Any]:
        other, _, name = given.partition(":") if isinstance(given, str) else (given, "", "")
        model = apps.get_model(other) if isinstance(other, str) else other
        fields = [
            field
            for field in model._meta.concrete_fields
            if isinstance(field, models.ForeignKey)
            and issubclass(self.model, field.related_model._meta.concrete_model or ())  # of a proxy
            and name in ("", field.name)
        ]
        if len(fields) != 1:
            label = model._meta.label
            problem = (
                f"{label} has no foreign key {name}".rstrip() if not fields else f"{label} has several foreign keys"
            )
            raise ImproperlyConfigured(
                f'also_on of {self.label}: {problem} to it. Name one as "{label}:device", or leave the model out.'
            )
        return fields[0]

    @cached_property
    def label(self) -> str:
        return self.model._meta.label_lower

    def normalize_pk(self, pk: Any) -> Any:
        """Return a primary key as the database has it. Raises ValidationError if the model cannot have it."""
        try:
            return normalize_pk(self.model._meta.pk, pk)
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:  # by its field
            raise ValidationError(f"{pk!r} cannot be the key of an object of {self.label}.") from error

    def rows(self, using: str) -> models.QuerySet[Any]:
        """All objects, with the annotations that the serializer needs."""
        rows = self.queryset() if self.queryset else framework().queryset(self.model)
        return rows.using(using)

    @property
    def reads_one_table(self) -> bool:
        """Whether ``rows`` reads the rows of the model and nothing else."""
        if self.queryset or self.model._meta.base_manager_name:
            return False
        query = framework().queryset(self.model).query
        return not (query.annotations or query.select_related)

    def find(self, rows: models.QuerySet[Any], pk: Any) -> models.Model | None:
        """The object with this primary key among ``rows``. None if there is none, or the model cannot have the key."""
        try:
            return rows.filter(pk=self.normalize_pk(pk)).first()
        except (ValidationError, OverflowError):  # SQLite refuses some numbers only in the query
            return None

    def by_pk(self, rows: Iterable[models.Model]) -> dict[str, models.Model]:
        """Rows by their normalized primary keys as text."""
        return {self.key_of(row): row for row in rows}

    def key_of(self, instance: models.Model) -> str:
        """The primary key of an object as text, as its Events have it. Raises ValidationError without one."""
        return key_text(self.normalize_pk(instance.pk))

    def build_serializer(self, name: str, instance: models.Model | None = None) -> Any:
        """The serializer of this name for an object. Raises what the serializer raises, and ImproperlyConfigured."""
        return self.serializer_class(name)(instance, context=serializer_context())

    @cached_property
    def serializer_class(self) -> Callable[[str], type[Any]]:
        """The serializer class of a name; "" is the default one. Raises ImproperlyConfigured with the tried paths."""
        return cache(self._find_serializer_class)

    def _find_serializer_class(self, name: str) -> type[Any]:
        if name and name not in self.serializers:
            raise ImproperlyConfigured(f"No serializer of {self.label} is called {name!r}.")
        given: Any = self.serializers[name] if name else self.serializer
        try:
            serializer = conventional_serializer(self.model) if given is None else given
            if isinstance(serializer, str):
                serializer = import_string(serializer)
        except ImportError as error:
            problem = f"importing {given} failed ({error})" if given else str(error)
        else:
            if isinstance(serializer, type):
                return serializer
            paths = " and no ".join(conventional_paths(self.model))
            problem = f"there is no {paths}" if given is None else f"{given!r} is no class"
        raise ImproperlyConfigured(
            f"No serializer for {self.label}: {problem}. Name one in webhooks.register({self.label!r}, serializer=…)."
        )

    @cached_property
    def _sensitive_fields(self) -> frozenset[str]:
        meta = self.model._meta
        secret = [field for field in (*meta.concrete_fields, *meta.many_to_many) if self.is_secret(field)]
        names = {name for field in secret for name in (field.name, field.attname)}
        return (sensitive_names(self.model) | names) - self.include_sensitive

    @property
    def problem(self) -> str:
        """Why the model cannot have webhooks; empty if it can."""
        meta, name = self.model._meta, f"{self.model.__module__}.{self.model.__name__}"
        if meta.app_label == "rq_webhooks":
            return f"{name} belongs to webhooks itself: a delivery would cause the next one."
        if meta.abstract or meta.proxy:
            kind = "an abstract" if meta.abstract else "a proxy"
            return f"{name} is {kind} model: register the concrete model that holds its rows."
        if key := self._secret_key:
            return (
                f"{name} has a secret as its primary key, {key!r}. It would be sent as the id of the object. "
                f"If it is no secret, pass include_sensitive=[{key!r}]."
            )
        return ""

    @property
    def has_secret_key(self) -> bool:
        """Whether the primary key is a secret, as in REST framework's ``Token``, or has one among its parts."""
        return bool(self._secret_key)

    @cached_property
    def _secret_key(self) -> str:
        """The name of the field that makes the primary key a secret; empty if none does."""
        key = self.model._meta.pk
        parts = key.fields if isinstance(key, models.CompositePrimaryKey) else [key]
        return next((part.name for part in parts if part.name in self._sensitive_fields or self.is_secret(part)), "")

    def is_secret(self, field: Any) -> bool:
        """Whether a field or relation of any model holds a secret: a sensitive value, or the key of a row with a secret
        key."""
        if not self.include_sensitive.isdisjoint((field.name, getattr(field, "attname", field.name))):
            return False
        if self.is_sensitive(field.name) or field.name in sensitive_names(field.model):
            return True
        return any(map(self.is_secret, _keys_held(field)))

    def has_secret_name(self, model: type[models.Model]) -> bool:
        """Whether ``str()`` of an object of any model may be a secret, as of REST framework's ``Token``."""
        is_included = not self.include_sensitive.isdisjoint(_DISPLAY_FIELDS)
        return not is_included and ("display" in sensitive_names(model) or self.is_secret(model._meta.pk))

    def is_own(self, model: type[models.Model] | None) -> bool:
        """Whether ``exclude`` is about the objects of a model: the registered one, its parents and its children."""
        return model is not None and (issubclass(model, self.model) or issubclass(self.model, model))

    @cached_property
    def rules_by_field(self) -> dict[Any, tuple[bool, type[models.Model] | None]]:
        """The rules of ``registry.sources`` for the fields of serializers, which every payload asks for."""
        return {}

    @cached_property
    def relations_by_serializer(self) -> dict[str, Sequence[str]]:
        """The many-to-many relations that each serializer shows, which every payload reads."""
        return {}

    def name_of(self, instance: models.Model) -> str:
        """The name of an object for its Events: its ``str()``, or else its model and key. A model such as Token has
        its key, too: ``str()`` may be secret."""
        if "display" not in self._sensitive_fields:
            try:
                with reading_from(instance._state.db):
                    return clean(str(instance), NAME_LENGTH)
            except DatabaseError:
                raise  # it aborted the transaction
            except Exception as error:
                reraise_job_timeout(error)
        return clean(f"{self.model._meta.verbose_name} {instance.pk}", NAME_LENGTH)

    @cached_property
    def is_left_out(self) -> Callable[[str], bool]:
        """Whether a field of this name of the object is not sent."""
        fields = self.exclude | self._sensitive_fields
        return _NameCache(lambda name: name in fields or self.is_sensitive(name)).__getitem__

    def sends(self, name: str, column: str) -> bool:
        """Whether the stored values of a column of the object are sent under a name, the column's or another."""
        is_allowed = name in self.include_sensitive and column not in self.exclude
        return not self.is_left_out(name) and (is_allowed or not self.is_left_out(column))

    @cached_property
    def is_sensitive(self) -> Callable[[str], bool]:
        """Whether a key of this name is not sent, at any depth of the data."""
        return _NameCache(lambda name: is_sensitive(name) and name not in self.include_sensitive).__getitem__


def conventional_paths(model: type[models.Model]) -> list[str]:
    """The paths where the serializer of a model may be by convention, in the order of the search."""
    app = apps.get_app_config(model._meta.app_label).name
    modules = [*(f"{app}.{module}" for module in _SERIALIZER_MODULES), *conf.serializers]
    return [f"{module}.{model.__name__}Serializer" for module in modules]


def conventional_serializer(model: type[models.Model]) -> type[Any] | None:
    """Return the class of the framework, or the first one at the conventional paths. Raises ImportError if a module
    exists and fails."""
    if (serializer := framework().serializer(model)) is not None:
        return serializer
    for path in conventional_paths(model):
        module, _, name = path.rpartition(".")
        try:
            serializer = getattr(import_module(module), name, None)
        except ModuleNotFoundError as error:
            # Only a missing module of the app means "no": an import that fails inside it must be seen.
            if not error.name or not f"{module}.".startswith(f"{error.name}."):
                raise
        else:
            # A module of several apps may have the serializer of another model with the same name.
            its_model = getattr(getattr(serializer, "Meta", None), "model", None)
            if isinstance(serializer, type) and (module not in conf.serializers or its_model is model):
                return serializer
    return None


# Sensitive names


# Searched in a name without the separators of its words: "auth_password", "webhookSecret", "API-Key".
_SENSITIVE_PARTS = (
    "password", "passwd", "passphrase", "passcode", "secret", "token", "credential", "apikey", "accesskey", "authkey",
    "encryptionkey", "masterkey", "privatekey", "sessionkey", "sharedkey", "signingkey",
)  # fmt: skip
_SENSITIVE_WORDS = {"psk", "pwd"}  # short, and part of many other words
# In a model with a sensitive name, such as Token or APIKey: the fields that hold the secret, and the names that
# serializers make of ``str()``.
_SECRET_FIELDS = {"key", "value", "digest", "hash", "plaintext"}
_DISPLAY_FIELDS = frozenset({"display", "display_name"})
_WORD_BREAK = re.compile(r"[^0-9A-Za-z]+|(?<=[a-z0-9])(?=[A-Z])")
_LONGEST_CACHED, _MAX_CACHED = 100, 4096  # characters and names: JSON may have any number of long keys


class _NameCache(dict[str, bool]):
    """The answers of a function of names. Every key of all sent data is looked up."""

    def __init__(self, function: Callable[[str], bool]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, name: str) -> bool:
        answer = self._function(name)
        if len(name) <= _LONGEST_CACHED and len(self) < _MAX_CACHED:
            self[name] = answer
        return answer


def is_sensitive(name: str) -> bool:
    """Whether a field of this name is left out unless the registration includes it."""
    words = [word.lower() for word in _WORD_BREAK.split(name)]
    joined = "".join(words)
    return any(part in joined for part in _SENSITIVE_PARTS) or not _SENSITIVE_WORDS.isdisjoint(words)


def sensitive_fields(model_name: str, fields: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Return the fields that are sensitive despite their names.

    These are encrypted fields, and in a model such as Token the key and the display name. ``fields`` has the name of
    each field with the name of each of its classes."""
    in_secret_model = is_sensitive(model_name)
    names = frozenset(
        name
        for name, kind in fields
        if (in_secret_model and name in _SECRET_FIELDS) or "encrypted" in kind.lower() or is_sensitive(kind)
    )
    return names | _DISPLAY_FIELDS if in_secret_model else names


@cache
def sensitive_names(model: type[models.Model]) -> frozenset[str]:
    """The fields of a model that are sensitive despite their names, and the names that serializers make of ``str()``.

    A child has the names of its parents, too."""
    fields = [(field.name, kind.__name__) for field in model._meta.get_fields() for kind in type(field).__mro__]
    sensitive = sensitive_fields(model.__name__, fields)
    return sensitive.union(*map(sensitive_names, model._meta.get_parent_list()))


def _keys_held(field: Any) -> Sequence[Any]:
    """The fields whose values a field has: the parts of a composite key, or the key that a relation refers to."""
    if isinstance(field, models.CompositePrimaryKey):
        return field.fields
    related: Any = field.related_model if field.is_relation else None
    if related is None:  # a generic foreign key refers to any model
        return ()
    return [field.target_field if field.concrete and not field.many_to_many else related._meta.pk]
