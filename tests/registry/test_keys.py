"""Keys that are not written as the database has them: one object has one name, and one lane."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.db import models
from rest_framework import serializers

import webhooks
from tests.support.makers import actions, events, last_data, make_webhook
from tests.support.modes import MODES
from tests.testapp.models import Edition, Essay, Gadget, Shout, Tide
from webhooks import registry
from webhooks.registry.registration import normalize_pk, pk_may_exceed

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ID = uuid.UUID("00000000-0000-4000-8000-00000000000a")

# A model, its key as somebody writes it, and as it is named.
KEYS: list[tuple[type[models.Model], Any, str]] = [
    (Edition, Decimal(1), "1.00"),
    (Edition, "1.5", "1.50"),
    (Edition, 2, "2.00"),
    (Tide, NOON.astimezone(timezone(timedelta(hours=2))), "2026-01-01 12:00:00+00:00"),
    (Tide, "2026-01-01T14:00:00+02:00", "2026-01-01 12:00:00+00:00"),
    (Gadget, str(ID).upper(), str(ID)),
]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("prechange", [False, True])
@MODES
@pytest.mark.parametrize(("model", "given", "named"), KEYS)
def test_an_object_is_named_as_the_database_has_its_key(
    model: type[models.Model], given: Any, named: str, mode: Any, prechange: bool
) -> None:
    make_webhook(model, prechange=prechange)
    manager = model._base_manager
    mode(lambda: manager.create(pk=given, name="made"))
    again = manager.get()
    again.pk, again.name = given, "changed"  # type: ignore[attr-defined]
    mode(again.save)
    mode(lambda: manager.get().delete())
    assert [(event.action, event.object_id, event.error) for event in events()] == [
        ("created", named, ""),
        ("updated", named, ""),
        ("deleted", named, ""),
    ]
    assert ('"made"' in events()[1].snapshots) == prechange


@pytest.mark.usefixtures("database")
@MODES
def test_an_object_whose_field_writes_its_key_in_a_way_of_its_own_is_sent_all_the_same(mode: Any) -> None:
    make_webhook(Shout, prechange=True)
    mode(lambda: [Shout.objects.create(word=word, name="made") for word in ("hey", "ho")])
    assert [(event.action, event.object_id, event.error) for event in events()] == [
        ("created", "hey", ""),
        ("created", "ho", ""),
    ]
    assert last_data()["word"] == "HO"


@pytest.mark.usefixtures("database")
def test_what_is_gone_in_a_batch_is_not_sent() -> None:
    make_webhook(Edition)
    with webhooks.batch():
        Edition.objects.create(pk=1)
        Edition.objects.create(pk=2)
        Edition.objects.filter(pk=1)._raw_delete("default")
    assert [(event.action, event.object_id) for event in events()] == [("created", "2.00")]


@pytest.mark.usefixtures("database")
def test_a_custom_event_goes_in_the_lane_of_its_object_however_the_key_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_custom_events", {**registry._custom_events, "testapp.checked": "Checked"})
    make_webhook(Gadget, custom_events=["testapp.checked"])
    gadget = Gadget.objects.create(id=str(ID).upper(), name="made")
    webhooks.send("testapp.checked", gadget)
    made, sent = events()
    assert made.lane == sent.lane
    with pytest.raises(ValueError, match="its key is none"):
        webhooks.send("testapp.checked", Gadget(id="nothing like it"))
    assert actions() == ["created", "testapp.checked"]


class EssaySerializer(serializers.ModelSerializer):
    class Meta:
        model = Essay
        fields = ("title",)


@pytest.fixture
def essays() -> Iterator[None]:
    registry.register(Essay, EssaySerializer)
    yield
    registry.unregister(Essay)


@pytest.mark.postgresql
@pytest.mark.usefixtures("database", "essays")
@MODES
def test_an_object_that_cannot_be_recorded_costs_no_other_its_event(
    mode: Any, app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_custom_events", {**registry._custom_events, "testapp.checked": "Checked"})
    make_webhook(Essay, Edition, custom_events=["testapp.checked"])

    def change() -> None:
        Essay.objects.create(title="short")
        Essay.objects.create(title="x" * 300)
        webhooks.send("testapp.checked")
        Edition.objects.create(pk=1, name="made")

    mode(change)
    assert [event.object_id for event in events()] == ["short", "testapp.checked", "1.00"]
    assert [event.error for event in events()] == [""] * 3
    assert re.search("No webhook will hear that testapp.essay x{300} (was )?created", app_log.text)


def test_which_keys_may_be_longer_than_an_event_holds() -> None:
    class Scroll(models.Model):
        text = models.TextField(primary_key=True)

        class Meta:
            app_label = "unmade"

    class Line(models.Model):
        pk = models.CompositePrimaryKey("essay_id", "number")
        essay = models.ForeignKey(Essay, models.CASCADE)
        number = models.IntegerField()

        class Meta:
            app_label = "unmade"

    keys = {model: pk_may_exceed(model._meta.pk, 255) for model in (Edition, Tide, Gadget, Shout, Essay, Scroll, Line)}
    assert [model for model, may in keys.items() if may] == [Essay, Scroll, Line]


def test_an_inherited_key_is_that_of_the_row_that_is_inherited_and_parts_are_keys_each() -> None:
    class Reprint(Edition):
        class Meta:
            app_label = "unmade"

    class Page(models.Model):
        pk = models.CompositePrimaryKey("edition_id", "number")
        edition = models.ForeignKey(Edition, models.CASCADE)
        number = models.IntegerField()

        class Meta:
            app_label = "unmade"

    assert str(registry.registration_or_default(Reprint).normalize_pk("3")) == "3.00"
    assert [str(part) for part in normalize_pk(Page._meta.pk, (3, "7"))] == ["3.00", "7"]


def test_a_time_without_a_zone_is_of_the_zone_of_the_settings_if_there_is_one(settings: Any) -> None:
    at, naive = Tide._meta.pk, datetime(2026, 1, 1, 12)
    settings.TIME_ZONE = "Europe/Berlin"
    assert str(normalize_pk(at, naive)) == "2026-01-01 11:00:00+00:00"
    settings.USE_TZ = False
    assert normalize_pk(at, naive) == naive
