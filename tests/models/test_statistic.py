"""Histograms: which bucket counts a time, and the quantiles of the counts."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhooks.models.statistic import DELAY, DURATION, HISTOGRAMS, Histogram

times = st.lists(st.floats(0, 4_000_000) | st.sampled_from((*DURATION.bounds, *DELAY.bounds)), min_size=1)


@pytest.mark.parametrize(
    ("milliseconds", "bucket"),
    [
        (0, "duration_10"),
        (10, "duration_10"),
        (10.5, "duration_25"),
        (11, "duration_25"),
        (100, "duration_100"),
        (2501, "duration_5000"),
        (30_000, "duration_30000"),
        (30_001, "duration_more"),
        (120_000, "duration_more"),
    ],
)
def test_a_bucket_includes_its_upper_bound(milliseconds: float, bucket: str) -> None:
    assert DURATION.bucket(milliseconds) == bucket


def counted(histogram: Histogram, values: list[float]) -> list[int]:
    counts = Counter(map(histogram.bucket, values))
    return [counts[name] for name in histogram.buckets]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([1] * 10, 0.5, 5),
        ([1] * 10, 1, 10),
        ([60] * 4, 0.5, 75),
        ([5] * 95 + [400] * 5, 0.95, 10),
        ([5] * 90 + [400] * 10, 0.95, 375),
        ([5, 60_000], 0.5, 10),
        ([5, 60_000], 0.95, 30_000),
        ([60_000], 0.5, 30_000),
    ],
)
def test_quantiles(values: list[float], share: float, expected: float | None) -> None:
    assert DURATION.quantile(counted(DURATION, values), share) == expected


@pytest.mark.parametrize("histogram", HISTOGRAMS, ids=lambda one: one.name)
@given(values=times, share=st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(histogram: Histogram, values: list[float], share: float) -> None:
    true = sorted(values)[math.ceil(share * len(values)) - 1]
    found = histogram.quantile(counted(histogram, values), share)
    assert found is not None
    lower = max((bound for bound in histogram.bounds if bound < true), default=0)
    upper = min((bound for bound in histogram.bounds if bound >= true), default=histogram.bounds[-1])
    assert lower <= found <= upper
    longest = max(1, math.ceil(max(values)))
    found = histogram.quantile(counted(histogram, values), share, longest)
    assert found is not None
    assert lower <= found <= min(upper, longest)


@pytest.mark.parametrize("histogram", HISTOGRAMS, ids=lambda one: one.name)
@given(values=times)
def test_each_time_is_counted_once_and_quantiles_grow(histogram: Histogram, values: list[float]) -> None:
    counts = counted(histogram, values)
    assert sum(counts) == len(values)
    quantiles = [histogram.quantile(counts, share / 20) or 0 for share in range(1, 21)]
    assert quantiles == sorted(quantiles)
