"""Which webhooks want which change, looked up in every transaction."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.utils import timezone

from tests.support.makers import make_webhook
from tests.support.statements import statements_of
from tests.support.threads import Beside
from tests.testapp.models import Label, Place, Thing
from webhooks.capture import subscriptions
from webhooks.capture.subscriptions import Filters
from webhooks.ground import registry
from webhooks.models import Action, Webhook

pytestmark = pytest.mark.usefixtures("database")


def wanting(model: str = "testapp.thing", action: Action = Action.UPDATED) -> list[int]:
    return subscriptions.current("default").subscribers(model, action)


def test_each_change_has_the_enabled_webhooks_that_want_it_in_order() -> None:
    everything = make_webhook(Thing, Label)
    updates = make_webhook(Thing, on="u")
    make_webhook(Thing, Label, enabled=False)
    both = make_webhook(Thing, on="cu")
    found = subscriptions.current("default")
    assert found.by_change == {
        ("testapp.thing", Action.CREATED): [everything.pk, both.pk],
        ("testapp.thing", Action.UPDATED): [everything.pk, updates.pk, both.pk],
        ("testapp.thing", Action.DELETED): [everything.pk],
        ("testapp.label", Action.CREATED): [everything.pk],
        ("testapp.label", Action.UPDATED): [everything.pk],
        ("testapp.label", Action.DELETED): [everything.pk],
    }
    assert found.has_subscribers(Thing)
    assert not found.has_subscribers(Place)


def test_a_webhook_without_models_and_no_webhook_at_all_want_nothing() -> None:
    assert subscriptions.current("default").by_change == {}
    make_webhook()
    assert subscriptions.current("default").by_change == {}


def test_it_has_the_filters_of_each_webhook_that_has_any() -> None:
    rule = {"attr": "name", "value": "ä"}
    make_webhook(Thing)
    conditions = make_webhook(Thing, Label, Place, conditions=rule)
    fields = make_webhook(Thing, changed_fields=["name", "labels"], only_changes=True)
    before = make_webhook(Thing, prechange=True)
    shown = make_webhook(Thing, body_template="{{ snapshots.prechange.name }}")
    disabled = make_webhook(Thing, conditions=rule, enabled=False)
    found = subscriptions.current("default")
    text = found.filters[conditions.pk].conditions
    assert json.loads(text) == rule
    assert found.filters == {
        conditions.pk: Filters(conditions.pk, conditions=text),
        fields.pk: Filters(fields.pk, changed_fields=("name", "labels"), only_changes=True),
        before.pk: Filters(before.pk, prechange=True),
        shown.pk: Filters(shown.pk, prechange=True),
        disabled.pk: Filters(disabled.pk, conditions=text),
    }


def test_a_disabled_webhook_is_noted_if_skips_are_stored(webhooks_settings: Callable[..., None]) -> None:
    make_webhook(Thing)
    disabled = make_webhook(Label, on="u", enabled=False, custom_events=["testapp.thing_counted"])
    found = subscriptions.current("default")
    assert found.disabled is not None
    assert {change: [*refusals] for change, refusals in found.disabled.items()} == {
        ("testapp.label", Action.UPDATED): [disabled.pk],
        ("", "testapp.thing_counted"): [disabled.pk],
    }
    assert (found.concerns(Label), found.has_subscribers(Label)) == (True, False)
    assert found.has_event("testapp.thing_counted")
    webhooks_settings(SKIPS_PER_WEBHOOK=0)
    found = subscriptions.current("default")
    assert found.disabled is None
    assert not found.concerns(Label)
    assert not found.has_event("testapp.thing_counted")


# The next transaction sees every kind of edit


def disable_by_sql(webhook: Webhook) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE rq_webhooks_webhook SET enabled = %s WHERE id = %s", [False, webhook.pk])


def disable(webhook: Webhook) -> None:
    webhook.enabled = False
    webhook.save()


EDITS: dict[str, Callable[[Webhook], Any]] = {
    "saved": disable,
    "updated": lambda webhook: Webhook.objects.filter(pk=webhook.pk).update(on_updated=False),
    "bulk updated": lambda webhook: Webhook.objects.bulk_update([Webhook(pk=webhook.pk, enabled=False)], ["enabled"]),
    "by SQL": disable_by_sql,
    "other models": lambda webhook: webhook.object_types.set([ContentType.objects.get_for_model(Label)]),
    "through the table of models": lambda webhook: Webhook.object_types.through.objects.all().delete(),
    "deleted": lambda webhook: webhook.delete(),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_by_another_connection_is_seen_by_the_next_transaction(edit: str) -> None:
    webhook = make_webhook(Thing)
    assert wanting() == [webhook.pk]
    Beside(lambda: EDITS[edit](Webhook.objects.get(pk=webhook.pk))).join()
    assert wanting() == []


def test_an_edit_that_is_rolled_back_is_not_seen() -> None:
    webhook = make_webhook(Thing)
    with transaction.atomic():
        disable(webhook)
        assert wanting() == []
        transaction.set_rollback(True)
    assert wanting() == [webhook.pk]


@pytest.mark.postgresql
def test_edits_that_are_committed_in_another_order_than_they_began_are_both_seen() -> None:
    first, second = make_webhook(Thing), make_webhook(Thing)
    with transaction.atomic():
        disable(first)
        Beside(lambda: disable(Webhook.objects.get(pk=second.pk))).join()
        assert wanting() == []
    assert wanting() == []


# What a process knows counts for as long as the database says that it is still so


@pytest.mark.cost
@pytest.mark.parametrize("webhooks", [0, 1, 100])
def test_cached_subscriptions_are_not_read_again_until_they_change(
    webhooks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(webhooks):
        make_webhook(Thing)
    found = subscriptions.current("default")
    with monkeypatch.context() as patched:
        patched.setattr("webhooks.capture.subscriptions.read", lambda *args: pytest.fail("read again"))
        assert subscriptions.current("default") is found
        assert len(statements_of(wanting)) == 1
    make_webhook(Thing)
    assert len(wanting()) == webhooks + 1
    assert len(statements_of(wanting)) == 1


def test_updates_by_workers_do_not_change_the_fingerprint() -> None:
    first, second = make_webhook(Thing), make_webhook(Thing, Label, conditions={"attr": "name", "value": "a"})
    found = subscriptions.current("default")
    for webhook in (first, second, first):  # PostgreSQL puts the row that was written to last behind the others
        Webhook.objects.filter(pk=webhook.pk).update(last_success_at=timezone.now(), failures_in_a_row=3, probes=1)
        assert subscriptions.current("default") is found


CHANGES: dict[str, Any] = {
    "enabled": False,
    "on_created": False,
    "on_updated": False,
    "on_deleted": False,
    "conditions": {"attr": "name", "value": "a"},
    "changed_fields": ["name"],
    "only_changes": True,
    "prechange": True,
    "serializer": "brief",
    "custom_events": ["testapp.thing_counted"],
    "excluded_usernames": ["robot"],
    "payload_url": "https://example.com/{{ changed }}",
    "additional_headers": "X-Before: {{ snapshots.prechange.name }}",
    "body_template": "{{ snapshots }}",
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_field_that_counts_is_read_again_when_it_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = make_webhook(Thing)
    before = subscriptions.current("default")
    Webhook.objects.filter(pk=webhook.pk).update(**{name: CHANGES[name]})
    found = subscriptions.current("default")
    assert found != before
    monkeypatch.setattr(subscriptions, "_cached", {})
    assert subscriptions.current("default") == found


def test_every_filter_is_tried_here() -> None:
    assert {field.name for field in dataclasses.fields(Filters)} <= {*CHANGES, "webhook_id"}


def test_an_edit_between_the_fingerprint_and_the_read_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = make_webhook(Thing)
    wanting()
    ask = subscriptions.read_fingerprint

    def edited_meanwhile(using: str, with_names: bool) -> str:
        found = ask(using, with_names)
        Webhook.objects.filter(pk=webhook.pk).update(enabled=False)
        return found

    Webhook.objects.filter(pk=webhook.pk).update(on_deleted=False)  # so that it is read again
    with monkeypatch.context() as patched:
        patched.setattr(subscriptions, "read_fingerprint", edited_meanwhile)
        assert wanting() == []
    Webhook.objects.filter(pk=webhook.pk).update(enabled=True)
    assert wanting() == [webhook.pk]


def test_a_model_that_a_migration_renames_meanwhile_is_found() -> None:
    webhook = make_webhook(Thing)
    named = ContentType.objects.filter(app_label="testapp")
    with transaction.atomic():
        named.filter(model="thing").update(model="earlier")
        assert wanting() == []  # as in a process that has the new code already
        named.filter(model="earlier").update(model="thing")
        assert wanting() == [webhook.pk]


@pytest.mark.cost
def test_a_model_that_is_not_registered_costs_no_more_queries(own_registrations: None) -> None:
    make_webhook(Thing, Label)
    registry.unregister(Label)
    for _ in range(2):
        wanting()
    assert len(statements_of(wanting)) == 1


@pytest.mark.sqlite
def test_reading_the_webhooks_waits_for_no_writer() -> None:
    make_webhook(Thing)
    assert {one.split()[0] for one in statements_of(wanting)} == {"SELECT"}


def test_a_model_that_is_registered_meanwhile_is_found(own_registrations: None) -> None:
    registration = registry.registration_of(Thing)
    assert registration is not None
    make_webhook(Thing)
    registry.unregister(Thing)
    assert not subscriptions.current("default").has_subscribers(Thing)
    registry.register(Thing, registration.serializer)
    assert subscriptions.current("default").has_subscribers(Thing)
