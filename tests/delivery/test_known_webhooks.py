"""A worker reads a webhook again if, and only if, its row has changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from tests.support.makers import make_webhook
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.delivery import known_webhooks
from webhooks.delivery.known_webhooks import Known, webhooks_by_id
from webhooks.models import Webhook

USING = "default"

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_webhooks, "_known", Known(None, 0.0, {}))


def test_webhooks_are_as_their_rows() -> None:
    webhooks = [make_webhook(Thing), make_webhook(Thing, conditions={"attr": "name", "value": "a"})]
    for _ in range(2):
        found = webhooks_by_id(USING, [webhook.pk for webhook in webhooks])
        for webhook in webhooks:
            read = Webhook.objects.get(pk=webhook.pk)
            assert {**vars(found[webhook.pk]), "_state": None} == {**vars(read), "_state": None}


@pytest.mark.cost
def test_rows_that_have_not_changed_are_not_read_again() -> None:
    ids = [make_webhook(Thing).pk, make_webhook(Thing).pk]
    first = webhooks_by_id(USING, ids[:1])
    with CaptureQueriesContext(connection) as captured:
        again = webhooks_by_id(USING, ids[:1])
    is_postgresql = connection.vendor == "postgresql"
    assert ("secret" in captured[0]["sql"], len(captured)) == (not is_postgresql, 1)
    assert (again[ids[0]] is first[ids[0]]) == is_postgresql
    both = webhooks_by_id(USING, ids)
    assert both.keys() == set(ids)
    assert (both[ids[0]] is first[ids[0]]) == is_postgresql


def update_twice(pk: int) -> None:
    with transaction.atomic():
        Webhook.objects.filter(pk=pk).update(name="for a moment")
        assert webhooks_by_id(USING, [pk])[pk].name == "for a moment"
        Webhook.objects.filter(pk=pk).update(name="changed")


def update_and_roll_back(pk: int) -> None:
    with transaction.atomic():
        Webhook.objects.filter(pk=pk).update(name="never")
        assert webhooks_by_id(USING, [pk])[pk].name == "never"
        transaction.set_rollback(True)
    Webhook.objects.filter(pk=pk).update(name="changed")


def update_by_sql(pk: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE rq_webhooks_webhook SET name = 'changed' WHERE id = %s", [pk])


@pytest.mark.parametrize("update", [update_twice, update_and_roll_back, update_by_sql])
def test_a_change_is_seen_at_once(update: Callable[[int], None]) -> None:
    pk = make_webhook(Thing).pk
    webhooks_by_id(USING, [pk])
    update(pk)
    assert webhooks_by_id(USING, [pk])[pk].name == "changed"


def test_a_rollback_is_seen_at_once() -> None:
    pk = make_webhook(Thing, name="as before").pk
    webhooks_by_id(USING, [pk])
    with transaction.atomic():
        Webhook.objects.filter(pk=pk).update(name="never")
        webhooks_by_id(USING, [pk])
        transaction.set_rollback(True)
    assert webhooks_by_id(USING, [pk])[pk].name == "as before"


def delete_row(pk: int) -> None:
    Webhook.object_types.through.objects.filter(webhook=pk).delete()
    Webhook.with_deleted.filter(pk=pk)._raw_delete(USING)


def test_a_deleted_webhook_is_left_out() -> None:
    webhook, other = make_webhook(Thing), make_webhook(Thing)
    ids = [webhook.pk, other.pk, 0]
    webhooks_by_id(USING, ids)
    webhook.delete()
    assert webhooks_by_id(USING, ids).keys() == {other.pk}
    delete_row(other.pk)
    assert webhooks_by_id(USING, ids) == {}


def test_all_are_read_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pk = make_webhook(Thing).pk
    first = webhooks_by_id(USING, [pk])[pk]
    monkeypatch.setattr(known_webhooks, "_known", known_webhooks._known._replace(until=0.0))
    assert webhooks_by_id(USING, [pk])[pk] is not first


def test_all_are_read_again_with_a_new_connection() -> None:
    """After a crash of the database, another transaction may have the number of one that was lost."""
    pk = make_webhook(Thing).pk
    first = webhooks_by_id(USING, [pk])[pk]
    connection.close()
    connection.connect()
    assert webhooks_by_id(USING, [pk])[pk] is not first


@pytest.mark.postgresql
def test_a_version_has_the_time_at_which_a_user_saved_the_webhook() -> None:
    """A pooler may hide that the database has crashed."""
    webhook = make_webhook(Thing)
    with transaction.atomic():
        before = dict(known_webhooks._versions.fetch(USING, [webhook.pk]))[webhook.pk].split(")")
        Webhook.objects.get(pk=webhook.pk).save_settings(set())
        webhook.name = "another"
        webhook.save()
        after = dict(known_webhooks._versions.fetch(USING, [webhook.pk]))[webhook.pk].split(")")
    assert before[1] != after[1]


@pytest.mark.postgresql
@pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "known"])
def test_a_row_that_is_kept_cannot_be_deleted_meanwhile(is_known: bool) -> None:
    pk = make_webhook(Thing).pk
    if is_known:
        webhooks_by_id(USING, [pk])
    with transaction.atomic():
        webhooks_by_id(USING, [pk], keeps=True)
        deletion = Beside(lambda: delete_row(pk))
        deletion.wait_until_blocked_or_done()
        assert deletion.is_running
    deletion.join()
    assert webhooks_by_id(USING, [pk]) == {}
