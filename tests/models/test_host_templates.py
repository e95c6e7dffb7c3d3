"""Templates of a host may reach all models: NetBox gives them to export templates, in Jinja's sandbox. They read rows,
and change none."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, transaction
from django.db.models import Manager, Model, QuerySet
from django.template import Context, Template
from django.test.utils import CaptureQueriesContext
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from tests.support.makers import make_delivery, make_webhook
from tests.testapp.models import Thing
from webhooks.models import Delivery, Run, State, Webhook

pytestmark = pytest.mark.usefixtures("database")

MODELS = list(apps.get_app_config("rq_webhooks").get_models())

# The public methods that write nothing. All others need ``alters_data``.
READERS = {
    "Webhook.as_changed", "Webhook.clean", "Webhook.from_db", "Webhook.normalize",
    "Webhook.refresh_from_db",
    "WebhookQuerySet.being_deleted", "WebhookQuerySet.pausable", "WebhookQuerySet.paused", "WebhookQuerySet.probed",
    "WebhookQuerySet.stopped", "ActiveManager.get_queryset", "WriteDBManager.get_queryset",
    "EventQuerySet.failed", "EventQuerySet.first_since", "EventQuerySet.for_list",
    "EventQuerySet.matched_by", "EventQuerySet.not_matched_by", "EventQuerySet.replayable", "EventQuerySet.replayed",
    "EventQuerySet.still_undispatched", "EventQuerySet.to_send", "EventQuerySet.undispatched",
    "EventQuerySet.with_waits_for",
    "UndispatchedManager.delete_sql", "UndispatchedManager.lock_sql", "UndispatchedManager.lowest",
    "Skip.shown_detail",
    "DeliveryQuerySet.by_table", "DeliveryQuerySet.discardable", "DeliveryQuerySet.error_kinds",
    "DeliveryQuerySet.failed", "DeliveryQuerySet.for_detail", "DeliveryQuerySet.for_list",
    "DeliveryQuerySet.in_states", "DeliveryQuerySet.not_superseded", "DeliveryQuerySet.resendable",
    "DeliveryQuerySet.retriable", "DeliveryQuerySet.superseded",
    "QueueManager.due_webhooks", "QueuedDeliveryQuerySet.claimed", "QueuedDeliveryQuerySet.failed",
    "QueuedDeliveryQuerySet.failed_groups_sql", "QueuedDeliveryQuerySet.in_states",
    "RunQuerySet.due", "RunQuerySet.running", "RunQuerySet.tokens_in_steps",
    "StatisticManager.outcomes_by_hour", "StatisticManager.recent", "StatisticManager.sums",
    "StatisticDelta.of_skips", "StatisticTotalManager.rows",
    "WorkerQuerySet.expired", "WorkerQuerySet.reporting",
}  # fmt: skip


def reachable(model: type[Model]) -> Iterator[type]:
    """The classes of our own with methods that a template can call: of the rows, the managers and their querysets."""
    for manager in model._meta.managers:
        for one in (type(manager), manager._queryset_class):  # type: ignore[attr-defined]
            yield from (base for base in one.__mro__ if base.__module__.startswith("webhooks."))
    yield from (base for base in model.__mro__ if base.__module__.startswith("webhooks."))


def is_marked(method: Any) -> bool:
    return bool(getattr(method, "alters_data", False))


def own_methods() -> Iterator[tuple[str, Any]]:
    for owner in dict.fromkeys(owner for model in MODELS for owner in reachable(model)):
        for name in vars(owner):
            method = inspect.getattr_static(owner, name)
            method = getattr(method, "__func__", method)
            # A manager has copies of the methods of its queryset.
            is_copy = issubclass(owner, Manager) and hasattr(getattr(owner, "_queryset_class", None), name)
            if inspect.isfunction(method) and not name.startswith("_") and not is_copy:
                yield f"{owner.__name__}.{name}", getattr(owner, name)


def test_each_method_that_is_not_known_to_read_is_marked() -> None:
    found = dict(own_methods())
    assert len(found) > 70, "the test finds the methods"
    assert {name for name, method in found.items() if not is_marked(method)} == READERS


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_managers_of_a_model_have_the_marks_of_its_querysets(model: type[Model]) -> None:
    for manager in model._meta.managers:
        for name, method in inspect.getmembers(manager._queryset_class, inspect.isfunction):  # type: ignore[attr-defined]
            if is_marked(method) and not name.startswith("_") and hasattr(manager, name):
                assert is_marked(getattr(manager, name)), f"{model.__name__}.{manager.name}.{name}"


def test_what_is_known_to_read_writes_nothing() -> None:
    """As far as it can be called without arguments."""
    make_delivery(make_webhook(Thing), State.FAILED)
    Run.objects.create(kind="retry")
    readers, called = {name.partition(".")[2] for name in READERS}, 0
    for manager in (manager for model in MODELS for manager in model._meta.managers):
        for owner in (manager, manager.all()):
            for name in sorted(readers & set(dir(owner))):
                method = getattr(owner, name)
                if needs_arguments(method):
                    continue
                with CaptureQueriesContext(connection) as queries:
                    result = method()
                    if isinstance(result, QuerySet | Iterator):
                        list(result)
                called += 1
                statements = {one["sql"].split(maxsplit=1)[0].upper() for one in queries}
                assert not statements & {"INSERT", "UPDATE", "DELETE"}, f"{owner} {name}"
    assert called > 30, "the test finds the methods"


def needs_arguments(method: Any) -> bool:
    given = inspect.signature(method).parameters.values()
    return any(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in given)


def test_no_template_in_a_sandbox_of_jinja_changes_a_row() -> None:
    webhook = make_webhook(Thing, secret_headers="Authorization: Secretmark")
    delivery = make_delivery(webhook, State.FAILED)
    context = {"Webhook": Webhook, "Delivery": Delivery, "Run": Run}
    for call in (
        'Webhook.objects.pause("x")', 'Webhook.objects.all().pause("x")', "Webhook.with_deleted.all().delete()",
        "Webhook.objects.first().save()", 'Webhook.objects.first().save_settings(["name"])',
        'Delivery.objects.all().retry("x")', "Delivery.objects.all().discard()", "Run.objects.cancel()",
    ):  # fmt: skip
        with pytest.raises(SecurityError), transaction.atomic():
            SandboxedEnvironment().from_string("{{ " + call + " }}").render(context)
    shown = SandboxedEnvironment().from_string("{{ Delivery.objects.all()[0].webhook }}").render(context)
    assert shown == webhook.name
    assert Delivery.objects.get(pk=delivery.pk).state == State.FAILED
    assert not Webhook.objects.get(pk=webhook.pk).is_paused


def test_no_template_of_django_changes_a_row() -> None:
    webhook = make_webhook(Thing, probe_at="2026-01-01T00:00:00Z")
    text = "{{ webhooks.resume }} {{ webhooks.all.resume }} {{ webhook.forget_previous_secret }} {{ webhook }}"
    shown = Template(text).render(Context({"webhooks": Webhook.objects, "webhook": webhook}))
    assert shown.strip() == webhook.name
    assert Webhook.objects.get(pk=webhook.pk).is_paused
