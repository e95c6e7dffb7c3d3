"""JSON text that every database and parser accepts, and the errors for values without one."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.renderers import JSONRenderer

from tests.support.figures import Figures
from tests.support.json_values import ARRIVES, REFUSED
from webhooks.ground.text import json_text as text_module
from webhooks.ground.text.json_text import (
    MAX_JSON_DEPTH,
    NotJSONSerializable,
    Room,
    TooLong,
    dumps,
    json_depth,
    replace_half_surrogates,
)


@pytest.mark.parametrize("name", ARRIVES)
def test_serialized_values_are_accepted_everywhere(name: str) -> None:
    value, arrives = ARRIVES[name]
    text = dumps(value)
    assert text.isascii()
    assert json.loads(text) == arrives
    json.dumps(json.loads(text), ensure_ascii=False).encode()


@pytest.mark.parametrize("name", REFUSED)
def test_the_error_of_a_value_that_is_not_serializable_names_its_path(name: str) -> None:
    value, told = REFUSED[name]
    with pytest.raises(NotJSONSerializable) as caught:
        dumps({"fine": 1, "value": value})
    assert str(caught.value).startswith(told)
    assert len(str(caught.value)) < 400


def test_a_long_path_is_cut_off() -> None:
    with pytest.raises(NotJSONSerializable) as caught:
        dumps({"k" * 5000: {"l" * 5000: {"m" * 5000: {"n" * 5000: {"o" * 5000: float("nan")}}}}})
    assert len(str(caught.value)) < 300


def test_the_depth_ignores_brackets_in_texts() -> None:
    assert json_depth("[" * 101 + '"[[[\\"[["' + "]" * 101) == 101
    assert json_depth(json.dumps(["[{" * 100, {"}": "]" * 300}])) == 2


def test_a_text_without_surrogates_is_not_copied() -> None:
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


def test_random_objects_are_accepted_everywhere_or_refused_with_a_reason(is_long: bool, figures: Figures) -> None:
    many, refused = (10_000 if is_long else 1000), 0

    @settings(max_examples=many // OBJECTS, deadline=None, database=None)
    @given(st.lists(ANYTHING, min_size=OBJECTS, max_size=OBJECTS))
    def hold(objects: list[Any]) -> None:
        nonlocal refused
        for value in objects:
            refused += not is_held(value)

    hold()
    figures(f"{many} objects, {refused} of them refused with a reason")
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
    JSONRenderer().render(again)  # UTF-8, and no NaN
    assert dumps(again) == dumps(json.loads(dumps(again)))
    return True


@pytest.mark.parametrize("text", ["12345678901234567.89", "52.520008", "0.0000001", "100", "-0.00"])
def test_exact_decimals_keep_all_digits(text: str) -> None:
    assert dumps({"a": [Decimal(text), 1.5]}, exact_decimals=True) == f'{{"a":["{text}",1.5]}}'
    assert dumps({"a": Decimal(text)}, lambda name: False, exact_decimals=True) == f'{{"a":"{text}"}}'


# Values of every size: some are written in pieces.
PLAIN = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.booleans() | st.none()
NESTED = st.recursive(
    PLAIN | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=9)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=6)
        | st.dictionaries(KEYS, st.lists(inner, max_size=9), max_size=3)
    ),
    max_leaves=30,
)


@pytest.mark.parametrize("is_filling", [False, True])
def test_text_with_a_limit_is_the_same_as_json_dumps_byte_by_byte(
    monkeypatch: pytest.MonkeyPatch, is_filling: bool
) -> None:
    monkeypatch.setattr(text_module, "PIECE", 3)
    if is_filling:
        monkeypatch.setattr(Room, "is_filling", True)

    @settings(max_examples=500, deadline=None, database=None)
    @given(NESTED)
    def hold(value: Any) -> None:
        expected = json.dumps(value, separators=(",", ":"))
        assert dumps(value) == expected
        assert dumps(value, most=len(expected)) == expected, "just enough"
        assert dumps(value, lambda key: False, most=10 * len(expected)) == expected

    hold()


@pytest.mark.parametrize(
    "value", [[0] * 100, {str(n): 0 for n in range(100)}, [[[0] * 10] * 10], [{"a": [1] * 50}] * 9]
)
def test_text_with_a_limit_stops_only_beyond_it(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "PIECE", 7)
    size = len(dumps(value))
    assert len(dumps(value, most=size)) == size
    with pytest.raises(TooLong):
        dumps(value, most=size // 2)


def test_values_are_not_written_before_it_is_known_that_they_fit() -> None:
    written = []

    class Unwritten:
        def __iter__(self) -> Any:
            written.append(self)
            return iter(())

    with pytest.raises(TooLong):
        dumps({"many": [0] * 1000, "last": Unwritten()}, most=1000)
    assert not written
