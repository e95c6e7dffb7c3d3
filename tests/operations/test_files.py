"""The text of a file of webhooks: what YAML has and JSON has not is refused, and no short file takes all memory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webhooks.operations import files
from webhooks.operations.files import dump, parse
from webhooks.operations.manifest import InvalidFile


def nested(line: str) -> str:
    """A file of 11 lines. Each has nine times what the line before has."""
    nine = [f"[{', '.join([f'*a{number}'] * 9)}]" for number in range(11)]
    return "a0: &a0 {x: lol}\n" + "".join(
        line.format(number=number, nine=one) + "\n" for number, one in enumerate(nine, 1)
    )


REFUSED = {
    "on: yes": "the key true is no text: write it in quotes.",
    "1: x": "the key 1 is no text",
    "~: x": "the key null is no text",
    "webhooks: [{a: {2026-01-01: x}}]": 'webhooks.1.a: the key "2026-01-01" is no text',
    "a: 2026-11-24": "a: a value of the type date is no JSON: write it in quotes.",
    "a: {b: !!binary aGVsbG8=}": "a.b: a value of the type bytes is no JSON",
    "a: !!set {b}": "a: a value of the type set is no JSON",
    "a: 2026-13-45": "It is no YAML: month must be in 1..12",
    "a: !!python/object:os.system x": "could not determine a constructor",
    "a: 1\nb: {c: 1, c: 2}\n": "Line 2 has the key “c” for the second time.",
    "{&a b: 1, *a : 2}": "Line 1 has the key “b” for the second time.",
    "a: .nan": "a: JSON has no number nan.",
    '{"a": [1, -Infinity]}': "a.2: JSON has no number -inf.",
    "- &a {b: 1}\n- {<<: *a, <<: *a}": "Line 2 has the key “<<” for the second time.",
    '{"a": {"b": 1, "b": 2}}': "An object has the key “b” twice.",
    "a:\n\tb: 1": "found character '\\t'",
    'a: "\\0"': "a: a text has NUL or half of a surrogate pair.",
    '{"a": "\\ud83d"}': "a: a text has NUL or half of a surrogate pair.",
    "&a {a: *a}": "It is nested too deep.",
    "[" * 3000: "It is nested too deep.",
    '{"a": ' + "[" * 100_000: "It is nested too deep.",
    nested("a{number}: &a{number} {nine}"): "It is too large. An alias (*) repeats what its anchor (&) has.",
    "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 100) + "]": "It is too large.",
}


@pytest.mark.parametrize("text", REFUSED, ids=[text[:20] for text in REFUSED])
def test_what_is_no_json_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        parse(text)
    assert REFUSED[text] in str(refused.value)


ACCEPTED: dict[str, Any] = {
    '{"a": "\\ud83d\\ude80", "b": 1e3}': {"a": "🚀", "b": 1000.0},
    '{\n\t"a": [1, null, true]\n}': {"a": [1, None, True]},
    "- &a {b: 1, c: 2}\n- {<<: *a, c: 3}": [{"b": 1, "c": 2}, {"b": 1, "c": 3}],
    "- &c {x: 1}\n- d: &a {<<: *c, x: 2}\n- {<<: *a, x: 3}": [{"x": 1}, {"d": {"x": 2}}, {"x": 3}],
    "a: &a [1]\nb: *a": {"a": [1], "b": [1]},
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_json_and_aliases_are_read(text: str) -> None:
    assert parse(text) == ACCEPTED[text]


def test_mappings_that_merge_mappings_do_not_grow() -> None:
    assert parse(nested("a{number}: &a{number} {{k{number}: 1, <<: {nine}}}"))["a11"]["x"] == "lol"


def test_all_problems_are_reported_up_to_a_limit() -> None:
    with pytest.raises(InvalidFile) as refused:
        parse("\n".join(f"- {number}: x" for number in range(30)))
    assert len(refused.value.problems) == files.MAX_PROBLEMS


def test_without_yaml_json_works_and_names_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "HAS_YAML", False)
    assert parse(dump({"a": "é\n"}, as_json=True)) == {"a": "é\n"}
    with pytest.raises(InvalidFile, match="yaml"):
        parse("a: 1")
    with pytest.raises(InvalidFile, match="yaml"):
        dump({})


@pytest.mark.parametrize(
    "text", ["no", "010", "1:30", "2026-01-01", "a\nb ", "a\r\nb", " a", "🚀\u2028", "#", "~", "{{ x }}\n"]
)
def test_a_text_is_written_so_that_it_is_read_again(text: str) -> None:
    shared = {text: text}
    document = {"a": text, "b": [shared, shared]}
    assert "*" not in dump(document)
    for as_json in (False, True):
        assert parse(dump(document, as_json)) == document
    assert json.loads(dump(document, as_json=True)) == document
