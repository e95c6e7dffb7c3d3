"""Metrics for Prometheus, read from the database and Redis when they are scraped.

``urls`` has an endpoint of the app alone. A project with an endpoint already registers the collector there:
``prometheus_client.REGISTRY.register(WebhooksCollector())``. All processes of the site show the same values.

Next to this file are ``alerts.yml``, rules for Prometheus, and ``dashboard.json`` for Grafana. ``docs/monitoring.md``
describes each metric.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from django.db import Error
from django.utils import timezone
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from webhooks.conf import conf
from webhooks.errors import describe_error, get_logger
from webhooks.insight.alarms import Problem, find_alarms
from webhooks.insight.overview import Overview, read_for_alarms
from webhooks.insight.status import problems_of
from webhooks.models import State, StatisticTotal, Sweep, Webhook
from webhooks.models.statistic import DELAY, DURATION, Histogram
from webhooks.permissions import Operator
from webhooks.workers.status import Backend, read_backend

logger = get_logger(__name__)

OPERATOR = Operator("metrics")


class WebhooksCollector(Collector):
    """Reads the metrics at each scrape."""

    _is_away = False

    def describe(self) -> Iterable[Metric]:
        """The metrics without values: the registry asks for them while the site starts."""
        return vars(Metrics()).values()

    def collect(self) -> Iterator[Metric]:
        """The metrics. Without the database there is only ``webhooks_up``, and nothing is raised: a registry of the
        project may have other metrics."""
        metrics = Metrics()
        try:
            metrics.read()
        except Error as error:
            metrics = Metrics()
            self._note(error)
        else:
            self._note(None)
        metrics.up.add_metric([], float(not self._is_away))
        yield from (metric for metric in vars(metrics).values() if metric.samples)

    def _note(self, error: Exception | None) -> None:
        """Log one line when the database is away, and one when it is back."""
        was_away, self._is_away = self._is_away, error is not None
        if error and not was_away:
            logger.error("Prometheus gets no metrics, the database cannot be read: %s", describe_error(error))
        elif was_away and not error:
            logger.warning("Prometheus gets the metrics again")


class Metrics:
    """All metrics of one scrape."""

    def __init__(self) -> None:
        self.up = GaugeMetricFamily("webhooks_up", "Whether the database of the webhooks could be read.")
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
            "webhooks_workers", "Live rq workers that serve the queue. Absent if Redis does not answer."
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
        self._add_overview(read_for_alarms(OPERATOR), read_backend())
        self.lost_leases.add_metric([], Sweep.objects.values_list("lost_leases", flat=True).first() or 0)
        paused = set(Webhook.objects.paused().values_list("pk", flat=True))
        names = dict(Webhook.objects.values_list("pk", "name"))
        for pk, name in names.items():
            self.paused.add_metric([name], float(pk in paused))
        self._add_totals(names)

    def _add_overview(self, overview: Overview, backend: Backend) -> None:
        now = timezone.now()
        for state in State:
            self.deliveries.add_metric([state.value], overview.counts.get(state, 0))
        self.undispatched.add_metric([], overview.undispatched)
        self.failed_events.add_metric([], overview.failed_events)
        sending = (webhook for webhook in overview.webhooks if webhook.enabled and not webhook.is_paused)
        due = [overview.undispatched_since, *(webhook.due_since for webhook in sending)]
        oldest = min(filter(None, due), default=now)
        self.oldest_due.add_metric([], max(0.0, (now - oldest).total_seconds()))
        if not backend.error:
            self.workers.add_metric([], len(backend.serving))
        found = problems_of(find_alarms(overview, backend, conf.enabled, now))
        counts = Counter(alarm.problem for alarm in found)
        for problem in Problem:
            if problem != Problem.NONE:
                self.problems.add_metric([problem.value], counts[problem])

    def _add_totals(self, names: Mapping[int, str]) -> None:
        """``names`` of webhooks by their ids. Each webhook has its counters from the beginning: a rate needs one."""
        of_webhooks = {pk: defaultdict[str, int](int) for pk in names}
        for pk, kind, counts in StatisticTotal.objects.of_webhooks():
            if pk in names:
                if attempted := counts.get("attempted"):
                    self.attempts.add_metric([names[pk], kind], attempted)
                for name, count in counts.items():
                    of_webhooks[pk][name] += count
        for pk, total in of_webhooks.items():
            self.given_up.add_metric([names[pk]], total["given_up"])
            self.skips.add_metric([names[pk]], total["skipped"])
            if total["attempted"]:
                _add_histogram(self.duration, names[pk], DURATION, total)
                _add_histogram(self.delay, names[pk], DELAY, total)


def _add_histogram(metric: Any, webhook: str, histogram: Histogram, counts: Mapping[str, int]) -> None:
    bounds = [*(f"{bound / 1000:g}" for bound in histogram.bounds), "+Inf"]
    cumulative = accumulate(counts[name] for name in histogram.buckets)
    metric.add_metric([webhook], list(zip(bounds, cumulative, strict=True)), counts[histogram.total] / 1000)
