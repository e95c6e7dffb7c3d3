"""Which webhooks want which change, looked up in every transaction."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from tests.makers import make_webhook
from tests.testapp.models import Label, Place, Thing
from tests.threads import Beside
from webhooks.capture import subscriptions
from webhooks.capture.subscriptions import Demand
from webhooks.models import Action, Webhook

pytestmark = pytest.mark.usefixtures("database")


def wanting(model: str = "testapp.thing", action: Action = Action.UPDATED) -> list[int]:
    return subscriptions.current("default").matching(model, action)


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
    assert found.touch("testapp.thing")
    assert not found.touch("testapp.place")


def test_a_webhook_without_models_and_no_webhook_at_all_want_nothing() -> None:
    assert subscriptions.current("default").by_change == {}
    make_webhook()
    assert subscriptions.current("default").by_change == {}


def test_it_is_one_query_whose_answer_does_not_grow_with_the_webhooks() -> None:
    for _ in range(100):
        make_webhook(Thing, Label)
    with CaptureQueriesContext(connection) as captured:
        assert len(wanting()) == 100
    [query] = captured.captured_queries
    with connection.cursor() as cursor:
        cursor.execute(query["sql"])
        assert len(cursor.fetchall()) == 2


def test_the_demands_of_those_who_have_any_come_with_the_same_query() -> None:
    rule = {"attr": "name", "value": "ä"}
    for _ in range(100):
        make_webhook(Thing, Label)
    conditions = make_webhook(Thing, Label, Place, conditions=rule)
    fields = make_webhook(Thing, changed_fields=["name", "labels"], only_changes=True)
    before = make_webhook(Thing, prechange=True)
    shown = make_webhook(Thing, body_template="{{ snapshots.prechange.name }}")
    make_webhook(Thing, conditions=rule, enabled=False)
    with CaptureQueriesContext(connection) as captured:
        found = subscriptions.current("default")
    [query] = captured.captured_queries
    assert len(found.matching("testapp.thing", Action.UPDATED)) == 104
    text = found.demands[conditions.pk].conditions
    assert json.loads(text) == rule
    assert found.demands == {
        conditions.pk: Demand(conditions.pk, conditions=text),
        fields.pk: Demand(fields.pk, changed_fields=("name", "labels"), only_changes=True),
        before.pk: Demand(before.pk, prechange=True),
        shown.pk: Demand(shown.pk, shows_before=True),
    }
    with connection.cursor() as cursor:
        cursor.execute(query["sql"])
        assert len(cursor.fetchall()) == 3 + 4


# An edit is seen by the next transaction, whoever made it, and however


def disable_by_sql(webhook: Webhook) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE webhooks_webhook SET enabled = %s WHERE id = %s", [False, webhook.pk])


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
