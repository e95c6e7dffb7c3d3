"""How many events one query of a run looks at."""

from __future__ import annotations

import pytest
from django.db import OperationalError

from webhooks.delivery.runs import kinds as run_kinds
from webhooks.delivery.runs.kinds import FEWEST, LOOK_AT, STOPPED_FACTOR, Pace


@pytest.mark.parametrize(
    ("seconds", "events"),
    [(0.001, 2 * LOOK_AT), (0.05, LOOK_AT), (0.5, LOOK_AT // 2)],
)
def test_a_quick_query_doubles_the_events_and_a_slow_one_halves_them(
    seconds: float, events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _after([seconds], monkeypatch).events == events


def test_slow_queries_never_look_at_fewer_than_the_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _after([8, 4, 2, 1, *[0.5] * 16], monkeypatch).events == FEWEST


def test_a_stopped_query_looks_at_much_less_next_time_and_slow_ones_keep_that(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Pace()

    def stopped() -> None:
        raise OperationalError("canceling statement due to statement timeout")

    monkeypatch.setattr(run_kinds, "is_statement_timeout", lambda error: True)
    assert chosen.read(stopped) is None
    assert chosen.events == LOOK_AT // STOPPED_FACTOR < FEWEST
    _read([0.5] * 3, chosen, monkeypatch)
    assert chosen.events == LOOK_AT // STOPPED_FACTOR


def _after(seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> Pace:
    chosen = Pace()
    _read(seconds, chosen, monkeypatch)
    return chosen


def _read(seconds: list[float], chosen: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    for took in seconds:
        times = iter((0.0, took))
        monkeypatch.setattr(run_kinds, "elapsed", lambda times=times: next(times))
        assert chosen.read(lambda: "rows") == "rows"
