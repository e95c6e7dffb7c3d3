"""Typed, live reading of ``settings.WEBHOOKS``: every property looks anew, so ``override_settings`` works."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

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
        bad = [(key, value) for key, value in self._all.items() if key in RULES and not RULES[key][1](value)]
        return [(key, f"{RULES[key][0]}, not {'what it is' if key in SECRET else repr(value)}") for key, value in bad]

    @property
    def enabled(self) -> bool:
        return self._get("ENABLED", False)

    @property
    def models(self) -> Sequence[str]:
        """Labels of models to register: ``"dcim.site"``, or ``"dcim.*"`` for all that have a serializer."""
        return self._get("MODELS", ())

    @property
    def base_url(self) -> str:
        """Where the site is, such as ``"https://netbox.example.org"``; empty where payloads have paths instead."""
        return self._get("BASE_URL", "").rstrip("/")

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
        """Seconds that a save may lose to a Redis that does not answer, once in each ``REDIS_PAUSE`` of a process."""
        return self._get("REDIS_TIMEOUT", 0.1)

    @property
    def redis_pause(self) -> float:
        """Seconds for which Redis is left alone after it failed."""
        return self._get("REDIS_PAUSE", 5)

    @property
    def payload_bytes(self) -> int:
        """How many bytes a payload may have."""
        return self._get("PAYLOAD_BYTES", 1_000_000)

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
    def may_view(self) -> str:
        """The path of a callable: a user and Events in, those out that the user may view."""
        return self._get("MAY_VIEW", "webhooks.rights.by_model")

    @property
    def max_depth(self) -> int:
        """How many changes a chain may have of which each was caused by a webhook that told of the one before."""
        return self._get("MAX_DEPTH", 3)

    @property
    def guards(self) -> dict[str, Any]:
        """What the setting says about destinations, as it stands there."""
        return {key: value for key, value in self._all.items() if key in GUARDS}

    @property
    def broken_guard(self) -> str:
        """A key about destinations whose value cannot be used, if there is one. Its default might allow what the
        value was to deny, so nothing may be sent."""
        return next((key for key, value in self.guards.items() if not RULES[key][1](value)), "")

    @property
    def allow_networks(self) -> Sequence[str]:
        """Networks and addresses to send to although they are blocked by themselves, or private."""
        return self._get("ALLOW_NETWORKS", ())

    @property
    def deny_networks(self) -> Sequence[str]:
        return self._get("DENY_NETWORKS", ())

    @property
    def deny_private(self) -> bool:
        return self._get("DENY_PRIVATE", False)

    @property
    def allow_hosts(self) -> Sequence[str]:
        """Patterns; a host of a URL must match one of them."""
        return self._get("ALLOW_HOSTS", ("*",))

    @property
    def deny_hosts(self) -> Sequence[str]:
        return self._get("DENY_HOSTS", ())

    @property
    def allow_ports(self) -> Sequence[int | str]:
        """Ports and ranges of them, such as "8000-8999"."""
        return self._get("ALLOW_PORTS", ("1-65535",))

    @property
    def deny_ports(self) -> Sequence[int | str]:
        return self._get("DENY_PORTS", ())

    @property
    def allow_schemes(self) -> Sequence[str]:
        return self._get("ALLOW_SCHEMES", ("https", "http"))

    @property
    def proxy(self) -> str:
        """The URL of the HTTP proxy to send through, with its user and password if it wants them; empty for none."""
        return self._get("PROXY", "")

    @property
    def encryption_keys(self) -> Sequence[str]:
        """Fernet keys, the newest first: it encrypts, all decrypt. Without any, ``SECRET_KEY`` does."""
        return self._get("ENCRYPTION_KEYS", ())

    @property
    def are_keys_broken(self) -> bool:
        """Whether that value cannot be used. Then nothing may be encrypted with another key instead."""
        keys = self._all.get("ENCRYPTION_KEYS", ())
        return not RULES["ENCRYPTION_KEYS"][1](keys)

    @property
    def secret_overlap(self) -> float:
        """Seconds for which a secret that was replaced goes on signing beside the new one."""
        return self._get("SECRET_OVERLAP", 86400)

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


def _is_network(value: Any) -> bool:
    try:
        ip_network(value)
    except ValueError:
        return False
    return _is_text(value)


def _is_host_pattern(value: Any) -> bool:
    return _is_text(value) and re.fullmatch(r"[A-Za-z0-9*._:-]+", value) is not None


def _is_port(value: Any) -> bool:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}-[0-9]{1,5}", value):
        first, last = map(int, value.split("-"))
        return 0 < first <= last < 65536
    return _is_natural(value) and value < 65536


def _is_proxy(value: Any) -> bool:
    try:
        parts = urlsplit(value) if _is_text(value) else None
        return value == "" or (parts is not None and parts.scheme == "http" and _is_bare(parts))
    except ValueError:
        return False


def _is_base_url(value: Any) -> bool:
    try:
        parts = urlsplit(value) if _is_text(value) else None
        is_address = parts is not None and parts.scheme in ("http", "https") and _is_bare(parts)
        return value == "" or (is_address and not re.search(r"[@\\\s]", value))
    except ValueError:
        return False


def _is_key(value: Any) -> bool:
    try:
        return _is_text(value) and len(base64.urlsafe_b64decode(value)) == 32
    except ValueError:
        return False


def _is_bare(parts: SplitResult) -> bool:
    return bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/") and not parts.query + parts.fragment


Rule = tuple[str, Callable[[Any], bool]]

POSITIVE: Rule = ("must be a number above 0", _is_positive)
NATURAL: Rule = ("must be a whole number above 0", _is_natural)
TEXT: Rule = ("must be a text", _is_text)
FLAG: Rule = ("must be True or False", lambda value: isinstance(value, bool))
NETWORKS: Rule = (
    'must be a list of networks such as "10.0.0.0/8" (no bits set after the prefix) and addresses',
    _is_list_of(_is_network),
)
HOSTS: Rule = (
    'must be a list of hosts such as "hooks.example.com" or "*.example.com", others than ASCII as xn--',
    _is_list_of(_is_host_pattern),
)
PORTS: Rule = ('must be a list of ports such as 443 or "8000-8999"', _is_list_of(_is_port))

# What the value of each key must be like, in words and as a test.
RULES: dict[str, Rule] = {
    "ENABLED": FLAG,
    "MODELS": (
        'must be a list of labels such as "dcim.site" or "dcim.*"',
        _is_list_of(lambda label: _is_text(label) and "." in label),
    ),
    "BASE_URL": (
        'must be the URL of the site without a path, such as "https://netbox.example.org", or ""',
        _is_base_url,
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
    "PAYLOAD_BYTES": NATURAL,
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
    "MAY_VIEW": (
        'must be the path of a callable such as "webhooks.rights.by_model"',
        lambda value: _is_text(value) and "." in value,
    ),
    "MAX_DEPTH": NATURAL,
    "ALLOW_NETWORKS": NETWORKS,
    "DENY_NETWORKS": NETWORKS,
    "DENY_PRIVATE": FLAG,
    "ALLOW_HOSTS": HOSTS,
    "DENY_HOSTS": HOSTS,
    "ALLOW_PORTS": PORTS,
    "DENY_PORTS": PORTS,
    "ALLOW_SCHEMES": (
        'must be a list of "https" and "http"',
        _is_list_of(lambda scheme: scheme in ("https", "http")),
    ),
    "PROXY": ('must be the URL of an HTTP proxy such as "http://proxy:3128", or ""', _is_proxy),
    "ENCRYPTION_KEYS": ("must be a list of keys as Fernet.generate_key() makes them", _is_list_of(_is_key)),
    "SECRET_OVERLAP": ("must be a number of seconds", lambda value: _is_number(value) and value >= 0),
}

# What guards destinations: a bad value of these is not replaced by its default.
GUARDS = {
    "ALLOW_NETWORKS", "DENY_NETWORKS", "DENY_PRIVATE", "ALLOW_HOSTS", "DENY_HOSTS", "ALLOW_PORTS", "DENY_PORTS",
    "ALLOW_SCHEMES", "PROXY",
}  # fmt: skip

# May have a password in it, or is one, which a message does not repeat.
SECRET = {"PROXY", "ENCRYPTION_KEYS"}


conf = Settings()
