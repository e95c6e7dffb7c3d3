"""The text of a file of webhooks: YAML, or JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from webhooks.ground.text import clean
from webhooks.ground.text.json_text import MAX_JSON_DEPTH
from webhooks.operations.manifest import InvalidFile

try:
    import yaml
except ImportError:  # optional
    yaml = None  # type: ignore[assignment]

HAS_YAML = yaml is not None

NEEDS_YAML = 'To read and write YAML, install "django-rq-webhooks[yaml]". JSON works without it.'

MAX_SIZE = 2_000_000
"""Values and characters of a file, with all that its aliases repeat: a short file can have billions."""

MAX_PROBLEMS = 20

# YAML takes these for the ends of lines, unless they are escaped.
BREAKS = re.compile("[\x85\u2028\u2029]")

TOO_DEEP = "It is nested too deep."


def parse(text: str) -> Any:
    """The content of a file: what JSON has, with each key once. Raises InvalidFile."""
    try:
        # Before YAML, which reads some JSON in another way: 1e3 as a text, and \ud83d\ude80 as two characters.
        document = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise InvalidFile([TOO_DEEP]) from None
    except ValueError as error:
        if not HAS_YAML:
            raise InvalidFile([f"It is no JSON: {error}. {NEEDS_YAML}"]) from None
        document = _parse_yaml(text)
    if problems := list(islice(_problems(document), MAX_PROBLEMS)):
        raise InvalidFile(problems)
    return document


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises InvalidFile if a key stands there twice: the first value would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidFile([f"An object has the key “{key}” twice."])
        found[key] = value
    return found


def _parse_yaml(text: str) -> Any:
    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen = set[Any]()
            for key, _value in node.value:
                if _name(key) in seen:
                    line = key.start_mark.line + 1
                    raise InvalidFile([f"Line {line} has the key “{key.value}” for the second time."])
                seen.add(_name(key))
            return node

        def flatten_mapping(self, node: Any) -> None:
            super().flatten_mapping(node)
            # Each key once, or mappings that merge mappings several times would grow exponentially.
            node.value = list({_name(key): (key, value) for key, value in node.value}.values())

    def _name(key: Any) -> Any:
        return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)

    try:
        return yaml.load(text, Loader)  # nosec B506 # it is a SafeLoader
    except RecursionError:
        raise InvalidFile([TOO_DEEP]) from None
    except (ValueError, yaml.YAMLError) as error:  # ValueError: 2026-13-01
        raise InvalidFile([f"It is no YAML: {error}"]) from None


def _problems(document: Any) -> Iterator[str]:
    """What YAML has and JSON or a database has not: a sentence for each."""
    size, waiting = 0, [("", 0, document)]
    while waiting:
        place, depth, value = waiting.pop()
        size += 1 + (len(value) if isinstance(value, str) else 0)
        if size > MAX_SIZE:
            yield "It is too large. An alias (*) repeats what its anchor (&) has."
            return
        if depth > MAX_JSON_DEPTH:
            yield TOO_DEEP
            return
        match value:
            case dict():
                for key, one in value.items():
                    if isinstance(key, str):
                        waiting += [(place, depth, key), (f"{place}.{key}", depth + 1, one)]
                    else:
                        yield f"{_at(place)}the key {json.dumps(key, default=str)} is no text: write it in quotes."
            case list():
                waiting += [(f"{place}.{number}", depth + 1, one) for number, one in enumerate(value, 1)]
            case str():
                if clean(value) != value:
                    yield f"{_at(place)}a text has NUL or half of a surrogate pair."
            case float() if not math.isfinite(value):
                yield f"{_at(place)}JSON has no number {value}."
            case None | bool() | int() | float():
                pass
            case _:
                yield f"{_at(place)}a value of the type {type(value).__name__} is no JSON: write it in quotes."


def _at(place: str) -> str:
    return f"{place.removeprefix('.')}: " if place else ""


def dump(document: Any, as_json: bool = False) -> str:
    """The text of a file. Texts of several lines are blocks in YAML. Raises InvalidFile if it takes a library that is
    not installed."""
    if as_json:
        return json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    if not HAS_YAML:
        raise InvalidFile([NEEDS_YAML])

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        if BREAKS.search(value):
            style = '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, represent)
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120))
