"""The benchmark's own arithmetic: what runs come to, when a target is met, and how that is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.benchmark import session
from scripts.benchmark.catalogue import EXPERIMENTS, chosen
from scripts.benchmark.errors import NotMeasured
from scripts.benchmark.figures import (
    Experiment,
    Figure,
    Reading,
    Result,
    Run,
    Target,
    more_at_most,
    results,
    summarize,
    times_at_least,
    times_at_most,
    value_at_most,
)
from scripts.benchmark.lab import Lab, Size
from scripts.benchmark.receiver import header, whole
from scripts.benchmark.report import as_json, number, table

RATE = Figure("rate", "deliveries", "/s", "a loop", times_at_least(2))
SLOWED_DOWN = (Run(10, 5), Run(300, 100), Run(20, 10))


def test_the_ratio_is_the_median_of_the_ratios_of_the_pairs() -> None:
    summary = summarize(SLOWED_DOWN)
    assert (summary.value, summary.baseline, summary.ratio, summary.difference) == (20, 10, 2, 10)


def test_without_a_baseline_there_is_no_ratio() -> None:
    assert summarize([Run(3), Run(5)]).ratio is None
    assert summarize([Run(3, 0)]).ratio is None


def test_nothing_comes_of_no_runs() -> None:
    with pytest.raises(ValueError, match="no runs"):
        summarize([])


@pytest.mark.parametrize(
    ("target", "run", "met"),
    [
        (times_at_least(2), Run(20, 10), True),
        (times_at_least(2), Run(19, 10), False),
        (times_at_least(2), Run(19), False),
        (times_at_most(1.5), Run(15, 10), True),
        (times_at_most(1.5), Run(16, 10), False),
        (value_at_most(10, "ms"), Run(10), True),
        (value_at_most(10, "ms"), Run(11, 100), False),
        (more_at_most(4, "queries"), Run(9, 5), True),
        (more_at_most(4, "queries"), Run(10, 5), False),
        (times_at_most(1.2) | more_at_most(20, "ms"), Run(29, 10), True),
        (times_at_most(1.2) | more_at_most(20, "ms"), Run(119, 100), True),
        (times_at_most(1.2) | more_at_most(20, "ms"), Run(125, 100), False),
    ],
)
def test_a_target_is_met_by_what_was_measured(target: Target, run: Run, met: bool) -> None:
    assert target.holds(summarize([run])) is met
    assert Result(Figure("one", "", "", "", target), (run,)).met is met


def test_what_a_run_does_not_give_was_not_measured() -> None:
    experiment = Experiment("one", (RATE, Figure("other", "", "", "")), lambda lab: iter(()))
    rate, other = results(experiment, [{"rate": Run(1, 1)}])
    assert not rate.failure
    assert other.failure == "0 of 1 runs gave it"
    failed, _ = results(experiment, [{"rate": Run(1, 1)}], "the worker ended")
    assert (failed.failure, failed.summary, failed.met) == ("the worker ended", None, None)


def test_what_goes_wrong_is_told_and_leaves_the_others_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def measure(lab: Lab) -> Iterator[Reading]:
        yield {"rate": Run(1, 1)}
        raise NotMeasured("the receiver is gone")

    lab: Any = SimpleNamespace(size=Size(runs=2, is_quick=True), empty=lambda: None)
    [result] = session.attempt(Experiment("one", (RATE,), measure), lab)
    assert result.failure == "NotMeasured: the receiver is gone"
    assert "rate: not measured" in capsys.readouterr().err


def test_the_table_has_a_line_for_each_figure_and_says_why_one_has_no_numbers() -> None:
    shown = table([Result(RATE, SLOWED_DOWN), Result(RATE, (), "no Redis")], judged=True)
    lines = shown.splitlines()
    assert lines[2] == "| deliveries (`rate`) | 20 /s | 10 /s: a loop | 2.00 | ≥ 2 times | yes |"
    assert lines[3] == "| deliveries (`rate`) | not measured | a loop | - | ≥ 2 times | - |"
    assert "medians over 3 runs" in shown
    assert "rate: not measured. no Redis" in shown


def test_a_smoke_run_judges_nothing() -> None:
    result = Result(RATE, (Run(1, 10),))
    assert "**no**" in table([result], judged=True)
    assert "**no**" not in table([result], judged=False)
    assert as_json({}, [result], judged=False)["figures"][0]["met"] is None


def test_the_json_has_what_programs_read() -> None:
    found = as_json({"python": "3.13"}, [Result(RATE, SLOWED_DOWN)], judged=True)
    [figure] = json.loads(json.dumps(found))["figures"]
    assert {"name", "value", "unit", "baseline", "ratio", "target", "met", "runs"} <= set(figure)
    assert (figure["name"], figure["value"], figure["ratio"], figure["met"]) == ("rate", 20, 2, True)
    assert figure["runs"][0] == {"value": 10, "baseline": 5, "ratio": 2}
    assert found["machine"] == {"python": "3.13"}


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (0.0123, "0.0123"), (1.23456, "1.23"), (12345.6, "12,346")])
def test_numbers_show_the_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown


class TestChoosing:
    def test_an_experiment_is_found_by_its_name_and_by_those_of_its_figures(self) -> None:
        first = EXPERIMENTS[0]
        assert chosen([first.name]) == chosen([first.figures[0].name]) == [first]
        assert chosen([]) == list(EXPERIMENTS)

    def test_an_unknown_name_is_told_with_those_that_there_are(self) -> None:
        with pytest.raises(LookupError, match=r"no figure speed.*throughput"):
            chosen(["speed"])

    def test_no_name_is_used_twice(self) -> None:
        names = [figure.name for experiment in EXPERIMENTS for figure in experiment.figures]
        assert len(names) == len(set(names))


class TestReceiver:
    REQUEST = b"POST /inbox/ok HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\nWebhook-Id: 7\r\n\r\nbody"

    def test_a_request_is_whole_with_the_last_byte_of_its_body(self) -> None:
        assert whole(self.REQUEST) == len(self.REQUEST) - 4
        assert not any(whole(self.REQUEST[:length]) for length in range(len(self.REQUEST)))

    def test_headers_are_found_in_any_case(self) -> None:
        assert header(self.REQUEST, b"webhook-id") == "7"
        assert header(self.REQUEST, b"x-none") == ""
