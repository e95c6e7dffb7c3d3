"""Which webhooks want an object as it is: through real changes, on each database."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from tests.makers import actions, events, make_webhook
from tests.modes import MODES
from tests.testapp.models import Label, Thing
from webhooks import conditions
from webhooks.models import Event, Webhook

pytestmark = pytest.mark.usefixtures("database")

ACTIVE = {"attr": "status", "value": "active"}
SLOW = {"attr": "name", "op": "regex", "value": "(?:a|aa)+$"}
LONG_NAME = "a" * 46 + "b"


@MODES
def test_an_event_is_for_those_whose_conditions_match_its_data(mode: Callable[..., None]) -> None:
    plain, active = make_webhook(Thing), make_webhook(Thing, conditions=ACTIVE)
    make_webhook(Thing, conditions={**ACTIVE, "negate": True})
    mode(lambda: Thing.objects.create(name="a"))
    [event] = events()
    assert event.webhook_ids == [plain.pk, active.pk]


@MODES
def test_where_nobody_wants_it_there_is_no_event(mode: Callable[..., None]) -> None:
    make_webhook(Thing, conditions={**ACTIVE, "negate": True})
    make_webhook(Thing, conditions={"attr": "nothing.there", "value": 1})
    mode(lambda: Thing.objects.create(name="a"))
    assert events() == []


def test_what_a_transaction_comes_to_is_what_counts() -> None:
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
    monkeypatch.setattr(conditions.Condition, "judge", lambda self, facts: (judged.append(self), judge(self, facts))[1])
    for _ in range(50):
        make_webhook(Thing, conditions=ACTIVE)
    Thing.objects.create(name="a")
    assert len(events()[0].webhook_ids) == 50
    assert len(judged) == 1


# Of whom it cannot be told


def break_by_sql(condition: Any, facts: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")


def break_plainly(condition: Any, facts: Any) -> Any:
    raise RuntimeError("this condition is broken")


@MODES
@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (break_by_sql, "nowhere"),
        (break_plainly, "this condition is broken"),
        (None, "took longer"),
        ([1], "a condition must be"),
    ],
    ids=["database error", "exception", "late", "cannot be read"],
)
def test_a_condition_that_fails_costs_neither_the_save_nor_the_others_their_event(
    mode: Callable[..., None], broken: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, active = make_webhook(Thing), make_webhook(Thing, conditions=ACTIVE)
    failing = [make_webhook(Thing, conditions=SLOW) for _ in range(2)]
    if isinstance(broken, list):
        Webhook.objects.filter(pk__in=[webhook.pk for webhook in failing]).update(conditions=broken)
    elif broken:
        of_slow, judge = conditions.parsed(json.dumps(SLOW)), conditions.Condition.judge
        monkeypatch.setattr(
            conditions,
            "parsed",
            lambda text: of_slow if "regex" in text else conditions.parse(json.loads(text)),
        )
        monkeypatch.setattr(
            conditions.Condition, "judge", lambda self, facts: (broken if self is of_slow else judge)(self, facts)
        )
    mode(lambda: (Thing.objects.create(name=LONG_NAME), Label.objects.create(name="the transaction goes on")))
    assert Thing.objects.get().name == LONG_NAME
    good, failed = sorted(events(), key=lambda event: event.error)
    assert (good.error, good.webhook_ids) == ("", [plain.pk, active.pk])
    assert failed.webhook_ids == [webhook.pk for webhook in failing]
    assert told in failed.error
    assert failed.error.count("Traceback") >= 2
    assert list(Event.objects.failed()) == [failed]
    assert list(Event.objects.undispatched()) == [good]


def test_the_failed_event_goes_with_a_later_change_that_can_be_judged() -> None:
    make_webhook(Thing, conditions=SLOW)
    with transaction.atomic():
        thing = Thing.objects.create(name=LONG_NAME)
        assert Event.objects.failed().count() == 1
        thing.name = "Peter"
        thing.save()
    assert events() == []
