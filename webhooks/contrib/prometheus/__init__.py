"""Metrics for Prometheus, read from the database and Redis when they are scraped.

``urls`` has an endpoint of the app alone. A project with an endpoint already registers the collector there:
``prometheus_client.REGISTRY.register(WebhooksCollector())``. All processes of the site show the same values.

Next to this file are ``alerts.yml``, rules for Prometheus, and ``dashboard.json`` for Grafana. ``docs/monitoring.md``
describes each metric.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from itertools import accumulate
from operator import add

from django.db import Error
from django.utils import timezone
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from webhooks.ground.conf import conf
from webhooks.ground.db.session import closing_new_connections, statement_limit
from webhooks.ground.errors import describe_error, get_logger
from webhooks.insight.alarms import Problem, find_alarms
from webhooks.insight.overview import Overview, read_for_alarms
from webhooks.insight.status import problems_of
from webhooks.models import State, StatisticTotal, Sweep, Webhook
from webhooks.models.permissions import Operator
from webhooks.models.statistic import COUNTS, DELAY, DURATION, Histogram
from webhooks.workers.status import Backend, read_backend

logger = get_logger(__name__)

OPERATOR = Operator("metrics")

# Seconds that PostgreSQL may take for one statement: a table may be locked, and Prometheus sends the next scrape.
STATEMENT_SECONDS = 5


class WebhooksCollector(Collector):
    """Reads the metrics at each scrape.

    It closes the connections to the database that it opens, because it may run in a thread of a registry. Without
    ``closes_connections``, it leaves them to the request that it runs in: Django keeps or closes them as it is set up.
    """

    _is_away = False

    def __init__(self, closes_connections: bool = True) -> None:
        self._closes_connections = closes_connections

    def describe(self) -> Iterable[Metric]:
        """The metrics without values: the registry asks for them while the site starts."""
        return vars(Metrics()).values()

    def collect(self) -> Iterator[Metric]:
        """The metrics. If they cannot be read, there is only ``webhooks_up``, and nothing is raised: a registry of the
        project may have other metrics."""
        metrics = Metrics()
        try:
            _outside_of_event_loops(metrics.read, self._closes_connections)
        except Exception as error:
            metrics = Metrics()
            self._note(error)
        else:
            self._note(None)
        metrics.up.add_metric([], float(not self._is_away))
        yield from (metric for metric in vars(metrics).values() if metric.samples)

    def _note(self, error: Exception | None) -> None:
        """Log an error when the metrics cannot be read, and one line when they can again."""
        was_away, self._is_away = self._is_away, error is not None
        if isinstance(error, Error) and not was_away:
            logger.error("Prometheus gets no metrics, the database cannot be read: %s", describe_error(error))
        elif error and not was_away:
            logger.error("Prometheus gets no metrics", exc_info=error)
        elif was_away and not error:
            logger.warning("Prometheus gets the metrics again")


def _outside_of_event_loops(read: Callable[[], None], closes_connections: bool) -> None:
    """Call it in another thread if an event loop runs in this one: Django refuses queries there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with closing_new_connections() if closes_connections else nullcontext():
            read()
    else:
        with ThreadPoolExecutor(1) as executor:
            executor.submit(closing_new_connections()(read)).result()


class Metrics:
    """All metrics of one scrape."""

    def __init__(self) -> None:
        self.up = GaugeMetricFamily("webhooks_up", "Whether the metrics of the webhooks could be read.")
        self.deliveries = GaugeMetricFamily(
            "webhooks_deliveries", "Stored deliveries by state. More than 10,000 are shown as 10,001.", labels=["state"]
        )
        self.undispatched = GaugeMetricFamily(
            "webhooks_undispatched_events", "Changes that no worker has dispatched. More than 10,000 are 10,001."
        )
        self.failed_events = GaugeMetricFamily(
            "webhooks_failed_events", "Changes that could not be captured, and were not replayed."
        )
        self.oldest_due = GaugeMetricFamily(
            "webhooks_oldest_due_seconds",
            "Since when the oldest change or delivery is due. 0: none is. Leaves out paused and disabled webhooks.",
        )
        self.paused = GaugeMetricFamily(
            "webhooks_paused", "1 while a user or failures pause the webhook, else 0.", labels=["webhook"]
        )
        self.workers = GaugeMetricFamily(
            "webhooks_workers", "Live workers. Absent if Redis does not answer, and with Django's tasks."
        )
        self.problems = GaugeMetricFamily(
            "webhooks_problems", "Errors and warnings of the status page by name.", labels=["problem"]
        )
        self.attempts = CounterMetricFamily(
            "webhooks_attempts", "Attempts. error_kind is empty for a success.", labels=["webhook", "error_kind"]
        )
        self.given_up = CounterMetricFamily(
            "webhooks_given_up", "Deliveries that failed after their last attempt.", labels=["webhook"]
        )
        self.skips = CounterMetricFamily("webhooks_skips", "Changes that the webhook did not want.", labels=["webhook"])
        self.lost_leases = CounterMetricFamily(
            "webhooks_lost_leases", "Deliveries that were taken back from workers that died or stalled."
        )
        self.duration = HistogramMetricFamily(
            "webhooks_attempt_duration_seconds", "How long attempts took.", labels=["webhook"]
        )
        self.delay = HistogramMetricFamily(
            "webhooks_first_attempt_delay_seconds", "From a change to the first attempt.", labels=["webhook"]
        )

    def read(self) -> None:
        """Read the values. Raises an ``Error`` of the database."""
        with statement_limit(Sweep.objects.db, STATEMENT_SECONDS):
            overview = read_for_alarms(OPERATOR)
            self.lost_leases.add_metric([], Sweep.objects.values_list("lost_leases", flat=True).first() or 0)
            # Not those of the overview: there may be more.
            names = dict(Webhook.objects.order_by("name").values_list("pk", "name"))
            self._add_totals(names)
            self._add_paused(names, {*Webhook.objects.paused().order_by().values_list("pk", flat=True)})
        self._add_overview(overview, read_backend())

    def _add_overview(self, overview: Overview, backend: Backend) -> None:
        now = timezone.now()
        for state in State:
            self.deliveries.add_metric([state.value], overview.counts.get(state, 0))
        self.undispatched.add_metric([], overview.undispatched)
        self.failed_events.add_metric([], overview.failed_events)
        due = [
            overview.undispatched_since,
            *(webhook.due_since for webhook in overview.webhooks if webhook.is_sendable),
        ]
        oldest = min(filter(None, due), default=now)
        self.oldest_due.add_metric([], max(0.0, (now - oldest).total_seconds()))
        if not backend.error and backend.start_command:
            self.workers.add_metric([], len(backend.serving))
        problems = problems_of(find_alarms(overview, backend, conf.enabled, now))
        counts = Counter(alarm.problem for alarm in problems)
        for problem in Problem:
            if problem != Problem.NONE:
                self.problems.add_metric([problem.value], counts[problem])

    def _add_paused(self, names: Mapping[int, str], paused: Container[int]) -> None:
        for pk, name in names.items():
            self.paused.add_metric([name], float(pk in paused))

    def _add_totals(self, names: Mapping[int, str]) -> None:
        """``names`` of webhooks by their ids. Each webhook has its counters from the beginning: a rate needs one."""
        totals = dict.fromkeys(names, (0,) * len(COUNTS))
        for pk, kind, *counts in StatisticTotal.objects.rows():
            if pk in names:
                if attempted := counts[0]:
                    self.attempts.add_metric([names[pk], kind], attempted)
                totals[pk] = tuple(map(add, totals[pk], counts))
        for pk, total in totals.items():
            of_webhook = dict(zip(COUNTS, total, strict=True))
            self.given_up.add_metric([names[pk]], of_webhook["given_up"])
            self.skips.add_metric([names[pk]], of_webhook["skipped"])
            if of_webhook["attempted"]:
                _add_histogram(self.duration, names[pk], DURATION, of_webhook)
                _add_histogram(self.delay, names[pk], DELAY, of_webhook)


def _add_histogram(metric: Metric, webhook: str, histogram: Histogram, counts: Mapping[str, int]) -> None:
    """As ``HistogramMetricFamily.add_metric``, which takes twice as long: most samples are buckets."""
    cumulative = list(accumulate(counts[name] for name in histogram.buckets))
    name = f"{metric.name}_bucket"
    metric.samples += [
        Sample(name, {"webhook": webhook, "le": bound}, bucket)
        for bound, bucket in zip(_bounds(histogram), cumulative, strict=True)
    ]
    of_webhook = {"webhook": webhook}
    metric.add_sample(f"{metric.name}_count", of_webhook, cumulative[-1])
    metric.add_sample(f"{metric.name}_sum", of_webhook, counts[histogram.total] / 1000)


@cache
def _bounds(histogram: Histogram) -> list[str]:
    """The upper bounds of the buckets in seconds."""
    return [*(f"{bound / 1000:g}" for bound in histogram.bounds), "+Inf"]
