"""The settings: ``conf.timeout`` is ``settings.WEBHOOKS["TIMEOUT"]``, typed, validated and read live.

``docs/settings.md`` describes them for operators. ``rules`` says which values are valid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from django.conf import settings

from webhooks.conf import rules
from webhooks.conf.rules import Rule

T = TypeVar("T")

# The schedule of Standard Webhooks, in seconds.
RETRY_SCHEDULE = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)

RETENTION = {"succeeded": 30, "failed": 90, "discarded": 30}


def _given_settings() -> Mapping[str, Any]:
    """``settings.WEBHOOKS``, or nothing if it is not a dictionary."""
    value = getattr(settings, "WEBHOOKS", None)
    return value if isinstance(value, Mapping) else {}


class Setting(Generic[T]):
    """A property of ``Settings``. Its key in ``settings.WEBHOOKS`` is its name in capitals.

    A dictionary completes its default. Messages never repeat the value of an ``is_secret`` setting.
    """

    def __init__(self, default: T, rule: Rule, is_secret: bool = False) -> None:
        self.default = default
        self.phrase, self._accepts = rule
        self.is_secret = is_secret

    def __set_name__(self, owner: type[Settings], name: str) -> None:
        self.key = name.upper()
        owner.by_key[self.key] = self

    def __get__(self, conf: object, owner: type[Settings]) -> T:
        """The given value. The default if there is none, or if it is invalid; ``manage.py check`` reports that."""
        given = _given_settings()
        if self.key not in given or not self.accepts(given[self.key]):
            return self.default
        value: Any = given[self.key]
        if isinstance(self.default, dict):
            value = {**self.default, **value}
        complete: T = value
        return complete

    def accepts(self, value: Any) -> bool:
        """Whether it is a valid value of this setting."""
        try:
            return self._accepts(value)
        except (AttributeError, TypeError, ValueError):
            return False


class DestinationSetting(Setting[T]):
    """Decides where webhooks may send. While its value is invalid nothing is sent: the default might allow more."""


class Settings:
    by_key: ClassVar[dict[str, Setting[Any]]] = {}

    enabled = Setting[bool](False, rules.flag)
    models = Setting[Sequence[str]]((), rules.labels)
    """Labels of models to register: ``"dcim.site"``, or ``"dcim.*"`` for all that have a serializer."""
    base_url = Setting[str]("", rules.site_url)
    """The URL of the site, such as ``"https://netbox.example.org"``. Without it, payloads have paths only."""
    queue = Setting[str]("webhooks", rules.text)
    """The queue in ``RQ_QUEUES`` that wake-ups go to."""
    batch_requests = Setting[bool](False, rules.flag)
    """Record the changes of a request together at its end."""
    hooks = Setting[Sequence[str]]((), rules.class_paths)
    """Paths of classes with hooks, see ``webhooks.hooks``."""
    history = Setting[str]("", rules.optional_path)
    """The path of a callable that gets each entry of the history, see ``webhooks.insight.history``."""

    # Sending

    timeout = Setting[float](10, rules.attempt_seconds)
    """Seconds for a whole attempt, unless the webhook has a timeout."""
    retry_schedule = Setting[Sequence[float]](RETRY_SCHEDULE, rules.retry_seconds)
    """Seconds to wait after the first, second, … failed attempt. After the last one the delivery fails."""
    retry_jitter = Setting[float](0.2, rules.fraction)
    """The random part of each wait, longer or shorter, as a fraction of it."""
    lane_wait = Setting[float](3600, rules.positive_seconds)
    """Seconds that a failing head of a lane may hold up the deliveries behind it."""
    payload_bytes = Setting[int](1_000_000, rules.count)
    """The largest payload, in bytes."""
    serialize_timeout = Setting[float](30, rules.positive_seconds)
    """Seconds after which a serializer is stopped between two items of a list."""
    response_bytes = Setting[int](8192, rules.count)
    """How many bytes of a response body are stored."""
    user_agent = Setting[str]("django-rq-webhooks", rules.header)

    # Destinations

    allow_networks = DestinationSetting[Sequence[str]]((), rules.networks)
    """Networks and addresses to send to although they are blocked by default, or private."""
    deny_networks = DestinationSetting[Sequence[str]]((), rules.networks)
    deny_private = DestinationSetting[bool](False, rules.flag)
    allow_hosts = DestinationSetting[Sequence[str]](("*",), rules.hosts)
    """Patterns; the host of a URL must match one of them."""
    deny_hosts = DestinationSetting[Sequence[str]]((), rules.hosts)
    allow_ports = DestinationSetting[Sequence[int | str]](("1-65535",), rules.ports)
    deny_ports = DestinationSetting[Sequence[int | str]]((), rules.ports)
    allow_schemes = DestinationSetting[Sequence[str]](("https", "http"), rules.schemes)
    proxy = DestinationSetting[str]("", rules.proxy_url, is_secret=True)
    """The URL of the HTTP proxy to send through, with user and password if it needs them."""

    # Secrets

    encryption_keys = Setting[Sequence[str]]((), rules.fernet_keys, is_secret=True)
    """Fernet keys, the newest first: it encrypts, all decrypt. Without any, ``SECRET_KEY`` does. While the value is
    invalid, nothing is encrypted: another key must not take its place."""
    auth = Setting[Mapping[str, str]]({}, rules.auth_paths)
    """Paths of callables that add credentials to requests, by patterns of the hosts that they are for."""
    secret_overlap = Setting[float](86400, rules.seconds)
    """Seconds for which a replaced secret still signs, next to the new one."""

    # Conditions, permissions, loops

    conditions_timeout = Setting[float](0.2, rules.positive_seconds)
    """Seconds of processor time for the conditions of all webhooks, for one change."""
    may_view = Setting[str]("webhooks.permissions.by_restriction", rules.dotted_path)
    """The path of a callable that takes a user and events, and returns the events this user may view."""
    may_view_all = Setting[str]("webhooks.permissions.by_query", rules.dotted_path)
    """The path of a callable that takes a user and a model, and returns whether this user may view all its objects."""
    max_depth = Setting[int](3, rules.count)
    """How many changes in a row may be caused by webhooks, each by a delivery of the change before."""

    # Pause and disable

    pause_after = Setting[int](10, rules.count)
    """How many failed attempts in a row pause a webhook."""
    probe_schedule = Setting[Sequence[float]]((60, 120, 240, 480, 960, 1920, 3600), rules.probe_seconds)
    """Seconds from the pause to the first probe, from that to the second, …; the last one repeats. An hour at the
    most: a receiver that works again waits no longer."""
    disable_after = Setting[float](5 * 86400, rules.positive_seconds)
    """Seconds without a success after which a failing webhook is disabled."""
    notify = Setting[Sequence[str]]((), rules.emails)
    """E-mail addresses that are notified of a disabled webhook; without any, Django's ``ADMINS``."""

    # Workers

    senders = Setting[int](512, rules.count)
    """How many requests a worker sends at once."""
    batch = Setting[int](250, rules.count)
    """How many rows one statement of a worker takes."""
    slice = Setting[float](3, rules.positive_seconds)
    """Seconds that a worker delivers before its other duties."""
    lease = Setting[float](15, rules.positive_seconds)
    """Seconds after which a claim expires that its worker has not renewed."""
    idle_poll = Setting[float](1, rules.positive_seconds)
    """Seconds between two looks of an idle worker of the shipped class at the database."""
    sweep_interval = Setting[float](2, rules.positive_seconds)
    """Seconds between two sweeps."""

    # Redis

    redis_timeout = Setting[float](0.1, rules.positive_seconds)
    """Seconds that a save waits for Redis, once in each pause of a process after a failure."""

    # Retention

    retention_days = Setting[Mapping[str, float]](RETENTION, rules.retention)
    """Days after which a delivery is deleted, by the state it ended in."""
    statistic_days = Setting[float](30, rules.positive_days)
    """Days after which statistics are deleted."""
    skip_days = Setting[float](7, rules.days)
    """Days after which a skip is deleted. With 0, none is stored."""
    skips_per_webhook = Setting[int](10_000, rules.count_or_none)
    """How many skips are kept for each webhook. With 0, none is stored."""

    @property
    def keeps_skips(self) -> bool:
        return bool(self.skip_days and self.skips_per_webhook)

    @property
    def unknown_keys(self) -> list[str]:
        """Given keys that are no settings, probably misspelt."""
        return sorted(str(key) for key in set(_given_settings()) - set(self.by_key))

    def invalid_values(self) -> list[tuple[str, str]]:
        """The keys with an invalid value, each with a phrase about it. The key is "" for the dictionary itself."""
        value = getattr(settings, "WEBHOOKS", {})
        if not isinstance(value, Mapping):
            return [("", f"must be a dictionary, not a {type(value).__name__}")]  # its content may hold secrets
        invalid = [setting for key, setting in self.by_key.items() if not self.is_valid(key)]
        return [(one.key, one.phrase if one.is_secret else f"{one.phrase}, not {value[one.key]!r}") for one in invalid]

    def is_valid(self, key: str) -> bool:
        """Whether the setting is valid as it is, or not given."""
        return key not in _given_settings() or self.by_key[key].accepts(_given_settings()[key])

    def is_destination(self, key: str) -> bool:
        return isinstance(self.by_key.get(key), DestinationSetting)

    @property
    def destinations(self) -> dict[str, Any]:
        """The given values of the settings that decide where webhooks may send, by their keys."""
        return {key: value for key, value in _given_settings().items() if self.is_destination(key)}

    @property
    def invalid_destination(self) -> str:
        """The key of a ``DestinationSetting`` with an invalid value, or ""."""
        return next((key for key in self.destinations if not self.is_valid(key)), "")


conf = Settings()
