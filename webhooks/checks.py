"""System checks: mistakes that would otherwise only show in webhooks that never arrive."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, router
from django.db.models import Model
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
from django.utils.module_loading import import_string

from webhooks import db, permissions, registry
from webhooks.capture import recording
from webhooks.conf import conf
from webhooks.models import Event
from webhooks.operations import key_rotation
from webhooks.registry.registration import Registration, conventional_paths, pk_may_exceed
from webhooks.workers.redis import connection_error
from webhooks.workers.worker import WebhookWorker

MIDDLEWARE = "webhooks.middleware.WebhooksMiddleware"
WORKER = "webhooks.workers.WebhookWorker"
STATUS_PAGE = "webhooks_backend_status"

DEFINE = "Define a serializer at one of these paths, or name one in webhooks.register(…, serializer=…)."
UNSENDABLE = "Until this is corrected, every event of such an object is marked failed and nothing is sent."

# PostgreSQL treats the first of these as the second.
COMMITTED_LEVELS = ("", "read uncommitted", "read committed")

# A session setting in the options for libpq; a backslash keeps the space of "repeatable read".
SESSION_LEVEL = re.compile(r"default_transaction_isolation=((?:\\.|\S)+)", re.IGNORECASE)


@register("webhooks")
def check_setting(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if conf.unknown_keys:
        yield Error(
            f"The setting WEBHOOKS has unknown keys: {', '.join(conf.unknown_keys)}.",
            hint="See the documentation's page on settings for the keys.",
            id="webhooks.E002",
        )
    for key, problem in conf.invalid_values():
        message = f'The setting WEBHOOKS["{key}"] {problem}.' if key else f"The setting WEBHOOKS {problem}."
        if key == "ENCRYPTION_KEYS":
            yield Error(
                message,
                hint="Until it is corrected, no secret can be read or saved, and webhooks that have one send nothing.",
                id="webhooks.E009",
            )
        elif conf.is_destination(key):
            yield Error(
                message,
                hint="Nothing is sent until it is corrected: the default might allow what you meant to deny.",
                id="webhooks.E008",
            )
        else:
            yield Error(message, hint="See the documentation's page on settings.", id="webhooks.E007")
    if problem := permissions.may_view_problem():
        yield Error(
            f'WEBHOOKS["MAY_VIEW"] names {conf.may_view}, {problem}',
            hint="Until it is corrected, only superusers see events and deliveries.",
            id="webhooks.E011",
        )


@register("webhooks")
def check_queue(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if not conf.enabled:
        return
    if not apps.is_installed("django_rq"):
        yield Error(
            "django_rq is not in INSTALLED_APPS, so there is no manage.py rqworker to deliver webhooks.",
            hint='Add "django_rq" to INSTALLED_APPS.',
            id="webhooks.E006",
        )
    if conf.queue not in getattr(settings, "RQ_QUEUES", {}):
        yield Error(
            f'RQ_QUEUES has no queue "{conf.queue}", so no worker can be woken.',
            hint=f'Add "{conf.queue}": {{"HOST": "localhost", "PORT": 6379, "DB": 0}} to RQ_QUEUES, or name '
            'another queue in WEBHOOKS["QUEUE"].',
            id="webhooks.E001",
        )
    if not _is_shipped(getattr(settings, "RQ", {}).get("WORKER_CLASS")):
        yield Warning(
            'RQ["WORKER_CLASS"] is not the worker class of webhooks. Other classes work only when a change wakes them: '
            "retries, events recorded without Redis and the deletion of old rows wait for manage.py webhooks_sweep, "
            "and every slice of work starts a process.",
            hint=f'Set RQ = {{"WORKER_CLASS": "{WORKER}"}}. If you name the class on the command line of rqworker, or '
            'cron runs webhooks_sweep every minute, add "webhooks.W012" to SILENCED_SYSTEM_CHECKS.',
            id="webhooks.W012",
        )


def _is_shipped(worker_class: Any) -> bool:
    try:
        found = import_string(worker_class) if isinstance(worker_class, str) else worker_class
    except ImportError:
        return False  # rqworker reports it
    return isinstance(found, type) and issubclass(found, WebhookWorker)


@register("webhooks")
def check_models(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if not conf.enabled:
        return
    for label in conf.models:
        try:
            registry.models_listed(label)
        except (LookupError, ImproperlyConfigured) as error:
            yield Error(
                f'WEBHOOKS["MODELS"] lists "{label}", which names no model: {error}',
                hint='Use "app_label.model", "app_label.*" for all models of an app that have a serializer, or "*".',
                id="webhooks.E003",
            )
        else:
            yield from _check_pattern(label)
    if not registry.registrations() and not conf.models:
        yield Warning(
            "Webhooks are enabled, but no model is registered, so no webhook can select one.",
            hint='List models in WEBHOOKS["MODELS"], or call webhooks.register() in an AppConfig.ready().',
            id="webhooks.W005",
        )
    for registration in registry.registrations():
        yield from _check_registration(registration)


def _check_pattern(label: str) -> Iterator[CheckMessage]:
    """Report the models of a pattern that are not registered. For "*", only those of apps with a registered model."""
    if not registry.is_pattern(label):
        return
    meant = registry.models_matching(label)
    registered = [model for model in meant if registry.registration_of(model)]
    if not registered:
        yield Warning(
            f'WEBHOOKS["MODELS"] lists "{label}", which registers nothing: {_missing_paths(meant) or "no models"}.',
            hint=f"{DEFINE} If the models are in another app, name that one.",
            id="webhooks.W010",
        )
        return
    known = {model._meta.app_label for model in registered}
    if missing := [model for model in meant if model not in registered and model._meta.app_label in known]:
        yield Info(
            f'WEBHOOKS["MODELS"] lists "{label}", which does not register all models: {_missing_paths(missing)}.',
            hint=f"{DEFINE} If these need no webhooks, list the others one by one, or add "
            '"webhooks.I001" to SILENCED_SYSTEM_CHECKS.',
            id="webhooks.I001",
        )


def _missing_paths(models: Sequence[type[Model]]) -> str:
    return "; ".join(f"{model._meta.label} has no {' and no '.join(conventional_paths(model))}" for model in models)


def _check_registration(registration: Registration) -> Iterator[CheckMessage]:
    try:
        classes = [registration.serializer_class(name) for name in ("", *registration.serializers)]
        if registration.exclude:
            yield from _check_exclude(registration, classes)
    except ImproperlyConfigured as error:
        yield Error(str(error), hint=UNSENDABLE, obj=registration.model, id="webhooks.E004")
    longest = Event._meta.get_field("object_id").max_length or 0
    if pk_may_exceed(registration.model._meta.pk, longest):
        yield Warning(
            f"A primary key of {registration.label} may have more than the {longest} characters that an event stores. "
            "PostgreSQL then refuses the event, and nothing is sent.",
            hint=f"Give the primary key a max_length of {longest} or less, or do not register the model.",
            obj=registration.model,
            id="webhooks.W009",
        )
    alias, own = router.db_for_write(registration.model), recording.database()
    if alias != own:
        yield Error(
            f'{registration.label} is in the database "{alias}", but the tables of webhooks are in "{own}": a change '
            "and its event could not be committed together.",
            hint="Route both to one database, or do not register the model.",
            obj=registration.model,
            id="webhooks.E005",
        )


def _check_exclude(registration: Registration, classes: Sequence[Any]) -> Iterator[CheckMessage]:
    try:
        fields = [getattr(one(), "fields", None) for one in classes]
    except Exception as error:
        yield Error(
            f"A serializer of {registration.label} cannot list its fields: {type(error).__name__}: {error}",
            hint=UNSENDABLE,
            obj=registration.model,
            id="webhooks.E004",
        )
        return
    if None in fields:
        return  # a serializer without fields only shows its keys in its output
    known = {field.name for field in registration.model._meta.get_fields()}.union(*(each or () for each in fields))
    if unknown := sorted(set(registration.exclude) - known):
        yield Warning(
            f"{', '.join(unknown)} cannot be excluded from {registration.label}: neither the model nor its serializers "
            "have such a field.",
            hint="Correct exclude=… in webhooks.register(): under its real name the field is sent.",
            obj=registration.model,
            id="webhooks.W007",
        )


@register("webhooks")
def check_host(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if not conf.enabled:
        return
    if MIDDLEWARE not in settings.MIDDLEWARE:
        yield Warning(
            "Payloads have no user and no request: the middleware of webhooks is missing.",
            hint=f'Add "{MIDDLEWARE}" to MIDDLEWARE, after AuthenticationMiddleware.',
            id="webhooks.W001",
        )
    if not apps.is_installed("django.contrib.admin"):
        return  # the status page is a page of the admin
    try:
        url = reverse(STATUS_PAGE)
    except NoReverseMatch:
        yield Warning(
            "The status page of webhooks has no URL.",
            hint='Add path("admin/", include("webhooks.urls")) to your urls.py, before admin.site.urls.',
            id="webhooks.W004",
        )
        return
    try:
        found = resolve("/" + url.removeprefix(get_script_prefix())).url_name
    except Resolver404:
        found = None
    if found != STATUS_PAGE:
        yield Warning(
            f"Another view answers at {url}, so the status page of webhooks cannot be opened.",
            hint="If that is the admin, which answers 404 to unknown URLs, move path(…, "
            'include("webhooks.urls")) before admin.site.urls in your urls.py.',
            id="webhooks.W011",
        )


@register("webhooks")
def check_database(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if not conf.enabled:
        return
    alias = recording.database()
    vendor, config = connections[alias].vendor, connections[alias].settings_dict
    if vendor not in ("postgresql", "sqlite"):
        yield Error(
            f'The database "{alias}" is of the kind "{vendor}", but webhooks only works with PostgreSQL and SQLite.',
            hint=f'Use one of these two in DATABASES["{alias}"].',
            id="webhooks.E012",
        )
    if vendor == "sqlite" and sqlite3.sqlite_version_info < (3, 35):
        yield Error(
            f"SQLite {sqlite3.sqlite_version} is too old for webhooks, which needs RETURNING.",
            hint="Use SQLite 3.35 or newer, or PostgreSQL.",
            id="webhooks.E012",
        )
    if vendor == "sqlite" and config["OPTIONS"].get("transaction_mode") != "IMMEDIATE":
        yield Warning(
            "SQLite without BEGIN IMMEDIATE answers “database is locked” when two transactions meet.",
            hint=f'Set DATABASES["{alias}"]["OPTIONS"] = {{"transaction_mode": "IMMEDIATE"}}, or add it to the '
            "existing options.",
            id="webhooks.W002",
        )
    if vendor == "postgresql" and _isolation_level(config["OPTIONS"]) not in COMMITTED_LEVELS:
        yield Warning(
            "Under this isolation level an event may lack what another transaction has just committed.",
            hint=f'Remove it from DATABASES["{alias}"]["OPTIONS"]: READ COMMITTED is the default.',
            id="webhooks.W008",
        )
    if config["ATOMIC_REQUESTS"]:
        return
    yield Warning(
        "Requests are not atomic: if a process is killed between a save and its signal, the event is lost.",
        hint=f'Set DATABASES["{alias}"]["ATOMIC_REQUESTS"] = True. Then a change and its event are committed together.',
        id="webhooks.W003",
    )
    if conf.batch_requests:
        yield Warning(
            "BATCH_REQUESTS has no effect: requests are not atomic.",
            hint=f'Set DATABASES["{alias}"]["ATOMIC_REQUESTS"] = True. BATCH_REQUESTS records the changes at the end '
            "of a request's transaction. Hosts that call update() after a save need it.",
            id="webhooks.W013",
        )


def _isolation_level(options: Mapping[str, Any]) -> str:
    """The isolation level in the options of a PostgreSQL database, in lower case, or ""."""
    if (level := options.get("isolation_level")) is not None:
        return getattr(level, "name", str(level)).replace("_", " ").lower()
    levels = SESSION_LEVEL.findall(options.get("options") or "")
    return levels[-1].replace("\\", "").lower() if levels else ""


@register("webhooks", deploy=True)
def check_deployment(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    """Ask the database and Redis."""
    yield from _check_secrets()
    if not conf.enabled:
        return
    if db.has_pending_migrations(recording.database()):
        yield Error(
            "Changes are saved but not recorded, and no webhook is sent: the tables of webhooks are missing, or older "
            "than its code.",
            hint="Run manage.py migrate.",
            id="webhooks.E013",
        )
    if conf.queue in getattr(settings, "RQ_QUEUES", {}) and (problem := connection_error()):
        yield Warning(
            f"Redis cannot be used: {problem}",
            hint=f'Start it, or correct RQ_QUEUES["{conf.queue}"]. Without it, only workers of the shipped class '
            "deliver events: they look for them by themselves.",
            id="webhooks.W006",
        )


def _check_secrets() -> Iterator[CheckMessage]:
    if not conf.is_valid("ENCRYPTION_KEYS"):
        return  # webhooks.E009
    try:
        unreadable = key_rotation.unreadable()
    except DatabaseError:
        return  # no tables yet, or no database
    for webhook, name in unreadable:
        yield Error(
            f"The {name} of webhook “{webhook}” cannot be decrypted with any key in the settings.",
            hint='Put its key back, at the end of WEBHOOKS["ENCRYPTION_KEYS"] or in SECRET_KEY_FALLBACKS, then run '
            "manage.py webhooks_rotate_keys. Or enter it again in the admin. A previous secret can also be given up: "
            "“Stop signing with the previous secret now”.",
            id="webhooks.E010",
        )
