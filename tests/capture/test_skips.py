"""Why a webhook did not want a change: each rule, on each database."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

import webhooks
from tests.support.draining import sweep_step
from tests.support.makers import events, make_webhook
from tests.support.modes import MODES
from tests.support.rollbacks import bare_savepoint
from tests.support.statements import statements_of
from tests.testapp.models import Label, Place, Thing, Tracked
from webhooks.capture import subscriptions
from webhooks.delivery import policy, retention, rollup, sweep
from webhooks.ground.db import to_utc
from webhooks.ground.outcome import Outcome
from webhooks.insight.wording import skip_reason
from webhooks.models import Skip, Statistic, StatisticDelta, Webhook
from webhooks.models.ids import delivery_id
from webhooks.models.skip import VALUE_LENGTH, Refusal, Rule
from webhooks.models.statistic import Period
from webhooks.operations.webhooks import delete_webhooks

pytestmark = pytest.mark.usefixtures("database")

ACTIVE = {"attr": "status", "value": "active"}
RETIRED = {"attr": "status", "value": "retired"}
NOT_RETIRED = {"path": "status", "operator": "eq", "expected": "retired", "actual": "active"}


@pytest.fixture
def thing(database: str) -> Thing:
    return Thing.objects.create(name="a")


def skipped() -> list[tuple[int, str, dict[str, Any]]]:
    """The stored skips: webhook, rule and detail, in the order of their times. Ids have none in a millisecond."""
    return [
        (one.webhook_id, one.rule, json.loads(one.detail)) for one in Skip.objects.order_by("webhook_id", "timestamp")
    ]


# The rules

RULES: dict[str, tuple[dict[str, Any], Rule, dict[str, Any]]] = {
    "condition": ({"conditions": RETIRED}, Rule.CONDITION, NOT_RETIRED),
    "negated": (
        {"conditions": {**ACTIVE, "negate": True}},
        Rule.CONDITION,
        {"path": "status", "operator": "eq", "expected": "active", "actual": "active", "negate": True},
    ),
    "first of and": (
        {"conditions": {"and": [ACTIVE, RETIRED, {**ACTIVE, "negate": True}]}},
        Rule.CONDITION,
        {**NOT_RETIRED, "place": "and[1]"},
    ),
    "last of or": (
        {"conditions": {"and": [{"or": [{"attr": "id", "value": 0}, RETIRED]}, {"attr": "id", "value": 0}]}},
        Rule.CONDITION,
        {**NOT_RETIRED, "place": "and[0].or[1]"},
    ),
    "empty or": (
        {"conditions": {"and": [ACTIVE, {"or": []}]}},
        Rule.CONDITION,
        {"path": "", "operator": "or", "expected": [], "place": "and[1].or"},
    ),
    "no value": (
        {"conditions": {"attr": "status.value", "value": "active"}},
        Rule.CONDITION,
        {
            "path": "status.value",
            "operator": "eq",
            "expected": "active",
            "problem": "there is no 'status.value': 'value' was looked for in text",
        },
    ),
    "unchanged": (
        {"conditions": {"attr": "status", "op": "changed"}},
        Rule.CONDITION,
        {"path": "status", "operator": "changed", "expected": None, "actual": ["active", "active"]},
    ),
    "pattern": (
        {"conditions": {"attr": "name", "op": "regex", "value": "^x"}},
        Rule.CONDITION,
        {"path": "name", "operator": "regex", "expected": "^x", "actual": "b"},
    ),
    "changed fields": (
        {"changed_fields": ["status", "labels"]},
        Rule.CHANGED_FIELDS,
        {"wanted": ["status", "labels"], "changed": ["name"]},
    ),
    "ignored user": ({"excluded_usernames": ["robot"]}, Rule.IGNORED_USER, {}),
}


@MODES
@pytest.mark.parametrize(("fields", "rule", "detail"), RULES.values(), ids=RULES)
def test_a_change_that_a_webhook_does_not_want_leaves_the_rule_that_said_no(
    thing: Thing, mode: Callable[..., None], fields: dict[str, Any], rule: Rule, detail: dict[str, Any]
) -> None:
    webhook = make_webhook(Thing, **fields)
    thing.name = "b"
    with webhooks.actor("robot", request_id="r1"):
        mode(thing.save)
    assert events() == []
    assert skipped() == [(webhook.pk, rule, detail)]
    [skip] = Skip.objects.all()
    assert (skip.action, skip.object_type, skip.object_id) == ("updated", "testapp.thing", str(thing.pk))
    assert (skip.username, skip.request_id) == ("robot", "r1")
    assert skip.object_repr == ("" if rule == Rule.IGNORED_USER else "b")
    assert abs(timezone.now() - skip.timestamp) < timedelta(minutes=1)
    assert skip_reason(skip, shows_actual=True).endswith(".")


@MODES
def test_a_save_of_the_same_values_is_skipped_by_a_webhook_that_wants_changes(
    thing: Thing, mode: Callable[..., None]
) -> None:
    webhook = make_webhook(Thing, only_changes=True)
    mode(thing.save)
    assert skipped() == [(webhook.pk, Rule.NO_CHANGE, {})]


@MODES
def test_loop_protection_leaves_a_skip_for_each_webhook_that_wanted_the_change(
    thing: Thing, mode: Callable[..., None]
) -> None:
    plain, picky = make_webhook(Thing), make_webhook(Thing, conditions=RETIRED)
    with webhooks.actor("robot", depth=4):
        mode(thing.save)
    assert [event.failure for event in events()] == ["loop_protection"]
    assert skipped() == [
        (plain.pk, Rule.LOOP_PROTECTION, {"depth": 4, "limit": 3}),
        (picky.pk, Rule.CONDITION, NOT_RETIRED),
    ]


@MODES
def test_a_disabled_webhook_leaves_when_and_by_whom_it_was_disabled(thing: Thing, mode: Callable[..., None]) -> None:
    webhook, plain = make_webhook(Thing, on="u", conditions=ACTIVE), make_webhook(Thing)
    webhook.enabled = False
    webhook.save_settings(["enabled"], "root")
    mode(thing.save)
    thing.delete()
    assert [event.webhook_ids for event in events()] == [[plain.pk]] * 2
    [(webhook_id, rule, detail)] = skipped()
    assert (webhook_id, rule, detail["by"]) == (webhook.pk, Rule.DISABLED, "root")
    webhook.refresh_from_db()
    assert webhook.disabled_at is not None
    assert detail["since"] == to_utc(webhook.disabled_at).isoformat(timespec="seconds")
    webhook.enabled = True
    webhook.save_settings(["enabled"], "root")
    webhook.refresh_from_db()
    assert (webhook.disabled_at, webhook.disabled_by) == (None, "")


def test_a_webhook_that_was_disabled_automatically_leaves_the_reason(
    thing: Thing, webhooks_settings: Callable[..., None]
) -> None:
    webhooks_settings(DISABLE_AFTER=1)
    webhook = make_webhook(Thing, failing_since=timezone.now() - timedelta(days=9), failures_in_a_row=99)
    failed = Outcome(datetime.now(UTC), 1, reason="HTTP 500", status=500)
    with transaction.atomic():
        policy.update_all({webhook: [failed]})
    thing.save()
    [(_, rule, detail)] = skipped()
    assert rule == Rule.DISABLED
    assert detail["since"]
    assert detail["by"] == ""
    assert detail["reason"] == "failing"


@MODES
def test_custom_events_leave_skips_as_well(thing: Thing, mode: Callable[..., None]) -> None:
    name = "dcim.rack_audited"
    data = {"status": "active"}
    condition = make_webhook(custom_events=[name], on="", conditions=RETIRED)
    ignoring = make_webhook(custom_events=[name], on="", excluded_usernames=["robot"])
    disabled = make_webhook(custom_events=[name], on="", enabled=False)
    with webhooks.actor("robot"):
        mode(lambda: webhooks.send(name, thing, data))
        mode(lambda: webhooks.send(name, thing, data))
    assert events() == []
    rules = [(webhook_id, rule) for webhook_id, rule, _ in skipped()]
    each = [(condition.pk, Rule.CONDITION), (ignoring.pk, Rule.IGNORED_USER), (disabled.pk, Rule.DISABLED)]
    assert rules == [one for one in each for _ in range(2)]
    assert {skip.action for skip in Skip.objects.all()} == {name}


def test_what_a_webhook_without_a_rule_does_not_subscribe_to_leaves_nothing(thing: Thing) -> None:
    make_webhook(Thing, on="c")
    make_webhook(Label)
    make_webhook(Label, conditions=RETIRED, enabled=False)
    make_webhook(Thing, on="d", conditions=RETIRED, excluded_usernames=["robot"])
    with webhooks.actor("robot"):
        thing.save()
    assert skipped() == []


def test_a_filter_that_fails_is_no_skip(thing: Thing) -> None:
    Webhook.objects.filter(pk=make_webhook(Thing, conditions=RETIRED).pk).update(conditions=[1])
    thing.save()
    assert [event.failure for event in events()] == ["filter_error"]
    assert skipped() == []


# One for each webhook, object and transaction


def change_to(thing: Thing, **values: Any) -> None:
    for name, value in values.items():
        setattr(thing, name, value)
    thing.save()


@pytest.mark.parametrize("is_batch", [False, True])
def test_several_changes_that_end_in_no_event_leave_one_skip_with_the_last_state(thing: Thing, is_batch: bool) -> None:
    webhook = make_webhook(Thing, conditions=RETIRED)
    with webhooks.batch() if is_batch else transaction.atomic():
        for status in ("planned", "offline", "failed"):
            change_to(thing, status=status)
    assert skipped() == [(webhook.pk, Rule.CONDITION, {**NOT_RETIRED, "actual": "failed"})]


def test_a_change_that_is_wanted_in_the_end_leaves_no_skip(thing: Thing) -> None:
    webhook, other = make_webhook(Thing, conditions=RETIRED), make_webhook(Thing, conditions=ACTIVE)
    with transaction.atomic():
        thing.save()
        assert skipped() == [(webhook.pk, Rule.CONDITION, NOT_RETIRED)]
        change_to(thing, status="retired")
    [event] = events()
    assert event.webhook_ids == [webhook.pk]
    assert [webhook_id for webhook_id, *_ in skipped()] == [other.pk]


def test_an_object_that_was_created_and_deleted_leaves_no_skip() -> None:
    make_webhook(Thing, conditions=RETIRED)
    with transaction.atomic():
        thing = Thing.objects.create(name="a")
        assert len(skipped()) == 1
        thing.delete()
    assert skipped() == []


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_rollback_leaves_nothing(thing: Thing, is_ignored: bool) -> None:
    make_webhook(Thing, **({"excluded_usernames": ["robot"]} if is_ignored else {"conditions": RETIRED}))
    with webhooks.actor("robot"), transaction.atomic():
        thing.save()
        assert len(skipped()) == 1
        transaction.set_rollback(True)
    assert skipped() == []
    with webhooks.actor("robot"), transaction.atomic():
        savepoint = bare_savepoint()
        thing.save()
        transaction.savepoint_rollback(savepoint)
        assert skipped() == []
        change_to(thing, status="planned")
    assert len(skipped()) == 1


def test_a_rollback_to_a_savepoint_brings_the_skip_before_it_back(thing: Thing) -> None:
    webhook = make_webhook(Thing, conditions=RETIRED)
    with transaction.atomic():
        change_to(thing, status="planned")
        savepoint = bare_savepoint()
        change_to(thing, status="retired")
        assert skipped() == []
        transaction.savepoint_rollback(savepoint)
    assert skipped() == [(webhook.pk, Rule.CONDITION, {**NOT_RETIRED, "actual": "planned"})]


def test_a_rollback_in_a_batch_takes_the_skip_of_a_custom_event_back(thing: Thing) -> None:
    make_webhook(custom_events=["dcim.rack_audited"], on="", conditions=RETIRED)
    with webhooks.batch(), transaction.atomic():
        webhooks.send("dcim.rack_audited", thing, {"status": "active"})
        transaction.set_rollback(True)
    assert skipped() == []


# Bulk work


def test_bulk_work_leaves_a_skip_for_each_object() -> None:
    webhook = make_webhook(Tracked, conditions={"attr": "name", "value": "x"})
    disabled = make_webhook(Tracked, enabled=False)
    Tracked.objects.bulk_create(Tracked(name=str(number)) for number in range(3))
    Tracked.objects.update(name="b")
    Tracked.objects.all().delete()
    assert events() == []
    by_webhook = {pk: list(Skip.objects.filter(webhook=pk)) for pk in (webhook.pk, disabled.pk)}
    for skips in by_webhook.values():  # those of one millisecond have no order
        assert Counter(one.action for one in skips) == {"created": 3, "updated": 3, "deleted": 3}
    assert {one.rule for one in by_webhook[webhook.pk]} == {Rule.CONDITION}
    assert {one.rule for one in by_webhook[disabled.pk]} == {Rule.DISABLED}


def test_a_batch_keeps_no_more_skips_than_a_webhook_may_have(webhooks_settings: Callable[..., None]) -> None:
    webhooks_settings(SKIPS_PER_WEBHOOK=2)
    make_webhook(Tracked, conditions={"attr": "name", "value": "x"})
    Tracked.objects.bulk_create(Tracked(name=str(number)) for number in range(5))
    assert {one.object_repr for one in Skip.objects.all()} == {"3", "4"}


def test_the_statistics_count_all_skips_of_a_batch(webhooks_settings: Callable[..., None]) -> None:
    webhooks_settings(SKIPS_PER_WEBHOOK=2)
    some = make_webhook(Tracked, conditions={"attr": "name", "value": "1"})
    none = make_webhook(Tracked, enabled=False)
    Tracked.objects.bulk_create(Tracked(name=str(number)) for number in range(5))
    sweep_step(rollup.add_up, 1000)
    counted = Statistic.objects.filter(period=Period.HOUR).values_list("webhook", "skipped")
    assert dict(counted) == {some.pk: 4, none.pk: 5}


def test_a_skip_that_a_later_change_replaces_counts_once(thing: Thing) -> None:
    webhook = make_webhook(Thing, conditions=RETIRED)
    with transaction.atomic():
        for _ in range(3):
            thing.save()
    with transaction.atomic():
        thing.save()
        thing.status = "retired"
        thing.save()
    sweep_step(rollup.add_up, 1000)
    assert Statistic.objects.get(webhook=webhook, period=Period.HOUR).skipped == 1


def test_an_error_of_the_statistics_leaves_the_changes(
    webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    webhooks_settings(SKIPS_PER_WEBHOOK=2)
    make_webhook(Tracked, enabled=False)
    monkeypatch.setattr(StatisticDelta._meta, "db_table", "missing")
    Tracked.objects.bulk_create(Tracked(name=str(number)) for number in range(5))
    assert Tracked.objects.count() == 5
    assert "cannot be recorded" in app_log.text


def test_an_object_that_cannot_be_serialized_does_not_keep_the_others_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = make_webhook(Tracked, conditions={"attr": "name", "value": "x"})
    with webhooks.batch():
        Tracked.objects.create(name="a")
        monkeypatch.setattr("webhooks.capture.serialize.serialize_all", None)
    assert [webhook_id for webhook_id, *_ in skipped()] == [webhook.pk]


# Cost


@pytest.mark.cost
@pytest.mark.parametrize("kind", ["condition", "ignored user", "disabled", "both"])
@pytest.mark.parametrize("count", [1, 20])
def test_skips_cost_one_statement_for_a_change_and_for_a_batch(
    thing: Thing, kind: str, count: int, webhooks_settings: Callable[..., None]
) -> None:
    fields: dict[str, list[dict[str, Any]]] = {
        "condition": [{"conditions": RETIRED}],
        "ignored user": [{"excluded_usernames": ["robot"]}],
        "disabled": [{"enabled": False}],
    }
    fields["both"] = [*fields["condition"], *fields["disabled"]]
    rows = [Tracked.objects.create(name=str(number)) for number in range(3)]
    for _ in range(count):
        for one in fields[kind]:
            make_webhook(Thing, Tracked, **one)

    def in_batch() -> None:
        with webhooks.batch():
            for row in rows:
                row.save()

    measured = []
    for kept in (0, 100):
        webhooks_settings(SKIPS_PER_WEBHOOK=kept)
        with webhooks.actor("robot"), transaction.atomic():
            Place.objects.create(name="the first looks the webhooks up")
            subscriptions.current("default")
            measured.append([len(statements_of(thing.save)), len(statements_of(in_batch))])
    assert measured[1] == [number + 1 for number in measured[0]]
    assert Skip.objects.count() == 4 * count * len(fields[kind])


@pytest.mark.cost
def test_a_second_skip_of_an_object_costs_one_statement_too(thing: Thing) -> None:
    make_webhook(Thing, conditions=RETIRED)
    with transaction.atomic():
        thing.save()
        first, second = ([one for one in statements_of(thing.save) if "rq_webhooks_skip" in one] for _ in range(2))
    assert (len(first), len(second)) == (1, 1)


@pytest.mark.cost
def test_without_a_rule_no_skip_is_looked_for(thing: Thing) -> None:
    make_webhook(Thing)
    make_webhook(Label, conditions=RETIRED)
    with transaction.atomic():
        assert not [one for one in statements_of(thing.save) if "rq_webhooks_skip" in one]


@pytest.mark.parametrize("setting", ["SKIP_DAYS", "SKIPS_PER_WEBHOOK"])
def test_a_setting_of_zero_turns_skips_off(thing: Thing, setting: str, webhooks_settings: Callable[..., None]) -> None:
    for fields in ({"conditions": RETIRED}, {"excluded_usernames": [""]}, {"enabled": False}, {"only_changes": True}):
        make_webhook(Thing, **fields)
    webhooks_settings(**{setting: 0})
    thing.save()
    assert skipped() == []
    webhooks_settings(**{setting: 5})
    thing.save()
    assert len(skipped()) == 4
    webhooks_settings(**{setting: 0})
    sweep.sweep()
    assert skipped() == []


def test_a_disabled_webhook_alone_costs_no_serialization(thing: Thing, monkeypatch: pytest.MonkeyPatch) -> None:
    make_webhook(Thing, Tracked, enabled=False, prechange=True)
    row = Tracked.objects.create(name="a")
    monkeypatch.setattr("webhooks.capture.serialize.serialize", None)
    monkeypatch.setattr("webhooks.capture.serialize.reread_all", None)
    thing.save()
    with webhooks.batch():
        thing.save()
        row.delete()
    Tracked.objects.all().delete()
    assert {rule for _, rule, _ in skipped()} == {Rule.DISABLED}


# Promises


@pytest.fixture
def no_table(database: str) -> Any:
    """A process with the new code, before the tables are migrated."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE rq_webhooks_skip RENAME TO rq_webhooks_skip_later")
    yield
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE rq_webhooks_skip_later RENAME TO rq_webhooks_skip")


@pytest.mark.usefixtures("no_table")
@MODES
def test_neither_the_save_nor_the_event_fails_if_skips_cannot_be_stored(
    thing: Thing, mode: Callable[..., None], app_log: pytest.LogCaptureFixture
) -> None:
    plain = make_webhook(Thing, Label)
    make_webhook(Thing, Label, conditions=RETIRED)
    make_webhook(Thing, Label, excluded_usernames=["robot"])

    def work() -> None:
        change_to(thing, name="b")
        change_to(thing, name="c")
        Label.objects.create(name="the transaction goes on")

    with webhooks.actor("robot"):
        mode(work)
    assert Thing.objects.get().name == "c"
    assert {(event.error, tuple(event.webhook_ids)) for event in events()} == {("", (plain.pk,))}
    assert "The changes that webhooks skip cannot be recorded" in app_log.text


HOSTILE = {
    "long": "x" * 50_000,
    "nul": "a\0b",
    "surrogates": "\ud800 \udfff",
    "reversed": "\u202e gnp.exe",
    "many": list(range(100_000)),
    "deep": [[[[[["x"] * 300] * 3] * 3] * 3] * 3],
    "object": {str(number): "y" * 100 for number in range(1_000)},
    "none": None,
    "true": True,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_stored_within_bounds(
    name: str, thing: Thing, webhooks_settings: Callable[..., None]
) -> None:
    webhook = make_webhook(
        custom_events=["dcim.rack_audited"], on="", conditions={"attr": "v", "value": ["y" * 50_000, "never"]}
    )
    with transaction.atomic():
        webhooks.send("dcim.rack_audited", thing, {"v": HOSTILE[name]})
        Label.objects.create(name="the transaction goes on")
    [(webhook_id, rule, detail)] = skipped()
    assert (webhook_id, rule) == (webhook.pk, Rule.CONDITION)
    assert len(detail["expected"]) == VALUE_LENGTH
    if name in ("none", "true"):
        assert detail["actual"] is HOSTILE[name]
    else:
        assert len(detail["actual"]) <= VALUE_LENGTH
    assert skip_reason(Skip.objects.get(), shows_actual=True)


def test_a_refusal_holds_no_half_of_a_surrogate_pair() -> None:
    """So no skip does: all are stored from refusals."""
    refusal = Refusal.because(Rule.CONDITION, expected="\ud800", actual={"\udfff": ["\udfff"]})
    assert json.loads(refusal.detail) == {"expected": "\ufffd", "actual": {"\ufffd": ["\ufffd"]}}


# Retention


def make_skips(webhook: Webhook, count: int) -> None:
    """One for each of the last seconds."""
    now = timezone.now()
    for number in range(count):
        pk = delivery_id(now - timedelta(seconds=count - number), number, webhook.pk)  # unique in a millisecond, too
        Skip.objects.create(pk=pk, webhook=webhook, object_id=str(number))


def test_skips_are_deleted_after_their_retention(webhooks_settings: Callable[..., None]) -> None:
    webhook = make_webhook(Thing)
    make_skips(webhook, 3)
    assert sweep_step(retention.purge_skips) == 0
    Skip.objects.update(timestamp=timezone.now() - timedelta(days=7, seconds=1))
    assert sweep_step(retention.purge_skips) == 0  # as if made by a clock that was behind: their ids are new
    webhooks_settings(SKIP_DAYS=0.00000001)
    assert sweep_step(retention.purge_skips) == 3


def test_each_webhook_keeps_its_newest_skips(
    webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(SKIPS_PER_WEBHOOK=3)
    monkeypatch.setattr(retention, "PIECE", 4)
    busy, quiet = make_webhook(Thing), make_webhook(Thing)
    make_skips(busy, 10)
    make_skips(quiet, 3)
    assert [sweep_step(retention.purge_skips) for _ in range(3)] == [4, 3, 0]
    assert [one.object_id for one in Skip.objects.filter(webhook=busy).order_by("pk")] == ["7", "8", "9"]
    assert Skip.objects.filter(webhook=quiet).count() == 3


def test_a_sweep_counts_the_skips_of_a_few_webhooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "COUNTED_WEBHOOKS", 2)
    for _ in range(5):
        make_webhook(Thing)
    counted = [one for one in statements_of(lambda: sweep_step(retention.purge_skips)) if "OFFSET" in one]
    assert len(counted) == 1
    assert counted[0].count(" OFFSET ") == counted[0].count("LIMIT")


def test_the_skips_of_a_webhook_are_deleted_with_it_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.operations.webhooks.MAX_ROWS", 4)
    webhook, other = make_webhook(Thing), make_webhook(Thing)
    make_skips(webhook, 10)
    make_skips(other, 1)
    delete_webhooks(Webhook.objects.filter(pk=webhook.pk))
    assert Skip.objects.filter(webhook=webhook.pk).count() == 6
    sweep.sweep()
    assert not Webhook.with_deleted.filter(pk=webhook.pk).exists()
    assert Skip.objects.count() == 1
