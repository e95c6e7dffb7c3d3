"""What is recorded where receivers of the host change the same objects in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import DatabaseError, transaction
from django.db.models.signals import post_delete, post_save, pre_delete, pre_save

from tests.support.makers import actions, events, last_data, make_webhook, recorded, sides
from tests.support.modes import MODES, in_batch, in_transaction
from tests.support.receivers import host_receiver
from tests.support.rollbacks import in_atomic_that_fails
from tests.testapp.models import Gadget, Label, Part, Place, Restaurant, Thing, Tracked, TrackedPart
from webhooks import actor, batch
from webhooks.capture import batch as batch_module
from webhooks.capture import events as recording
from webhooks.ground.db import execute
from webhooks.models import Event

pytestmark = pytest.mark.usefixtures("database")

EITHER_ORDER = pytest.mark.parametrize("before", [True, False], ids=["before ours", "after ours"])
BLOCKS = pytest.mark.parametrize("mode", [in_transaction, in_batch])
# A model and its children, with Django's manager and with the app's.
FAMILIES = pytest.mark.parametrize(
    ("parent", "child", "link"), [(Thing, Part, "thing"), (Tracked, TrackedPart, "whole")], ids=["plain", "tracked"]
)


# Deletions


def delete_instance(one: Any) -> None:
    one.delete()


def delete_rows(one: Any) -> None:
    type(one).objects.filter(pk=one.pk).delete()


@MODES
@FAMILIES
@pytest.mark.parametrize(("delete", "wanted"), [(delete_instance, "cud"), (delete_rows, "d")])
def test_a_counter_that_is_saved_for_each_deleted_child_leaves_the_deletion_of_the_parent(
    mode: Callable[..., None], parent: Any, child: Any, link: str, delete: Any, wanted: str
) -> None:
    def count(sender: Any, instance: Any, **kwargs: Any) -> None:
        whole = parent.objects.get(pk=getattr(instance, f"{link}_id"))
        whole.status = f"{child.objects.filter(**{link: whole}).count()} left"
        whole.save()

    whole = parent.objects.create(name="whole", status="2 left")
    for name in ("a", "b"):
        child.objects.create(name=name, **{link: whole})
    make_webhook(parent, on=wanted)
    pk = str(whole.pk)
    with host_receiver(post_delete, child, count):
        mode(lambda: delete(whole))
    assert recorded(parent) == [("deleted", parent._meta.label_lower, pk)]
    assert last_data()["status"] == "0 left"


@MODES
@EITHER_ORDER
def test_a_receiver_that_clears_relations_at_a_deletion_changes_neither_its_action_nor_its_data(
    mode: Callable[..., None], before: bool
) -> None:
    thing = Thing.objects.create(name="thing")
    thing.labels.add(Label.objects.create(name="red"))
    make_webhook(Thing)
    with host_receiver(pre_delete, Thing, lambda instance, **kwargs: instance.labels.clear(), before):
        mode(thing.delete)
    assert actions() == ["deleted"]
    assert last_data()["labels"] == ["red"]
    assert sides()[0]["labels"] == ["red"]


@BLOCKS
def test_a_save_during_a_deletion_that_no_webhook_wants_leaves_no_event(mode: Callable[..., None]) -> None:
    thing = Thing.objects.create(name="thing")
    make_webhook(Thing, on="cu")
    with host_receiver(pre_delete, Thing, lambda instance, **kwargs: instance.save()):
        mode(thing.delete)
    assert actions() == []


@BLOCKS
def test_an_object_that_its_deletion_s_receiver_creates_again_was_updated(mode: Callable[..., None]) -> None:
    def create_again(sender: Any, instance: Thing, **kwargs: Any) -> None:
        Thing.objects.create(pk=instance.pk, name="again")

    thing = Thing.objects.create(name="thing")
    make_webhook(Thing)
    with host_receiver(post_delete, Thing, create_again):
        mode(thing.delete)
    assert actions() == ["updated"]
    assert last_data()["name"] == "again"


@BLOCKS
def test_an_object_that_a_receiver_deletes_and_creates_again_is_deleted_in_the_end(mode: Callable[..., None]) -> None:
    def create_again(sender: Any, instance: Thing, origin: Any, **kwargs: Any) -> None:
        if origin is instance:
            Thing.objects.filter(pk=instance.pk).delete()
            Thing.objects.create(pk=instance.pk, name="again")

    thing = Thing.objects.create(name="thing")
    make_webhook(Thing)
    with host_receiver(pre_delete, Thing, create_again):
        mode(thing.delete)
    assert actions() == ["deleted"]
    assert last_data()["name"] == "again"


@BLOCKS
@FAMILIES
def test_a_second_deletion_of_a_row_keeps_the_first(
    mode: Callable[..., None], parent: Any, child: Any, link: str
) -> None:
    def delete_both() -> None:
        whole.delete()
        part.delete()  # the cascade has deleted it

    whole = parent.objects.create(name="whole")
    part = child.objects.create(name="part", **{link: whole})
    make_webhook(parent, child)
    mode(delete_both)
    assert sorted(actions()) == ["deleted", "deleted"]
    assert {event.object_type for event in events()} == {parent._meta.label_lower, child._meta.label_lower}


@MODES
@pytest.mark.parametrize("wanted", ["cud", "c"])
def test_a_deletion_of_an_absent_row_is_nothing_and_a_creation_under_its_key_is_one(
    mode: Callable[..., None], wanted: str
) -> None:
    def replace() -> None:
        Thing(pk=4711, name="absent").delete()
        Thing.objects.create(pk=4711, name="new")

    make_webhook(Thing, on=wanted)
    mode(replace)
    assert actions() == ["created"]


def edit_relation(row: Any) -> None:
    row._state.db = "default"  # else Django refuses it
    row.labels.add(Label.objects.create(name="red"))


def edit_relation_of_stale_instance(row: Any) -> None:
    row._state.adding = False  # as if another transaction had deleted it since
    edit_relation(row)


@BLOCKS
@pytest.mark.parametrize("wanted", ["cud", "c"])
@pytest.mark.parametrize("change", [edit_relation, edit_relation_of_stale_instance, lambda row: row.delete()])
@pytest.mark.parametrize("model", [Thing, Restaurant])
def test_a_creation_under_the_key_of_an_absent_row_that_was_changed_is_one(
    mode: Callable[..., None], wanted: str, change: Any, model: Any
) -> None:
    def create_after_change() -> None:
        change(model(pk=4711, **{model._meta.pk.attname: 4711, "id": 4711}))
        model.objects.create(id=4711, name="new")

    make_webhook(Thing, Place, on=wanted)
    mode(create_after_change)
    assert actions() == ["created"]


@BLOCKS
def test_an_edit_of_a_relation_before_a_row_is_replaced_does_not_make_it_new(mode: Callable[..., None]) -> None:
    def replace() -> None:
        edit_relation(thing)
        pk = thing.pk
        thing.delete()
        Thing.objects.create(pk=pk, name="new")

    thing = Thing.objects.create(name="old")
    make_webhook(Thing)
    mode(replace)
    assert actions() == ["updated"]


@BLOCKS
def test_an_edit_of_a_relation_in_a_savepoint_leaves_a_creation_after_its_rollback_as_it_is(
    mode: Callable[..., None],
) -> None:
    def create() -> None:
        in_atomic_that_fails(lambda: edit_relation(Thing(pk=4711)))
        edit_relation(Thing(pk=4711))
        in_atomic_that_fails(lambda: Thing.objects.create(pk=4711, name="not yet"))
        edit_relation(Thing(pk=4711))
        Thing.objects.create(pk=4711, name="new")

    make_webhook(Thing)
    mode(create)
    assert actions() == ["created"]


@pytest.mark.parametrize("block", [transaction.atomic, batch])
def test_a_deletion_that_sql_rolled_back_unseen_is_none(block: Any) -> None:
    thing = Thing.objects.create(name="thing")
    make_webhook(Thing)
    with block():
        execute("default", "SAVEPOINT unseen")
        Thing.objects.get().delete()
        execute("default", "ROLLBACK TO SAVEPOINT unseen")
        thing.name = "there"
        thing.save()
        thing.labels.add(Label.objects.create(name="red"))
    assert actions() == ["updated"]
    assert (last_data()["name"], last_data()["labels"]) == ("there", ["red"])


@pytest.mark.parametrize("block", [transaction.atomic, batch])
def test_a_deletion_that_sql_rolled_back_unseen_is_one_if_it_is_repeated(block: Any) -> None:
    Thing.objects.create(name="thing")
    make_webhook(Thing)
    with block():
        execute("default", "SAVEPOINT unseen")
        Thing.objects.get().delete()
        execute("default", "ROLLBACK TO SAVEPOINT unseen")
        Thing.objects.update(name="last")
        Thing.objects.get().delete()
    assert (actions(), last_data()["name"]) == (["deleted"], "last")


def test_a_batch_sends_no_deletion_of_a_row_that_is_there() -> None:
    Thing.objects.create(name="thing")
    make_webhook(Thing)
    with batch():
        execute("default", "SAVEPOINT unseen")
        Thing.objects.get().delete()
        execute("default", "ROLLBACK TO SAVEPOINT unseen")
    assert actions() == ["updated"]


@MODES
@pytest.mark.parametrize("block", [nullcontext, batch])
def test_a_relation_that_a_receiver_clears_after_a_deletion_leaves_the_deletion(
    mode: Callable[..., None], block: Any
) -> None:
    def clear(sender: Any, instance: Thing, **kwargs: Any) -> None:
        with block():
            instance.labels.clear()

    thing = Thing.objects.create(name="thing")
    thing.labels.add(Label.objects.create(name="red"))
    make_webhook(Thing, on="d")
    with host_receiver(post_delete, Thing, clear):
        mode(thing.delete)
    assert actions() == ["deleted"]


def test_a_batch_whose_changes_are_recorded_one_by_one_keeps_a_deletion_and_its_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thing = Thing.objects.create(name="thing")
    thing.labels.add(Label.objects.create(name="red"))
    make_webhook(Thing)
    monkeypatch.setattr(batch_module, "_record_together", Mock(side_effect=DatabaseError("not together")))
    with host_receiver(post_delete, Thing, lambda instance, **kwargs: instance.labels.clear(), before=False), batch():
        thing.delete()
    assert actions() == ["deleted"]
    monkeypatch.setattr(recording, "record_now", Mock(side_effect=DatabaseError("nor by itself")))
    with batch(), actor("ben"):
        Thing.objects.create(name="thing")
    assert [missed.username for missed in recording._missed] == ["ben"]


@BLOCKS
@pytest.mark.parametrize("wanted", ["cud", "d"])
def test_an_object_that_a_receiver_deletes_at_its_save_was_deleted(mode: Callable[..., None], wanted: str) -> None:
    thing = Thing.objects.create(name="thing")
    make_webhook(Thing, on=wanted)
    with host_receiver(post_save, Thing, lambda instance, **kwargs: Thing.objects.filter(pk=instance.pk).delete()):
        mode(thing.save)
    assert actions() == ["deleted"]


def test_a_row_that_a_receiver_saves_while_others_are_deleted_has_its_last_data() -> None:
    def rename_others(sender: Any, instance: Tracked, **kwargs: Any) -> None:
        for other in Tracked.objects.exclude(pk=instance.pk):
            other.name = f"after {instance.name}"
            other.save()

    first, second = (Tracked.objects.create(name=name) for name in ("first", "second"))
    make_webhook(Tracked)
    with host_receiver(pre_delete, Tracked, rename_others):
        Tracked.objects.all().delete()
    data = {event.object_id: event.data for event in events()}
    assert actions() == ["deleted", "deleted"]
    assert "after second" in data[str(first.pk)]
    assert "after first" in data[str(second.pk)]


# Creations


def number_by_save(sender: Any, instance: Any, created: bool, **kwargs: Any) -> None:
    if created:
        instance.status = f"number {instance.pk}"
        instance.save()


def number_by_update(sender: Any, instance: Any, created: bool, **kwargs: Any) -> None:
    if created:
        type(instance).objects.filter(pk=instance.pk).update(status=f"number {instance.pk}")


@BLOCKS
@EITHER_ORDER
@pytest.mark.parametrize("wanted", ["cud", "c"])
def test_an_object_that_a_receiver_saves_again_was_created(
    mode: Callable[..., None], before: bool, wanted: str
) -> None:
    make_webhook(Thing, on=wanted, prechange=True)
    with host_receiver(post_save, Thing, number_by_save, before):
        mode(lambda: Thing.objects.create(name="new"))
    assert actions() == ["created"]
    assert last_data()["status"].startswith("number ")
    assert sides()[0] is None


@BLOCKS
@pytest.mark.parametrize("wanted", ["cud", "c"])
def test_an_object_that_has_relations_before_its_row_was_created(mode: Callable[..., None], wanted: str) -> None:
    def label(sender: Any, instance: Gadget, **kwargs: Any) -> None:
        instance.labels.add(red.pk)  # its key has a default, and the database checks foreign keys at the commit

    red = Label.objects.create(name="red")
    make_webhook(Gadget, on=wanted)
    with host_receiver(pre_save, Gadget, label):
        mode(lambda: Gadget.objects.create(name="new"))
    assert actions() == ["created"]
    assert last_data()["labels"] == ["red"]


@EITHER_ORDER
def test_in_autocommit_mode_the_creation_comes_before_the_save_of_a_receiver(before: bool) -> None:
    make_webhook(Thing)
    with host_receiver(post_save, Thing, number_by_save, before):
        Thing.objects.create(name="new")
    assert actions() == ["created", "updated"]
    assert last_data()["status"].startswith("number ")


@BLOCKS
def test_an_object_has_what_an_earlier_receiver_writes_without_a_signal(mode: Callable[..., None]) -> None:
    make_webhook(Thing)
    with host_receiver(post_save, Thing, number_by_update):
        mode(lambda: Thing.objects.create(name="new"))
    assert actions() == ["created"]
    assert last_data()["status"].startswith("number ")


@BLOCKS
def test_an_object_that_was_created_saved_by_a_receiver_and_deleted_is_nothing(mode: Callable[..., None]) -> None:
    make_webhook(Thing)
    with host_receiver(post_save, Thing, number_by_save):
        mode(lambda: Thing.objects.create(name="new").delete())
    assert actions() == []


@BLOCKS
def test_an_object_that_a_receiver_deletes_at_its_creation_is_nothing(mode: Callable[..., None]) -> None:
    make_webhook(Thing)
    with host_receiver(post_save, Thing, lambda instance, **kwargs: Thing.objects.filter(pk=instance.pk).delete()):
        mode(lambda: Thing.objects.create(name="new"))
    assert actions() == []


class Refused(Exception):
    """Raised by a receiver of the host."""


def refuse(**kwargs: Any) -> None:
    raise Refused


@MODES
@EITHER_ORDER
def test_a_save_is_recorded_where_a_receiver_raises_and_the_host_goes_on(
    mode: Callable[..., None], before: bool
) -> None:
    def create() -> None:
        with suppress(Refused):
            Thing.objects.create(name="new")

    make_webhook(Thing)
    with host_receiver(post_save, Thing, refuse, before):
        mode(create)
    assert Thing.objects.count() == 1
    assert actions() == ["created"]


def test_a_save_that_is_rolled_back_with_its_receiver_s_error_is_not_recorded() -> None:
    make_webhook(Thing)
    with host_receiver(post_save, Thing, refuse), transaction.atomic():
        with suppress(Refused), transaction.atomic():
            Thing.objects.create(name="new")
        Thing.objects.bulk_create([Thing(name="other")])
    assert actions() == []


@pytest.mark.parametrize("action", ["created", "updated"])
def test_a_receiver_s_own_save_may_be_rolled_back_without_the_outer_one(action: str) -> None:
    def save_and_regret(sender: Any, instance: Thing, **kwargs: Any) -> None:
        if instance.status == "active":
            with suppress(Refused), transaction.atomic():
                instance.status = "regretted"
                instance.save()
                raise Refused
            raise Refused

    thing = Thing(name="new")
    if action == "updated":
        thing.save()
    make_webhook(Thing)
    with host_receiver(post_save, Thing, save_and_regret), transaction.atomic(), suppress(Refused):
        thing.save()
    assert actions() == [action]
    assert last_data()["status"] == "active"


@EITHER_ORDER
@BLOCKS
def test_a_receiver_that_marks_the_transaction_for_rollback_does_not_make_the_save_fail(
    mode: Callable[..., None], before: bool, app_log: pytest.LogCaptureFixture
) -> None:
    make_webhook(Thing)
    with host_receiver(post_save, Thing, lambda **kwargs: transaction.set_rollback(True), before):
        mode(lambda: Thing.objects.create(name="tried"))
    assert (Thing.objects.count(), actions(), app_log.messages) == (0, [], [])


@BLOCKS
def test_the_previous_state_is_from_before_a_receiver_of_pre_save_writes(mode: Callable[..., None]) -> None:
    def touch(sender: Any, instance: Thing, **kwargs: Any) -> None:
        Thing.objects.filter(pk=instance.pk).update(status="touched")

    thing = Thing.objects.create(name="old")
    make_webhook(Thing, prechange=True)
    with host_receiver(pre_save, Thing, touch):
        mode(thing.save)
    assert sides()[0]["status"] == "active"


# Who made the change


def save_as(thing: Thing, username: str) -> None:
    with actor(username):
        thing.name = f"by {username}"
        thing.save()


@BLOCKS
@pytest.mark.parametrize("order", [("alice", "enricher"), ("enricher", "alice")])
def test_an_ignored_user_takes_nothing_away_from_the_change_of_another(
    mode: Callable[..., None], order: tuple[str, ...]
) -> None:
    thing = Thing.objects.create(name="old")
    ignoring = make_webhook(Thing, excluded_usernames=["enricher"])
    mode(lambda: [save_as(thing, name) for name in order])
    [event] = events()
    assert (event.username, event.webhook_ids) == ("alice", [ignoring.pk])
    assert last_data()["name"] == f"by {order[-1]}"


@BLOCKS
def test_of_several_users_the_last_one_whom_no_webhook_ignores_made_the_change(mode: Callable[..., None]) -> None:
    thing = Thing.objects.create(name="old")
    make_webhook(Thing, excluded_usernames=["enricher"])
    mode(lambda: [save_as(thing, name) for name in ("alice", "bob", "enricher")])
    assert [event.username for event in events()] == ["bob"]


@BLOCKS
def test_a_webhook_that_ignores_all_users_of_a_transaction_gets_nothing(mode: Callable[..., None]) -> None:
    thing = Thing.objects.create(name="old")
    make_webhook(Thing, excluded_usernames=["enricher", "importer"])
    other = make_webhook(Thing)
    mode(lambda: [save_as(thing, name) for name in ("enricher", "importer")])
    [event] = events()
    assert (event.username, event.webhook_ids) == ("importer", [other.pk])


def test_a_change_in_a_batch_keeps_the_user_who_made_it() -> None:
    thing, other = (Thing.objects.create(name=name) for name in ("thing", "other"))
    make_webhook(Thing, excluded_usernames=["enricher"])
    with actor("outer"), batch():
        save_as(thing, "alice")
        save_as(other, "enricher")
    [event] = events()
    assert (event.username, event.object_id) == ("alice", str(thing.pk))


def test_a_rolled_back_change_leaves_no_user_behind() -> None:
    thing = Thing.objects.create(name="old")
    make_webhook(Thing, excluded_usernames=["enricher"])
    with transaction.atomic():
        save_as(thing, "enricher")
        with suppress(Refused), transaction.atomic():
            save_as(thing, "alice")
            raise Refused
        save_as(thing, "enricher")
    assert actions() == []


# Transactions by hand


def test_by_hand_a_block_is_one_event_and_changes_outside_of_one_are_each_their_own() -> None:
    thing = Thing.objects.create(name="old")
    make_webhook(Thing)
    transaction.set_autocommit(False)
    try:
        for name in ("a", "b", "c"):
            thing.name = name
            thing.save()
        with transaction.atomic():
            thing.save()
            thing.save()
        with host_receiver(pre_delete, Thing, lambda instance, **kwargs: instance.save()):
            thing.delete()
        callbacks = len(transaction.get_connection().run_on_commit)
        transaction.commit()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert actions() == ["updated"] * 4 + ["deleted"]
    assert callbacks <= 2  # one for the wake-up of all that ended, and one that is still open


def test_by_hand_each_call_of_a_decorated_function_is_a_block() -> None:
    @transaction.atomic
    def save(thing: Thing) -> None:
        thing.save()

    thing = Thing(name="new")
    make_webhook(Thing)
    transaction.set_autocommit(False)
    try:
        for _ in range(3):
            save(thing)
            transaction.commit()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert actions() == ["created", "updated", "updated"]


def test_by_hand_a_rollback_leaves_nothing() -> None:
    make_webhook(Thing)
    transaction.set_autocommit(False)
    try:
        Thing.objects.create(name="a")
        Thing.objects.create(name="b")
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert (Event.objects.count(), Thing.objects.count()) == (0, 0)
