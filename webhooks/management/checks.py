"""System checks: mistakes that would otherwise only show in webhooks that never arrive."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from copy import copy
from difflib import get_close_matches
from functools import wraps
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import django
from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.core.exceptions import FieldError, ImproperlyConfigured
from django.db import DatabaseError, connections, router
from django.db.migrations.executor import MigrationExecutor
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
from django.utils.module_loading import import_string

from webhooks import hooks
from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.payloads.templates import is_template
from webhooks.ground.registry.framework import framework
from webhooks.ground.registry.registration import Registration, conventional_paths
from webhooks.ground.registry.sources import attributes, serializer_fields, source_names
from webhooks.ground.security import url_policy
from webhooks.ground.text import one_line
from webhooks.insight.silence import Silence, read_unregistered
from webhooks.insight.wording import in_english, registration_remedy
from webhooks.models import Attempt, Body, Delivery, Event, Skip, Webhook
from webhooks.models.permissions.restriction import Restrict, found_restrictions
from webhooks.operations.webhooks import unreadable_secrets
from webhooks.workers import jobs
from webhooks.workers.network.auth.receivers import Receiver, missed_key
from webhooks.workers.network.auth.strategies import load
from webhooks.workers.redis import connection_error, queue_problem
from webhooks.workers.worker import WebhookWorker

MIDDLEWARE = "webhooks.middleware.WebhooksMiddleware"
INDEX = "rq_webhooks/admin/index.html"  # as in webhooks.admin
STATUS_PAGE = "webhooks_backend_status"
DEFINE = "Define a serializer at one of these paths, or name one in webhooks.register(…, serializer=…)."
UNSENDABLE = (
    "Until this is corrected, rqworker, runserver and most other commands refuse to start. A web server starts all the "
    "same: it marks every event of such an object as failed, and nothing of it is sent."
)

AUTH_FAILS = "requests to its hosts fail and are retried"

# Workers delete old rows of these by whole partitions, or by SQL.
DELETED_IN_BULK = (Event, Delivery, Attempt, Body, Skip)


Adapt = Callable[[CheckMessage], CheckMessage | None]

_adapt: Adapt = copy


def adapt_messages(adapt: Adapt) -> None:
    """Let a module of ``contrib`` word the messages for the users of its framework. It leaves one out by None."""
    global _adapt
    _adapt = adapt


def _adapted(messages: Callable[..., Iterator[CheckMessage]]) -> Callable[..., list[CheckMessage]]:
    """A check in the words of the framework, and in English, as Django's own checks. Pages show some of the hints, in
    the language of the reader."""

    @wraps(messages)
    def check(*args: Any, **kwargs: Any) -> list[CheckMessage]:
        with in_english():
            return [adapted for message in messages(*args, **kwargs) if (adapted := _adapt(message)) is not None]

    return check


@register("webhooks")
@_adapted
def check(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    yield from _check_setting()
    yield from _check_paths()
    yield from _check_kind_of_database(Event.objects.db)  # also before the tables are created
    if conf.enabled:
        yield from _check_queue()
        yield from _check_models(Event.objects.db)
        yield from _check_host()
        yield from _check_references()
        yield from _check_database(Event.objects.db)


def _check_setting() -> Iterator[CheckMessage]:
    if unknown := conf.unknown_keys:
        close = {key: get_close_matches(key.upper(), conf.by_key, n=1) for key in unknown}
        meant = "".join(f"Did you mean {matches[0]} instead of {key}? " for key, matches in close.items() if matches)
        yield Error(
            f"The setting WEBHOOKS has unknown keys: {', '.join(unknown)}.",
            hint=f"{meant}See the documentation's page on settings for the keys.",
            id="webhooks.E002",
        )
    for key, problem in conf.invalid_values():
        message = f'The setting WEBHOOKS["{key}"] {problem}.' if key else f"The setting WEBHOOKS {problem}."
        number, hint = "webhooks.E007", "See the documentation's page on settings."
        if key == "ENCRYPTION_KEYS":
            number = "webhooks.E009"
            hint = "Until it is corrected, no secret can be read or saved, and webhooks that have one send nothing."
        elif conf.is_destination(key):
            number = "webhooks.E008"
            hint = "Nothing is sent until it is corrected: the default might allow what you meant to deny."
        yield Error(message, hint=hint, id=number)


def _check_paths() -> Iterator[CheckMessage]:
    """The settings that name code of the project."""
    results = {
        "MAY_VIEW": (conf.may_view, "no page or response shows events and deliveries"),
        "MAY_VIEW_ALL": (conf.may_view_all, "only superusers can choose the models of a webhook"),
        "HISTORY": (conf.history, "the log has the entries of the history"),
    }
    for key, path, use, result, number in (
        *((key, path, _callable_at, result, "webhooks.E011") for key, (path, result) in results.items() if path),
        *(("HOOKS", path, hooks.load, "its hooks are not called", "webhooks.E017") for path in conf.hooks),
        *(("AUTH", path, load, AUTH_FAILS, "webhooks.E014") for path in conf.auth.values()),
    ):
        try:
            use(path)
        except Exception as error:
            problem = f'WEBHOOKS["{key}"] names {path}, which cannot be used: {_describe(error)}'
            yield Error(problem, hint=f"Until it is corrected, {result}.", id=number)
    for receiver in map(Receiver.of, conf.auth):
        if not receiver.is_private:
            where = "to every host" if receiver.host.strip("*.") == "" else "unencrypted"
            yield Warning(
                f'WEBHOOKS["AUTH"] names “{receiver.key}”, so credentials are sent {where}.',
                hint='Name a host such as "hooks.example.com", or a URL with https. If it must be so, add '
                '"webhooks.W018" to SILENCED_SYSTEM_CHECKS.',
                id="webhooks.W018",
            )


def _callable_at(path: str) -> None:
    if not callable(import_string(path)):
        raise TypeError("it cannot be called")


def _describe(error: Exception) -> str:
    """An error of the project's module, which may be any, such as a KeyError for a missing environment variable."""
    return str(error) if isinstance(error, ImportError | TypeError) else f"{type(error).__name__}: {error}"


def _check_queue() -> Iterator[CheckMessage]:
    if not conf.is_valid("WAKE_UP"):
        return  # ``_check_setting`` reports it: whether there must be a queue is not known
    if conf.wake_up != "rq":
        if conf.wake_up == "tasks" and django.VERSION < (6,):
            yield Error(
                "Django has no tasks before version 6, so they cannot wake workers.",
                hint='Set WEBHOOKS["WAKE_UP"] to "rq" or "database".',
                id="webhooks.E018",
            )
        return
    if not apps.is_installed("django_rq"):
        yield Error(
            "django_rq is not in INSTALLED_APPS, so there is no manage.py rqworker to deliver webhooks.",
            hint='Add "django_rq" to INSTALLED_APPS. Or do without Redis: set WEBHOOKS["WAKE_UP"] to "database", and '
            "run manage.py webhooks_worker.",
            id="webhooks.E006",
        )
    if problem := queue_problem(conf.queue):
        yield Error(
            f"{problem}, so no worker can be woken.",
            hint=f'Add "{conf.queue}": {{"HOST": "localhost", "PORT": 6379, "DB": 0}} to RQ_QUEUES, or name '
            'another queue in WEBHOOKS["QUEUE"].',
            id="webhooks.E001",
        )
    shipped = framework().worker_class
    if not _is_shipped(getattr(settings, "RQ", {}).get("WORKER_CLASS")):
        yield Warning(
            'RQ["WORKER_CLASS"] is not the worker class of webhooks. Other classes work only when a change wakes them: '
            "retries, events recorded without Redis and the deletion of old rows wait for manage.py webhooks_sweep, "
            "and every slice of work starts a process.",
            hint=f'Set RQ = {{"WORKER_CLASS": "{shipped}"}}. If you name the class on the command line of rqworker, or '
            'cron runs webhooks_sweep every minute, add "webhooks.W012" to SILENCED_SYSTEM_CHECKS.',
            id="webhooks.W012",
        )
        if problem := jobs.job_class_problem():
            yield Warning(
                f'Other worker classes deliver nothing: RQ["JOB_CLASS"] does not run the job of webhooks. {problem}',
                hint=f"Let a worker of the class {shipped} serve the queue: it runs no such job. Or start one with the "
                f"job class of rq: manage.py rqworker {conf.queue} --job-class rq.job.Job",
                id="webhooks.W014",
            )


def _is_shipped(worker_class: Any) -> bool:
    try:
        resolved = import_string(worker_class) if isinstance(worker_class, str) else worker_class
    except ImportError:
        return False  # rqworker reports it
    return isinstance(resolved, type) and issubclass(resolved, WebhookWorker)


def _check_models(own: str) -> Iterator[CheckMessage]:
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
    for label in conf.include_sensitive:
        if registry.registration_by_label(label) is None:
            yield Error(
                f'WEBHOOKS["INCLUDE_SENSITIVE"] names "{label}", which is no registered model.',
                hint='Its keys are labels of registered models, such as "ipam.fhrpgroup".',
                id="webhooks.E003",
            )
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
    paths = "".join(f"\n  {model._meta.label} has no {' and no '.join(conventional_paths(model))}" for model in missing)
    if not registered:
        yield Error(
            f'WEBHOOKS["MODELS"] lists "{pattern}", which registers nothing:{paths or " no models"}.',
            hint=f"{DEFINE} If the models are in another app, name that one.",
            id="webhooks.E016",
        )
    elif missing:
        yield Info(
            f'WEBHOOKS["MODELS"] lists "{pattern}", which does not register all models:{paths}.',
            hint=f"{DEFINE} If these need no webhooks, list the others one by one, or add "
            '"webhooks.I001" to SILENCED_SYSTEM_CHECKS.',
            id="webhooks.I001",
        )


def _check_registration(registration: Registration, own: str) -> Iterator[CheckMessage]:
    model, label = registration.model, registration.label
    try:
        classes = [registration.serializer_class(name) for name in ("", *registration.serializers)]
        fields = [serializer_fields(serializer_class()) for serializer_class in classes] if registration.exclude else []
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
    known.update(name for each in fields for field in each.values() for name in source_names(field))
    unknown = sorted(set(registration.exclude) - known)
    if unknown and all(fields):
        yield Warning(
            f"{', '.join(unknown)} cannot be excluded from {registration.label}: neither the model nor its serializers "
            "have such a field.",
            hint="Correct exclude=… in webhooks.register(): under its real name the field is sent.",
            obj=model,
            id="webhooks.W007",
        )


def _check_host() -> Iterator[CheckMessage]:
    if MIDDLEWARE not in settings.MIDDLEWARE:
        yield Warning(
            "Payloads have no user and no request: the middleware of webhooks is missing.",
            hint=f'Add "{MIDDLEWARE}" to MIDDLEWARE, after AuthenticationMiddleware.',
            id="webhooks.W001",
        )
    with suppress(PackageNotFoundError):
        version = distribution("webhooks").version
        yield Error(
            f"The package webhooks {version} from PyPI is installed, too. Both have files in the same folder, and one "
            "has replaced files of the other.",
            hint="Uninstall both, then install django-rq-webhooks again.",
            id="webhooks.E020",
        )
    if apps.is_installed("django.contrib.admin"):
        yield from _check_admin()


def _check_admin() -> Iterator[CheckMessage]:
    installed = [app.name for app in apps.get_app_configs()]
    site = import_string("django.contrib.admin.site")
    index = site.index_template
    if index not in (None, INDEX) and installed.index("webhooks") > installed.index("django.contrib.admin"):
        yield Warning(
            f"The index of the admin may not link to the status page and name the problems of webhooks: {index} is its "
            "template, and the admin is before webhooks in INSTALLED_APPS.",
            hint='Move "webhooks" before "django.contrib.admin" in INSTALLED_APPS. Or put {% load webhooks_notice %}'
            '{% webhooks_notice %} into the template, and "webhooks.W009" into SILENCED_SYSTEM_CHECKS.',
            id="webhooks.W009",
        )
    try:
        path = reverse(STATUS_PAGE).removeprefix(get_script_prefix())
        is_found = resolve(f"/{path}").url_name == STATUS_PAGE
    except (NoReverseMatch, Resolver404):
        is_found = False
    if not is_found:
        yield Warning(
            "The status page of webhooks cannot be opened: it has no URL, or another view answers there. The admin "
            "answers 404 to unknown URLs.",
            hint='Add path("admin/", include("webhooks.urls")) to your urls.py, before admin.site.urls.',
            id="webhooks.W004",
        )
        return
    if not _has_default_site(site):
        yield Error(
            "The status page of webhooks and Why answer 500: they are pages of the default admin site, "
            "django.contrib.admin.site, and your urls.py includes another AdminSite instead.",
            hint="Make your AdminSite the default site: name it in default_site of a subclass of "
            "django.contrib.admin.apps.AdminConfig, and add admin.site.urls to your urls.py. Without these pages, "
            "remove webhooks.urls from your urls.py.",
            id="webhooks.E019",
        )


def _has_default_site(site: Any) -> bool:
    """Whether the URLs of the default site are there. A site that has registered all of its models does as well."""
    try:
        # Django's _registry: is_registered() asks for one model, and each app has pages.
        for options in (model._meta for model in site._registry):
            reverse("admin:app_list", args=[options.app_label], current_app=site.name)  # as each_context() does
            if options.app_label == Webhook._meta.app_label:
                reverse(f"admin:{options.app_label}_{options.model_name}_changelist", current_app=site.name)
    except NoReverseMatch:
        return False
    return True


def _check_references() -> Iterator[CheckMessage]:
    """Foreign keys of the project to rows that workers delete after their retention, without Django's collector."""
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.local_fields:
            is_ours = model._meta.app_label == Event._meta.app_label
            if field.related_model in DELETED_IN_BULK and not is_ours and getattr(field, "db_constraint", False):
                target = field.related_model._meta.verbose_name_plural
                yield Warning(
                    f"{model._meta.label}.{field.name} is a foreign key to {target}, which the database enforces. A "
                    "row keeps old ones from being deleted.",
                    hint="Set db_constraint=False and on_delete=models.DO_NOTHING. The other row may be gone.",
                    obj=field,
                    id="webhooks.W021",
                )


def _check_kind_of_database(alias: str) -> Iterator[CheckMessage]:
    if not _is_supported(alias):
        yield Error(
            f'The database "{alias}" is of the kind "{connections[alias].vendor}", but webhooks only works with '
            "PostgreSQL and SQLite 3.35 or newer.",
            hint=f'Use PostgreSQL or SQLite 3.35 or newer in DATABASES["{alias}"].',
            id="webhooks.E012",
        )


def _is_supported(alias: str) -> bool:
    vendor = connections[alias].vendor
    return vendor == "postgresql" or (vendor == "sqlite" and sqlite3.sqlite_version_info >= (3, 35))  # RETURNING


def _check_database(alias: str) -> Iterator[CheckMessage]:
    vendor, config = connections[alias].vendor, connections[alias].settings_dict
    if vendor == "sqlite" and config["OPTIONS"].get("transaction_mode") != "IMMEDIATE":
        yield Warning(
            "SQLite without BEGIN IMMEDIATE answers “database is locked” when two transactions meet.",
            hint=f'Set DATABASES["{alias}"]["OPTIONS"] = {{"transaction_mode": "IMMEDIATE"}}, or add it to the '
            "existing options.",
            id="webhooks.W002",
        )
    level = getattr(config["OPTIONS"].get("isolation_level"), "name", "READ_COMMITTED")
    if vendor == "postgresql" and level != "READ_COMMITTED":
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
            "BATCH_REQUESTS has little effect: requests are not atomic.",
            hint=f'Set DATABASES["{alias}"]["ATOMIC_REQUESTS"] = True. BATCH_REQUESTS records the changes at the end '
            "of each transaction. Hosts that call update() after a save need it.",
            id="webhooks.W013",
        )


@register("webhooks", deploy=True)
@_adapted
def check_redis(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    is_used = conf.enabled and conf.wake_up == "rq" and conf.is_valid("WAKE_UP") and not queue_problem(conf.queue)
    if is_used and (problem := connection_error()):
        yield Warning(
            f"Redis cannot be used: {problem}",
            hint=f'Start it, or correct RQ_QUEUES["{conf.queue}"]. Without it, only workers of the shipped class '
            "deliver events: they look for them by themselves.",
            id="webhooks.W006",
        )


@register("webhooks", Tags.database, deploy=True)
@_adapted
def check_stored(app_configs: Any, databases: Collection[str] | None = None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Ask the database, if its alias was given with ``--database``. Not without ``--deploy``: ``migrate`` runs such
    checks first, and these errors would keep it from creating the tables."""
    alias = Event.objects.db
    if alias not in (databases or ()) or not _is_supported(alias):
        return
    try:
        problem = _schema_problem(alias)
        unreadable = unreadable_secrets() if not problem and conf.is_valid("ENCRYPTION_KEYS") else []
        unregistered = unregistered_names() if not problem and conf.enabled else {}
        without_credentials = list(_webhooks_without_credentials()) if not problem and conf.auth else []
    except DatabaseError as error:
        yield Warning(
            f'The tables of webhooks cannot be checked: the database "{alias}" does not answer: {one_line(str(error))}',
            hint=f'Start it, or correct DATABASES["{alias}"].',
            id="webhooks.W015",
        )
        return
    if problem and conf.enabled:
        yield problem
    for webhook, name in unreadable:
        yield Error(
            f"The {name} of webhook “{webhook}” cannot be decrypted with any key in the settings.",
            hint='Put its key back, at the end of WEBHOOKS["ENCRYPTION_KEYS"] or in SECRET_KEY_FALLBACKS, then run '
            "manage.py webhooks_rotate_keys. Or enter it again in the admin. A previous secret can also be given up: "
            "“Stop signing with the previous secret now”.",
            id="webhooks.E010",
        )
    for name, silence in unregistered.items():
        yield Error(
            f"Webhook “{name}” sends nothing of {', '.join((*silence.models, *silence.events))}: not registered, so "
            "the changes are not recorded.",
            hint=registration_remedy(silence.models, silence.events),
            id="webhooks.E015",
        )
    if not problem:
        yield from _check_restriction()
    for webhook, url, key in without_credentials:
        yield Warning(
            f"Webhook “{webhook}” sends to {url} without credentials, although “{key}” in AUTH has its host.",
            hint="A host alone is for https with its default port and TLS verification. Change the webhook, or name "
            "scheme, host, port and path in AUTH.",
            id="webhooks.W019",
        )


def _webhooks_without_credentials() -> Iterator[tuple[str, str, str]]:
    """Enabled webhooks with the host of a key of AUTH, which another part of it does not match."""
    for webhook in Webhook.objects.filter(enabled=True).only("name", "payload_url", "ssl_verification"):
        url = webhook.payload_url
        if not is_template(url) and (key := missed_key(conf.auth, url, webhook.ssl_verification)):
            yield webhook.name, url_policy.redacted(url), key


def _check_restriction() -> Iterator[CheckMessage]:
    """Say which ``restrict()`` of the host applies to the rows of this app, and whether it can."""
    if framework().restriction() or not (restrictions := found_restrictions()):
        return
    chosen, *others = restrictions
    if problem := _restriction_problem(chosen.function):
        yield Warning(
            f"{chosen.path} cannot filter the rows of webhooks, so most pages answer 500 to users who are no "
            f"superusers: {problem}",
            hint="It also gets the querysets of webhooks. Let it return those as they are, or filter them by columns "
            "that they have.",
            id="webhooks.W020",
        )
    rest = f" Not so {', '.join(restriction.path for restriction in others)}." if others else ""
    yield Info(
        f"{chosen.path} of {chosen.count} models also decides which rows of webhooks a user may view and change.{rest}",
        hint='If that is right, add "webhooks.I002" to SILENCED_SYSTEM_CHECKS.',
        id="webhooks.I002",
    )


def _restriction_problem(restrict: Restrict) -> str:
    """The field that the host's ``restrict()`` does not find in a model of this app; empty if it finds all."""
    user: Any = get_user_model()()
    user.pk, user.has_perm = user.pk or 0, lambda *args, **kwargs: True
    for model in apps.get_app_config("rq_webhooks").get_models():
        with suppress(Exception):  # another one may be about the user, who does not exist
            try:
                restrict(model._base_manager.all(), user, "view")
            except FieldError as error:
                return str(error)
    return ""


def unregistered_names() -> dict[str, Silence]:
    """What enabled webhooks send and is not registered, by the names of the webhooks."""
    enabled = list(Webhook.objects.filter(enabled=True).only("name", "identifier", "enabled", "custom_events"))
    silences = read_unregistered(enabled)
    return {webhook.name: silences[webhook.pk] for webhook in enabled if webhook.pk in silences}


def _schema_problem(using: str) -> CheckMessage | None:
    """A migration of the app that is not applied, or a table that is missing although all are recorded as applied.

    Raises DatabaseError if the database does not answer."""
    executor = MigrationExecutor(connections[using])
    if executor.migration_plan([key for key in executor.loader.graph.leaf_nodes() if key[0] == "rq_webhooks"]):
        return Error(
            "Changes are saved but not recorded, and no webhook is sent: the tables of webhooks are missing, or older "
            "than its code.",
            hint="Run manage.py migrate.",
            id="webhooks.E013",
        )
    existing = set(connections[using].introspection.table_names())
    tables = {
        model._meta.db_table for model in apps.get_app_config("rq_webhooks").get_models(include_auto_created=True)
    }
    if missing := sorted(tables - existing):
        remedy = (
            "Run manage.py migrate --fake rq_webhooks zero, then manage.py migrate rq_webhooks."
            if tables.isdisjoint(existing)
            else "Restore them from a backup."
        )
        return Error(
            "Changes are saved but not recorded, and no webhook is sent: these tables are missing, although the "
            f"migrations of webhooks are recorded as applied: {', '.join(missing)}.",
            hint=f"If DATABASES names the right database and schema, migrate does not create them. {remedy}",
            id="webhooks.E013",
        )
    return None
