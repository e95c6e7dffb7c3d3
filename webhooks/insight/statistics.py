"""Read the statistics of webhooks: percentages, rates, and times of attempts. Each answer takes one query."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from webhooks.models import Statistic
from webhooks.models.statistic import DELAY, DURATION, LONGEST, Histogram, Period

# The rate is the average of the last full minutes.
RATE_MINUTES = 5


@dataclass
class Figures:
    """The attempts of one or more webhooks in a length of time."""

    start: datetime | None = None
    """The start of a minute or hour, in UTC."""
    by_kind: Counter[str] = field(default_factory=Counter)
    """The attempts by error kind, those that succeeded under ""."""
    counts: Counter[str] = field(default_factory=Counter)
    """The other columns of ``Statistic``."""

    def add(self, error_kind: str, counts: Mapping[str, int]) -> None:
        self.by_kind[error_kind] += counts.get("attempted", 0)
        for name, count in counts.items():
            self.counts[name] = max(self.counts[name], count) if name in LONGEST else self.counts[name] + count

    @property
    def attempted(self) -> int:
        return self.counts["attempted"]

    @property
    def succeeded(self) -> int:
        """Successful attempts. As many deliveries succeeded."""
        return self.by_kind[""]

    @property
    def failed(self) -> int:
        return self.attempted - self.succeeded

    @property
    def failed_by_kind(self) -> dict[str, int]:
        return {kind: count for kind, count in self.by_kind.most_common() if kind}

    @property
    def given_up(self) -> int:
        """Deliveries that failed."""
        return self.counts["given_up"]

    @property
    def skipped(self) -> int:
        """Changes that webhooks did not want."""
        return self.counts["skipped"]

    @property
    def success_percent(self) -> float | None:
        """Rounded down to a tenth: 100 means that no attempt failed. None without an attempt."""
        return 1000 * self.succeeded // self.attempted / 10 if self.attempted else None

    @property
    def duration(self) -> Times:
        return Times(DURATION, self.counts)

    @property
    def delay(self) -> Times:
        """From events to their first attempts."""
        return Times(DELAY, self.counts)


@dataclass(frozen=True)
class Times:
    """A histogram with its counts."""

    histogram: Histogram
    counts: Counter[str]

    @property
    def buckets(self) -> dict[str, int]:
        """The counts by upper bound in milliseconds, of longer times under "more"."""
        return {name.rpartition("_")[2]: self.counts[name] for name in self.histogram.buckets}

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    @property
    def total_ms(self) -> int:
        return self.counts[self.histogram.total]

    @property
    def median_ms(self) -> float | None:
        return self.quantile(0.5)

    @property
    def p95_ms(self) -> float | None:
        return self.quantile(0.95)

    def quantile(self, share: float) -> float | None:
        """The time in milliseconds that this share of times does not exceed, to the width of a bucket."""
        return self.histogram.quantile(list(self.buckets.values()), share, self.counts[self.histogram.longest])


@dataclass
class Recent:
    """The attempts of the last 24 hours, and how many there are a minute now.

    The 24 hours are the current one and the 23 before it.
    """

    day: Figures = field(default_factory=Figures)
    minutes: Figures = field(default_factory=Figures)
    """The attempts of the last ``RATE_MINUTES``."""

    @property
    def per_minute(self) -> float:
        return self.minutes.attempted / RATE_MINUTES


def recent(webhooks: Collection[int]) -> tuple[Recent, dict[int, Recent]]:
    """The recent attempts of these webhooks in all, and of each."""
    together, by_webhook = Recent(), defaultdict[int, Recent](Recent)
    for (webhook, period, kind), counts in Statistic.objects.recent(webhooks, RATE_MINUTES):
        for total in (together, by_webhook[webhook]):
            (total.day if period == Period.HOUR else total.minutes).add(kind, counts)
    return together, by_webhook


@dataclass(frozen=True)
class Hours:
    """The attempts of the last 24 hours, by hour: the current one is the last. Each is (succeeded, failed)."""

    together: Mapping[datetime, tuple[int, int]] = field(default_factory=dict)
    """By the starts of the hours, in UTC."""
    by_webhook: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)

    @property
    def first(self) -> datetime | None:
        return min(self.together, default=None)

    @property
    def highest(self) -> int:
        """The attempts of the hour with the most."""
        return max(map(sum, self.together.values()), default=0)

    @property
    def busy(self) -> list[tuple[datetime, tuple[int, int]]]:
        """The hours with attempts, the last one first."""
        return [(start, column) for start, column in sorted(self.together.items(), reverse=True) if any(column)]


def by_hour(webhooks: Collection[int]) -> Hours:
    """The attempts of these webhooks in the last 24 hours, together and each."""
    this_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    starts = [this_hour - timedelta(hours=ago) for ago in reversed(range(24))]
    first, count = int(starts[0].timestamp()), len(starts)
    by_webhook = {webhook: [(0, 0)] * count for webhook in webhooks}
    for webhook, start, good, bad in Statistic.objects.outcomes_by_hour(webhooks, first):
        place = (start - first) // Period.HOUR
        if place < count:  # another machine's clock may be ahead
            by_webhook[webhook][place] = int(good or 0), int(bad or 0)
    columns = zip(*by_webhook.values(), strict=True) if by_webhook else [()] * count
    together = [(sum(good for good, _ in hour), sum(bad for _, bad in hour)) for hour in columns]
    return Hours(dict(zip(starts, together, strict=True)), by_webhook)


def series(webhooks: Collection[int], period: Period, since: datetime) -> tuple[Figures, list[Figures]]:
    """The attempts of these webhooks together: in total, and by minute or hour, in order.

    ``since`` is the start of a period. Periods without an attempt are missing.
    """
    first = int(since.timestamp())
    total, by_start = Figures(), defaultdict[int, Figures](Figures)
    condition = f"period = {period} AND start >= {first}"
    for (start, kind), counts in Statistic.objects.sums(("start", "error_kind"), webhooks, condition):
        by_start[start].start = datetime.fromtimestamp(start, UTC)
        for bucket in (total, by_start[start]):
            bucket.add(kind, counts)
    return total, [figures for _, figures in sorted(by_start.items())]
