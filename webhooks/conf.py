"""Typed, live reading of ``settings.WEBHOOKS``: every property looks anew, so ``override_settings`` works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from django.conf import settings

T = TypeVar("T")

# Standard Webhooks, "Retry schedule": seconds from one failed attempt to the next.
STANDARD_RETRY_SCHEDULE = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)


class Settings:
    """One property for each key of ``settings.WEBHOOKS``; ``docs/settings.md`` describes them for operators."""

    @property
    def _all(self) -> Mapping[str, Any]:
        return getattr(settings, "WEBHOOKS", None) or {}

    def _get(self, key: str, default: T) -> T:
        value: T = self._all.get(key, default)
        return value

    @property
    def unknown_keys(self) -> list[str]:
        """Keys of the setting that mean nothing here, most likely misspelt."""
        return sorted(set(self._all) - known_keys())

    @property
    def enabled(self) -> bool:
        return self._get("ENABLED", False)

    @property
    def models(self) -> Sequence[str]:
        """Labels of models to register: ``"dcim.site"``, or ``"dcim.*"`` for all that have a serializer."""
        return self._get("MODELS", ())

    @property
    def queue(self) -> str:
        """The name in ``RQ_QUEUES`` of the queue that wake-ups go to."""
        return self._get("QUEUE", "webhooks")

    @property
    def retry_schedule(self) -> Sequence[float]:
        """Seconds to wait after the first, second, … failed attempt; after the last one the delivery fails."""
        return self._get("RETRY_SCHEDULE", STANDARD_RETRY_SCHEDULE)

    @property
    def retry_jitter(self) -> float:
        """How far a wait may be stretched or shortened at random, as a fraction of it."""
        return self._get("RETRY_JITTER", 0.2)

    @property
    def timeout(self) -> float:
        """Seconds that one attempt may take in all, for webhooks that do not say."""
        return self._get("TIMEOUT", 10)

    @property
    def lease(self) -> float:
        """Seconds after which a claim that nobody renews is taken back."""
        return self._get("LEASE", 15)

    @property
    def lane_wait(self) -> float:
        """Seconds that a failing head may keep the deliveries behind it waiting."""
        return self._get("LANE_WAIT", 3600)

    @property
    def senders(self) -> int:
        """How many requests one worker may have under way at once."""
        return self._get("SENDERS", 32)

    @property
    def batch(self) -> int:
        """How many rows one statement of a worker takes at the most."""
        return self._get("BATCH", 100)

    @property
    def slice(self) -> float:
        """Seconds that a worker delivers before it looks after its other duties."""
        return self._get("SLICE", 3)

    @property
    def sweep_interval(self) -> float:
        """Seconds between two sweeps."""
        return self._get("SWEEP_INTERVAL", 2)

    @property
    def redis_timeout(self) -> float:
        """Seconds that a save may lose to a Redis that does not answer, once per outage."""
        return self._get("REDIS_TIMEOUT", 0.1)

    @property
    def redis_pause(self) -> float:
        """Seconds for which Redis is left alone after it failed."""
        return self._get("REDIS_PAUSE", 5)

    @property
    def response_bytes(self) -> int:
        """How many bytes of a response body are kept."""
        return self._get("RESPONSE_BYTES", 8192)

    @property
    def user_agent(self) -> str:
        return self._get("USER_AGENT", "django-rq-webhooks")

    @property
    def retention(self) -> Mapping[str, float]:
        """Days for which a delivery stays on file, by the state it ended in."""
        return {"succeeded": 30, "failed": 90, "discarded": 30, **self._get("RETENTION_DAYS", {})}

    @property
    def idle_poll(self) -> float:
        """Seconds between two looks of an idle worker of the shipped class at the database."""
        return self._get("IDLE_POLL", 1)


def known_keys() -> set[str]:
    """Every key that ``settings.WEBHOOKS`` may have."""
    return {
        "ENABLED", "MODELS", "QUEUE", "RETRY_SCHEDULE", "RETRY_JITTER", "TIMEOUT", "LEASE", "LANE_WAIT",
        "SENDERS", "BATCH", "SLICE", "SWEEP_INTERVAL", "REDIS_TIMEOUT", "REDIS_PAUSE", "RESPONSE_BYTES",
        "USER_AGENT", "RETENTION_DAYS", "IDLE_POLL",
    }  # fmt: skip


conf = Settings()
