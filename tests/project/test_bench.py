"""The arithmetic of the benchmark: medians, targets and the report."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.benchmark.deliveries import database_cpu_seconds
from scripts.benchmark.receiver import body_start, header_value
from scripts.benchmark.report import as_json, format_number, table
from scripts.benchmark.runner import run_workload
from scripts.benchmark.servers import Bench, Size
from scripts.benchmark.targets import (
    Figure,
    Measurement,
    Measurements,
    NotMeasured,
    Result,
    Target,
    Workload,
    difference_at_most,
    ratio_at_least,
    ratio_at_most,
    results_of,
    summarize,
    value_at_most,
)
from scripts.benchmark.workloads import ALL, figure_names, select

RATE = Figure("rate", "deliveries", "/s", "a loop", ratio_at_least(2))
SLOWED_DOWN = (Measurement(10, 5), Measurement(300, 100), Measurement(20, 10))


def test_the_ratio_is_the_median_of_the_ratios_of_the_pairs() -> None:
    summary = summarize(SLOWED_DOWN)
    assert (summary.value, summary.baseline, summary.ratio, summary.difference) == (20, 10, 2, 10)


def test_without_a_baseline_there_is_no_ratio() -> None:
    assert summarize([Measurement(3), Measurement(5)]).ratio is None
    assert summarize([Measurement(3, 0)]).ratio is None


def test_no_runs_have_no_summary() -> None:
    with pytest.raises(ValueError, match="no runs"):
        summarize([])


@pytest.mark.parametrize(
    ("target", "run", "met"),
    [
        (ratio_at_least(2), Measurement(20, 10), True),
        (ratio_at_least(2), Measurement(19, 10), False),
        (ratio_at_least(2), Measurement(19), False),
        (ratio_at_most(1.5), Measurement(15, 10), True),
        (ratio_at_most(1.5), Measurement(16, 10), False),
        (value_at_most(10, "ms"), Measurement(10), True),
        (value_at_most(10, "ms"), Measurement(11, 100), False),
        (difference_at_most(4, "queries"), Measurement(9, 5), True),
        (difference_at_most(4, "queries"), Measurement(10, 5), False),
        (ratio_at_most(1.2) | difference_at_most(20, "ms"), Measurement(29, 10), True),
        (ratio_at_most(1.2) | difference_at_most(20, "ms"), Measurement(119, 100), True),
        (ratio_at_most(1.2) | difference_at_most(20, "ms"), Measurement(125, 100), False),
    ],
)
def test_a_target_compares_the_measured_value_ratio_or_difference(target: Target, run: Measurement, met: bool) -> None:
    assert target.holds(summarize([run])) is met
    assert Result(Figure("one", "", "", "", target), (run,)).is_met is met


def test_a_figure_that_a_run_lacks_is_not_measured() -> None:
    workload = Workload("one", (RATE, Figure("other", "", "", "")), lambda bench: iter(()))
    rate, other = results_of(workload, [{"rate": Measurement(1, 1)}])
    assert not rate.failure
    assert other.failure == "0 of 1 runs measured it"
    failed, _ = results_of(workload, [{"rate": Measurement(1, 1)}], "the worker ended")
    assert (failed.failure, failed.summary, failed.is_met) == ("the worker ended", None, None)


def test_an_error_becomes_the_failure_of_the_workload(capsys: pytest.CaptureFixture[str]) -> None:
    def measure(bench: Bench) -> Iterator[Measurements]:
        yield {"rate": Measurement(1, 1)}
        raise NotMeasured("the receiver is gone")

    bench: Any = SimpleNamespace(size=Size(runs=2, is_quick=True), clear=lambda: None)
    [result] = run_workload(Workload("one", (RATE,), measure), bench)
    assert result.failure == "NotMeasured: the receiver is gone"
    assert "rate: not measured" in capsys.readouterr().err


def test_the_table_has_a_row_for_each_figure_and_the_reasons_of_failures() -> None:
    shown = table([Result(RATE, SLOWED_DOWN), Result(RATE, (), "no Redis")], judged=True)
    lines = shown.splitlines()
    assert lines[2] == "| deliveries (`rate`) | 20 /s | 10 /s: a loop | 2.00 | ≥ 2 times | yes |"
    assert lines[3] == "| deliveries (`rate`) | not measured | a loop | - | ≥ 2 times | - |"
    assert "medians over 3 runs" in shown
    assert "rate: not measured. no Redis" in shown


def test_a_quick_run_judges_no_target() -> None:
    result = Result(RATE, (Measurement(1, 10),))
    assert "**no**" in table([result], judged=True)
    assert "**no**" not in table([result], judged=False)
    assert as_json({}, [result], judged=False)["figures"][0]["met"] is None


def test_the_json_has_the_figures_their_runs_and_the_machine() -> None:
    found = as_json({"python": "3.13"}, [Result(RATE, SLOWED_DOWN)], judged=True)
    [figure] = json.loads(json.dumps(found))["figures"]
    assert {"name", "value", "unit", "baseline", "ratio", "target", "met", "runs"} <= set(figure)
    assert (figure["name"], figure["value"], figure["ratio"], figure["met"]) == ("rate", 20, 2, True)
    assert figure["runs"][0] == {"value": 10, "baseline": 5, "ratio": 2}
    assert found["machine"] == {"python": "3.13"}


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (0.0123, "0.0123"), (1.23456, "1.23"), (12345.6, "12,346")])
def test_numbers_have_three_significant_digits(value: float, shown: str) -> None:
    assert format_number(value) == shown


def test_the_cpu_of_a_database_process_that_is_not_on_this_machine_is_unknown() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert database_cpu_seconds([process.pid]) is None
    assert database_cpu_seconds([os.getpid()])


class TestSelect:
    def test_a_workload_is_found_by_its_name_and_by_the_names_of_its_figures(self) -> None:
        first = ALL[0]
        assert select([first.name]) == select([first.figures[0].name]) == [first]
        assert select([]) == list(ALL)

    def test_the_error_for_an_unknown_name_lists_the_known_ones(self) -> None:
        with pytest.raises(LookupError, match=r"no figure speed.*throughput"):
            select(["speed"])

    def test_no_name_is_used_twice(self) -> None:
        names = figure_names()
        assert len(names) == len(set(names))


class TestReceiver:
    REQUEST = b"POST /inbox/ok HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\nWebhook-Id: 7\r\n\r\nbody"

    def test_a_request_is_complete_with_the_last_byte_of_its_body(self) -> None:
        assert body_start(self.REQUEST) == len(self.REQUEST) - 4
        assert not any(body_start(self.REQUEST[:length]) for length in range(len(self.REQUEST)))

    def test_headers_are_found_in_any_case(self) -> None:
        assert header_value(self.REQUEST, b"webhook-id") == "7"
        assert header_value(self.REQUEST, b"x-none") == ""
