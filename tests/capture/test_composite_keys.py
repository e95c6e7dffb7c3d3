"""Objects with composite primary keys, from the change to the pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import models, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags
from rest_framework.test import APIClient

import webhooks
from tests.support.admin_pages import form, page
from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import actions, changed, events, last_data, make_webhook, recorded
from tests.support.modes import MODES
from tests.support.statements import statements_of
from tests.testapp.models import Album, AlbumLabel, Gadget, Label, Seat, Sounding, Thing
from webhooks.ground import registry
from webhooks.ground.db import to_db_time
from webhooks.ground.registry.keys import key_text, key_text_sql
from webhooks.insight.why.causes import Cause
from webhooks.models import Event, permissions
from webhooks.models.lanes import lane_of
from webhooks.operations import replays

pytestmark = pytest.mark.usefixtures("database")

ID = "00000000-0000-4000-8000-00000000000a"


def thing_with_seats(count: int = 2) -> Thing:
    thing = Thing.objects.create(pk=7, name="hall")
    models.QuerySet(Seat).bulk_create(Seat(thing=thing, number=number) for number in range(1, count + 1))
    return thing


def sounding(**fields: Any) -> Sounding:
    """With parts of the key that are assigned in another spelling than they are read in."""
    Gadget.objects.get_or_create(pk=ID, name="probe")
    at = to_db_time(datetime(2026, 11, 24, 12, tzinfo=UTC))
    return Sounding(**{"gadget_id": ID.upper(), "at": at, "depth": "1.5", "place": 'a, "b"\\ü\n'} | fields)


def the_key() -> str:
    """The key of ``sounding()`` as text."""
    at = to_db_time(datetime(2026, 11, 24, 12, tzinfo=UTC))
    return json.dumps([ID, str(at), "1.50", 'a, "b"\\ü\n'], ensure_ascii=False)


# The key as text


def test_the_id_of_an_object_is_a_json_list_of_the_parts_of_its_key() -> None:
    make_webhook(Seat)
    Seat.objects.create(thing=thing_with_seats(0), number=3)
    assert recorded() == [("created", "testapp.seat", '["7", "3"]')]


@MODES
def test_each_part_of_a_key_is_written_as_the_database_has_it(mode: Callable[..., None]) -> None:
    make_webhook(Sounding, prechange=True)
    one = sounding()

    def change() -> None:
        one.save()
        one.name = "new"
        one.save()

    mode(change)
    Sounding.objects.get().save()
    assert {event.object_id for event in events()} == {the_key()}
    assert not any(event.error for event in events())


def test_the_text_leads_back_to_the_object() -> None:
    sounding().save()
    registration = registry.registration_or_default(Sounding)
    stored = Sounding.objects.get()
    assert registration.normalize_pk(the_key()) == stored.pk
    assert registration.find(registration.rows("default"), the_key()) == stored
    assert registration.find(registration.rows("default"), stored.pk) == stored
    assert registration.key_of(stored) == the_key()
    assert Sounding._meta.pk.value_to_string(stored)[:50] == the_key()[:50], "as Django's own serializers"


@pytest.mark.parametrize(
    "key",
    [
        "7", "[7]", '["7", "3", "1"]', '["7", null]', "null", "", "{}", '{"7": 1, "3": 2}', "(7, 3)", '["7", "three"]',
        (7,), (7, None), (7, "x"), None, 7, "[" * 100_000,
    ],
)  # fmt: skip
def test_a_text_that_is_no_key_finds_no_object(key: Any) -> None:
    thing_with_seats(3)
    registration = registry.registration_or_default(Seat)
    with pytest.raises(ValidationError):
        registration.normalize_pk(key)
    assert registration.find(registration.rows("default"), key) is None


def test_the_database_writes_the_same_text(database: str) -> None:
    thing_with_seats(3)
    for model in (Seat, Thing):
        texts = model.objects.annotate(key=key_text_sql(model, "default")).values_list("key", flat=True)
        keys = model._base_manager.values_list("pk", flat=True)
        assert sorted(texts) == sorted(map(key_text, keys))
    places = ['a"b', "a\\b", "a\nb\tc\x01\x1f\x7f", "ü€😀", "/", "'"]
    for place in places:
        sounding(place=place).save()
    # Not the whole key: databases write times and numbers in another way.
    texts = Sounding.objects.annotate(key=key_text_sql(Sounding, "default")).values_list("key", flat=True)
    assert {text.partition(", ")[0] for text in texts} == {f'["{ID}"'}
    assert {text.rpartition(", ")[2] for text in texts} == {f"{key_text((place,))[1:-1]}]" for place in places}


# Changes


@MODES
def test_saves_and_deletes_are_events(mode: Callable[..., None]) -> None:
    thing = thing_with_seats(0)
    make_webhook(Seat, prechange=True)
    mode(lambda: Seat.objects.create(thing=thing, number=1, name="old"))
    seat = Seat.objects.get()
    seat.name = "new"
    mode(seat.save)
    assert (changed(), last_data()) == (["name"], {"thing": 7, "number": 1, "name": "new"})
    mode(seat.delete)
    assert actions() == ["created", "updated", "deleted"]
    assert {event.object_id for event in events()} == {'["7", "1"]'}
    assert not any(event.error for event in events())


def test_a_delete_that_cascades_records_each_object() -> None:
    thing = thing_with_seats(2)
    make_webhook(Seat)
    thing.delete()
    assert recorded() == [("deleted", "testapp.seat", '["7", "1"]'), ("deleted", "testapp.seat", '["7", "2"]')]


def test_a_relation_through_a_model_with_a_composite_key_is_recorded() -> None:
    make_webhook(Album, AlbumLabel, prechange=True)
    album, label = Album.objects.create(name="a"), Label.objects.create(name="red")
    AlbumLabel.objects.create(album=album, label=label).save()
    assert recorded(AlbumLabel) == [
        ("created", "testapp.albumlabel", f'["{album.pk}", "{label.pk}"]'),
        ("updated", "testapp.albumlabel", f'["{album.pk}", "{label.pk}"]'),
    ]
    album.labels.clear()
    label.albums.add(album)
    assert actions(Album) == ["created", "updated", "updated"]
    assert changed(events(Album)[-1]) == ["labels"]


def test_a_save_of_a_model_with_nothing_but_its_key_is_no_lock() -> None:
    assert not registry.save_locks_row(AlbumLabel)
    assert registry.save_locks_row(Seat)


@MODES
def test_bulk_operations_are_events(mode: Callable[..., None]) -> None:
    thing = thing_with_seats(0)
    make_webhook(Seat, prechange=True)
    mode(lambda: Seat.objects.bulk_create(Seat(thing=thing, number=number) for number in (1, 2)))
    mode(lambda: Seat.objects.filter(thing=thing).update(name=Concat(Value("n"), Value("ew"))))
    seats = list(Seat.objects.order_by("pk"))
    for seat in seats:
        seat.name = "third"
    mode(lambda: Seat.objects.bulk_update(seats, ["name"]))
    mode(lambda: Seat.objects.filter(name="third").delete())
    assert actions() == [action for action in ("created", "updated", "updated", "deleted") for _ in (1, 2)]
    assert [changed(event) for event in events()[2:6]] == [["name"]] * 4
    assert {event.object_id for event in events()} == {'["7", "1"]', '["7", "2"]'}


def test_an_upsert_distinguishes_new_from_existing_rows() -> None:
    thing = thing_with_seats(1)
    make_webhook(Seat, prechange=True)
    rows = [Seat(thing=thing, number=number, name="new") for number in (1, 2)]
    Seat.objects.bulk_create(rows, update_conflicts=True, update_fields=["name"], unique_fields=["thing", "number"])
    assert recorded() == [("updated", "testapp.seat", '["7", "1"]'), ("created", "testapp.seat", '["7", "2"]')]
    assert changed(events()[0]) == ["name"]


@pytest.mark.sqlite
def test_bulk_operations_take_any_number_of_objects(app_log: pytest.LogCaptureFixture) -> None:
    # SQLite allows no expression that compares more than a thousand of them one by one.
    thing_with_seats(1010)
    make_webhook(Seat, prechange=True)
    assert Seat.objects.update(name="new") == 1010
    with webhooks.batch():
        for seat in Seat.objects.all():
            seat.save()
    assert actions() == ["updated"] * 2020
    assert app_log.text == ""


def test_a_change_of_a_part_of_the_key_deletes_and_creates_the_object() -> None:
    thing_with_seats(2)
    make_webhook(Seat, prechange=True)
    assert Seat.objects.filter(number=2).update(number=F("number") + 1) == 1
    assert recorded() == [("deleted", "testapp.seat", '["7", "2"]'), ("created", "testapp.seat", '["7", "3"]')]


# Everything after the change


def test_changes_of_an_object_go_one_at_a_time_in_one_lane(inbox: Inbox) -> None:
    webhook = make_webhook(Sounding, url=inbox.url())
    sounding().save()
    Sounding.objects.update(name="new")
    drain()
    assert [one.json["event"] for one in inbox.wait_for(2)] == ["created", "updated"]
    assert {one.lane for one in webhook.deliveries.all()} == {lane_of("testapp.sounding", the_key())}


@pytest.mark.usefixtures("own_registrations")
def test_an_event_of_the_project_may_be_about_such_an_object() -> None:
    webhooks.register_event("testapp.taken")
    make_webhook(custom_events=["testapp.taken"])
    seat = Seat.objects.create(thing=thing_with_seats(0), number=1)
    with transaction.atomic():
        webhooks.send("testapp.taken", seat, {"by": "Ann"})
    assert recorded() == [("testapp.taken", "testapp.seat", '["7", "1"]')]
    with pytest.raises(ValueError, match="not saved"):
        webhooks.send("testapp.taken", Seat(number=1))
    assert statements_of(lambda: webhooks.send("testapp.taken", seat))


def test_its_events_are_replayed() -> None:
    make_webhook(Sounding, Seat)
    sounding(name="then").save()
    models.QuerySet(Sounding).update(name="now")
    seat = Seat.objects.create(thing=thing_with_seats(0), number=1)
    seat.delete()
    [updated, created, deleted] = replays.replay(events())
    assert updated.event is not None
    assert json.loads(updated.event.data)["name"] == "now"
    assert (updated.event.object_id, created.problem) == (the_key(), "the object is gone")
    assert deleted.event is not None
    Seat.objects.create(thing_id=7, number=1)
    [again] = replays.replay([events(Seat)[1]])
    assert again.problem == "the object exists again"


def test_why_answers_about_it() -> None:
    make_webhook(Seat)
    thing_with_seats(2)
    seat = Seat.objects.get(number=1)
    assert [one.cause for one in webhooks.why(seat)] == [Cause.NO_TRACE]
    seat.save()
    for asked in (seat, ("testapp.seat", '["7", "1"]'), ("testapp.seat", (7, 1)), ("testapp.seat", [7, "1"])):
        [verdict] = webhooks.why(asked)  # type: ignore[arg-type]
        assert verdict.event == events()[0].pk
    models.QuerySet(Seat).filter(number=1).update(name="unseen")
    [verdict] = webhooks.why(seat)
    assert (verdict.cause, verdict.changed) == (Cause.NO_SIGNAL, ("name",))
    assert [one.cause for one in webhooks.why(Seat(number=1))] == [Cause.NOT_SAVED]


def test_the_commands_take_its_key(capsys: pytest.CaptureFixture[str], redis: Any) -> None:
    make_webhook(Seat)
    Seat.objects.create(thing=thing_with_seats(0), number=1)
    call_command("webhooks_why", "testapp.seat", '["7", "1"]')
    assert '["7", "1"]' in capsys.readouterr().out
    for key, found in (('["7", "1"]', "1 event"), ('["7", "2"]', "0 events")):
        call_command("webhooks_replay", "--object-type", "testapp.seat", "--object-id", key, "--dry-run")
        assert found in capsys.readouterr().out


def test_a_user_who_may_view_some_objects_sees_their_events() -> None:
    make_webhook(Seat, Sounding)
    thing = thing_with_seats(0)
    for number in (1, 2):
        Seat.objects.create(thing=thing, number=number)
    sounding().save()
    of_seats = permissions.of_objects(Seat.objects.filter(number=1))
    assert [event.object_id for event in Event.objects.filter(of_seats)] == ['["7", "1"]']
    Seat.objects.filter(number=2).delete()
    gone = permissions.of_objects(Seat.objects.none(), and_gone=True)
    assert {event.object_id for event in Event.objects.filter(gone)} == {'["7", "2"]'}


# Pages and the REST API


@pytest.fixture
def seat(redis: Any) -> Seat:
    make_webhook(Seat)
    return Seat.objects.create(thing=thing_with_seats(0), number=1, name="window")


@pytest.mark.one_database
def test_the_admin_shows_its_events(admin_client: Client, seat: Seat) -> None:
    [event] = events()
    assert "window" in page(admin_client, reverse("admin:rq_webhooks_event_change", args=[event.pk]))
    events_page = reverse("admin:rq_webhooks_event_changelist")
    assert "window" in page(admin_client, events_page, q='testapp.seat:["7", "1"]')
    assert "window" not in page(admin_client, events_page, q='testapp.seat:["7", "2"]')
    shown = page(admin_client, reverse("webhooks_why"), object_type="testapp.seat", object_id='["7", "1"]')
    assert "window created" in unescape(strip_tags(shown))
    assert "has the id or the exact name" in page(
        admin_client, reverse("webhooks_why"), object_type="testapp.seat", object_id="7"
    )
    by_name = page(admin_client, reverse("webhooks_why"), object_type="testapp.seat", object_id="window")
    assert "window created" in unescape(strip_tags(by_name))


@pytest.mark.one_database
def test_the_form_of_a_webhook_tries_it_on_such_an_object(admin_client: Client, seat: Seat) -> None:
    sample = {"try": "show", "try_action": "updated", "try_model": "testapp.seat"}
    address = reverse("admin:rq_webhooks_webhook_try_new")
    for given in ('["7", "1"]', "[7,1]"):
        answer = admin_client.post(address, form() | sample | {"try_object": given})
        assert "window" in unescape(answer.content.decode())
    answer = admin_client.post(address, form() | sample | {"try_object": "7"})
    assert "There is no seat with the key 7" in unescape(answer.content.decode())


@pytest.mark.one_database
def test_the_rest_api_takes_its_key(api: APIClient, seat: Seat) -> None:
    asked = {"object_type": "testapp.seat", "object_id": '["7", "1"]'}
    assert [one["object_id"] for one in api.get("/api/webhooks/events/", asked).json()["results"]] == ['["7", "1"]']
    assert api.get("/api/webhooks/events/", asked | {"object_id": '["7", "2"]'}).json()["results"] == []
    assert api.get("/api/webhooks/why/", asked).status_code == 200
