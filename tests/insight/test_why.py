"""Why did nothing arrive? Each cause, made by really doing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.core import serializers
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import webhooks
from dcim.models import Site
from tenancy.models import Tenant
from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import events, make_delivery, make_event, make_webhook
from tests.testapp.models import (
    Diner,
    Essay,
    Fragile,
    Label,
    Place,
    Restaurant,
    Thing,
    ThingProxy,
    Tracked,
    Unregistered,
)
from webhooks.delivery import sweep
from webhooks.delivery.dispatch import dispatch
from webhooks.ground import registry
from webhooks.insight.why import Cause, Target, UnknownObject, Verdict, rows, why
from webhooks.models import Delivery, Event, QueuedDelivery, Skip, State, Webhook
from webhooks.operations import kinds, replays

pytestmark = pytest.mark.usefixtures("database")

RETIRED = {"attr": "status", "value": "retired"}


@dataclass
class World:
    """What a case may use. ``url`` is of a receiver that accepts, ``bad_url`` of one that answers 503."""

    url: str
    bad_url: str
    settings: Callable[..., None]
    path: Path


@pytest.fixture
def world(inbox: Inbox, webhooks_settings: Callable[..., None], tmp_path: Path) -> World:
    webhooks_settings(RETRY_SCHEDULE=[3600], RETRY_JITTER=0)
    return World(inbox.url(), inbox.url("status/503"), webhooks_settings, tmp_path)


def the(obj: Any, webhook: Webhook) -> Verdict:
    """The only verdict about one webhook."""
    [verdict] = why(obj, webhook=webhook)
    return verdict


# The causes. Each case makes one, and returns the object and the webhook to ask about.

Made = tuple[Any, Webhook]
CASES: dict[str, tuple[Callable[[World], Made], Cause, str, str]] = {}


def case(cause: Cause, text: str, remedy: str) -> Callable[[Callable[[World], Made]], Callable[[World], Made]]:
    """Add a case with parts of its text and of its remedy."""

    def add(make: Callable[[World], Made]) -> Callable[[World], Made]:
        CASES[make.__name__] = (make, cause, text, remedy)
        return make

    return add


@case(Cause.SENT, "The receiver accepted it at 20", "search its log for the webhook-id")
def sent(world: World) -> Made:
    webhook, thing = make_webhook(Thing, url=world.url), Thing.objects.create(name="a")
    drain()
    return thing, webhook


@case(
    Cause.NOT_DISPATCHED,
    "no worker has taken it yet",
    "Check on the status page that a worker is running without problems.",
)
def without_a_worker(world: World) -> Made:
    webhook = make_webhook(Thing)
    return Thing.objects.create(name="a"), webhook


@case(Cause.DUE, "no worker has taken it yet", "Check on the status page that a worker is running without problems.")
def dispatched_and_not_claimed(world: World) -> Made:
    webhook, thing = make_webhook(Thing), Thing.objects.create(name="a")
    dispatch()
    return thing, webhook


@case(Cause.SENDING, "A worker is sending it now.", "look at the workers on the status page")
def while_it_is_sent(world: World) -> Made:
    webhook, thing = make_webhook(Thing), Thing.objects.create(name="a")
    make_delivery(webhook, State.SENDING, event=events()[-1])
    return thing, webhook


@case(Cause.RETRYING, "1 attempt failed so far: HTTP 503", "To send it at once, retry the delivery.")
def between_attempts(world: World) -> Made:
    webhook, thing = make_webhook(Thing, url=world.bad_url), Thing.objects.create(name="a")
    drain()
    return thing, webhook


@case(Cause.WAITING, "It waits behind the earlier delivery", "retry or discard that delivery")
def behind_a_failing_head(world: World) -> Made:
    thing, webhook = between_attempts(world)
    thing.save()
    drain()
    return thing, webhook


@case(Cause.PAUSED, "The webhook is paused because its attempts fail: HTTP 503", "resume the webhook")
def paused(world: World) -> Made:
    world.settings(PAUSE_AFTER=1)
    return between_attempts(world)


@case(Cause.PAUSED, "HTTP 503 Service Unavailable. It is probed again at 20", "resume the webhook")
def paused_until_a_probe(world: World) -> Made:
    return paused(world)


@case(Cause.PAUSED, "HTTP 503 Service Unavailable. It is probed again at 20", "To send it at once, retry the delivery.")
def paused_between_attempts_outside_a_lane(world: World) -> Made:
    made = paused(world)
    QueuedDelivery.objects.update(in_lane=False)
    return made


@case(Cause.PAUSED, "HTTP 503 Service Unavailable. The next probe is due.", "resume the webhook")
def paused_while_a_probe_is_due(world: World) -> Made:
    made = paused(world)
    Webhook.objects.update(probe_at=timezone.now() - timedelta(seconds=5))
    return made


@case(Cause.PAUSED, "root paused the webhook at ", "Resume the webhook: this sends its deliveries.")
def paused_by_a_user(world: World) -> Made:
    thing, webhook = between_attempts(world)
    Webhook.objects.pause("root")
    return thing, webhook


@case(Cause.HELD, "by root. The delivery waits.", "Enable the webhook: this sends its deliveries.")
def disabled_after_the_change(world: World) -> Made:
    thing, webhook = between_attempts(world)
    disable(webhook)
    return thing, webhook


@case(
    Cause.HELD,
    "wants no more deliveries. The delivery waits.",
    "enter the new URL of the receiver and enable it. Enable",
)
def disabled_by_the_receiver(world: World) -> Made:
    thing, webhook = between_attempts(world)
    Webhook.objects.update(enabled=False, disabled_reason="gone", error_kind="http_410")
    return thing, webhook


@case(Cause.FAILED, "after 1 attempt: HTTP 503", "It is not sent again by itself: retry the delivery.")
def given_up(world: World) -> Made:
    world.settings(RETRY_SCHEDULE=[])
    return between_attempts(world)


@case(Cause.DISCARDED, "and is not sent", "To send it, retry the delivery.")
def discarded(world: World) -> Made:
    thing, webhook = between_attempts(world)
    assert kinds.DISCARD.perform(Delivery.objects.all()) == 1
    return thing, webhook


@case(Cause.DELETED, "its delivery is not stored any more", "save it again")
def purged_by_retention(world: World) -> Made:
    webhook, other = make_webhook(Thing, url=world.url), make_webhook(Thing, url=world.bad_url)
    thing = Thing.objects.create(name="a")
    drain()
    world.settings(RETENTION_DAYS={"succeeded": 1e-9})
    time.sleep(0.01)
    sweep.sweep()
    assert [one.webhook for one in Delivery.objects.all()] == [other]
    return thing, webhook


@case(
    Cause.EVENT_FAILED, "could not be written, so nothing was sent: RuntimeError", "Correct the serializer, then replay"
)
def a_serializer_that_raises(world: World) -> Made:
    webhook = make_webhook(Fragile)
    return Fragile.objects.create(name="a", behaviour="raises"), webhook


@case(Cause.EVENT_FAILED, "The conditions of the webhook failed", "Correct the conditions, then replay event")
def conditions_that_fail(world: World) -> Made:
    webhook = make_webhook(Thing, conditions=RETIRED)
    Webhook.objects.update(conditions={"attr": "name", "op": "no such operator"})
    return Thing.objects.create(name="a"), webhook


@case(Cause.SKIPPED, 'wants status eq "retired". It was "active".', "change the conditions of the webhook")
def a_condition(world: World) -> Made:
    webhook = make_webhook(Thing, conditions=RETIRED)
    return Thing.objects.create(name="a"), webhook


@case(Cause.SKIPPED, "Only name changed, and none of status.", "add a field to “only if these fields changed”")
def other_fields(world: World) -> Made:
    thing, webhook = Thing.objects.create(name="a"), make_webhook(Thing, changed_fields=["status"])
    thing.name = "b"
    thing.save()
    return thing, webhook


@case(Cause.SKIPPED, "The update changed nothing.", "clear “skip updates that change nothing”")
def no_change(world: World) -> Made:
    thing, webhook = Thing.objects.create(name="a"), make_webhook(Thing, only_changes=True)
    thing.save()
    return thing, webhook


@case(Cause.SKIPPED, "Changes by robot are ignored.", "remove robot from the ignored users")
def an_ignored_user(world: World) -> Made:
    webhook = make_webhook(Thing, excluded_usernames=["robot"])
    with webhooks.actor("robot"):
        return Thing.objects.create(name="a"), webhook


@case(Cause.SKIPPED, "Loop protection: depth 4", "To send this change, replay it.")
def loop_protection(world: World) -> Made:
    webhook = make_webhook(Thing)
    with webhooks.actor("robot", depth=4):
        return Thing.objects.create(name="a"), webhook


@case(Cause.SKIPPED, "Loop protection: depth 4", "ignore the user of the receiver that writes back")
def loop_protection_without_skips(world: World) -> Made:
    world.settings(SKIP_DAYS=0)
    return loop_protection(world)


@case(Cause.SKIPPED, "The webhook was disabled at", "Enable the webhook.")
def disabled_before_the_change(world: World) -> Made:
    webhook = make_webhook(Thing)
    disable(webhook)
    return Thing.objects.create(name="a"), webhook


@case(Cause.SKIPPED, "by root. The change came later", "Enable the webhook.")
def disabled_without_skips(world: World) -> Made:
    world.settings(SKIP_DAYS=0)
    make_webhook(Thing)
    return disabled_before_the_change(world)


@case(Cause.NOT_CHOSEN, "The webhook does not send testapp.thing. Its models: testapp.label.", "add it to the webhook")
def another_model(world: World) -> Made:
    make_webhook(Thing)
    webhook = make_webhook(Label)
    return Thing.objects.create(name="a"), webhook


@case(
    Cause.NOT_CHOSEN, "does not send objects that are created. Its actions: updated, deleted.", "add it to the webhook"
)
def another_action(world: World) -> Made:
    make_webhook(Thing)
    webhook = make_webhook(Thing, on="ud")
    return Thing.objects.create(name="a"), webhook


@case(Cause.CREATED_LATER, "The webhook was created later, at 20", "save it again")
def a_webhook_after_the_change(world: World) -> Made:
    make_webhook(Thing)
    thing = Thing.objects.create(name="a")
    return thing, make_webhook(Thing)


@case(Cause.CHANGED_LATER, "Perhaps it did not want such changes before", "save it again")
def a_model_chosen_after_the_change(world: World) -> Made:
    make_webhook(Thing)
    webhook = make_webhook(Label)
    thing = Thing.objects.create(name="a")
    webhook.save_settings(["object_types"])
    webhook.object_types.add(ContentType.objects.get_for_model(Thing))
    return thing, webhook


@case(Cause.UNKNOWN, "No skips are stored, because SKIP_DAYS", "save it again")
def a_skip_that_was_not_stored(world: World) -> Made:
    world.settings(SKIP_DAYS=0)
    make_webhook(Thing)
    return a_condition(world)


@case(Cause.NO_SIGNAL, "The object differs from its last event in status.", "give the model webhooks.WebhookManager")
def update_of_a_queryset(world: World) -> Made:
    thing, webhook = sent(world)
    Thing.objects.filter(pk=thing.pk).update(status="retired")
    return thing, webhook


@case(Cause.NO_SIGNAL, "The object differs from its last event in name.", "save it again")
def sql(world: World) -> Made:
    thing, webhook = sent(world)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_thing SET name = 'b' WHERE id = %s", [thing.pk])
    return thing, webhook


@case(Cause.NO_SIGNAL, "loaddata, a save of its parent row, or", "save it again")
def a_fixture(world: World) -> Made:
    thing, webhook = sent(world)
    thing.name = "b"
    fixture = world.path / "things.json"
    fixture.write_text(serializers.serialize("json", [thing]))
    call_command("loaddata", str(fixture), verbosity=0)
    return thing, webhook


@case(Cause.NO_SIGNAL, "or the delete of a related object, or webhooks were turned off", "save it again")
def the_delete_of_a_label(world: World) -> Made:
    thing, webhook = sent(world)
    label = thing.labels.create(name="red")
    drain()
    label.delete()
    return thing, webhook


@case(Cause.NO_SIGNAL, "a save of its parent row, or the delete of a related object, or webhooks", "save it again")
def a_save_of_the_parent(world: World) -> Made:
    webhook, restaurant = make_webhook(Restaurant, url=world.url), Restaurant.objects.create(name="a")
    drain()
    place = Place.objects.get(pk=restaurant.pk)
    place.name = "b"
    place.save()
    return restaurant, webhook


@case(Cause.NO_SIGNAL, "is gone, but no event says that it was deleted", "Correct the receiver by hand")
def deleted_by_sql(world: World) -> Made:
    thing, webhook = sent(world)
    Thing.objects.filter(pk=thing.pk)._raw_delete("default")
    return thing, webhook


@case(Cause.NO_SIGNAL, "exists again, but no event says that it was created", "save it again")
def created_again_by_bulk_create(world: World) -> Made:
    thing, webhook = sent(world)
    pk = thing.pk
    thing.delete()
    Thing.objects.bulk_create([Thing(pk=pk, name="a")])
    return ("testapp.thing", pk), webhook


@case(Cause.NO_SUBSCRIBER, "Perhaps no enabled webhook wanted it before 20", "save it again")
def a_save_that_no_webhook_wanted(world: World) -> Made:
    first, thing = make_webhook(Thing, url=world.url), Thing.objects.create(name="a")
    drain()
    disable(first)
    world.settings(SKIP_DAYS=0)
    thing.name = "b"
    thing.save()
    return thing, make_webhook(Thing)


@case(Cause.NO_SUBSCRIBER, "Perhaps no enabled webhook wanted it before 20", "save it again")
def a_skip_deleted_because_there_were_too_many(world: World) -> Made:
    world.settings(SKIPS_PER_WEBHOOK=1)
    webhook = make_webhook(Thing, url=world.url, conditions={"attr": "status", "value": "active"})
    thing = Thing.objects.create(name="a")
    drain()
    thing.status = "retired"
    thing.save()
    time.sleep(0.002)  # the ids of skips sort by their milliseconds
    Thing.objects.create(name="b", status="retired")
    sweep.sweep()
    assert [skip.object_repr for skip in Skip.objects.all()] == ["b"]
    return thing, webhook


@case(Cause.UNKNOWN, "Perhaps its event was deleted, or no enabled webhook wanted it.", "save it again")
def a_sent_change_deleted_before_a_failed_one(world: World) -> Made:
    world.settings(RETRY_SCHEDULE=[])
    webhook = make_webhook(Thing, url=world.bad_url, ordered=False)  # else the later one stays as long
    thing = Thing.objects.create(name="a")
    drain()
    Webhook.objects.update(payload_url=world.url)
    thing.name = "b"
    thing.save()
    drain()
    world.settings(RETENTION_DAYS={"succeeded": 1e-9})
    time.sleep(0.01)
    sweep.sweep()
    assert [delivery.state for delivery in Delivery.objects.all()] == [State.FAILED]
    return thing, webhook


@case(Cause.NO_TRACE, "No change of this object is stored.", "save it again")
def older_than_the_webhook(world: World) -> Made:
    thing = Thing.objects.create(name="a")
    return thing, make_webhook(Thing)


@case(Cause.NO_TRACE, "the change was rolled back;", "change the conditions of the webhook")
def rolled_back(world: World) -> Made:
    thing, webhook = Thing.objects.create(name="a"), make_webhook(Thing, conditions=RETIRED)
    with transaction.atomic():
        thing.save()
        transaction.set_rollback(True)
    return thing, webhook


@case(Cause.NO_TRACE, "perhaps the model was registered only recently", "save it again")
def registered_later(world: World) -> Made:
    webhook, registration = make_webhook(Thing), registry.registration_of(Thing)
    assert registration
    registry.unregister(Thing)
    thing = Thing.objects.create(name="a")
    registry._registrations[Thing] = registration
    return thing, webhook


@case(Cause.CREATED_LATER, "It was last saved at 20", "save it again")
def saved_before_the_webhook(world: World) -> Made:
    site = Site.objects.create(name="AMS1", slug="ams1")
    return site, make_webhook(Site)


@case(Cause.NOT_REGISTERED, "testapp.thing is not registered", "Define the serializer of testapp.thing")
def an_unregistered_model(world: World) -> Made:
    webhook = make_webhook(Thing)
    registry.unregister(Thing)
    return Thing.objects.create(name="a"), webhook


@case(Cause.NOT_CHOSEN, "testapp.unregistered is not registered", "Define the serializer of testapp.unreg")
def an_unregistered_model_of_no_webhook(world: World) -> Made:
    return Unregistered.objects.create(name="a"), make_webhook(Thing)


@case(Cause.NOT_SAVED, "it is not saved, or was deleted", "Ask with its model and its key")
def not_saved(world: World) -> Made:
    return Thing(name="a"), make_webhook(Thing)


@case(Cause.TURNED_OFF, 'WEBHOOKS["ENABLED"] is false', "Set it to True")
def turned_off(world: World) -> Made:
    thing, webhook = Thing.objects.create(name="a"), make_webhook(Thing)
    world.settings(ENABLED=False)
    return thing, webhook


def disable(webhook: Webhook) -> None:
    webhook.enabled = False
    webhook.save_settings(["enabled"], "root")


@pytest.mark.one_database
@pytest.mark.usefixtures("own_registrations")
@pytest.mark.parametrize("name", CASES)
def test_each_cause_is_found_with_its_remedy(world: World, name: str) -> None:
    make, cause, text, remedy = CASES[name]
    obj, webhook = make(world)
    verdict = the(obj, webhook)
    assert (verdict.cause, verdict.webhook) == (cause, webhook), verdict.text
    assert text in verdict.text
    assert remedy in verdict.remedy
    assert verdict.text.endswith(".")
    assert ".." not in verdict.text + verdict.remedy


def test_every_cause_has_a_case() -> None:
    assert {cause for _, cause, _, _ in CASES.values()} == set(Cause) - {Cause.OTHER_DATABASE}


def test_an_object_in_another_database_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    thing, webhook = Thing.objects.create(name="a"), make_webhook(Thing)
    routed = SimpleNamespace(db_for_write=lambda model, instance: "other")
    monkeypatch.setattr("webhooks.insight.why.question.router", routed)
    verdict = the(thing, webhook)
    assert verdict.cause == Cause.OTHER_DATABASE
    assert verdict.text.startswith("The object is in the database 'other'.")


def test_stored_rows_wait_while_webhooks_are_turned_off(world: World) -> None:
    webhook = make_webhook(Thing)
    first, second = Thing.objects.create(name="a"), Thing.objects.create(name="b")
    dispatch()
    second.save()
    world.settings(ENABLED=False)
    verdicts = [the(first, webhook), the(second, webhook)]
    assert {verdict.cause for verdict in verdicts} == {Cause.TURNED_OFF}
    assert verdicts[0].text.endswith("The delivery waits.")
    assert verdicts[1].text.endswith(f"Event {events()[-1].pk} waits.")


# What a verdict says


def test_a_waiting_delivery_names_the_one_before_and_the_latest_end(world: World) -> None:
    thing, webhook = behind_a_failing_head(world)
    verdict = the(thing, webhook)
    head, waiting = Delivery.objects.order_by("event_id")
    assert (verdict.delivery, verdict.behind, verdict.state) == (waiting.pk, head.pk, State.WAITING)
    assert verdict.until is not None
    assert timedelta(minutes=58) < verdict.until - timezone.now() < timedelta(minutes=61)
    assert (verdict.target, verdict.target_id) == (Target.DELIVERY, str(head.pk))
    assert verdict.event == waiting.event_id


def test_a_skip_has_what_the_condition_wanted_and_found(world: World) -> None:
    thing, webhook = a_condition(world)
    verdict = the(thing, webhook)
    assert (verdict.rule, verdict.detail) == (
        "condition",
        {"path": "status", "operator": "eq", "expected": "retired", "actual": "active"},
    )
    assert verdict.change is not None
    assert (verdict.change.action, verdict.change.object_repr) == ("created", "a")


def test_a_skip_says_that_a_bulk_update_has_made_the_object_fit_since(world: World) -> None:
    webhook = make_webhook(Thing, url=world.url, conditions=RETIRED)
    thing = Thing.objects.create(name="a", status="active")
    [verdict] = why(thing, webhook=webhook)
    assert "Judged" not in verdict.text
    Thing.objects.update(status="retired")
    [verdict] = why(thing, webhook=webhook)
    assert verdict.cause == Cause.SKIPPED
    assert verdict.text.endswith("Judged by the object as it is now: an update would be sent.")
    assert verdict.remedy.startswith("To send the object as it is now, save it again, or use “Recover skipped…”")


def test_a_skip_says_that_the_webhook_was_changed_since(world: World) -> None:
    thing, webhook = a_condition(world)
    assert "was changed later" not in the(thing, webhook).text
    webhook.conditions = None
    webhook.save_settings(["conditions"])
    assert "was changed later" in the(thing, webhook).text


def test_a_change_without_a_signal_keeps_the_verdict_about_the_one_before(world: World) -> None:
    thing, webhook = update_of_a_queryset(world)
    verdict = the(thing, webhook)
    assert (verdict.changed, verdict.change) == (("status",), None)
    assert verdict.earlier is not None
    assert verdict.earlier.cause == Cause.SENT
    assert verdict.earlier.delivery == Delivery.objects.get().pk


def test_values_of_related_objects_and_saves_without_a_change_are_no_lost_change(world: World) -> None:
    webhook, tenant = make_webhook(Site, url=world.url), Tenant.objects.create(name="Acme", slug="acme")
    site = Site.objects.create(name="AMS1", slug="ams1", tenant=tenant)
    drain()
    Tenant.objects.update(name="Bcme")  # the data of the site show it
    Site.objects.update(last_updated=timezone.now())
    assert the(site, webhook).cause == Cause.SENT
    Site.objects.update(tenant=None)
    assert the(site, webhook).changed == ("tenant",)


def test_a_new_name_of_a_related_object_is_a_possible_reason(world: World) -> None:
    label = Label.objects.create(name="red")
    thing, webhook = sent(world)
    thing.labels.add(label)
    drain()
    assert the(thing, webhook).cause == Cause.SENT
    Label.objects.update(name="blue")
    assert "in labels. Perhaps a related object has a new name." in the(thing, webhook).text
    Thing.objects.update(name="b")
    assert "new name" not in the(thing, webhook).text


def test_a_skipped_change_soon_after_a_sent_one_is_no_lost_change() -> None:
    webhook = make_webhook(Thing, conditions={"attr": "status", "value": "active"})
    thing = Thing.objects.create(name="a")
    for status in ("active", "retired"):
        thing.status = status
        thing.save()
    assert [event.action for event in events()] == ["created", "updated"]
    assert the(thing, webhook).cause == Cause.SKIPPED


def test_a_custom_event_after_a_change_that_no_webhook_wanted_proves_nothing(
    world: World, own_registrations: None
) -> None:
    webhooks.register_event("testapp.counted")
    thing, _ = a_save_that_no_webhook_wanted(world)
    webhook = make_webhook(Thing, custom_events=["testapp.counted"])
    webhooks.send("testapp.counted", thing)
    assert the(thing, webhook).cause == Cause.NO_SUBSCRIBER


def test_a_model_that_captures_bulk_operations_is_not_said_to_lack_that(world: World) -> None:
    webhook, tracked = make_webhook(Tracked, url=world.url), Tracked.objects.create(name="a")
    drain()
    QuerySet(Tracked).update(name="b")
    verdict = the(tracked, webhook)
    assert verdict.cause == Cause.NO_SIGNAL
    assert "It was not captured: it came by raw SQL, a data migration, loaddata, a save of" in verdict.text
    assert "WebhookManager" not in verdict.remedy


def test_a_bulk_create_that_ignores_conflicts_is_a_way_even_for_such_a_model(world: World) -> None:
    webhook, tracked = make_webhook(Tracked, url=world.url), Tracked.objects.create(name="a")
    pk = tracked.pk
    tracked.delete()
    Tracked.objects.bulk_create([Tracked(pk=pk, name="a")], ignore_conflicts=True)
    verdict = the(("testapp.tracked", pk), webhook)
    assert verdict.cause == Cause.NO_SIGNAL
    assert "it came by bulk_create(ignore_conflicts=True), raw SQL, a data migration or loaddata," in verdict.text


def test_a_manager_that_needs_a_scope_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:  # as django-scopes does outside of a scope
        raise RuntimeError("A scope on dimension(s) tenant needs to be active for this query.")

    monkeypatch.setattr(Thing._default_manager, "all", refuse)
    webhook = make_webhook(Thing)
    Thing.objects.bulk_create([Thing(pk=1, name="a")])
    assert "bulk_create()" in the(("testapp.thing", 1), webhook).text


def test_an_object_without_an_event_may_come_from_bulk_create() -> None:
    webhook = make_webhook(Thing, Tracked)
    Thing.objects.bulk_create([Thing(pk=1, name="a")])
    Tracked.objects.bulk_create([Tracked(pk=1, name="a")], ignore_conflicts=True)
    ways = "raw SQL, a data migration or loaddata, which"
    assert f"bulk_create(), {ways}" in the(("testapp.thing", 1), webhook).text
    assert f"changed by bulk_create(ignore_conflicts=True), {ways}" in the(("testapp.tracked", 1), webhook).text


def test_a_deleted_object_is_not_to_be_saved_again() -> None:
    webhook, thing = make_webhook(Thing, on="d", conditions=RETIRED), Thing.objects.create(name="a")
    pk = thing.pk
    thing.delete()
    assert the(("testapp.thing", pk), webhook).remedy.endswith("correct the receiver by hand.")


def test_an_object_without_an_event_is_judged_as_it_is_now() -> None:
    thing = Thing.objects.create(name="a")
    wanted, unwanted = make_webhook(Thing), make_webhook(Thing, conditions=RETIRED)
    off, created_only = make_webhook(Thing, enabled=False), make_webhook(Thing, on="c")
    texts = {one.webhook: one.text for one in why(thing)}
    now = "Judged by the object as it is now: an update would"
    assert texts[wanted].endswith(f"{now} be sent.")
    assert f'{now} be skipped. The condition wants status eq "retired". It was "active".' in texts[unwanted]
    assert f"{now} be sent if the webhook were enabled." in texts[off]
    assert f"{now} not be sent. The actions of the webhook: created." in texts[created_only]


@pytest.mark.parametrize("behaviour", ["raises", "bad sql", "nan", "not json"])
def test_a_serializer_that_fails_now_is_part_of_the_answer(behaviour: str) -> None:
    fragile, webhook = Fragile.objects.create(name="a", behaviour=behaviour), make_webhook(Fragile)
    with transaction.atomic():
        verdict = the(fragile, webhook)
        assert Fragile.objects.exists(), "the transaction can still be used"
    assert verdict.cause == Cause.NO_TRACE
    assert "its data cannot be written" in verdict.text
    assert verdict.remedy.startswith("Correct the serializer.")


def test_the_serializer_of_one_webhook_says_nothing_about_the_others() -> None:
    thing = Thing.objects.create(name="a")
    good, bad = make_webhook(Thing), make_webhook(Thing, serializer="missing")
    other, created_only = make_webhook(Label, serializer="unknown"), make_webhook(Thing, on="c", serializer="unknown")
    texts = {one.webhook: one.text for one in why(thing)}
    assert texts[good].endswith("an update would be sent.")
    assert "its data cannot be written" in texts[bad]
    assert "'missing'" in texts[bad]
    assert texts[other].startswith("The webhook does not send testapp.thing.")
    assert texts[created_only].endswith("an update would not be sent. The actions of the webhook: created.")


def test_the_conditions_of_one_webhook_say_nothing_about_the_others() -> None:
    thing = Thing.objects.create(name="a")
    good = make_webhook(Thing, conditions={"attr": "status", "value": "active"})
    failing = [make_webhook(Thing, conditions={"attr": "name", "op": op}) for op in ("first", "second")]
    texts = {one.webhook: one.text for one in why(thing)}
    assert texts[good].endswith("an update would be sent.")
    for webhook, own, foreign in zip(failing, ("first", "second"), ("second", "first"), strict=True):
        assert "the conditions of the webhook fail" in texts[webhook]
        assert own in texts[webhook]
        assert foreign not in texts[webhook]


def test_a_webhook_without_an_action_is_not_said_to_send_updates(own_registrations: None) -> None:
    webhooks.register_event("testapp.counted")
    thing, webhook = Thing.objects.create(name="a"), make_webhook(Thing, on="", custom_events=["testapp.counted"])
    verdict = the(thing, webhook)
    assert verdict.text.endswith("an update would not be sent. The actions of the webhook: none.")
    assert verdict.remedy.startswith("To send updates, choose the action in the webhook.")


# Odd objects


def test_odd_objects_get_a_verdict(world: World) -> None:
    thing, webhook = sent(world)
    assert the(ThingProxy.objects.get(pk=thing.pk), webhook).cause == Cause.SENT
    assert the(("testapp.Thing", str(thing.pk)), webhook).cause == Cause.SENT
    Thing.objects.get(pk=thing.pk).delete()
    drain()
    assert the(thing, webhook).cause == Cause.SENT, "its deletion"
    assert the(Thing(pk="no number"), webhook).cause == Cause.NO_TRACE
    assert the(Thing(pk=10**30), webhook).cause == Cause.NO_TRACE
    assert the(Essay(title="x" * 400), webhook).cause == Cause.NOT_CHOSEN
    assert the(("testapp.thing", 404), webhook).text.startswith("There is no such object now. No change of this")


def test_only_a_webhook_that_has_an_unregistered_model_is_said_to_lose_it(own_registrations: None) -> None:
    has_it, other = make_webhook(Thing), make_webhook(Label)
    registry.unregister(Thing)
    found = {one.webhook: one for one in why(Thing.objects.create(name="a"))}
    assert found[has_it].cause == Cause.NOT_REGISTERED
    assert found[has_it].remedy.endswith("If it should not be sent, remove it from the webhook.")
    assert found[other].text.startswith("The webhook does not send testapp.thing. Its models: testapp.label.")
    assert found[other].remedy.endswith("If it should be sent, add it to the webhook.")
    assert "remove it" not in found[other].remedy


def test_an_inherited_row_is_asked_about_as_the_registered_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registrations", dict(registry._registrations))
    for child in (Diner, Restaurant):
        registry.unregister(child)
    webhook, diner = make_webhook(Place), Diner.objects.create(name="a")
    verdict = the(diner, webhook)
    assert (verdict.cause, verdict.change and verdict.change.object_type) == (Cause.NOT_DISPATCHED, "testapp.place")


@pytest.mark.parametrize("unknown", [("testapp.nothing", 1), ("nothing", 1), ("testapp.thing", "no number")])
def test_an_unknown_model_or_key_is_refused(unknown: tuple[str, Any]) -> None:
    with pytest.raises(UnknownObject):
        why(unknown)


def test_an_unknown_webhook_or_event_is_refused() -> None:
    with pytest.raises(UnknownObject, match="There is no webhook 4711"):
        why(("testapp.thing", 1), webhook=4711)
    with pytest.raises(UnknownObject, match="its event are deleted after 30 days"):
        why(event=4711)


@pytest.mark.parametrize("question", [{}, {"event": 1, "request_id": "r1"}, {"obj": Thing(pk=1), "event": 1}])
def test_exactly_one_question_is_asked(question: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="one of these"):
        why(**question)


# Events and requests


def test_an_event_is_answered_for_the_webhooks_that_got_it_and_for_the_others(world: World) -> None:
    first, picky = make_webhook(Thing, url=world.url), make_webhook(Thing, conditions=RETIRED)
    other = make_webhook(Label)
    thing = Thing.objects.create(name="a")
    [asked] = events()
    drain()
    thing.save()
    causes = {one.webhook: one.cause for one in why(event=asked)}
    assert causes == {first: Cause.SENT, picky: Cause.SKIPPED, other: Cause.NOT_CHOSEN}
    assert {one.cause for one in why(event=asked.pk, webhook=first)} == {Cause.SENT}
    assert the(thing, first).cause == Cause.NOT_DISPATCHED, "the object is asked about its last change"


def test_a_replayed_event_is_answered_by_its_replay(world: World) -> None:
    webhook = make_webhook(Fragile, url=world.url)
    fragile = Fragile.objects.create(name="a", behaviour="raises")
    [failed] = events()
    Fragile.objects.update(behaviour="fine")
    replays.replay(Event.objects.all())
    drain()
    [verdict] = why(event=failed.pk)
    assert (verdict.cause, verdict.event) == (Cause.SENT, events()[-1].pk)
    assert the(fragile, webhook).cause == Cause.SENT


def test_a_replay_that_the_webhook_did_not_want_says_so() -> None:
    make_webhook(Fragile, conditions={"attr": "behaviour", "value": "raises"})
    Fragile.objects.create(name="a", behaviour="raises")
    [failed] = events()
    Fragile.objects.update(behaviour="fine")
    replays.replay(Event.objects.all())
    [verdict] = why(event=failed.pk)
    assert verdict.cause == Cause.EVENT_FAILED
    assert "was replayed at" in verdict.text


def test_a_custom_event_and_a_test_are_answered(own_registrations: None) -> None:
    webhooks.register_event("testapp.counted")
    wants = make_webhook(Thing, custom_events=["testapp.counted"])
    other = make_webhook(Thing)
    webhooks.send("testapp.counted")
    webhooks.send("testapp.counted")
    first, _ = events()
    causes = {one.webhook: (one.cause, one.event) for one in why(event=first.pk)}
    assert causes == {wants: (Cause.NOT_DISPATCHED, first.pk), other: (Cause.NOT_CHOSEN, None)}
    ping = make_event(wants, action="ping", object_type="webhooks.ping")
    texts = {one.webhook: one.text for one in why(event=ping)}
    assert texts[other] == "This event is a test of another webhook."


def test_a_request_is_answered_for_each_of_its_objects(world: World) -> None:
    first, picky = make_webhook(Thing), make_webhook(Thing, conditions=RETIRED)
    with webhooks.actor("jane", request_id="r1"):
        things = [Thing.objects.create(name=name) for name in "ab"]
    Thing.objects.create(name="c")
    found = [(one.change and one.change.object_id, one.webhook, one.cause) for one in why(request_id="r1")]
    assert found == [
        (str(thing.pk), webhook, cause)
        for thing in things
        for webhook, cause in ((first, Cause.NOT_DISPATCHED), (picky, Cause.SKIPPED))
    ]
    assert {one.cause for one in why(request_id="r2")} == {Cause.NO_TRACE}


def test_an_event_of_a_backfill_has_a_delivery() -> None:
    make_webhook(Thing)
    picky = make_webhook(Thing, conditions=RETIRED)
    thing = Thing.objects.create(name="a")
    new = make_webhook(Thing)
    [event] = events()
    assert {one.webhook: one.cause for one in why(thing, webhook=new)} == {new: Cause.CREATED_LATER}
    assert {one.webhook: one.cause for one in why(thing, webhook=picky)} == {picky: Cause.SKIPPED}
    for webhook in (new, picky):
        delivery = make_delivery(webhook, State.SUCCEEDED, event=event)
        [verdict] = why(thing, webhook=webhook)
        assert (verdict.cause, verdict.delivery, verdict.event) == (Cause.SENT, delivery.pk, event.pk)


def test_a_request_that_only_left_skips_is_answered() -> None:
    webhook = make_webhook(Thing, conditions=RETIRED)
    with webhooks.actor("jane", request_id="r1"):
        Thing.objects.create(name="a")
    assert [(one.webhook, one.cause) for one in why(request_id="r1")] == [(webhook, Cause.SKIPPED)]


def test_a_request_without_an_event_is_searched_in_the_newest_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_SKIPS", 2)
    make_webhook(Thing, conditions=RETIRED)
    for request_id in ("r1", "r2", "r3"):
        with webhooks.actor("jane", request_id=request_id):
            Thing.objects.create(name="a")
    causes = [why(request_id=request_id)[0].cause for request_id in ("r1", "r2", "r3")]
    assert causes == [Cause.NO_TRACE, Cause.SKIPPED, Cause.SKIPPED]


# Cost


@pytest.mark.cost
@pytest.mark.parametrize("count", [1, 5])
def test_the_queries_do_not_grow_with_the_webhooks_and_nothing_is_changed(world: World, count: int) -> None:
    for _ in range(count):
        make_webhook(Thing, conditions=RETIRED)
        make_webhook(Thing, url=world.url, enabled=False)
        make_webhook(Thing, url=world.bad_url)
    with webhooks.actor("jane", request_id="r1"):
        thing = Thing.objects.create(name="a")
    dispatch()
    thing.save()
    dispatch()
    tables = (Event, Delivery, Skip, Webhook)
    before = [list(table.objects.order_by("pk").values()) for table in tables]
    counts = []
    for question in ({"obj": thing}, {"event": events()[0]}, {"request_id": "r1"}):
        with CaptureQueriesContext(connection) as captured:
            assert why(**question)
        statements = [one["sql"].lstrip().partition(" ")[0] for one in captured.captured_queries]
        assert not {"INSERT", "UPDATE", "DELETE"} & set(statements)
        counts.append(len(statements))
    plans = 6 if connection.vendor == "postgresql" else 0  # two transactions with the settings of index_plans()
    assert counts == [18 + plans, 8 + plans, 7 + plans], "for the object, half of them are its serializer's"
    assert [list(table.objects.order_by("pk").values()) for table in tables] == before
