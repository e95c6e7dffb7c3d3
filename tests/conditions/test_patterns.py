"""Regular expressions that come to an end."""

from __future__ import annotations

import re
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhooks.capture.conditions.patterns import MAX_LENGTH, Deadline, Pattern, PatternError, TooSlow


def matches(pattern: str, text: str) -> bool:
    return Pattern(pattern).matches(text, Deadline(1.0))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("act", "active"),
        (r"core-(0[1-9]|1[0-2])$", "core-12"),
        (r"(?P<q>['\"]).*(?P=q)$", '"x"'),
        ("a(?<=a)b", "ab"),
        ("(?!x)a", "a"),
        ("a{e}", "a{e}"),
        ("foo{i<=1}", "foo{i<=1}"),
        ("a{,2}$", "aa"),
        ("{", "{"),
        (r"\{[{\[]", "{["),
        ("[[:alpha:]]", ":]"),
        (r"\N{DIGIT ONE}", "1"),
        ("a*+b", "aab"),
    ],
)
def test_a_pattern_matches_like_in_python(pattern: str, text: str) -> None:
    assert matches(pattern, text)


@pytest.mark.parametrize(("pattern", "text"), [("ctive", "active"), ("a{e}", "xx"), ("[[:alpha:]]", "b]")])
def test_a_pattern_mismatches_like_in_python(pattern: str, text: str) -> None:
    assert not matches(pattern, text)


def test_an_empty_text_has_no_word_boundary() -> None:
    assert matches(r"\B$", "")


@given(st.text("ab{},[]()|*+?^$\\w1:<>e", max_size=12), st.text("ab{}[]:1e", max_size=6))
def test_random_patterns_match_like_in_python(pattern: str, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = re.match(pattern, text) is not None
        except re.error:
            with pytest.raises(PatternError):
                Pattern(pattern)
            return
    try:
        assert matches(pattern, text) == expected
    except PatternError as error:  # what only regex cannot read is refused, never judged otherwise
        assert "broken" in str(error)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "missing ), unterminated subpattern at position 0"),
        ("*", "nothing to repeat at position 0"),
        (r"\p{L}", r"bad escape \p at position 0"),
        ("(?R)", "unknown extension ?R at position 1"),
        ("(" * 400 + ")" * 400, "nested too deeply"),
        ("a" * (MAX_LENGTH + 1), "1,001 characters"),
        ("a{99999999999999999999}", "must repeat count each time"),
    ],
)
def test_a_broken_pattern_is_refused_with_the_position(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=re.escape(reason)):
        Pattern(pattern)


def test_an_endless_pattern_is_stopped() -> None:
    pattern = Pattern("(?:.*,){30}P")
    began = time.thread_time()
    with pytest.raises(TooSlow):
        pattern.matches(",".join("a" * 5_000), Deadline(0.05))
    assert time.thread_time() - began < 5


def test_only_cpu_time_counts() -> None:
    deadline = Deadline(0.05)
    assert Pattern("a").matches("a", deadline)
    time.sleep(0.1)
    assert Pattern("a").matches("a", deadline)


def test_all_patterns_of_an_evaluation_share_one_deadline() -> None:
    deadline = Deadline(0.0)
    with pytest.raises(TooSlow):
        Pattern("a").matches("a", deadline)
