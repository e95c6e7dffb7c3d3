"""JSON: what may be sent and stored as it, and its text."""

from __future__ import annotations

import decimal
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import accumulate
from typing import Any

from rest_framework.utils.encoders import JSONEncoder

# Lists and objects may be nested this deep. Some parsers give up at a hundred levels.
MAX_JSON_DEPTH = 100
TOO_DEEP = f"data is nested more than {MAX_JSON_DEPTH} levels deep"

# An escape of JSON: a pair of surrogates, half of a pair, or any other.
_JSON_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\."
)
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_ADDRESSES = (IPv4Address, IPv4Network, IPv6Address, IPv6Network)  # an interface is an address
_rest_framework = JSONEncoder()


class NotJSONSerializable(ValueError):
    """A value that JSON cannot express or parsers cannot read. The message names the value's path, "data.tags[0]"."""


class TooLong(ValueError):
    """JSON text would have more bytes than allowed. It was not written to its end."""


class Room:
    """The room for JSON text, in bytes. A part that is certain to be written takes some of it beforehand."""

    def __init__(self, most: int) -> None:
        self.most, self._least = most, 0

    def take(self, least: int) -> None:
        """Note at least so many bytes more. Raises TooLong."""
        self._least += least
        if self._least > self.most:
            raise TooLong(f"the text would have more than {self.most:,} bytes")

    @property
    def is_filling(self) -> bool:
        """Whether a large part is taken."""
        return self._least > self.most // 4


# The fewest bytes of JSON: of a value in a list with its comma, and of a key with its value.
LEAST_OF_ITEM, LEAST_OF_KEY = 2, 5

# A long list of a value with many parts is written in pieces of so many items.
PIECE = 1000


def dumps(
    value: Any,
    is_excluded: Callable[[str], bool] | None = None,
    exact_decimals: bool = False,
    most: int | None = None,
) -> str:
    """Serialize to JSON text as REST framework does, in ASCII.

    ``is_excluded`` is called with each key, at any depth, and leaves out the key if it returns True. With
    ``exact_decimals`` a Decimal becomes text with all its digits. Half a surrogate pair, which strict parsers refuse,
    becomes U+FFFD. Raises NotJSONSerializable.

    Stops with TooLong when the text is certain to have more than ``most`` bytes. A single text or number is written
    whole.
    """
    default = _exact_default if exact_decimals else _default
    room = None if most is None else Room(most)
    try:
        if is_excluded is None and room is None:
            text = _encode(value, default)
        else:  # a generator, for example, only becomes a list of dictionaries in the encoder
            wanted = is_excluded or (lambda key: False)
            kept = drop_keys(value, wanted, room)
            encode = partial(_encode, default=lambda item: drop_keys(default(item), wanted, room))
            text = _encode_in_pieces(kept, encode, room.most) if room and room.is_filling else encode(kept)
    except TooLong:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotJSONSerializable(next(_json_problems("data", value), "") or str(error)) from error
    if json_depth(text) > MAX_JSON_DEPTH:
        raise NotJSONSerializable(TOO_DEEP)
    return replace_half_surrogates(text)


def short_json(value: Any, length: int) -> Any:
    """A parsed JSON value, or the beginning of its text if that has more than ``length`` characters."""
    if isinstance(value, str):
        text = value
    else:
        text = ""
        for piece in json.JSONEncoder(ensure_ascii=False).iterencode(value):
            text += piece
            if len(text) > length:
                break
    return value if len(text) <= length else f"{text[: length - 1]}…"


def _encode(value: Any, default: Callable[[Any], Any]) -> str:
    return json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=default).encode(value)


def _encode_in_pieces(value: Any, encode: Callable[[Any], str], most: int) -> str:
    """The same text as ``encode(value)``. Raises TooLong as soon as the pieces have more than ``most`` bytes."""
    pieces, size = list[str](), 0
    for piece in _pieces(value, encode):
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise TooLong(f"the text would have more than {most:,} bytes")
    return "".join(pieces)


def _pieces(value: Any, encode: Callable[[Any], str]) -> Iterator[str]:
    """The pieces of the JSON text of a value whose mappings and lists are dictionaries and lists."""
    if isinstance(value, dict) and value:
        start = "{"
        for key, item in value.items():
            if isinstance(item, dict | list):
                yield f"{start}{encode({key: None})[1:-5]}"  # the key with its colon
                yield from _pieces(item, encode)
            else:
                yield f"{start}{encode({key: item})[1:-1]}"
            start = ","
        yield "}"
    elif isinstance(value, list) and len(value) > PIECE:
        start = "["
        for begin in range(0, len(value), PIECE):
            yield f"{start}{encode(value[begin : begin + PIECE])[1:-1]}"
            start = ","
        yield "]"
    else:
        yield encode(value)


def _default(value: Any) -> Any:
    # REST framework itself writes addresses only since release 3.17.
    return str(value) if isinstance(value, _ADDRESSES) else _rest_framework.default(value)


def _exact_default(value: Any) -> Any:
    return format(value, "f") if isinstance(value, decimal.Decimal) else _default(value)


_SCALARS = (str, int, float, type(None))


def drop_keys(value: Any, is_excluded: Callable[[str], bool], room: Room | None = None) -> Any:
    """Copy mappings, lists and tuples without the keys that ``is_excluded`` returns True for, at any depth. Raises
    TooLong if they need more than the ``room``."""
    if isinstance(value, Mapping):
        kept = {
            key: item if isinstance(item, _SCALARS) else drop_keys(item, is_excluded, room)  # without a call for most
            for key, item in value.items()
            if not (isinstance(key, str) and is_excluded(key))
        }
        if room:
            room.take(LEAST_OF_KEY * len(kept))
        return kept
    if isinstance(value, list | tuple):
        if room:
            room.take(LEAST_OF_ITEM * len(value))
        return [item if isinstance(item, _SCALARS) else drop_keys(item, is_excluded, room) for item in value]
    return value


def json_equal(left: Any, other: Any) -> bool:
    """Whether two parsed values are equal in JSON: unlike in Python, ``true`` is not 1. But 1 is 1.0."""
    if isinstance(left, bool) or isinstance(other, bool):
        return left is other
    if isinstance(left, dict) and isinstance(other, dict):
        return left.keys() == other.keys() and all(json_equal(value, other[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(other, list):
        return len(left) == len(other) and all(map(json_equal, left, other))
    return bool(left == other)


def json_depth(text: str) -> int:
    """How many levels of lists and objects a JSON text has. 0 if its few brackets cannot exceed the limit."""
    if text.count("[") + text.count("{") <= MAX_JSON_DEPTH:
        return 0
    steps = (1 if bracket[0] in "[{" else -1 for bracket in _BRACKET.finditer(text) if bracket[0][0] != '"')
    return max(accumulate(steps), default=0)


def replace_half_surrogates(text: str) -> str:
    """Replace each half of a surrogate pair in a JSON text by the escape of U+FFFD."""
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _JSON_ESCAPE.sub(lambda code: r"\ufffd" if len(code[0]) == 6 and code[0][2] in "dD" else code[0], text)


def _json_problems(path: str, value: Any, level: int = 0) -> Iterator[str]:
    """Messages about the parts of a value that cannot be serialized."""
    if level > MAX_JSON_DEPTH:
        yield TOO_DEEP
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaf_problems(path, {key: None})
            yield from _json_problems(f"{path}.{str(key)[:50]}", inner, level + 1)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _json_problems(f"{path}[{number}]", inner, level + 1)
    else:
        yield from _leaf_problems(path, value)


def _leaf_problems(path: str, value: Any) -> Iterator[str]:
    try:
        json.dumps(value, default=_default, allow_nan=False)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        short = path if len(path) <= 200 else f"{path[:197]}..."
        if isinstance(value, float):
            yield f"{short} is {value}, which JSON does not have"
        elif isinstance(value, int):
            yield f"{short} is a number with more digits than can be read again"
        else:
            yield f"{short}: {error}"
