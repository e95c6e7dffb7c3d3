"""A site that still runs the old code after the tables were migrated loses nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.apps import apps
from django.db import connection, models

from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.makers import actions, make_webhook
from tests.testapp.models import Thing
from webhooks import batch, send
from webhooks.models import Attempt, State

MODELS = list(apps.get_app_config("rq_webhooks").get_models(include_auto_created=True))

# The columns that each INSERT of the first release sets. A later column needs a default in the database.
ALWAYS_GIVEN = {
    "attempt": {"number", "started_at", "duration_ms", "succeeded"},
    "body": {"sha256", "content"},
    "event": {"action", "object_id"},
    "queueddelivery": {"state"},
    "run": {"kind"},
    "statistic": {"period", "start"},
    "statisticdelta": {"start", "counts"},
    "sweep": {"swept_at"},
    "webhook": {"name", "payload_url", "created", "last_updated"},
    "worker": {"name", "lease_until"},
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)
def test_each_column_has_a_default_in_the_database(
    model: type[models.Model],
) -> None:
    without = {
        field.name
        for field in model._meta.local_concrete_fields
        if not (field.null or field.primary_key or field.is_relation or field.has_db_default())
    }
    assert without == ALWAYS_GIVEN.get(str(model._meta.model_name), set())


@pytest.fixture
def migrated(database: str) -> Iterator[None]:
    """Each table has a column that the code does not know, as a later release would add it."""
    added = []
    for model in MODELS:
        field = models.IntegerField(default=7, db_default=7)
        field.set_attributes_from_name("added_later")
        field.model = model
        added.append((model, field))
    with connection.schema_editor() as editor:
        for model, field in added:
            editor.add_field(model, field)
    yield
    with connection.schema_editor() as editor:
        for model, field in added:
            editor.remove_field(model, field)


@pytest.mark.usefixtures("migrated")
def test_the_old_code_records_and_delivers_on_the_new_tables(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url(), custom_events=["dcim.rack_audited"])
    thing = Thing.objects.create(name="a")
    thing.save()
    with batch():
        thing.save()
        Thing.objects.create(name="b")
    send("dcim.rack_audited", thing, {"count": 2})
    thing.delete()
    told = ["created", "updated", "updated", "created", "dcim.rack_audited", "deleted"]
    assert actions() == told
    drain()
    assert sorted(post.json["event"] for post in inbox.received()) == sorted(told)
    assert (states(), Attempt.objects.count()) == ([State.SUCCEEDED] * 6, 6)
