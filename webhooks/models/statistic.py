"""Statistics of each webhook by minute and hour: counts of attempts and skips, and histograms of times.

``delivery.counting`` writes them, and ``insight.statistics`` reads them.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from django.db import models
from django.utils import timezone

from webhooks.ground.db import among_sql, distinct_values, execute, fetch_all, is_postgresql, to_utc
from webhooks.models.columns import EMPTY, WriteDBManager, alters_data, default


@dataclass(frozen=True)
class Histogram:
    """How many times fell into each bucket. A bucket is a column, such as ``duration_25``: over 10 up to 25 ms."""

    name: str
    bounds: tuple[int, ...]
    """The upper bound of each bucket in milliseconds. One more bucket has the longer times."""

    @cached_property
    def buckets(self) -> list[str]:
        return [f"{self.name}_{bound}" for bound in self.bounds] + [f"{self.name}_more"]

    @property
    def total(self) -> str:
        """The column with the sum of all times in milliseconds."""
        return f"{self.name}_total"

    @property
    def longest(self) -> str:
        """The column with the longest time in milliseconds, at least 1. 0: no time."""
        return f"{self.name}_longest"

    def bucket(self, milliseconds: float) -> str:
        """The column that counts this time."""
        return self.buckets[bisect_left(self.bounds, milliseconds)]

    def quantile(self, counts: Sequence[int], share: float, longest: int = 0) -> float | None:
        """The time in milliseconds that this ``share`` of all times does not exceed. None without any time.

        The error is less than the width of a bucket: it assumes that times are even within a bucket, up to the
        ``longest`` one if that is known. A time above the last bound counts as the last bound.
        """
        wanted, lower = share * sum(counts), 0
        for upper, count in zip(self.bounds, counts, strict=False):
            if count and wanted <= count:
                end = min(upper, max(lower, longest)) if longest else upper
                return lower + (end - lower) * wanted / count
            wanted, lower = wanted - count, upper
        return float(lower) if any(counts) else None


DURATION = Histogram("duration", (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000))

# From the event to its first attempt.
DELAY = Histogram("delay", (100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000))

HISTOGRAMS = (DURATION, DELAY)
BUCKETS = [bucket for histogram in HISTOGRAMS for bucket in histogram.buckets]
TOTALS = [histogram.total for histogram in HISTOGRAMS]
COUNTS = ["attempted", "given_up", "skipped", *BUCKETS, *TOTALS]
LONGEST = [histogram.longest for histogram in HISTOGRAMS]
COLUMNS = [*COUNTS, *LONGEST]
LARGE = {*TOTALS, *LONGEST}


def merged_sql(column: str, value: str = "") -> str:
    """One ``value`` of the column for several rows: the sum, or the longest time."""
    return f"{'MAX' if column in LONGEST else 'SUM'}({value or column})"


class Period(models.IntegerChoices):
    """The length of time of a row, in seconds."""

    MINUTE = 60, "minute"
    HOUR = 3600, "hour"


# The columns that identify a row.
KEY = ("webhook_id", "period", "start", "error_kind")
KEY_OF_TOTAL = ("webhook_id", "error_kind")

DAY = 86_400  # seconds


class StatisticManager(WriteDBManager["Statistic"]):
    def sums(
        self, keys: Sequence[str], webhooks: Collection[int], condition: str
    ) -> Iterator[tuple[Sequence[Any], dict[str, int]]]:
        """The counts above 0 of these webhooks, for each value of the columns ``keys``. ``condition`` is SQL."""
        size = len(keys)
        for row in self._select(keys, list(map(merged_sql, COLUMNS)), webhooks, condition):
            yield row[:size], {name: int(n) for name, n in zip(COLUMNS, row[size:], strict=True) if n}

    def recent(self, webhooks: Collection[int], minutes: int) -> Iterator[tuple[Sequence[Any], dict[str, int]]]:
        """The sums by webhook, period and error kind: of the last 24 hours by hour, of the last full minutes by
        minute."""
        now = unix_time_sql(self.db)
        minute = f"{now} / {Period.MINUTE} * {Period.MINUTE}"
        condition = f"""(
            period = {Period.HOUR} AND start > {now} - {DAY}
            OR period = {Period.MINUTE} AND start >= {minute} - {minutes * Period.MINUTE} AND start < {minute}
        )"""
        return self.sums(("webhook_id", "period", "error_kind"), webhooks, condition)

    def outcomes_by_hour(self, webhooks: Collection[int], first: int) -> list[tuple[Any, ...]]:
        """The webhook, the start of the hour, and how many attempts succeeded and failed, from ``first`` on."""
        outcomes = [f"SUM(CASE WHEN error_kind {is_it} '' THEN attempted END)" for is_it in ("=", "<>")]
        return self._select(("webhook_id", "start"), outcomes, webhooks, f"period = {Period.HOUR} AND start >= {first}")

    def _select(
        self, keys: Sequence[str], sums: Sequence[str], webhooks: Collection[int], condition: str
    ) -> list[tuple[Any, ...]]:
        """Sum up the statistics and deltas of webhooks that meet the condition, for each value of these columns."""
        columns = ", ".join([*KEY, *COLUMNS])
        chosen, chosen_param = among_sql(self.db, webhooks)
        # In both parts: their types differ a little, and PostgreSQL would not apply it to the rows of a part.
        where = f"WHERE webhook_id {chosen} AND {condition}"
        statement = f"""
            SELECT {", ".join([*keys, *sums])} FROM (
                SELECT {columns} FROM rq_webhooks_statistic {where}
                UNION ALL SELECT {columns} FROM ({deltas_sql(self.db)}) AS deltas {where}
            ) AS counted GROUP BY {", ".join(keys)}
        """
        return fetch_all(self.db, statement, [chosen_param] * 2)

    @alters_data
    def add(self, deltas: Collection[int]) -> None:
        """Add the deltas with these ids, to the totals too. A webhook that is deleted has none any more."""
        chosen, chosen_param = among_sql(self.db, deltas)
        source = f"WITH deltas AS MATERIALIZED ({deltas_sql(self.db, f'WHERE delta.id {chosen}')})"
        by_period = _upsert_sql(self.db, "rq_webhooks_statistic", KEY, COLUMNS)
        total = _upsert_sql(
            self.db, "rq_webhooks_statistictotal", KEY_OF_TOTAL, COUNTS, f"AND period = {Period.MINUTE}"
        )
        # PostgreSQL does it in one statement, which reads the JSON once.
        both = [f"{source}, by_period AS ({by_period}) {total}"]
        for statement in both if is_postgresql(self.db) else [f"{source} {by_period}", f"{source} {total}"]:
            execute(self.db, statement, [chosen_param])

    @alters_data
    def delete_old(self, period: Period, days: float, most: int) -> int:
        """Delete up to ``most`` rows of this period that are older than so many days. Returns how many there were."""
        end = f"{unix_time_sql(self.db)} - {int(days * DAY)}"
        statement = f"""
            DELETE FROM rq_webhooks_statistic WHERE id IN (
                SELECT id FROM rq_webhooks_statistic WHERE period = {period} AND start < {end} LIMIT %s
            ) RETURNING id
        """
        return len(fetch_all(self.db, statement, [most]))

    @alters_data
    def delete_left(self, most: int) -> int:
        """Delete up to ``most`` rows, and the totals, of webhooks that are deleted: a roll-up beside a deletion adds
        them later. Returns how many there were."""
        webhooks: Any = Statistic._meta.get_field("webhook").related_model
        count = 0
        for table in ("rq_webhooks_statistic", "rq_webhooks_statistictotal"):
            counted = distinct_values(self.db, table, "webhook_id")
            known = set(webhooks.with_deleted.using(self.db).values_list("pk", flat=True))
            if gone := [pk for pk in counted if pk not in known]:
                chosen, given = among_sql(self.db, gone)
                some = f"SELECT id FROM {table} WHERE webhook_id {chosen} LIMIT %s"
                statement = f"DELETE FROM {table} WHERE id IN ({some}) RETURNING id"
                count += len(fetch_all(self.db, statement, [given, most]))
        return count


class Statistic(models.Model):
    """The attempts of a webhook in one minute or hour with one error kind. The successful ones have none, and neither
    have skips.

    Each attempt and each skip counts in a row of its minute and in a row of its hour.
    """

    # Without a constraint in the database: to insert a row would wait while another session has locked the webhook.
    webhook = models.ForeignKey(
        "rq_webhooks.Webhook", on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False
    )
    period = models.PositiveSmallIntegerField(choices=Period.choices)
    start = models.BigIntegerField(help_text="Unix time: seconds since 1970 in UTC.")
    error_kind = models.CharField(max_length=30, **EMPTY)
    attempted = models.PositiveIntegerField(**default(0))
    given_up = models.PositiveIntegerField(**default(0), help_text="Attempts after which their delivery failed.")
    skipped = models.PositiveIntegerField(**default(0), help_text="Changes that the webhook did not want.")

    objects = StatisticManager()

    class Meta:
        base_manager_name = "objects"
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["webhook", "period", "start", "error_kind"], name="rq_webhooks_statistic_of_webhook"
            )
        ]
        indexes = [models.Index(fields=["period", "start"], name="rq_webhooks_statistic_start")]

    def __str__(self) -> str:
        return f"{self.get_period_display()} {self.start} of webhook {self.webhook_id}"


for _column in (*BUCKETS, *TOTALS, *LONGEST):
    _kind = models.BigIntegerField if _column in LARGE else models.PositiveIntegerField
    Statistic.add_to_class(_column, _kind(**default(0)))


class StatisticTotalManager(WriteDBManager["StatisticTotal"]):
    def rows(self) -> list[tuple[Any, ...]]:
        """The webhook, the error kind, and ``COUNTS`` of each row. Monitoring reads them often: not as objects."""
        return fetch_all(self.db, f"SELECT {', '.join([*KEY_OF_TOTAL, *COUNTS])} FROM rq_webhooks_statistictotal")


class StatisticTotal(models.Model):
    """The attempts of a webhook with one error kind, and its skips, since it was created.

    Monitoring reads it: no retention deletes it, so it never falls.
    """

    webhook = models.ForeignKey(
        "rq_webhooks.Webhook", on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False
    )
    error_kind = models.CharField(max_length=30, **EMPTY)

    objects = StatisticTotalManager()

    class Meta:
        base_manager_name = "objects"
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["webhook", "error_kind"], name="rq_webhooks_statistictotal_of_webhook")
        ]

    def __str__(self) -> str:
        return f"total of webhook {self.webhook_id}"


for _column in COUNTS:
    StatisticTotal.add_to_class(_column, models.BigIntegerField(**default(0)))


class StatisticDeltaManager(WriteDBManager["StatisticDelta"]):
    @alters_data
    def insert(self, counts: Sequence[Mapping[str, int | str]]) -> None:
        """Insert these rows of ``Statistic`` as one delta of the current minute."""
        if not counts:
            return
        minute = f"{unix_time_sql(self.db)} / {Period.MINUTE} * {Period.MINUTE}"
        execute(
            self.db,
            f"INSERT INTO rq_webhooks_statisticdelta (start, counts) VALUES ({minute}, %s)",
            [json.dumps(counts, separators=(",", ":"))],
        )


class StatisticDelta(models.Model):
    """The counts of attempts that were recorded together, or of skips. The sweep adds them to the statistics.

    Only inserted and deleted: if workers updated the row of a busy webhook, they would wait for each other.
    """

    start = models.BigIntegerField(help_text="The Unix time of the minute.")
    counts = models.TextField(help_text="A JSON list of rows of ``Statistic``, with the columns that are not 0.")

    objects = StatisticDeltaManager()

    class Meta:
        base_manager_name = "objects"
        default_permissions = ()

    def __str__(self) -> str:
        return f"counts of {self.start}"

    @classmethod
    def of_skips(cls, skips: Mapping[tuple[int, int], int]) -> list[StatisticDelta]:
        """Unsaved deltas for counts of skips by minute (see ``minute_of``) and webhook."""
        by_minute = defaultdict[int, list[dict[str, Any]]](list)
        for (minute, webhook_id), count in sorted(skips.items()):
            by_minute[minute].append({"webhook_id": webhook_id, "error_kind": "", "skipped": count})
        return [cls(start=minute, counts=json.dumps(rows)) for minute, rows in by_minute.items()]


def minute_of(moment: datetime) -> int:
    """The Unix time of the start of a minute. A naive ``moment`` is in the time zone of the host."""
    return int(to_utc(moment).timestamp()) // Period.MINUTE * Period.MINUTE


def deltas_sql(using: str, condition: str = "") -> str:
    """A SELECT of deltas as rows of ``Statistic``, one for each minute and one for each hour with that minute.

    ``condition`` is a WHERE over the table ``delta``. A column is NULL if it has no count.
    """
    if is_postgresql(using):
        value, rows = "given.{}", "json_populate_recordset(NULL::rq_webhooks_statistic, delta.counts::json) AS given"
    else:
        value, rows = "json_extract(given.value, '$.{}')", "json_each(delta.counts) AS given"
    webhook, kind = value.format("webhook_id"), value.format("error_kind")
    # The types of the columns of ``Statistic``: PostgreSQL takes twice as long to add up larger ones.
    types = {name: "bigint" if name in LARGE else "integer" for name in COLUMNS}
    sums = ", ".join(
        f"CAST({merged_sql(name, value.format(name))} AS {kept}) AS {name}" for name, kept in types.items()
    )
    periods = " UNION ALL ".join(f"SELECT {period} AS period" for period in Period)
    # Grouped before each row becomes two: that takes half of the time.
    return f"""
        SELECT webhook_id, period, minute / period * period AS start, error_kind, {", ".join(COLUMNS)}
        FROM (
            SELECT {webhook} AS webhook_id, delta.start AS minute, {kind} AS error_kind, {sums}
            FROM rq_webhooks_statisticdelta AS delta CROSS JOIN {rows} {condition} GROUP BY 1, 2, 3
        ) AS minutes CROSS JOIN ({periods}) AS periods
    """


def _upsert_sql(using: str, table: str, keys: Sequence[str], columns: Sequence[str], condition: str = "") -> str:
    """An INSERT that adds the rows of ``deltas`` to the rows of a table with the same keys. ``condition``: "AND …"."""
    names, sums = ", ".join(columns), ", ".join(f"COALESCE({merged_sql(name)}, 0)" for name in columns)
    greatest = "GREATEST" if is_postgresql(using) else "MAX"
    added = ", ".join(
        f"{name} = {greatest}(total.{name}, excluded.{name})"
        if name in LONGEST
        else f"{name} = total.{name} + excluded.{name}"
        for name in columns
    )
    key = ", ".join(keys)
    # Sorted, so that two workers cannot deadlock.
    return f"""
        INSERT INTO {table} AS total ({key}, {names})
        SELECT {key}, {sums} FROM deltas WHERE webhook_id IN (SELECT id FROM rq_webhooks_webhook) {condition}
        GROUP BY {key} ORDER BY {key}
        ON CONFLICT ({key}) DO UPDATE SET {added}
    """


def unix_time_sql(using: str) -> str:
    """SQL for the time: whole seconds since 1970 in UTC."""
    if is_postgresql(using):
        return "FLOOR(EXTRACT(EPOCH FROM STATEMENT_TIMESTAMP()))::bigint"
    return str(int(timezone.now().timestamp()))
