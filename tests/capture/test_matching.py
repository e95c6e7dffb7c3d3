"""Which webhooks want an object as it is: through real changes, on each database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from django.db import transaction

from tests.support.figures import Figures
from tests.support.makers import actions, events, make_webhook
from tests.support.modes import MODES
from tests.testapp.models import Label, Thing
from webhooks import batch
from webhooks.capture import conditions
from webhooks.capture.context import Actor
from webhooks.capture.matching import Budget, EventContext
from webhooks.ground.conf import conf
from webhooks.models import Event, Webhook

pytestmark = pytest.mark.usefixtures("database")

ACTIVE = {"attr": "status", "value": "active"}
SLOW = {"attr": "name", "op": "regex", "value": "(?:a|aa)+$"}
LONG_NAME = "a" * 46 + "b"


@MODES
def test_an_event_is_for_webhooks_with_matching_conditions(mode: Callable[..., None]) -> None:
    plain, active = make_webhook(Thing), make_webhook(Thing, conditions=ACTIVE)
    make_webhook(Thing, conditions={**ACTIVE, "negate": True})
    mode(lambda: Thing.objects.create(name="a"))
    [event] = events()
    assert event.webhook_ids == [plain.pk, active.pk]


@MODES
def test_without_a_match_there_is_no_event(mode: Callable[..., None]) -> None:
    make_webhook(Thing, conditions={**ACTIVE, "negate": True})
    make_webhook(Thing, conditions={"attr": "nothing.there", "value": 1})
    mode(lambda: Thing.objects.create(name="a"))
    assert events() == []


def test_conditions_are_applied_to_the_merged_change() -> None:
    make_webhook(Thing, conditions=ACTIVE)
    with transaction.atomic():
        thing = Thing.objects.create(name="a")
        assert actions() == ["created"]
        thing.status = "retired"
        thing.save()
        assert actions() == []
        thing.status = "active"
        thing.save()
    assert actions() == ["created"]
    with transaction.atomic():
        thing.save()
        thing.status = "retired"
        thing.save()
    assert actions() == ["created"]


def test_the_same_conditions_are_judged_once_for_each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Any] = []
    judge = conditions.Condition.judge
    monkeypatch.setattr(
        conditions.Condition, "judge", lambda self, *given: (judged.append(self), judge(self, *given))[1]
    )
    for _ in range(50):
        make_webhook(Thing, conditions=ACTIVE)
    Thing.objects.create(name="a")
    assert len(events()[0].webhook_ids) == 50
    assert len(judged) == 1


# Filters that fail


def break_plainly(condition: Any, facts: Any, seconds: float) -> Any:
    raise RuntimeError("this condition is broken")


@pytest.mark.parametrize("last", [nullcontext, batch], ids=["change", "batch"])
def test_filters_that_fail_for_each_change_of_an_object_leave_one_event_or_none(last: Any) -> None:
    make_webhook(Thing)
    Webhook.objects.update(conditions=[1])
    with transaction.atomic():
        first, second = Thing.objects.create(name="a"), Thing.objects.create(name="b")
        assert [event.error != "" for event in events()] == [True, True]
        with last():
            first.delete()
            second.save()
    assert [(event.action, event.object_id) for event in events()] == [("created", str(second.pk))]


@MODES
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (break_plainly, "this condition is broken"),
        (None, "took longer"),
        ([1], "a condition must be"),
    ],
    ids=["exception", "late", "cannot be read"],
)
def test_a_condition_that_fails_costs_neither_the_save_nor_the_others_their_event(
    mode: Callable[..., None], broken: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, active = make_webhook(Thing), make_webhook(Thing, conditions=ACTIVE)
    failing = [make_webhook(Thing, conditions=SLOW) for _ in range(2)]
    if isinstance(broken, list):
        Webhook.objects.filter(pk__in=[webhook.pk for webhook in failing]).update(conditions=broken)
    elif broken:
        of_slow, judge = conditions.parse_stored(json.dumps(SLOW)), conditions.Condition.judge
        monkeypatch.setattr(
            conditions,
            "parse_stored",
            lambda text: of_slow if "regex" in text else conditions.parse(json.loads(text)),
        )
        monkeypatch.setattr(
            conditions.Condition, "judge", lambda self, *given: (broken if self is of_slow else judge)(self, *given)
        )
    mode(lambda: (Thing.objects.create(name=LONG_NAME), Label.objects.create(name="the transaction goes on")))
    assert Thing.objects.get().name == LONG_NAME
    good, failed = sorted(events(), key=lambda event: event.error)
    assert (good.error, good.webhook_ids) == ("", [plain.pk, active.pk])
    assert failed.webhook_ids == [webhook.pk for webhook in failing]
    assert message in failed.error
    assert failed.error.count("Traceback") >= 2
    assert list(Event.objects.failed()) == [failed]
    assert list(Event.objects.undispatched()) == [good]


def slow(number: int) -> Any:
    return {"or": [SLOW, {"attr": "name", "value": str(number)}]}


def test_the_slow_conditions_of_many_webhooks_share_one_time_and_keep_no_other_from_being_judged(
    figures: Figures,
) -> None:
    failing = [make_webhook(Thing, conditions=slow(number)) for number in range(100)]
    active = make_webhook(Thing, conditions=ACTIVE)
    Thing.objects.create(name="what is compiled here is not compiled again")
    began = time.thread_time()
    Thing.objects.create(name=LONG_NAME)
    took = time.thread_time() - began
    figures(f"a save with 100 slow conditions takes {took:.2f} s")
    assert conf.conditions_timeout < took < 20 * conf.conditions_timeout, "they share the time, and do not add it up"
    good, failed = sorted(events(), key=lambda event: event.error)[-2:]
    assert good.webhook_ids == [active.pk]
    assert failed.webhook_ids == [webhook.pk for webhook in failing]


def test_one_condition_gets_the_time_that_the_others_leave(webhooks_settings: Callable[..., None]) -> None:
    webhooks_settings(CONDITIONS_TIMEOUT=20)
    needs_some = make_webhook(Thing, conditions={"attr": "name", "op": "regex", "value": "(?:a|aa)+$", "negate": True})
    others = [make_webhook(Thing, conditions={**ACTIVE, "value": str(number), "negate": True}) for number in range(99)]
    Thing.objects.create(name="a" * 25 + "b")
    [event] = events()
    assert event.webhook_ids == [needs_some.pk, *(webhook.pk for webhook in others)]


@pytest.mark.cost
def test_the_changes_of_a_batch_take_little_more_than_one_change(figures: Figures) -> None:
    # First, because on a busy machine the slow ones can use up more than the time of a later change.
    active = make_webhook(Thing, conditions=ACTIVE)
    for number in range(10):
        make_webhook(Thing, conditions=slow(number))
    count = 100
    budget, began = Budget(), time.thread_time()
    for _ in range(count):
        occasion = EventContext("created", json.dumps({"name": LONG_NAME}), "", "", Actor())
        occasion.judge([json.dumps(slow(number)) for number in range(10)], budget)
    spent = time.thread_time() - began
    figures(f"{count} changes with 10 slow conditions take {spent:.2f} s")
    assert conf.conditions_timeout < spent < 20 * conf.conditions_timeout
    with batch():
        for _ in range(3):
            Thing.objects.create(name=LONG_NAME)
    good = [event.webhook_ids for event in events() if not event.error]
    assert (good, Event.objects.failed().count()) == ([[active.pk]] * 3, 3)


def test_the_failed_event_goes_with_a_later_change_that_can_be_judged() -> None:
    make_webhook(Thing, conditions=SLOW)
    with transaction.atomic():
        thing = Thing.objects.create(name=LONG_NAME)
        assert Event.objects.failed().count() == 1
        thing.name = "Peter"
        thing.save()
    assert events() == []
