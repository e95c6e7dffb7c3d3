"""The comparison of other projects' test suites, which ``nox -s others`` runs."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.others.__main__ import unexplained
from tests.others.comparison import Comparison, compare
from tests.others.projects import Project

COUNT = "AssertionError: 9 != 5 : 9 queries executed, 5 expected\nCaptured queries were:\n1. SELECT 1"
PASSED = {"outcome": "passed", "messages": []}


def failed(*messages: str) -> dict[str, object]:
    return {"outcome": "failed", "messages": list(messages)}


def test_tests_with_the_same_outcome_are_the_same() -> None:
    results = {"a": PASSED, "b": failed("AssertionError: 1 != 2"), "c": {"outcome": "skipped", "messages": []}}
    assert compare(results, results) == Comparison(same=3, passed=1)


@pytest.mark.parametrize(
    "message", [COUNT, "Failed: Expected to perform 5 queries but 9 were done (add -v option to show queries)"]
)
def test_a_failure_about_the_number_of_queries_is_listed_apart(message: str) -> None:
    assert compare({"a": PASSED}, {"a": failed(message)}) == Comparison(counting=["a"])


@pytest.mark.parametrize("is_same", [True, False])
def test_a_failure_after_one_about_the_number_of_queries_must_vanish_with_the_queries(is_same: bool) -> None:
    found = compare({"a": PASSED}, {"a": failed(COUNT, "AssertionError: 1 != 0")})
    assert found.consequences == ["a"]
    found.accept(compare({"a": PASSED}, {"a": PASSED if is_same else failed(COUNT)}))
    assert (found.counting, list(found.unexplained), found.consequences) == (["a"] * is_same, ["a"] * (not is_same), [])


@pytest.mark.parametrize(
    "messages",
    [
        (),
        ("AssertionError: 9 != 5",),
        ("AssertionError: 'a' != 'b'", COUNT),
        (f"KeyError: {COUNT!r}",),
    ],
)
def test_any_other_failure_is_unexplained(messages: tuple[str, ...]) -> None:
    found = compare({"a": PASSED}, {"a": failed(*messages)})
    assert (list(found.unexplained), found.counting) == (["a"], [])


def test_a_test_that_one_run_does_not_have_is_unexplained() -> None:
    found = compare({"a": PASSED, "b": PASSED}, {"b": PASSED, "c": PASSED})
    assert list(found.unexplained) == ["a", "c"]
    assert found.unexplained["a"] == "passed without the app, missing with it. "


def test_an_explained_difference_is_listed_by_its_name() -> None:
    found = compare({"a": PASSED, "b": PASSED}, {"a": failed("no"), "b": failed("no")}, explained={"a": "Why."})
    assert (found.explained, list(found.unexplained)) == (["a"], ["b"])


def test_what_is_the_same_in_a_second_run_is_settled() -> None:
    found = compare({"a": PASSED, "b": PASSED}, {"a": failed("slow"), "b": failed("no")})
    settled = found.settle({"a": PASSED, "b": PASSED}, {"a": PASSED, "b": failed("no")})
    assert (list(settled), list(found.unexplained), found.same, found.passed) == (["a"], ["b"], 1, 1)


def test_a_test_that_a_second_run_does_not_have_either_stays_unexplained() -> None:
    found = compare({"a": PASSED}, {})
    assert not found.settle({}, {})
    assert list(found.unexplained) == ["a"]


def test_only_errors_with_a_reason_are_explained() -> None:
    project = Project("netbox", "4.7.3", ".", (), explained_errors={"no such serializer": "It has none."})
    counted = {"failed": Counter({"a: no such serializer: x": 2, "b: boom": 1}), "logged": Counter({"c: boom": 1})}
    assert unexplained(project, counted) == {"failed": {"b: boom": 1}, "logged": {"c: boom": 1}}
