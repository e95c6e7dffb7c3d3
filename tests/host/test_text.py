"""JSON text that can be held everywhere, and the words for what cannot be written."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.renderers import JSONRenderer

from tests.support.figures import Figures
from webhooks.text import MAX_JSON_DEPTH, NotJSONSerializable, dumps, json_depth, replace_half_surrogates


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


@pytest.mark.parametrize("name", ARRIVES)
def test_what_arrives_can_be_held_everywhere(name: str) -> None:
    value, arrives = ARRIVES[name]
    text = dumps(value)
    assert text.isascii()
    assert json.loads(text) == arrives
    json.dumps(json.loads(text), ensure_ascii=False).encode()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_refused_with_its_place(name: str) -> None:
    value, told = REFUSED[name]
    with pytest.raises(NotJSONSerializable) as caught:
        dumps({"fine": 1, "value": value})
    assert str(caught.value).startswith(told)
    assert len(str(caught.value)) < 400


def test_a_place_that_is_long_is_cut_off() -> None:
    with pytest.raises(NotJSONSerializable) as caught:
        dumps({"k" * 5000: {"l" * 5000: {"m" * 5000: {"n" * 5000: {"o" * 5000: float("nan")}}}}})
    assert len(str(caught.value)) < 300


def test_depth_counts_no_brackets_of_texts() -> None:
    assert json_depth("[" * 101 + '"[[[\\"[["' + "]" * 101) == 101
    assert json_depth(json.dumps(["[{" * 100, {"}": "]" * 300}])) == 2


def test_a_text_without_surrogates_stays_the_very_same() -> None:
    text = dumps({"a": "ü", "b": "\\d"})
    assert replace_half_surrogates(text) is text


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.sampled_from([20, 4299, 4400]).map(lambda digits: 10**digits)
    | st.floats() | st.text(st.characters()) | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Co", "Cn"]))
    | st.binary(max_size=8) | st.decimals() | st.uuids() | st.datetimes() | st.timedeltas() | st.just(object())
)  # fmt: skip
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers() | st.floats(), inner, max_size=4)
        | st.builds(lambda value, levels: nested_around(value, levels), inner, st.sampled_from([1, 99, 100, 101, 120]))
    ),
    max_leaves=4,
)
OBJECTS = 10


def nested_around(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def test_very_many_objects_are_held_everywhere_or_refused_in_words(
    request: pytest.FixtureRequest, figures: Figures
) -> None:
    many, refused = (10_000 if request.config.getoption("--long") else 1000), 0

    @settings(max_examples=many // OBJECTS, deadline=None, database=None)
    @given(st.lists(ANYTHING, min_size=OBJECTS, max_size=OBJECTS))
    def hold(objects: list[Any]) -> None:
        nonlocal refused
        for value in objects:
            refused += not is_held(value)

    hold()
    figures(f"{many} objects, {refused} of them refused in words")
    assert refused > many * 0.01


def is_held(value: Any) -> bool:
    try:
        text = dumps(value)
    except NotJSONSerializable as error:
        assert str(error)
        return False
    assert text.isascii()
    assert json_depth(text) <= MAX_JSON_DEPTH
    again = json.loads(text)
    JSONRenderer().render(again)  # UTF-8, and no number that is none
    assert dumps(again) == dumps(json.loads(dumps(again)))
    return True


@pytest.mark.parametrize("text", ["12345678901234567.89", "52.520008", "0.0000001", "100", "-0.00"])
def test_a_decimal_keeps_all_its_digits_where_it_is_written_exactly(text: str) -> None:
    assert dumps({"a": [Decimal(text), 1.5]}, exact_decimals=True) == f'{{"a":["{text}",1.5]}}'
    assert dumps({"a": Decimal(text)}, lambda name: False, exact_decimals=True) == f'{{"a":"{text}"}}'
