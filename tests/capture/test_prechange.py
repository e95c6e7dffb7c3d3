"""What objects were before a transaction changes them, where that is hard to know: savepoints that are rolled back,
changes without a signal, models and managers that fail. What the payload shows of it is in ``test_snapshots``."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from itertools import permutations
from typing import Any
from unittest.mock import Mock, patch

import pytest
from django.contrib.contenttypes.fields import GenericRelation
from django.db import DatabaseError, connection, transaction
from django.db.models import F, Value
from django.db.models.deletion import Collector
from django.db.models.expressions import RawSQL
from django.db.models.functions import Concat
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save
from rest_framework import serializers
from rq.timeouts import JobTimeoutException
from taggit.models import Tag, TaggedItem

from tests.support.makers import actions, changed, events, make_webhook, rename, sides
from tests.support.modes import MODES, in_batch, in_transaction
from tests.support.receivers import host_receiver
from tests.support.rollbacks import ROLLBACKS, Rollback, Subject, bare_savepoint
from tests.support.sessions import session
from tests.support.statements import statements_of
from tests.support.threads import Beside
from tests.testapp.models import (
    Album,
    Box,
    Course,
    Diner,
    Gadget,
    Label,
    Part,
    Peer,
    Person,
    Place,
    Restaurant,
    Review,
    Specimen,
    Thing,
    ThingProxy,
)
from webhooks import TrackedQuerySet
from webhooks.capture import prechange, subscriptions
from webhooks.capture.signals import on_many_to_many_changed
from webhooks.capture.transaction import PrechangeStates, SavepointLog
from webhooks.ground import registry
from webhooks.ground.db import django_internals, execute
from webhooks.ground.payloads import snapshots
from webhooks.models import Event

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def thing() -> Thing:
    return Thing.objects.create(name="old")


@pytest.fixture
def red() -> Label:
    return Label.objects.create(name="red")


@pytest.fixture
def blue() -> Label:
    return Label.objects.create(name="blue")


@pytest.mark.parametrize("order", list(permutations(("save", "add", "update"))), ids=" ".join)
def test_the_previous_state_is_right_in_any_order_of_changes(thing: Thing, order: tuple[str, ...]) -> None:
    thing.labels.add(Label.objects.create(name="red"))
    make_webhook(Thing, prechange=True)
    changes = {
        "save": lambda: rename(thing),
        "add": lambda: thing.labels.add(Label.objects.create(name="blue")),
        "update": lambda: TrackedQuerySet(Thing).update(status="retired"),
    }
    with transaction.atomic():
        for name in order:
            changes[name]()
        thing.labels.clear()
    before, after = sides()
    assert (before["name"], before["status"], before["labels"]) == ("old", "active", ["red"])
    saved_last = order.index("save") > order.index("update")
    assert (after["name"], after["status"], after["labels"]) == ("new", "active" if saved_last else "retired", [])


# Changes without a signal


def test_an_update_without_a_signal_after_an_edit_is_a_change(thing: Thing, red: Label, blue: Label) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        thing.labels.add(red)
        Thing.objects.filter(pk=thing.pk).update(name="new")
        thing.labels.add(blue)
    assert (sides()[0]["name"], sides()[1]["name"], changed()) == ("old", "new", ["labels", "name"])


def test_an_update_by_a_receiver_of_the_project_is_a_change(thing: Thing, red: Label) -> None:
    def count(sender: Any, instance: Thing, action: str, **kwargs: Any) -> None:
        if action == "post_add":
            Thing.objects.filter(pk=instance.pk).update(status=f"{instance.labels.count()} labels")

    through = Thing.labels.through
    ours = {"sender": through, "dispatch_uid": "webhooks.on_many_to_many_changed"}
    m2m_changed.disconnect(**ours)
    m2m_changed.connect(count, sender=through)  # before ours, as a receiver in models.py is
    m2m_changed.connect(on_many_to_many_changed, **ours)
    try:
        make_webhook(Thing, prechange=True)
        thing.labels.add(red)
    finally:
        m2m_changed.disconnect(count, sender=through)
    assert (sides()[0]["status"], sides()[1]["status"], changed()) == ("active", "1 labels", ["labels", "status"])


def test_a_save_of_an_inherited_row_is_a_change(red: Label, blue: Label) -> None:
    make_webhook(Restaurant, prechange=True)
    restaurant = Restaurant.objects.create(name="old")
    with transaction.atomic():
        restaurant.labels.add(red)
        rename(Place.objects.get(pk=restaurant.pk))
        restaurant.labels.add(blue)
    assert (sides()[0]["name"], sides()[1]["name"], changed()) == ("old", "new", ["labels", "name"])


def test_a_foreign_key_that_a_deletion_sets_to_null_is_a_change(red: Label, blue: Label) -> None:
    make_webhook(Specimen, prechange=True)
    gadget = Gadget.objects.create(name="a")
    specimen = Specimen.objects.create(gadget=gadget, description="a")
    with transaction.atomic():
        specimen.labels.add(red)
        gadget.delete()
        specimen.labels.add(blue)
    assert (sides()[0]["gadget"], sides()[1]["gadget"]) == (str(specimen.gadget_id), None)
    assert changed() == ["gadget", "labels"]


def edit(thing: Thing) -> None:
    thing.labels.add(Label.objects.create(name="green"))


@pytest.mark.parametrize("first", [lambda thing: None, edit])
@pytest.mark.parametrize("then", [lambda thing: None, rename, edit])
def test_without_deletions_the_previous_state_is_not_that_of_the_new_object(
    thing: Thing, red: Label, first: Callable[[Thing], None], then: Callable[[Thing], None]
) -> None:
    make_webhook(Thing, prechange=True, on="u")
    thing.labels.add(red)
    pk = thing.pk
    with transaction.atomic():
        first(thing)
        thing.delete()
        then(Thing.objects.create(pk=pk, name="second"))
    before = sides()[0]
    assert before is None or (before["name"], before["labels"]) == ("old", ["red"])


# Models and managers that do more than others


@pytest.mark.parametrize("model", [Restaurant, Diner])
@pytest.mark.parametrize("registered", [[], [Place]])
@MODES
def test_an_instance_with_nothing_but_its_key_has_relations_too(
    mode: Callable[..., None], registered: list[Any], model: Any, red: Label, blue: Label
) -> None:
    one = model.objects.create(name="old")
    one.labels.add(red)
    make_webhook(model, *registered, prechange=True)
    mode(lambda: model(pk=one.pk).labels.add(blue.pk))
    for label in (model, *registered):
        [event] = events(label)
        assert (event.object_id, changed(event)) == (str(one.pk), ["labels"])
        assert (sides(event)[0]["labels"], sides(event)[1]["labels"]) == (["red"], ["blue", "red"])


def save_and_edit(thing: Thing) -> None:
    rename(thing)
    thing.labels.add(Label.objects.create(name="red"))


def fail_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first read of a state before fail."""
    read, failing = snapshots.rows_query, iter([True])

    def reading(*args: Any, **kwargs: Any) -> Any:
        assert not next(failing, False)
        return read(*args, **kwargs)

    monkeypatch.setattr(snapshots, "rows_query", reading)


def create_again(thing: Thing) -> None:
    pk = thing.pk
    thing.delete()
    Thing.objects.create(pk=pk, name="new")


@pytest.mark.parametrize("then", [save_and_edit, create_again])
def test_a_previous_state_that_could_not_be_read_stays_unknown(
    thing: Thing, then: Callable[[Thing], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_first(monkeypatch)
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        thing.name = "middle"
        thing.save()
        then(thing)
    assert (sides()[0], sides()[1]["name"], changed()) == (None, "new", None)


def test_if_an_edited_relation_could_not_be_read_the_previous_state_is_null(thing: Thing, red: Label) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        rename(thing)
        with patch.object(prechange.models, "prefetch_related_objects", side_effect=ValueError):
            thing.labels.add(red)
        assert (sides()[0], sides()[1]["labels"], changed()) == (None, ["red"], None)
        thing.labels.add(Label.objects.create(name="blue"))
        assert (sides()[0], sides()[1]["labels"], changed()) == (None, ["blue", "red"], None)


def test_if_an_inherited_row_cannot_be_read_the_previous_state_is_null(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    diner = Diner.objects.create(name="old")
    fail_at_first(monkeypatch)
    make_webhook(Diner, Place, prechange=True)
    with transaction.atomic():
        for name in ("middle", "new"):
            diner.name = name
            diner.save()
    found = {event.object_type: sides(event)[0] and sides(event)[0]["name"] for event in events()}
    assert found == {"testapp.diner": "old", "testapp.place": None}


def test_an_edit_goes_on_where_its_relation_cannot_be_read(
    thing: Thing, red: Label, app_log: pytest.LogCaptureFixture
) -> None:
    make_webhook(Thing, prechange=True)
    with failing_relations(lambda: execute("default", "SELECT nowhere")), transaction.atomic():
        thing.labels.add(red)
    assert Thing.labels.through.objects.count() == 1
    assert f"The state before a change cannot be read: testapp.thing {thing.pk}" in app_log.text
    assert (sides()[0], sides()[1]["labels"], changed()) == (None, ["red"], None)


def failing_relations(fail: Callable[[], Any]) -> Any:
    return patch.object(prechange.models, "prefetch_related_objects", side_effect=lambda *args: fail())


def test_the_time_limit_of_a_job_ends_it_in_the_midst_of_reading_too(thing: Thing, red: Label) -> None:
    def slow() -> None:
        raise JobTimeoutException

    make_webhook(Thing, prechange=True)
    with failing_relations(slow), pytest.raises(JobTimeoutException), transaction.atomic():
        rename(thing)
        thing.labels.add(red)
    assert Thing.objects.get().name == "old"


def test_a_relation_is_read_from_the_database_not_from_the_instance() -> None:
    person, course = Person.objects.create(name="a"), Course.objects.create(code="old")
    course.students.add(person)
    make_webhook(Course, prechange=True)
    course.code = "never saved"
    with transaction.atomic():
        course.students.clear()
    assert (sides()[0]["students"], sides()[1]["students"], changed()) == ([person.pk], [person.pk], [])


@pytest.mark.parametrize("code", ["new", Concat(F("code"), Value("er"))])
def test_a_relation_by_another_field_is_read_after_that_field_changed(code: Any) -> None:
    person, course = Person.objects.create(name="a"), Course.objects.create(code="old")
    make_webhook(Course, prechange=True)
    with transaction.atomic():
        course.code = code
        course.save()
        Course.objects.get().students.add(person)
    assert (sides()[0]["students"], sides()[1]["students"]) == ([], [person.pk])
    assert (sides()[0]["code"], changed()) == ("old", ["code", "students"])


@pytest.mark.postgresql
def test_an_object_is_locked_before_its_relation_is_edited(thing: Thing, red: Label) -> None:
    make_webhook(Thing, prechange=True)
    waited = []

    def look(action: str, **kwargs: Any) -> None:
        if action == "pre_add":
            beside = Beside(lambda: Thing.objects.filter(pk=thing.pk).update(name="meanwhile"))
            beside.wait_until_blocked_or_done()
            waited.append(beside.is_running)

    m2m_changed.connect(look, sender=Thing.labels.through)
    try:
        with transaction.atomic():
            thing.labels.add(red)
    finally:
        m2m_changed.disconnect(look, sender=Thing.labels.through)
    assert waited == [True]


@pytest.mark.postgresql
def test_the_lock_before_a_save_is_noted_as_the_one_of_its_update(thing: Thing) -> None:
    """Taken in a savepoint, it and the update would be a MultiXact, which each row would leave to VACUUM."""

    def locked_by() -> int:
        return int(Thing.objects.values_list(RawSQL("xmax::text", ()), flat=True).get(pk=thing.pk))

    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        rename(thing)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()::xid::text")
            [ours] = cursor.fetchone()
        assert Beside(locked_by).join() == int(ours)


@pytest.mark.postgresql
@pytest.mark.parametrize("shown", ["labels", "name"])
def test_an_edit_does_not_end_the_transaction_where_it_cannot_have_the_lock(
    thing: Thing, red: Label, shown: str, own_registrations: None, app_log: pytest.LogCaptureFixture
) -> None:
    """Also if the payload does not show the edited relation."""

    class Showing(serializers.ModelSerializer):
        class Meta:
            model = Thing
            fields = ("id", shown)

    registry.register(Thing, Showing)
    make_webhook(Thing, prechange=True)
    with session(f"SELECT FROM testapp_thing WHERE id = {thing.pk} FOR NO KEY UPDATE"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '100ms'")
        registration = registry.registration_or_default(Thing)
        prechange.read_prechange({registration: [thing.pk]}, "default", {registration: ["labels"]})
        assert not connection.needs_rollback
        assert Thing.objects.get(pk=thing.pk) == thing
    assert "cannot be read" in app_log.text


def close(diner: Diner) -> None:
    diner.is_open = False
    diner.save(update_fields=["is_open"])


@pytest.mark.postgresql
def test_a_save_that_changes_nothing_does_not_end_it_either(app_log: pytest.LogCaptureFixture) -> None:
    make_webhook(Peer, prechange=True)
    peer = Peer.objects.create()
    with session(f"SELECT FROM testapp_peer WHERE id = {peer.pk} FOR NO KEY UPDATE"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '100ms'")
        peer.save()
    assert f"The state before a change cannot be read: testapp.peer {peer.pk}" in app_log.text


@pytest.mark.postgresql
@pytest.mark.parametrize("change", [close, lambda diner: TrackedQuerySet(Diner).update(is_open=False)])
@pytest.mark.parametrize("registered", [Diner, Place])
def test_a_change_does_not_end_the_transaction_where_a_row_is_locked_that_it_does_not_change(
    change: Callable[[Diner], Any], registered: Any, app_log: pytest.LogCaptureFixture
) -> None:
    make_webhook(registered, prechange=True)
    diner = Diner.objects.create(name="old")
    with session(f"SELECT FROM testapp_place WHERE id = {diner.pk} FOR NO KEY UPDATE"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '100ms'")
        change(diner)
    assert not Diner.objects.get().is_open
    [message] = [one.message for one in app_log.records if "The state before" in one.message]
    assert f"testapp.{registered.__name__.lower()} {diner.pk}" in message


@pytest.mark.postgresql
def test_a_connection_that_breaks_while_it_waits_for_the_lock_ends_the_transaction(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    red = Label.objects.create(name="red")

    def broken() -> None:
        with transaction.atomic():
            thing.labels.add(red)

    with transaction.atomic():
        Thing.objects.select_for_update(no_key=True).get(pk=thing.pk)
        beside = Beside(broken)
        beside.wait_until_blocked_or_done()
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE NOT granted")
            assert cursor.fetchone() == (1,)
        with pytest.raises(DatabaseError):
            beside.join()
    assert (list(thing.labels.all()), events()) == ([], [])
    broken()
    assert changed() == ["labels"]


# Receivers of the project


@pytest.mark.parametrize("signal", [pre_save, post_save], ids=["pre_save", "post_save"])
@MODES
def test_a_receiver_may_copy_and_pickle_an_instance_that_is_being_saved(
    thing: Thing, mode: Callable[..., None], signal: Any
) -> None:
    def copy_it(sender: Any, instance: Thing, **kwargs: Any) -> None:
        copies.extend([copy.copy(instance), copy.deepcopy(instance), pickle.loads(pickle.dumps(instance))])

    copies: list[Thing] = []
    make_webhook(Thing, prechange=True)
    with host_receiver(signal, Thing, copy_it):
        mode(lambda: rename(thing))
        assert (sides()[0]["name"], sides()[1]["name"]) == ("old", "new")
        copies[-1].name = "newer"
        mode(copies[-1].save)
    assert (sides()[0]["name"], sides()[1]["name"]) == ("new", "newer")


# Rows that a deletion of another object sets to null


def save_specimens(sender: Any, **kwargs: Any) -> None:
    """As NetBox saves the interfaces of a cable that was deleted."""
    for specimen in Specimen.objects.filter(gadget=None):
        specimen.save()


@pytest.mark.parametrize("mode", [in_transaction, in_batch])
@pytest.mark.parametrize("delete", [lambda gadget: gadget.delete, lambda gadget: Gadget.objects.all().delete])
def test_the_previous_state_has_the_key_that_a_deletion_sets_to_null(
    mode: Callable[..., None], delete: Callable[[Gadget], Any]
) -> None:
    gadget = Gadget.objects.create(name="cable")
    Specimen.objects.create(gadget=gadget, description="connected")
    Specimen.objects.create(description="never connected")
    make_webhook(Specimen, changed_fields=["gadget"])
    key = str(gadget.pk)
    with host_receiver(post_delete, Gadget, save_specimens):
        mode(delete(gadget))
    [event] = events(Specimen)
    assert (event.object_repr, changed()) == ("connected", ["gadget"])
    assert [side["gadget"] for side in sides()] == [key, None]


@pytest.mark.parametrize("delete", [Thing.delete, lambda thing: Thing.objects.all().delete(), ThingProxy.delete])
def test_a_key_to_a_proxy_is_known_before_its_deletion(delete: Callable[[Any], Any]) -> None:
    thing = Thing.objects.create(name="thing")
    key = thing.pk
    review = Review.objects.create(thing_id=thing.pk, name="good")
    make_webhook(Review, on="u", changed_fields=["thing"])
    with transaction.atomic():
        delete(ThingProxy.objects.get() if delete is ThingProxy.delete else thing)
        review.refresh_from_db()
        review.save()
    assert (changed(), sides()[0]["thing"], sides()[1]["thing"]) == (["thing"], key, None)


@pytest.mark.cost
def test_a_deletion_reads_nothing_that_points_to_it_for_webhooks_that_need_no_previous_state() -> None:
    def reads(gadget: Gadget) -> int:
        found = statements_of(gadget.delete)
        return sum("SELECT " in one and '"testapp_specimen"' in one for one in found)

    gadget, other = (Gadget.objects.create(name=name) for name in ("gadget", "other"))
    make_webhook(Specimen, Gadget)
    assert reads(gadget) == 0
    make_webhook(Specimen, prechange=True)
    assert reads(other) == 1


def test_a_deletion_without_a_table_of_webhooks_is_one_line_for_what_points_to_it(
    monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    gadget = Gadget.objects.create(name="gadget")
    monkeypatch.setattr(subscriptions, "current", Mock(side_effect=DatabaseError("no such table")))
    with transaction.atomic():
        gadget.delete()
    assert app_log.text.count("that point to deleted objects") == 1
    assert not Gadget.objects.exists()


@pytest.mark.parametrize("mode", [in_transaction, in_batch])
def test_the_previous_state_is_unknown_where_a_cascade_may_have_set_a_key_to_null(mode: Callable[..., None]) -> None:
    def save_parts(sender: Any, **kwargs: Any) -> None:
        for part in Part.objects.filter(name="with a spare"):
            part.save()

    thing, other = (Thing.objects.create(name=name) for name in ("thing", "other"))
    spare = Part.objects.create(thing=thing, name="spare")
    Part.objects.create(thing=other, name="with a spare", spare_of=spare)
    make_webhook(Part, on="u", changed_fields=["spare_of"], prechange=True)
    with host_receiver(post_delete, Part, save_parts):
        mode(thing.delete)
    assert (actions(Part), sides()[0], changed()) == (["updated"], None, None)


@pytest.fixture
def without_gadgets(own_registrations: None) -> Iterator[None]:
    """Gadgets cannot have webhooks: no receiver of the app sees their deletions."""
    registry.unregister(Gadget)
    before = [(signal, list(signal.receivers)) for signal in (pre_delete, post_delete)]
    for signal, _ in before:
        for name in ("on_deleting", "on_deleted"):
            signal.disconnect(sender=Gadget, dispatch_uid=f"webhooks.{name}")
    yield
    for signal, receivers in before:
        signal.receivers = receivers
        signal.sender_receivers_cache.clear()


@pytest.mark.usefixtures("without_gadgets")
@pytest.mark.parametrize("delete", [Gadget.delete, lambda gadget: Gadget.objects.all().delete()])
def test_a_key_of_a_model_without_webhooks_is_known_before_its_deletion(delete: Callable[[Gadget], Any]) -> None:
    gadget = Gadget.objects.create(name="cable")
    specimen = Specimen.objects.create(gadget=gadget)
    make_webhook(Specimen, on="u", changed_fields=["gadget"])
    key = str(gadget.pk)
    with transaction.atomic():
        delete(gadget)
        Specimen.objects.get(pk=specimen.pk).save()
    assert [side["gadget"] for side in sides()] == [key, None]
    assert changed() == ["gadget"]


@pytest.mark.parametrize("is_read_before", [False, True])
def test_the_members_before_are_unknown_where_rows_between_were_deleted(
    thing: Thing, red: Label, is_read_before: bool
) -> None:
    thing.labels.add(red)
    Thing.objects.create(name="other").delete()
    make_webhook(Thing, changed_fields=["labels"], prechange=True)
    for delete in (Thing.labels.through.objects.all().delete, red.delete):
        with transaction.atomic():
            if is_read_before:
                thing.save()
            delete()
            thing.save()
        assert (sides()[0], changed()) == (None, None)
        Event.objects.all().delete()


@pytest.fixture
def tagged_things() -> Iterator[None]:
    """Another model than boxes with tags of django-taggit."""
    tag_rows = GenericRelation(TaggedItem)
    tag_rows.contribute_to_class(Thing, "tag_rows")
    yield
    Thing._meta.private_fields.remove(tag_rows)
    Thing._meta._expire_cache()
    del Thing.tag_rows


@pytest.mark.usefixtures("tagged_things")
@pytest.mark.parametrize(
    ("delete", "is_known"),
    [
        (lambda: Thing.objects.get().delete(), True),
        (lambda: Tag.objects.all().delete(), False),
        (lambda: TaggedItem.objects.all().delete(), False),
    ],
)
def test_the_tags_before_are_known_where_an_object_of_another_model_is_deleted(
    thing: Thing, delete: Callable[[], Any], is_known: bool
) -> None:
    box = Box.objects.create(name="box")
    box.tags.add("red")
    make_webhook(Box, on="u", prechange=True)
    with transaction.atomic():
        delete()
        box.save()
    assert (sides()[0] is not None) == is_known


def test_the_members_before_are_known_where_another_holder_is_deleted() -> None:
    make_webhook(Album, on="u", prechange=True)
    album, gone = Album.objects.create(name="a"), Album.objects.create(name="b")
    with transaction.atomic():
        gone.delete()
        album.save()
    assert sides()[0] == sides()[1]


def test_a_rollback_of_a_deletion_makes_the_state_before_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prechange, "MAX_POINTING", 0)
    gadget = Gadget.objects.create(name="cable")
    specimen = Specimen.objects.create(description="never connected")
    make_webhook(Specimen, on="u", prechange=True)
    with transaction.atomic():
        Specimen.objects.create(gadget=gadget)
        with suppress(Rollback), transaction.atomic():
            gadget.delete()
            raise Rollback
        specimen.save()
    assert sides()[0]["gadget"] is None


def test_a_deletion_reads_a_thousand_rows_that_point_to_it_and_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prechange, "MAX_POINTING", 1)
    gadget = Gadget.objects.create(name="cable")
    for number in range(2):
        Specimen.objects.create(gadget=gadget, number=number)
    make_webhook(Specimen, prechange=True)
    key = str(gadget.pk)
    with host_receiver(post_delete, Gadget, save_specimens), transaction.atomic():
        gadget.delete()
    before = [sides(event)[0] for event in events(Specimen)]
    assert sorted(side["gadget"] if side else "unknown" for side in before) == sorted([key, "unknown"])


# Savepoints that are rolled back


@pytest.mark.postgresql
@pytest.mark.parametrize("rollback", ROLLBACKS)
@pytest.mark.parametrize("undone", [("update",), ("tag",), ("tag", "update"), ("delete",)])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_row_read_in_a_savepoint_is_read_again_after_its_rollback(
    rollback: str, undone: tuple[str, ...], is_first: bool
) -> None:
    """The rollback releases the lock. What another transaction writes then must not be taken for no change."""
    subject = Subject(1, Label.objects.create(name="red"))
    subject.create()
    make_webhook(Thing, only_changes=True)
    stale = Thing.objects.get()
    with transaction.atomic():
        if not is_first:
            Thing.objects.create(name="the transaction has seen a change")
        ROLLBACKS[rollback](subject, undone)
        Beside(lambda: Thing.objects.filter(pk=1).update(name="meanwhile")).join()
        stale.save()
    assert actions()[-1] == "updated"
    assert (sides()[0]["name"], sides()[1]["name"], changed()) == ("meanwhile", stale.name, ["name"])


@pytest.mark.postgresql
def test_a_row_read_before_a_savepoint_is_kept_after_its_rollback(thing: Thing, red: Label) -> None:
    """The transaction still has the lock that it took before."""
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        rename(thing)
        savepoint = bare_savepoint()
        thing.labels.add(red)
        transaction.savepoint_rollback(savepoint)
        other = Beside(lambda: Thing.objects.filter(pk=thing.pk).update(name="later"))
        other.wait_until_blocked_or_done()
        assert other.is_running
        thing.status = "retired"
        thing.save()
    other.join()
    assert (sides()[0]["name"], sides()[1]["name"], changed()) == ("old", "new", ["name", "status"])


def test_a_rollback_undoes_only_the_steps_since_its_savepoint() -> None:
    noted: list[str] = []
    with transaction.atomic():
        log = SavepointLog(connection)
        connection.run_on_commit.append((log, lambda: None, True))  # type: ignore[arg-type]

        def note(what: str) -> None:
            noted.append(what)
            log.note(noted.pop)

        note("before")
        outer = bare_savepoint()
        note("outer")
        with transaction.atomic():
            note("released")
        inner = bare_savepoint()
        note("inner")
        transaction.savepoint_rollback(inner)
        assert noted == ["before", "outer", "released"]
        note("again")
        with suppress(Rollback), transaction.atomic():
            note("undone")
            raise Rollback
        transaction.savepoint_commit(inner)
        assert noted == ["before", "outer", "released", "again"]
        transaction.savepoint_rollback(outer)
        assert noted == ["before"]
        execute("default", "SAVEPOINT mine")
        transaction.savepoint_rollback("mine")
        assert noted == ["before"]


def test_a_state_that_a_rollback_dropped_is_known_no_more() -> None:
    key, state = ("testapp.thing", "1"), snapshots.PrechangeState()
    with transaction.atomic():
        log = SavepointLog(connection)
        connection.run_on_commit.append((log, lambda: None, True))  # type: ignore[arg-type]
        states = PrechangeStates(log)
        with suppress(Rollback), transaction.atomic():
            states.keep(key, state)
            assert states.knows(key, state)
            raise Rollback
        assert not states.knows(key, state)


def retire(thing: Thing) -> None:
    thing.status = "retired"
    thing.save()


@pytest.mark.parametrize("then", [retire, create_again])
def test_a_change_before_a_webhook_wanted_the_previous_state_leaves_it_unknown(
    thing: Thing, then: Callable[[Thing], None]
) -> None:
    webhook = make_webhook(Thing)
    with transaction.atomic():
        rename(thing)
        webhook.prechange = True
        webhook.save()
        then(thing)
    assert (actions(), sides()[0], changed()) == (["updated"], None, None)


def test_deletions_are_seen_where_another_app_has_wrapped_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    @contextmanager
    def note(collector: Collector) -> Iterator[None]:
        seen.append(collector)
        yield

    monkeypatch.setattr(Collector, "delete", wraps(Collector.delete)(Collector.delete))
    monkeypatch.setattr(django_internals, "_around_deletions", [])
    django_internals.delete_within(note)
    django_internals.delete_within(note)
    Label.objects.create(name="a").delete()
    assert len(seen) == 1
