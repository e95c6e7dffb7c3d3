"""Two snapshots as the lines of a comparison."""

from __future__ import annotations

from typing import Any

import pytest

from webhooks.pages.event import Line, diff

CASES: dict[str, tuple[Any, Any, list[Line]]] = {
    "a value": ({"a": 1, "b": 2}, {"a": 1, "b": 3}, [Line("b", "2", "3")]),
    "a type": ({"a": 1}, {"a": True}, [Line("a", "1", "true")]),
    "the same number": ({"a": 1}, {"a": 1.0}, []),
    "a text and no text": ({"a": "x"}, {"a": ""}, [Line("a", "x", '""')]),
    "a text with blanks": ({"a": "x"}, {"a": "x "}, [Line("a", "x", '"x "')]),
    "null is a value": ({"a": None}, {}, [Line("a", "null", None)]),
    "a new field": ({}, {"a": {"b": 1}}, [Line("a", None, '{"b": 1}')]),
    "an inner value": (
        {"a": {"c": 1, "b": 1}},
        {"a": {"b": 2, "c": 3}},
        [Line("a.b", "1", "2"), Line("a.c", "1", "3")],
    ),
    "members": ({"t": [1, 2, 2]}, {"t": [2, 3]}, [Line("t", gone=["1", "2"], new=["3"], kept=1)]),
    "many members": (
        {"t": [*range(60)]},
        {"t": [*range(60, 100)]},
        [Line("t", gone=[str(one) for one in range(50)], new=[str(one) for one in range(60, 100)], more=10)],
    ),
    "another order": ({"t": [1, 2]}, {"t": [2, 1]}, [Line("t", "[1, 2]", "[2, 1]")]),
    "created": (None, {"a": 1}, [Line("a", None, "1")]),
    "deleted": ({"a": 1}, None, [Line("a", "1", None)]),
}


@pytest.mark.parametrize(("before", "after", "lines"), CASES.values(), ids=CASES)
def test_each_kind_of_change_has_its_lines(before: Any, after: Any, lines: list[Line]) -> None:
    assert diff(before, after) == lines
