"""What a worker does next: one pure function. The loop in ``workers.runner`` obeys it.

A turn takes work, waits a moment for outcomes, and records them. The cases of ``next_turn`` stand in the order of a
turn. While a run goes on beside live changes, new events are dispatched before each other part, so that they wait for
one part only.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class Aim(Enum):
    """What a turn is for."""

    WORK = auto()
    FINISH = auto()
    """To serve webhooks with nothing in flight, until the requests of the others end."""
    RECORD = auto()
    """To record what is in flight, and claim nothing."""


class Step(Enum):
    """The steps of a turn, in their order."""

    BEGIN = auto()
    DISPATCH_FIRST = auto()
    CLAIM = auto()
    CLAIM_ONE = auto()
    """To see whether a fault of our own is over."""
    CLAIM_IDLE = auto()
    """Only of webhooks with nothing in flight."""
    DISPATCH = auto()
    CLAIM_EARLY = auto()
    """Probes before their time, too."""
    STEP_RUN = auto()
    STEP_UNSENT_RUN = auto()
    """A step of a run that sends nothing."""
    DISPATCH_BEFORE_WAIT = auto()
    WAIT = auto()
    DISPATCH_BEFORE_RECORD = auto()
    RECORD = auto()
    RECORD_AND_CLAIM = auto()
    """Claim what waits behind the recorded deliveries, in the same transaction."""
    SWEEP = auto()
    END = auto()


class WorkerState(NamedTuple):
    """What a worker knows when it decides."""

    last: Step
    """The step that it has just taken."""
    aim: Aim = Aim.WORK
    expects_new: bool = False
    """It was woken, or had nothing to do before."""
    has_dispatched: bool = False
    """This turn has dispatched new events."""
    is_behind: bool = False
    """The last dispatch was full: there probably are more new events."""
    has_room: bool = True
    """The sender runs dry soon. A dispatch before would create deliveries that this worker may not claim, and a later
    claim would read their events again."""
    expects_nothing: bool = False
    """No delivery was due a moment ago."""
    has_early: bool = False
    """A probe could be claimed before its time. A new delivery, such as a test of a user, is a better probe."""
    has_fault: bool = False
    """A fault of our own stops the sending."""
    may_probe: bool = False
    """One delivery may be sent during the fault."""
    is_beside_live: bool = False
    """A run goes on beside live changes."""
    is_record_due: bool = False
    """Outcomes are old or many, or they are all."""


def next_turn(state: WorkerState) -> tuple[Step, ...]:
    """The steps that follow ``state.last``, up to the next decision."""
    match state.last:
        case Step.BEGIN if state.aim is Aim.RECORD:
            return (Step.WAIT,)
        case Step.BEGIN if state.aim is Aim.FINISH:
            return (Step.WAIT,) if state.has_fault else (Step.CLAIM_IDLE, Step.WAIT)
        case Step.BEGIN if state.expects_new or state.is_beside_live:
            return (Step.DISPATCH_FIRST,)
        case Step.DISPATCH_FIRST if state.has_dispatched and not state.is_beside_live:
            return (Step.WAIT,)  # other work comes in the next turn, while the receiver answers
        case Step.BEGIN | Step.DISPATCH_FIRST:
            if not state.has_room:
                return (Step.STEP_UNSENT_RUN,)
            if (state.is_behind and state.expects_nothing) or (state.has_fault and not state.may_probe):
                return (Step.DISPATCH,)
            # A claim goes before new events: what is due has waited for longer.
            return (Step.CLAIM_ONE if state.has_fault else Step.CLAIM, Step.DISPATCH)
        case Step.DISPATCH if state.has_fault:
            return (Step.STEP_UNSENT_RUN,)
        case Step.DISPATCH:
            return (Step.CLAIM_EARLY, Step.STEP_RUN) if state.has_early else (Step.STEP_RUN,)
        case Step.STEP_RUN | Step.STEP_UNSENT_RUN:
            return (Step.DISPATCH_BEFORE_WAIT, Step.WAIT) if state.is_beside_live else (Step.WAIT,)
        case Step.WAIT if state.is_beside_live and state.aim is Aim.WORK:
            return (Step.DISPATCH_BEFORE_RECORD,)
        case _ if state.aim is not Aim.WORK:
            return (Step.RECORD, Step.END) if state.is_record_due else (Step.END,)
        case _ if state.is_record_due:
            return (Step.RECORD if state.has_fault else Step.RECORD_AND_CLAIM, Step.SWEEP, Step.END)
        case _:
            return (Step.SWEEP, Step.END)


def skips_scan(is_woken: bool, is_behind: bool, is_full_scan_due: bool) -> bool:
    """Whether a dispatch begins its transaction without a scan, because there probably are new events."""
    return is_woken or (is_behind and not is_full_scan_due)
