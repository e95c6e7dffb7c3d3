"""A value as JSON text that every database and every receiver can hold, or in words why there is none. Pure."""

from __future__ import annotations

import decimal
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from rest_framework.utils.encoders import JSONEncoder

# Levels of lists and objects within each other. Parsers give up at a depth of their own, some at a hundred.
DEEPEST = 100

# An escape of JSON: a pair of surrogates; or half of one, which is no character; or any other.
_ESCAPE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


class Unwritable(ValueError):
    """A value that JSON does not have, or that nobody could read; says which and where."""


def written(value: Any, is_left_out: Callable[[str], bool] | None = None, is_exact: bool = False) -> str:
    """JSON text as REST framework writes it, in ASCII, without the keys that are left out, at any depth. Halves of
    surrogate pairs, which strict parsers refuse, become replacement characters. ``is_exact`` writes a Decimal as text
    with all its digits; REST framework makes a float of it. Raises Unwritable."""
    try:
        text = _text(value, is_left_out, (_EXACT if is_exact else _PLAIN).default)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unwritable(next(_objections("data", value), "") or str(error)) from error
    if depth(text) > DEEPEST:
        raise Unwritable(_too_deep("data"))
    return whole(text)


def is_same(one: Any, other: Any) -> bool:
    """Whether JSON has one text for two of its values, numbers aside: 1 is 1.0, but not true, as it is to Python."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other)


def _text(value: Any, is_left_out: Callable[[str], bool] | None, default: Callable[[Any], Any]) -> str:
    if is_left_out is None:
        return _encoder(default).encode(value)
    # What only the encoder takes apart, a generator for one, may have keys in it as well.
    return _encoder(lambda item: without(default(item), is_left_out)).encode(without(value, is_left_out))


def _encoder(default: Callable[[Any], Any]) -> json.JSONEncoder:
    return json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=default)


class _Encoder(JSONEncoder):
    """REST framework's, which writes addresses and networks only from its release 3.17 on."""

    def default(self, obj: Any) -> Any:
        return str(obj) if isinstance(obj, _ADDRESSES) else super().default(obj)


class _ExactEncoder(_Encoder):
    def default(self, obj: Any) -> Any:
        return format(obj, "f") if isinstance(obj, decimal.Decimal) else super().default(obj)


_ADDRESSES = (
    *(ipaddress.IPv4Address, ipaddress.IPv4Network, ipaddress.IPv4Interface),
    *(ipaddress.IPv6Address, ipaddress.IPv6Network, ipaddress.IPv6Interface),
)
_PLAIN, _EXACT = _Encoder(), _ExactEncoder()


def whole(text: str) -> str:
    """JSON text in ASCII, without halves of surrogate pairs."""
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _ESCAPE.sub(lambda found: r"\ufffd" if len(found[0]) == 6 and found[0][2] in "dD" else found[0], text)


def depth(text: str) -> int:
    """How many levels of lists and objects a JSON text has within each other."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return 0  # at any rate no more than may be
    steps = (_STEP[found[0]] for found in _BRACKET.finditer(text) if found[0][0] != '"')
    return max(accumulate(steps), default=0)


def _objections(place: str, value: Any, level: int = 0) -> Iterator[str]:
    if level > DEEPEST:
        yield _too_deep(place)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _of_leaf(place, {key: None})
            yield from _objections(f"{place}.{str(key)[:50]}", inner, level + 1)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _objections(f"{place}[{number}]", inner, level + 1)
    else:
        yield from _of_leaf(place, value)


def _of_leaf(place: str, value: Any) -> Iterator[str]:
    try:
        json.dumps(value, cls=_Encoder, allow_nan=False)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(value, float):
            yield f"{_shown(place)} is {value}, which JSON does not have"
        elif isinstance(value, int):
            yield f"{_shown(place)} is a number with more digits than can be read again"
        else:
            yield f"{_shown(place)}: {error}"


def _too_deep(place: str) -> str:
    return f"{_shown(place.partition('.')[0])} is nested more than {DEEPEST} levels deep"


def _shown(place: str) -> str:
    return place if len(place) <= 200 else f"{place[:197]}..."


def without(value: Any, is_left_out: Callable[[str], bool]) -> Any:
    """A value of JSON's kinds without the keys that are left out, at any depth. What is no mapping, list or tuple
    stays as it is."""
    if isinstance(value, Mapping):
        return {
            key: without(item, is_left_out)
            for key, item in value.items()
            if not (isinstance(key, str) and is_left_out(key))
        }
    if isinstance(value, list | tuple):
        return [without(item, is_left_out) for item in value]
    return value
