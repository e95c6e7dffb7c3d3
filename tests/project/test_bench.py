"""The arithmetic of the benchmark: medians, targets and the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from scripts.benchmark.deliveries import ROOT, database_cpu_seconds
from scripts.benchmark.plot import draw_bars
from scripts.benchmark.rates_plot import draw_rates
from scripts.benchmark.receiver import body_start, header_value
from scripts.benchmark.report import as_json, format_number, table
from scripts.benchmark.retention import Course as RetentionCourse
from scripts.benchmark.retention import Sample
from scripts.benchmark.runner import run_workload
from scripts.benchmark.servers import SETTINGS, Bench, Size
from scripts.benchmark.steady import Course, load
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
from scripts.benchmark.workloads import ALL, PRESSURE, figure_names, select
from scripts.benchmark.workloads.workers import THROUGHPUT
from tests.support.waiting import until

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
        (ratio_at_most(1.5) & value_at_most(100, "ms"), Measurement(90, 80), True),
        (ratio_at_most(1.5) & value_at_most(100, "ms"), Measurement(110, 100), False),
        (ratio_at_most(1.5) & value_at_most(100, "ms"), Measurement(90, 50), False),
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

    bench: Any = SimpleNamespace(size=Size(runs=2, is_quick=True, pinned_seconds=1, stored=1), clear=lambda: None)
    [result] = run_workload(Workload("one", (RATE,), measure), bench)
    assert result.failure == "NotMeasured: the receiver is gone"
    assert "rate: not measured" in capsys.readouterr().err


def test_a_long_workload_has_fewer_runs(capsys: pytest.CaptureFixture[str]) -> None:
    bench: Any = SimpleNamespace(size=Size(runs=3, is_quick=True, pinned_seconds=1, stored=1), clear=lambda: None)

    def measure(bench: Bench) -> Iterator[Measurements]:
        while True:
            yield {"rate": Measurement(2, 1)}

    counts = [len(run_workload(Workload("one", (RATE,), measure, most), bench)[0].runs) for most in (1, 2, 9)]
    assert counts == [1, 2, 3]
    assert capsys.readouterr().err.splitlines()[-1].startswith("one: done, ")


def a_retention(stored: int) -> RetentionCourse:
    """100 deliveries a second for 30 s, and so many more stored for each second of the last 20."""
    samples = [Sample(n, 100 * n, stored * max(0, n - 10), n, n, n, n) for n in range(31)]
    return RetentionCourse(samples, 30, [])


def test_what_is_sent_and_not_stored_was_deleted() -> None:
    assert (a_retention(0).rate, a_retention(0).deleted, a_retention(25).deleted) == (100, 100, 75)


def test_sizes_are_means_over_a_retention_at_half_of_the_time_and_at_the_end() -> None:
    assert (a_retention(0).at_half("disk"), a_retention(0).at_the_end("disk")) == (17.5, 27.5)


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


@pytest.mark.parametrize(("hooks", "uses_any"), [([], False), (["webhooks.contrib.opentelemetry.Tracing"], True)])
def test_a_host_loads_what_is_optional_only_if_it_uses_it(hooks: list[str], uses_any: bool) -> None:
    command = "from scripts.benchmark.unused_host import start; print(start(is_hiding=False).count)"
    environment = {"DJANGO_SETTINGS_MODULE": SETTINGS, "TEST_WEBHOOKS": json.dumps({"HOOKS": hooks})}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'example'}"
    count = subprocess.check_output([sys.executable, "-c", command], env=os.environ | environment, text=True)
    assert bool(int(count)) is uses_any


class TestSelect:
    def test_a_workload_is_found_by_its_name_and_by_the_names_of_its_figures(self) -> None:
        first = ALL[0]
        assert select([first.name]) == select([first.figures[0].name]) == [first]
        assert select([]) == list(ALL)

    def test_the_workloads_under_pressure_are_a_part_of_all(self) -> None:
        assert select([workload.name for workload in PRESSURE]) == list(PRESSURE)

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


def a_course(**given: Any) -> Course:
    """Ten changes a second for ten seconds. The trouble lasts from 4 to 6, and is measured until 7."""
    committed: dict[object, float] = {number: number / 10 for number in range(100)}
    arrived = given.pop("arrived", {number: at + 0.02 for number, at in committed.items()})
    return Course(committed, arrived, clean=1, begin=4, over=6, end=7, watched=10, lost=given.pop("lost", 0))


class TestCourse:
    def test_a_load_that_holds_keeps_its_rate_and_is_back_at_once(self) -> None:
        course = a_course()
        assert course.rate == pytest.approx(course.clean_rate) == pytest.approx(10, rel=0.1)
        assert max(course.delays) == pytest.approx(20)
        assert (course.recovery, course.lost_percent) == (0, 0)

    def test_what_arrives_late_lowers_the_rate_and_counts_in_the_delays_of_its_commits(self) -> None:
        held_up = {number: max(number / 10, 7.5 if 40 <= number < 70 else 0) + 0.02 for number in range(100)}
        course = a_course(arrived=held_up)
        assert course.rate == 0
        assert course.clean_rate == pytest.approx(10, rel=0.1)
        assert max(course.delays) == pytest.approx(3520)
        assert course.recovery == pytest.approx(0.6, abs=0.11), "the second from then on has the changes that were late"

    def test_a_rate_that_does_not_come_back_counts_the_whole_time_that_was_watched(self) -> None:
        course = a_course(arrived={number: number / 10 for number in range(60)}, lost=40)
        assert course.recovery == pytest.approx(3, abs=0.11)
        assert course.lost_percent == pytest.approx(100 * 40 / 30, rel=0.1)

    def test_nothing_in_the_clean_run_is_no_measurement(self) -> None:
        with pytest.raises(NotMeasured, match="clean run"):
            _ = a_course(arrived={}).clean_rate


def test_a_load_commits_at_its_rate_and_passes_errors_on() -> None:
    counts: list[int] = []
    began = time.monotonic()
    with load(200, counts.append):
        until(lambda: sum(counts) >= 40, 10, "40 changes")
    assert sum(counts) <= 200 * (time.monotonic() - began)

    def fail(count: int) -> None:
        counts.clear()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), load(200, fail):
        until(lambda: not counts, 10, "a commit")


class TestPlot:
    def test_bars_are_as_long_as_their_values_and_have_their_names_and_numbers(self) -> None:
        svg = ElementTree.fromstring(draw_bars("Rates", {"fast": {"ours": 2000.0, "a <loop>": 500.0}}, "how"))
        ours, loop = (float(bar.attrib["width"]) for bar in svg.iter() if bar.tag.endswith("rect"))
        assert ours == pytest.approx(4 * loop, abs=0.1)
        assert {"Rates", "fast", "ours", "2,000", "a <loop>", "500", "how"} <= {text.text for text in svg.iter()}

    def test_the_rates_of_a_run_are_drawn_for_each_receiver(self) -> None:
        machine = defaultdict(str, postgresql={"version": "18"})
        run = as_json({}, [Result(one, SLOWED_DOWN) for one in THROUGHPUT.figures], judged=True)
        drawn = [text.text for text in ElementTree.fromstring(draw_rates({**run, "machine": machine})).iter()]
        assert drawn.count("a fast receiver") == drawn.count("one worker of this app") == 1
        assert all(figure.against in drawn for figure in THROUGHPUT.figures)

    def test_a_run_without_rates_cannot_be_drawn(self) -> None:
        with pytest.raises(NotMeasured, match="deliveries a second"):
            draw_rates(as_json({}, [Result(RATE, SLOWED_DOWN)], judged=True))
