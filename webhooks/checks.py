"""System checks: what an operator would otherwise find out from webhooks that never arrive."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
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

UNSENDABLE = "Nothing can be sent of such an object until that is corrected: each Event of it will stand as failed."


@register("webhooks")
def check_setting(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if conf.unknown_keys:
        yield Error(
            f"The setting WEBHOOKS has keys that mean nothing: {', '.join(conf.unknown_keys)}.",
            hint="The documentation's page on settings lists those that do.",
            id="webhooks.E002",
        )
    yield from _bad_values()


def _bad_values() -> Iterator[CheckMessage]:
    for key, message in conf.invalid_values():
        name = f'WEBHOOKS["{key}"]' if key else "WEBHOOKS"
        if key == "ENCRYPTION_KEYS":
            yield Error(
                f"The setting {name} {message}.",
                hint="Until it is corrected no secret can be read or saved, and webhooks that have one send nothing.",
                id="webhooks.E009",
            )
        elif conf.is_destination(key):
            yield Error(
                f"The setting {name} {message}.",
                hint="Nothing is sent until it is corrected: its default might allow what it was to deny.",
                id="webhooks.E008",
            )
        else:
            yield Error(
                f"The setting {name} {message}.", hint="See the documentation's page on settings.", id="webhooks.E007"
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
            "Webhooks are enabled, but no model is registered, so none can be picked.",
            hint='List models in WEBHOOKS["MODELS"], or call webhooks.register() in an AppConfig.ready().',
            id="webhooks.W005",
        )
    for registration in registry.registrations():
        yield from _check_registration(registration)


def _check_pattern(label: str) -> Iterator[CheckMessage]:
    """Name the models of a pattern that are not registered; with "*" only of apps that have some that are."""
    if not registry.is_pattern(label):
        return
    meant = registry.models_matching(label)
    registered = [model for model in meant if registry.registration_of(model)]
    if not registered:
        yield Warning(
            f'WEBHOOKS["MODELS"] lists "{label}", and registers nothing by it: {_looked_for(meant) or "no models"}.',
            hint=f"{DEFINE} If the models are in another app, name that one.",
            id="webhooks.W010",
        )
        return
    known = {model._meta.app_label for model in registered}
    if missing := [model for model in meant if model not in registered and model._meta.app_label in known]:
        yield Info(
            f'WEBHOOKS["MODELS"] lists "{label}", but registers not all of its models: {_looked_for(missing)}.',
            hint=f"{DEFINE} If these need no webhooks, list the others one by one, or add "
            '"webhooks.I001" to SILENCED_SYSTEM_CHECKS.',
            id="webhooks.I001",
        )


def _looked_for(models: Sequence[type[Model]]) -> str:
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
            f"A key of {registration.label} may have more than the {longest} characters that an Event holds: "
            "PostgreSQL then refuses the Event, and no webhook hears of the object.",
            hint="Give its primary key a max_length of no more, or do not register the model.",
            obj=registration.model,
            id="webhooks.W009",
        )
    alias = router.db_for_write(registration.model)
    if alias != recording.database():
        yield Error(
            f'{registration.label} is kept in the database "{alias}", but webhooks keeps its tables in '
            f'"{recording.database()}": a change and its Event could not be committed together.',
            hint="Route both to one database, or do not register the model.",
            obj=registration.model,
            id="webhooks.E005",
        )


def _check_exclude(registration: Registration, classes: Sequence[Any]) -> Iterator[CheckMessage]:
    try:
        fields = [getattr(one(), "fields", None) for one in classes]
    except Exception as error:
        yield Error(
            f"A serializer of {registration.label} cannot be asked for its fields: {type(error).__name__}: {error}",
            hint=UNSENDABLE,
            obj=registration.model,
            id="webhooks.E004",
        )
        return
    if None in fields:
        return  # what such a serializer gives is only known when it gives it
    known = {field.name for field in registration.model._meta.get_fields()}.union(*(each or () for each in fields))
    if unknown := sorted(set(registration.exclude) - known):
        yield Warning(
            f"{', '.join(unknown)} cannot be left out of what is sent of {registration.label}: neither the model nor a "
            "serializer of it has such a field.",
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
            "Webhooks cannot tell which user and which request made a change.",
            hint=f'Add "{MIDDLEWARE}" to MIDDLEWARE, after AuthenticationMiddleware.',
            id="webhooks.W001",
        )
    yield from _check_status_page()
    if not _is_shipped(getattr(settings, "RQ", {}).get("WORKER_CLASS")):
        yield Warning(
            'RQ["WORKER_CLASS"] is not the worker class of webhooks. Another one only works when a change wakes it: '
            "retries, events from while Redis was away and old rows wait for manage.py webhooks_sweep, and each slice "
            "of work starts a process.",
            hint=f'Set RQ = {{"WORKER_CLASS": "{WORKER}"}}. If the class is named on the command line of rqworker, or '
            'cron runs webhooks_sweep every minute, add "webhooks.W012" to SILENCED_SYSTEM_CHECKS.',
            id="webhooks.W012",
        )


def _check_status_page() -> Iterator[CheckMessage]:
    if not apps.is_installed("django.contrib.admin"):
        return  # the status page is one of its pages
    try:
        url = reverse(STATUS_PAGE)
    except NoReverseMatch:
        yield Warning(
            "The status page of webhooks has no URL.",
            hint='Add path("admin/", include("webhooks.urls")) to your urls.py, before admin.site.urls.',
            id="webhooks.W004",
        )
        return
    if not _leads_to_status_page("/" + url.removeprefix(get_script_prefix())):
        yield Warning(
            f"Another view answers at {url}, so that the status page of webhooks cannot be opened.",
            hint="If it is the admin, which answers 404 to what it does not know, move path(…, "
            'include("webhooks.urls")) before admin.site.urls in your urls.py.',
            id="webhooks.W011",
        )


def _leads_to_status_page(path: str) -> bool:
    try:
        return resolve(path).url_name == STATUS_PAGE
    except Resolver404:
        return False


def _is_shipped(worker_class: Any) -> bool:
    try:
        found = import_string(worker_class) if isinstance(worker_class, str) else worker_class
    except ImportError:
        return False  # rqworker says so itself
    return isinstance(found, type) and issubclass(found, WebhookWorker)


# PostgreSQL takes the first of them for the second.
COMMITTED_LEVELS = ("read uncommitted", "read committed")

# How libpq is told of a setting of the session; a backslash keeps the space of "repeatable read".
SESSION_LEVEL = re.compile(r"default_transaction_isolation=((?:\\.|\S)+)", re.IGNORECASE)


def _reads_what_is_committed(database: BaseDatabaseWrapper) -> bool:
    """PostgreSQL may be told to show each transaction the rows as they were at its beginning."""
    return database.vendor != "postgresql" or _level(database.settings_dict["OPTIONS"]) in ("", *COMMITTED_LEVELS)


def _level(options: Mapping[str, Any]) -> str:
    """The isolation level that a connection asks for by its own parameter, or else by its options; or none."""
    if (level := options.get("isolation_level")) is not None:
        return getattr(level, "name", str(level)).replace("_", " ").lower()
    levels = SESSION_LEVEL.findall(options.get("options") or "")
    return levels[-1].replace("\\", "").lower() if levels else ""


@register("webhooks")
def check_transactions(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if not conf.enabled:
        return
    alias = recording.database()
    database = connections[alias]
    if database.vendor not in ("postgresql", "sqlite"):
        yield Error(
            f'The database "{alias}" is of the kind "{database.vendor}", and webhooks only works with PostgreSQL and '
            "SQLite.",
            hint=f'Use one of these two in DATABASES["{alias}"].',
            id="webhooks.E012",
        )
    if database.vendor == "sqlite" and database.settings_dict["OPTIONS"].get("transaction_mode") != "IMMEDIATE":
        yield Warning(
            "SQLite without BEGIN IMMEDIATE answers “database is locked” when two transactions meet.",
            hint=f'Set DATABASES["{alias}"]["OPTIONS"] = {{"transaction_mode": "IMMEDIATE"}}, or add it to the options '
            "that are there.",
            id="webhooks.W002",
        )
    if not _reads_what_is_committed(database):
        yield Warning(
            "Under this isolation level an Event may lack what another transaction has just committed.",
            hint=f'Leave it out of DATABASES["{alias}"]["OPTIONS"]: READ COMMITTED is the default.',
            id="webhooks.W008",
        )
    if not database.settings_dict["ATOMIC_REQUESTS"]:
        yield Warning(
            "A process that is killed between a save and its signal loses the Event: requests are not atomic.",
            hint=f'Set DATABASES["{alias}"]["ATOMIC_REQUESTS"] = True, so that a change and its Event are '
            "committed together.",
            id="webhooks.W003",
        )
        if conf.batch_requests:
            yield Warning(
                "BATCH_REQUESTS has no effect: requests are not atomic.",
                hint=f'Set DATABASES["{alias}"]["ATOMIC_REQUESTS"] = True. BATCH_REQUESTS records at the end of the '
                "transaction of a request. Hosts that go on with update() after a save need it.",
                id="webhooks.W013",
            )


@register("webhooks")
def check_rights(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if problem := permissions.problem():
        yield Error(
            f'WEBHOOKS["MAY_VIEW"] names {conf.may_view}, {problem}',
            hint="Until it is corrected, nobody but superusers sees events and deliveries.",
            id="webhooks.E011",
        )


@register("webhooks", deploy=True)
def check_secrets(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if not conf.is_valid("ENCRYPTION_KEYS"):
        return  # which is an error of its own
    try:
        unreadable = key_rotation.unreadable()
    except DatabaseError:
        return  # no tables yet, or no database: others say so
    for webhook, name in unreadable:
        yield Error(
            f"The {name} of webhook “{webhook}” cannot be decrypted with any key in the settings.",
            hint='Put the key it was encrypted with back, at the end of WEBHOOKS["ENCRYPTION_KEYS"] or in '
            "SECRET_KEY_FALLBACKS, then run manage.py webhooks_rotate_keys; or enter it again in the admin; a previous "
            "secret can also be given up: “Stop signing with the replaced secret now”.",
            id="webhooks.E010",
        )


@register("webhooks", deploy=True)
def check_tables(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if conf.enabled and db.has_pending_migrations(recording.database()):
        yield Error(
            "Changes are saved but not recorded, and no webhook is sent: the tables of webhooks are missing, or older "
            "than its code.",
            hint="Run manage.py migrate.",
            id="webhooks.E013",
        )


@register("webhooks", deploy=True)
def check_redis(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if not conf.enabled or conf.queue not in getattr(settings, "RQ_QUEUES", {}):
        return
    problem = connection_error()
    if problem:
        yield Warning(
            f"Redis cannot be used: {problem}",
            hint=f'Start it, or correct RQ_QUEUES["{conf.queue}"]. Without it, events are only delivered by '
            "workers of the shipped class, which look for them by themselves.",
            id="webhooks.W006",
        )
