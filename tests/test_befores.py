"""What objects were before a transaction changes them, where that is hard to know: what nobody signals; models and
managers that do more than others; drivers and connections that do less. What is told of it is in ``test_snapshots``."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import permutations, repeat
from typing import Any
from unittest.mock import patch

import pytest
from django.db import DatabaseError, IntegrityError, connection, models, transaction
from django.db.models import F, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Concat
from django.db.models.query import ModelIterable
from django.db.models.signals import m2m_changed
from rest_framework import serializers
from rq.timeouts import JobTimeoutException

from tests import servers
from tests.makers import events, make_webhook
from tests.modes import MODES, in_transaction
from tests.test_outbox import holding
from tests.test_snapshots import changed, rename, sides, statements
from tests.testapp.models import Course, Diner, Gadget, Label, Peer, Person, Place, Restaurant, Specimen, Thing
from tests.threads import Beside
from webhooks import TrackedQuerySet, registry, snapshots
from webhooks.capture import befores, outbox
from webhooks.holdings import Holder, Holding
from webhooks.receivers import on_many_to_many_changed

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
def test_columns_and_relations_are_told_as_they_were_whichever_is_changed_first(
    thing: Thing, order: tuple[str, ...]
) -> None:
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


# What nobody signals


def test_what_is_updated_without_a_signal_after_an_edit_is_not_told_as_it_was_before(
    thing: Thing, red: Label, blue: Label
) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        thing.labels.add(red)
        Thing.objects.filter(pk=thing.pk).update(name="new")
        thing.labels.add(blue)
    assert (sides()[0]["name"], sides()[1]["name"], changed()) == ("old", "new", ["labels", "name"])


def test_nor_is_what_a_receiver_of_the_project_writes_at_the_edit(thing: Thing, red: Label) -> None:
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


def test_nor_is_an_inherited_row_that_is_saved_by_itself(red: Label, blue: Label) -> None:
    make_webhook(Restaurant, prechange=True)
    restaurant = Restaurant.objects.create(name="old")
    with transaction.atomic():
        restaurant.labels.add(red)
        rename(Place.objects.get(pk=restaurant.pk))
        restaurant.labels.add(blue)
    assert (sides()[0]["name"], sides()[1]["name"], changed()) == ("old", "new", ["labels", "name"])


def test_nor_is_what_a_deletion_sets_to_null(red: Label, blue: Label) -> None:
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
def test_where_nobody_hears_of_deletions_what_is_made_anew_is_not_told_as_what_was_before(
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
def test_an_instance_that_is_made_by_its_key_alone_has_relations_too(
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


def test_a_model_may_read_its_columns_when_it_is_made(
    thing: Thing, red: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made with columns left out, it would read them, and so make others, without an end."""
    made = Thing.__init__

    def remembering(self: Thing, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        vars(self)["was"] = (self.name, self.status)

    monkeypatch.setattr(Thing, "__init__", remembering)
    make_webhook(Thing, prechange=True)
    for change in (lambda: thing.labels.add(red), lambda: red.things.clear(), lambda: red.things.add(thing)):
        in_transaction(change)
        assert changed() == ["labels"]


class ByStatus:
    """A router that reads a column of the instance at hand."""

    def db_for_read(self, model: Any, instance: Any = None, **hints: Any) -> None:
        assert not isinstance(instance, Thing) or instance.status

    db_for_write = db_for_read


def test_a_router_may_look_at_the_instance(thing: Thing, red: Label, settings: Any) -> None:
    make_webhook(Thing, prechange=True)
    settings.DATABASE_ROUTERS = [ByStatus()]
    thing.labels.add(red)
    assert (sides()[0]["labels"], changed()) == ([], ["labels"])


Serving = Callable[[Callable[[], Any]], None]


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """Lets the manager through which labels are read as related ones do something first."""

    def serve(work: Callable[[], Any]) -> None:
        class Busy(models.Manager[Label]):
            is_busy = False

            def get_queryset(self) -> models.QuerySet[Label]:
                if not hasattr(self, "instance") or Busy.is_busy:
                    return super().get_queryset()
                Busy.is_busy = True
                try:
                    served = work()
                finally:
                    Busy.is_busy = False
                return served if isinstance(served, models.QuerySet) else super().get_queryset()

        manager = Busy()
        manager.model, manager.name = Label, "busy"
        monkeypatch.setitem(Label._meta.__dict__, "default_manager", manager)
        forget_managers()

    yield serve
    forget_managers()


def forget_managers() -> None:
    for relation in (Thing.labels, Thing.groups):
        vars(relation).pop("related_manager_cls", None)


def raw(statement: str, parameters: Any = None) -> Callable[[], None]:
    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            cursor.fetchall()

    return ask


def atomically() -> None:
    with transaction.atomic():
        Place.objects.create(name="a")


def failing() -> None:
    with transaction.atomic(), pytest.raises(IntegrityError), transaction.atomic():
        Place.objects.create(pk=Place.objects.create(name="a").pk, name="b")


def unless_it_fails(kind: type[BaseException]) -> models.QuerySet[Label]:
    with suppress(kind):
        Place.objects.count()
        return Label.objects.all()
    return Label.objects.filter(name="none")


@pytest.mark.parametrize(
    "work",
    [
        raw("SELECT 1 WHERE 'a' LIKE '%a%'"),
        raw("SELECT %s", ["a"]),
        atomically,
        failing,
        lambda: list(Place.objects.iterator()),
        lambda: Place.objects.get_or_create(name="a") and None,
        lambda: Label.objects.order_by("-name"),
        lambda: Label.objects.order_by("things__name").distinct(),
        lambda: Label.objects.defer("name"),
        lambda: Label.objects.prefetch_related("places"),
        lambda: Label.objects.annotate(uses=models.Count("things")),
        lambda: Label.objects.only("id"),
        lambda: unless_it_fails(Exception),
        lambda: unless_it_fails(BaseException),
    ],
)
@pytest.mark.parametrize("is_saved_first", [False, True])
def test_a_manager_may_ask_the_database_before_it_serves_a_relation(
    thing: Thing, red: Label, serving: Serving, work: Callable[[], Any], is_saved_first: bool
) -> None:
    serving(work)
    make_webhook(Thing, prechange=True)
    blue = Label.objects.create(name="blue")
    thing.labels.add(blue)
    changes = [lambda: rename(thing), lambda: thing.labels.add(red)]
    with transaction.atomic():
        for change in changes if is_saved_first else reversed(changes):
            change()
    assert (sides()[0]["labels"], changed()) == (["blue"], ["labels", "name"])


def unguarded() -> None:
    with transaction.atomic(savepoint=False):
        Place.objects.extra(where=["nowhere = 1"]).first()


class Asking(models.Value):
    """Asks the database when it is written as SQL."""

    def as_sql(self, *args: Any, **kwargs: Any) -> Any:
        raw("SELECT nowhere")()
        return super().as_sql(*args, **kwargs)


def annotated() -> models.QuerySet[Label]:
    return Label.objects.annotate(asked=Asking(1, output_field=models.IntegerField()))


@pytest.mark.parametrize("work", [raw("SELECT nowhere"), unguarded, annotated])
def test_a_manager_that_fails_at_the_database_ends_no_transaction_that_only_saves(
    thing: Thing, serving: Serving, work: Callable[[], Any], app_log: pytest.LogCaptureFixture
) -> None:
    serving(work)
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        rename(thing)
        assert not connection.needs_rollback
    assert Thing.objects.get().name == "new"
    assert ["nowhere" in event.error for event in events()] == [True]


@pytest.mark.parametrize("is_told", [True, False])
def test_where_a_relation_cannot_be_read_the_row_can(
    thing: Thing, serving: Serving, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether that fails once, or always."""
    failing = iter([True]) if is_told else repeat(True)
    serving(lambda: Label.objects.extra(where=["nowhere = 1"]) if next(failing, False) else Label.objects.all())
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        for name in ("middle", "new"):
            thing.name = name
            thing.save()
    assert [event.error == "" for event in events()] == [is_told]
    assert not is_told or (sides()[0]["name"], sides()[1]["name"]) == ("old", "new")


def save_and_edit(thing: Thing) -> None:
    rename(thing)
    thing.labels.add(Label.objects.create(name="red"))


def make_anew(thing: Thing) -> None:
    pk = thing.pk
    thing.delete()
    Thing.objects.create(pk=pk, name="new")


@pytest.mark.parametrize("then", [save_and_edit, make_anew])
def test_what_was_not_known_before_the_first_change_stays_unknown(
    thing: Thing, then: Callable[[Thing], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = snapshots.rows
    failing = iter([True, True])  # with its relations, and without

    def rows(*args: Any, **kwargs: Any) -> Any:
        assert not next(failing, False)
        return read(*args, **kwargs)

    monkeypatch.setattr(snapshots, "rows", rows)
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        thing.name = "middle"
        thing.save()
        then(thing)
    assert (sides()[0], sides()[1]["name"], changed()) == (None, "new", None)


def test_where_it_is_not_known_what_an_edited_relation_held_nothing_is_told(thing: Thing, red: Label) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic(), patch.object(befores, "Holding", side_effect=ValueError):
        rename(thing)
        with patch.object(befores.models, "prefetch_related_objects", side_effect=ValueError):
            thing.labels.add(red)
        assert (sides()[0], sides()[1]["labels"], changed()) == (None, ["red"], None)
        thing.labels.add(Label.objects.create(name="blue"))
        assert (sides()[0], sides()[1]["labels"], changed()) == (None, ["blue", "red"], None)


def test_where_an_inherited_row_cannot_be_read_neither_is_half_of_the_change_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, failing = snapshots.rows, iter([True, True])

    def rows(registration: Any, *args: Any, **kwargs: Any) -> Any:
        assert not next(failing, False)
        return read(registration, *args, **kwargs)

    diner = Diner.objects.create(name="old")
    monkeypatch.setattr(snapshots, "rows", rows)
    make_webhook(Diner, Place, prechange=True)
    with transaction.atomic():
        for name in ("middle", "new"):
            diner.name = name
            diner.save()
    told = {event.object_type: sides(event)[0] and sides(event)[0]["name"] for event in events()}
    assert told == {"testapp.diner": None, "testapp.place": "old"}


def test_where_nothing_has_to_be_asked_nothing_is(thing: Thing, red: Label, serving: Serving) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        with patch.object(befores, "Holding", side_effect=ValueError):
            rename(thing)
        serving(lambda: Label.objects.none())
        thing.labels.add(red)
    assert (sides()[0]["labels"], sides()[1]["labels"], changed()) == ([], [], ["name"])


def test_an_edit_goes_on_where_its_manager_fails_at_the_database(
    thing: Thing, red: Label, serving: Serving, app_log: pytest.LogCaptureFixture
) -> None:
    serving(raw("SELECT nowhere"))
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        thing.labels.add(red)
    assert Thing.labels.through.objects.count() == 1


def test_a_relation_that_is_only_read_along_takes_nothing_away_from_the_edited_one(
    thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    hero = Thing.objects.create(name="hero")
    make_webhook(Thing, prechange=True)
    read = Holding.__init__

    def spoilt(self: Holding, model: Any, relation: str, holders: Any, using: str) -> None:
        read(self, model, relation, holders, using)
        if relation == "labels":
            self.query.statement += " AND nowhere = 1"

    monkeypatch.setattr(Holding, "__init__", spoilt)
    with transaction.atomic():
        thing.heroes.add(hero)
    assert (sides()[0]["heroes"], sides()[1]["heroes"], changed()) == ([], [hero.pk], ["heroes"])


def test_the_time_limit_of_a_job_ends_it_in_the_midst_of_a_manager_too(thing: Thing, serving: Serving) -> None:
    def slow() -> None:
        raise JobTimeoutException

    serving(slow)
    make_webhook(Thing, prechange=True)
    with pytest.raises(JobTimeoutException), transaction.atomic():
        rename(thing)
    assert Thing.objects.get().name == "old"


def test_an_edit_reads_no_other_relation_where_each_would_take_a_query(
    thing: Thing, red: Label, serving: Serving
) -> None:
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        assert any("heroes" in one for one in statements(lambda: thing.labels.add(red)))
    serving(lambda: Label.objects.prefetch_related("places"))
    with transaction.atomic():
        before_the_edit, *_ = [one for one in statements(lambda: thing.labels.remove(red)) if "heroes" in one]
    assert before_the_edit.startswith("SELECT")


class ByKeys(ModelIterable):
    """Asks for the keys first, with a copy of the queryset."""

    def __iter__(self) -> Iterator[Any]:
        keys = list(self.queryset.values_list("pk", flat=True))  # type: ignore[attr-defined]
        found = {one.pk: one for one in super().__iter__()}
        return iter([found[key] for key in keys])


def by_keys() -> models.QuerySet[Label]:
    labels = Label.objects.all()
    labels._iterable_class = ByKeys  # type: ignore[assignment]
    return labels


def test_a_manager_may_make_its_objects_in_a_way_of_its_own(
    thing: Thing, red: Label, blue: Label, serving: Serving
) -> None:
    Label.objects.bulk_create(Label(name=str(number)) for number in range(9))  # so that keys differ
    thing.labels.add(red)
    serving(by_keys)
    make_webhook(Thing, prechange=True)
    thing.labels.add(blue)
    assert (sides()[0]["labels"], changed()) == (["red"], ["labels"])


def test_what_a_manager_reads_beside_may_fail_at_the_database(
    thing: Thing, red: Label, blue: Label, serving: Serving
) -> None:
    beside = models.Prefetch("places", queryset=Place.objects.extra(where=["nowhere = 1"]))
    thing.labels.add(red)
    serving(lambda: Label.objects.prefetch_related(beside))
    make_webhook(Thing, prechange=True)
    with transaction.atomic():
        thing.labels.add(blue)
    assert Thing.labels.through.objects.count() == 2


def test_a_manager_may_want_more_of_the_object_than_its_key(
    thing: Thing, red: Label, blue: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Thing.__init__

    def with_tenant(self: Thing, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        vars(self)["tenant"] = "a"

    class OfTenant(models.Manager[Label]):
        def get_queryset(self) -> models.QuerySet[Label]:
            assert not hasattr(self, "instance") or self.instance.tenant
            return super().get_queryset()

    manager = OfTenant()
    manager.model, manager.name = Label, "of_tenant"
    monkeypatch.setattr(Thing, "__init__", with_tenant)
    monkeypatch.setitem(Label._meta.__dict__, "default_manager", manager)
    forget_managers()
    try:
        thing = Thing.objects.get()
        thing.labels.add(red)
        make_webhook(Thing, prechange=True)
        thing.labels.add(blue)
        assert (sides()[0]["labels"], changed()) == (["red"], ["labels"])
    finally:
        forget_managers()


def test_a_relation_is_told_as_it_was_stored_where_an_instance_says_something_else() -> None:
    person, course = Person.objects.create(name="a"), Course.objects.create(code="old")
    course.students.add(person)
    make_webhook(Course, prechange=True)
    course.code = "never saved"
    with transaction.atomic():
        course.students.clear()
    assert (sides()[0]["students"], sides()[1]["students"], changed()) == ([person.pk], [person.pk], [])


@pytest.mark.parametrize("code", ["new", Concat(F("code"), Value("er"))])
def test_so_is_one_whose_object_is_saved_with_another_value_of_what_it_is_known_by(code: Any) -> None:
    person, course = Person.objects.create(name="a"), Course.objects.create(code="old")
    make_webhook(Course, prechange=True)
    with transaction.atomic():
        course.code = code
        course.save()
        Course.objects.get().students.add(person)
    assert (sides()[0]["students"], sides()[1]["students"]) == ([], [person.pk])
    assert (sides()[0]["code"], changed()) == ("old", ["code", "students"])


@pytest.mark.postgresql
@pytest.mark.parametrize("hides", [False, True])
def test_an_object_is_locked_before_its_relation_is_edited(
    thing: Thing, red: Label, serving: Serving, hides: bool
) -> None:
    """Also where Django knows without a query that the relation holds nothing."""
    serving(lambda: Label.objects.none() if hides else None)
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
    thing: Thing, red: Label, shown: str, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    """Nor where the payload does not show what is edited."""

    class Showing(serializers.ModelSerializer):
        class Meta:
            model = Thing
            fields = ("id", shown)

    monkeypatch.setattr(registry, "_registrations", dict(registry._registrations))
    registry.register(Thing, Showing)
    make_webhook(Thing, prechange=True)
    with holding(f"SELECT FROM testapp_thing WHERE id = {thing.pk} FOR NO KEY UPDATE"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '100ms'")
        outbox.foresee_edit(registry.registration_of(Thing), [Holder(thing.pk)], ["labels"], "default")
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
    with holding(f"SELECT FROM testapp_peer WHERE id = {peer.pk} FOR NO KEY UPDATE"), transaction.atomic():
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
    with holding(f"SELECT FROM testapp_place WHERE id = {diner.pk} FOR NO KEY UPDATE"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '100ms'")
        change(diner)
    assert not Diner.objects.get().is_open
    [told] = [one.message for one in app_log.records if "The state before" in one.message]
    assert f"testapp.{registered.__name__.lower()} {diner.pk}" in told


# Drivers and connections that do less


@pytest.mark.postgresql
def test_a_driver_that_takes_one_statement_at_a_time_gets_several(thing: Thing) -> None:
    make_webhook(Thing, prechange=True)
    red, blue = (Label.objects.create(name=name) for name in ("red", "blue"))
    with servers.default_options(server_side_binding=True):
        with transaction.atomic():
            thing.labels.add(red)
            beside = Beside(lambda: thing.labels.add(blue))
            beside.wait_until_blocked_or_done()
        beside.join()
    told = [(sides(event)[0]["labels"], sides(event)[1]["labels"]) for event in events()]
    assert told == [([], ["red"]), (["red"], ["blue", "red"])]


@pytest.mark.postgresql
def test_such_a_driver_is_not_asked_at_a_save_for_what_relations_hold(thing: Thing, red: Label) -> None:
    def costs() -> list[int]:
        with transaction.atomic():
            Thing.objects.create(name="the first looks the webhooks up")
            changes = (lambda: rename(thing), lambda: thing.labels.add(red), lambda: thing.labels.remove(red))
            return [len(statements(change)) for change in changes]

    webhook = make_webhook(Thing)
    with servers.default_options(server_side_binding=True):
        plain = costs()
        webhook.prechange = True
        webhook.save()
        thing.name = "old"
        assert [ours - one for ours, one in zip(costs(), plain, strict=True)] == [1, 3, 0]


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


class Interrupted(Exception):
    pass


@pytest.mark.postgresql
def test_what_interrupts_the_wait_for_the_lock_is_what_comes_out(thing: Thing, red: Label) -> None:
    make_webhook(Thing, prechange=True)

    def interrupt(*args: Any) -> None:
        raise Interrupted

    earlier = signal.signal(signal.SIGALRM, interrupt)
    try:
        with holding(f"SELECT FROM testapp_thing WHERE id = {thing.pk} FOR NO KEY UPDATE"):
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(Interrupted), transaction.atomic():
                thing.labels.add(red)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert (list(thing.labels.all()), events()) == ([], [])
