"""Values that a serializer may return: some that JSON can carry, and some that it cannot."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from webhooks.ground.text.json_text import MAX_JSON_DEPTH


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def circle() -> Any:
    value: list[Any] = []
    value.append({"again": value})
    return value


ARRIVES: dict[str, tuple[Any, Any]] = {
    "NUL": ("a\0b", "a\0b"),
    "control characters": ("\x1b[31m\x07\r\n", "\x1b[31m\x07\r\n"),
    "half a pair": ("a\ud800b", "a\ufffdb"),
    "the other half": ("\udfff", "\ufffd"),
    "two halves the wrong way round": ("\ude00\ud83d", "\ufffd\ufffd"),
    "a half before a pair": ("\ud83d\U0001f600", "\ufffd\U0001f600"),
    "a pair": ("\U0001f600", "\U0001f600"),
    "a half as a key": ({"\udc00": 1}, {"\ufffd": 1}),
    "what only looks like a half": ("\\ud800", "\\ud800"),
    "a backslash before a half": ("\\\ud800", "\\\ufffd"),
    "line separators": ("\u2028\u2029", "\u2028\u2029"),
    "no character": ("\uffff\ufffe", "\uffff\ufffe"),
    "an integer of 65 bits": (2**64, 2**64),
    "a negative one of 128 bits": (-(2**127), -(2**127)),
    "a thousand digits": (10**1000, 10**1000),
    "the smallest float": (5e-324, 5e-324),
    "the largest float": (1.7976931348623157e308, 1.7976931348623157e308),
    "minus nothing": (-0.0, -0.0),
    "bytes of a text": ("é".encode(), "é"),
    "as deep as may be": (nested(MAX_JSON_DEPTH), nested(MAX_JSON_DEPTH)),
    "wide": ([[]] * 500, [[]] * 500),
    "brackets in a text": ("[{" * 500, "[{" * 500),
    "keys that are numbers": ({1: 2, False: None}, {"1": 2, "false": None}),
    "a key that is nothing": ({None: 1}, {"null": 1}),
    "a UUID": (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    "a time of day": (datetime.time(1, 2), "01:02:00"),
    "a duration": (datetime.timedelta(days=10**5), "8640000000.0"),
    "markup": ("<script>alert(1)</script>{{ 7*7 }}", "<script>alert(1)</script>{{ 7*7 }}"),
}

REFUSED: dict[str, tuple[Any, str]] = {
    "NaN": (float("nan"), "data.value is nan, which JSON does not have"),
    "infinite": (float("inf"), "data.value is inf, which JSON does not have"),
    "minus infinite": ([1, -float("inf")], "data.value[1] is -inf, which JSON does not have"),
    "NaN as a key": ({float("nan"): 1}, "data.value: Out of range float values are not JSON compliant"),
    "thousands of digits": ([10**5000], "data.value[0] is a number with more digits than can be read again"),
    "bytes of no text": ({"a": b"\xff"}, "data.value.a: 'utf-8' codec can't decode byte 0xff"),
    "too deep": (nested(MAX_JSON_DEPTH + 1), "data is nested more than 100 levels deep"),
    "far too deep": (nested(900), "data is nested more than 100 levels deep"),
    "endlessly deep": (nested(100_000), "data is nested more than 100 levels deep"),
    "a circle": (circle(), "data is nested more than 100 levels deep"),
    "a set": ({"a": [object]}, "data.value.a[0]: Object of type type is not JSON serializable"),
    "a key that is no text": ({(1, 2): 3}, "data.value: keys must be str, int, float, bool or None, not tuple"),
    "a complex number": (1j, "data.value: Object of type complex is not JSON serializable"),
}
