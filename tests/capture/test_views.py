"""Models without a table of their own: PostgreSQL locks no rows of a view with DISTINCT."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, models
from rest_framework import serializers

import webhooks
from tests.support.makers import actions, events, make_webhook, sides
from tests.support.modes import MODES
from tests.support.statements import statements_of
from tests.testapp.models import Thing
from webhooks import TrackedQuerySet

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.postgresql]

VIEW = """
CREATE VIEW testapp_distinct AS SELECT DISTINCT id, name FROM testapp_thing;
CREATE FUNCTION testapp_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN DELETE FROM testapp_thing WHERE id = OLD.id; RETURN OLD; END IF;
    UPDATE testapp_thing SET name = NEW.name WHERE id = OLD.id; RETURN NEW;
END $$;
CREATE TRIGGER written INSTEAD OF UPDATE OR DELETE ON testapp_distinct FOR EACH ROW EXECUTE FUNCTION testapp_write();
"""


class ViewSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    name = serializers.CharField()


@pytest.fixture
def model(own_registrations: None) -> Iterator[Any]:
    """A model of a view that can be written."""
    with connection.cursor() as cursor:
        cursor.execute(VIEW)
    yield from _registered("testapp_distinct")
    with connection.cursor() as cursor:
        cursor.execute("DROP VIEW testapp_distinct; DROP FUNCTION testapp_write")


@pytest.fixture
def table(own_registrations: None) -> Iterator[Any]:
    """A model of a table that another program manages."""
    yield from _registered("testapp_label")


def _registered(db_table: str) -> Iterator[Any]:
    from django.apps import apps

    meta = type("Meta", (), {"app_label": "testapp", "managed": False, "db_table": db_table})
    fields = {"name": models.CharField(max_length=50), "objects": TrackedQuerySet.as_manager()}
    model: Any = type("Foreign", (models.Model,), {"__module__": __name__, "Meta": meta, **fields})
    webhooks.register(model, serializer=ViewSerializer)
    yield model
    apps.all_models["testapp"].pop("foreign")
    apps.clear_cache()


@pytest.mark.parametrize("prechange", [False, True])
@MODES
def test_a_change_through_a_view_that_cannot_be_locked_is_sent(
    model: Any, mode: Callable[[Callable[[], Any]], None], prechange: bool
) -> None:
    Thing.objects.create(name="first")
    make_webhook(model, prechange=prechange)
    row = model.objects.get()

    def rename() -> None:
        row.name = "second"
        row.save()

    mode(rename)
    assert (actions(), json.loads(events()[-1].data)["name"]) == (["updated"], "second")
    if prechange:
        assert sides()[0]["name"] == "first"
    mode(lambda: model.objects.update(name="third"))
    mode(lambda: model.objects.all().delete())
    assert actions() == ["updated", "updated", "deleted"]
    assert not [event.error for event in events() if event.error]
    assert not Thing.objects.exists()


@pytest.mark.cost
def test_the_kind_of_a_view_is_looked_up_once(model: Any) -> None:
    make_webhook(model, prechange=True)
    Thing.objects.create(name="first")
    row = model.objects.get()
    asked = [sum("pg_class" in one for one in statements_of(row.save)) for _ in range(2)]
    assert asked[1] == 0


def test_a_table_that_another_program_manages_is_locked(table: Any) -> None:
    make_webhook(table, prechange=True)
    row = table.objects.create(name="first")
    assert sum("FOR NO KEY UPDATE" in one for one in statements_of(row.save)) >= 1
    assert sum("FOR NO KEY UPDATE" in one for one in statements_of(lambda: table.objects.update(name="a"))) >= 1


@pytest.mark.cost
def test_nothing_is_looked_up_for_a_model_that_django_manages() -> None:
    make_webhook(Thing, prechange=True)
    thing = Thing.objects.create(name="first")
    assert not [one for one in statements_of(thing.save) if "pg_class" in one]
