"""What a worker does next, as a table: the steps of a turn by what the worker knows."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from webhooks.delivery.next_turn import Aim, Step, WorkerState, next_turn, skips_scan

DISPATCHES = {step for step in Step if step.name.startswith("DISPATCH")}
CLAIMS = {step for step in Step if "CLAIM" in step.name} - DISPATCHES
FACTS = ("expects_new", "has_dispatched", "is_behind", "has_room", "expects_nothing", "has_early", "has_fault",
         "may_probe", "is_beside_live", "is_record_due")  # fmt: skip


def turn(**facts: Any) -> list[Step]:
    """The steps of a turn in which these facts stay as they are."""
    steps = [Step.BEGIN]
    while steps[-1] is not Step.END:
        steps += next_turn(WorkerState(steps[-1], **facts))
    return steps[1:-1]


TABLE: list[tuple[dict[str, Any], str]] = [
    ({}, "claim, dispatch, step run, wait, sweep"),
    ({"is_record_due": True}, "claim, dispatch, step run, wait, record and claim, sweep"),
    # New events first, and other work while the receiver answers.
    ({"expects_new": True, "has_dispatched": True}, "dispatch first, wait, sweep"),
    ({"expects_new": True}, "dispatch first, claim, dispatch, step run, wait, sweep"),
    ({"has_dispatched": True}, "claim, dispatch, step run, wait, sweep"),
    # Due deliveries, unless nothing was due a moment ago and there are new events all the time.
    ({"is_behind": True, "expects_nothing": True}, "dispatch, step run, wait, sweep"),
    ({"is_behind": True}, "claim, dispatch, step run, wait, sweep"),
    ({"expects_nothing": True}, "claim, dispatch, step run, wait, sweep"),
    # A new delivery is a better probe than one before its time.
    ({"has_early": True}, "claim, dispatch, claim early, step run, wait, sweep"),
    ({"has_early": True, "has_fault": True}, "dispatch, step unsent run, wait, sweep"),
    # A sender with enough to send.
    ({"has_room": False}, "step unsent run, wait, sweep"),
    ({"has_room": False, "has_early": True, "may_probe": True}, "step unsent run, wait, sweep"),
    # A fault of our own: one delivery at a time.
    ({"has_fault": True}, "dispatch, step unsent run, wait, sweep"),
    ({"has_fault": True, "may_probe": True}, "claim one, dispatch, step unsent run, wait, sweep"),
    ({"has_fault": True, "is_record_due": True}, "dispatch, step unsent run, wait, record, sweep"),
    # A run beside live changes.
    (
        {"is_beside_live": True, "is_record_due": True},
        "dispatch first, claim, dispatch, step run, dispatch before wait, wait, "
        "dispatch before record, record and claim, sweep",
    ),
    (
        {"is_beside_live": True, "has_room": False, "has_dispatched": True, "expects_new": True},
        "dispatch first, step unsent run, dispatch before wait, wait, dispatch before record, sweep",
    ),
    # The end of a slice, and while another job runs.
    ({"aim": Aim.FINISH}, "claim idle, wait"),
    ({"aim": Aim.FINISH, "has_fault": True}, "wait"),
    (
        {"aim": Aim.FINISH, "is_beside_live": True, "expects_new": True, "is_record_due": True},
        "claim idle, wait, record",
    ),
    ({"aim": Aim.RECORD}, "wait"),
    ({"aim": Aim.RECORD, "is_beside_live": True, "expects_new": True, "is_record_due": True}, "wait, record"),
]


@pytest.mark.parametrize(("facts", "steps"), TABLE)
def test_a_turn_has_these_steps(facts: dict[str, Any], steps: str) -> None:
    assert ", ".join(step.name.lower().replace("_", " ") for step in turn(**facts)) == steps


def test_every_turn_waits_for_outcomes_and_ends() -> None:
    order = list(Step)
    for aim, *values in product(Aim, *([False, True] for _ in FACTS)):
        facts = dict(zip(FACTS, values, strict=True))
        steps = turn(aim=aim, **facts)
        assert [order.index(step) for step in steps] == sorted({order.index(step) for step in steps}), facts
        assert Step.WAIT in steps
        assert (Step.SWEEP in steps) == (aim is Aim.WORK)
        assert bool({Step.RECORD, Step.RECORD_AND_CLAIM} & set(steps)) == facts["is_record_due"]
        if facts["has_fault"]:
            assert set(steps) & CLAIMS <= {Step.CLAIM_ONE}, "a fault stops the sending"
        if aim is not Aim.WORK:
            assert not set(steps) & DISPATCHES


def test_a_dispatch_that_expects_new_events_begins_without_a_scan() -> None:
    assert skips_scan(is_woken=True, is_behind=False, is_full_scan_due=True)
    assert skips_scan(is_woken=False, is_behind=True, is_full_scan_due=False)
    assert not skips_scan(is_woken=False, is_behind=True, is_full_scan_due=True)
    assert not skips_scan(is_woken=False, is_behind=False, is_full_scan_due=False)
