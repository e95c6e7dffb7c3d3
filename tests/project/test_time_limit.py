"""The time limit of a test ends it as such, with Hypothesis too."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import OverTime


def test_hypothesis_blames_no_example_for_the_time_limit() -> None:
    @given(st.integers())
    def interrupted(number: int) -> None:
        signal.raise_signal(signal.SIGALRM)

    with pytest.raises(OverTime, match="Timeout"):
        interrupted()
