"""Typed, live reading of ``settings.WEBHOOKS``: every property looks anew, so ``override_settings`` works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from django.conf import settings

T = TypeVar("T")

# Standard Webhooks, "Retry schedule": seconds from one failed attempt to the next.
STANDARD_RETRY_SCHEDULE = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)


# Doubling from a minute to an hour, so that a receiver that is back is not kept waiting for longer.
STANDARD_PROBE_SCHEDULE = (60, 120, 240, 480, 960, 1920, 3600)

# The states whose deliveries are deleted after a while.
RETAINED = {"succeeded", "failed", "discarded"}


class Settings:
    """One property for each key of ``settings.WEBHOOKS``; ``docs/settings.md`` describes them for operators."""

    @property
    def _all(self) -> Mapping[str, Any]:
        value = getattr(settings, "WEBHOOKS", None)
        return value if isinstance(value, Mapping) else {}

    def _get(self, key: str, default: T) -> T:
        """The value, or the default in place of one that cannot be used, which ``manage.py check`` reports."""
        value: T = self._all.get(key, default)
        return value if RULES[key][1](value) else default

    @property
    def unknown_keys(self) -> list[str]:
        """Keys of the setting that mean nothing here, most likely misspelt."""
        return sorted(set(self._all) - set(RULES))

    def bad_values(self) -> list[tuple[str, str]]:
        """Keys whose value cannot be used, each with what it must be; no key for the setting itself."""
        value = getattr(settings, "WEBHOOKS", {})
        if not isinstance(value, Mapping):
            return [("", f"must be a dictionary, not {value!r}")]
        return [
            (key, f"{RULES[key][0]}, not {value!r}")
            for key, value in self._all.items()
            if key in RULES and not RULES[key][1](value)
        ]

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
        return self._get("BATCH", 250)

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
    def pause_after(self) -> int:
        """How many failed attempts in a row pause a webhook."""
        return self._get("PAUSE_AFTER", 10)

    @property
    def probe_schedule(self) -> Sequence[float]:
        """Seconds from the pause to the first probe, from that to the second, …; the last one repeats."""
        return self._get("PROBE_SCHEDULE", STANDARD_PROBE_SCHEDULE)

    @property
    def disable_after(self) -> float:
        """Seconds of nothing but failures after which a webhook is disabled."""
        return self._get("DISABLE_AFTER", 5 * 86400)

    @property
    def notify(self) -> Sequence[str]:
        """E-mail addresses that hear when a webhook was disabled; without any, Django's ``ADMINS`` do."""
        return self._get("NOTIFY", ())

    @property
    def idle_poll(self) -> float:
        """Seconds between two looks of an idle worker of the shipped class at the database."""
        return self._get("IDLE_POLL", 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_natural(value: Any) -> bool:
    return _is_positive(value) and isinstance(value, int)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(is_right, value))


def _is_retention(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) <= RETAINED and all(map(_is_positive, value.values()))


Rule = tuple[str, Callable[[Any], bool]]

POSITIVE: Rule = ("must be a number above 0", _is_positive)
NATURAL: Rule = ("must be a whole number above 0", _is_natural)
TEXT: Rule = ("must be a text", _is_text)

# What the value of each key must be like, in words and as a test.
RULES: dict[str, Rule] = {
    "ENABLED": ("must be True or False", lambda value: isinstance(value, bool)),
    "MODELS": (
        'must be a list of labels such as "dcim.site" or "dcim.*"',
        _is_list_of(lambda label: _is_text(label) and "." in label),
    ),
    "QUEUE": TEXT,
    "RETRY_SCHEDULE": (
        "must be a list of numbers of seconds, [] for no retries",
        _is_list_of(lambda wait: _is_number(wait) and wait >= 0),
    ),
    "RETRY_JITTER": ("must be a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "TIMEOUT": ("must be a number of seconds from 1 to 120", lambda value: _is_number(value) and 1 <= value <= 120),
    "LEASE": POSITIVE,
    "LANE_WAIT": POSITIVE,
    "SENDERS": NATURAL,
    "BATCH": NATURAL,
    "SLICE": POSITIVE,
    "SWEEP_INTERVAL": POSITIVE,
    "REDIS_TIMEOUT": POSITIVE,
    "REDIS_PAUSE": POSITIVE,
    "RESPONSE_BYTES": NATURAL,
    "USER_AGENT": TEXT,
    "RETENTION_DAYS": ("must map succeeded, failed or discarded to a number of days", _is_retention),
    "IDLE_POLL": POSITIVE,
    "PAUSE_AFTER": NATURAL,
    "PROBE_SCHEDULE": (
        "must be a list of numbers of seconds above 0, with at least one",
        lambda value: bool(value) and _is_list_of(_is_positive)(value),
    ),
    "DISABLE_AFTER": POSITIVE,
    "NOTIFY": ("must be a list of e-mail addresses", _is_list_of(_is_text)),
}


conf = Settings()
