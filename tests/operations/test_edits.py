"""Whether another user has changed a setting since one user read it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webhooks.operations.edits import changed_since


@pytest.mark.parametrize(
    ("read", "stored", "is_changed"),
    [
        ({"a": 1}, {"a": True}, True), ({"a": [0]}, {"a": [False]}, True), ({"a": 1}, {"a": 2}, True),
        ({"a": 1}, {"a": 1.0}, False), ({}, None, False), ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
    ],
)  # fmt: skip
def test_values_are_compared_as_json(read: Any, stored: Any, is_changed: bool) -> None:
    found = changed_since(json.dumps({"static_data": read}), {"static_data": stored})
    assert found == ({"static_data": read} if is_changed else {})
