"""The settings: ``conf.timeout`` is ``settings.WEBHOOKS["TIMEOUT"]``, typed, validated and read live.

``docs/settings.md`` describes them for operators.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import ip_network
from typing import Any, ClassVar, Generic, TypeVar, cast
from urllib.parse import urlsplit

from django.conf import settings

# A rule for values of settings: a phrase that continues "The setting X …", and whether a value is valid. An
# AttributeError, TypeError or ValueError also means that it is not.
Rule = tuple[str, Callable[[Any], bool]]

# The longest timeout of one attempt in seconds, for webhooks and for the setting.
MAX_TIMEOUT = 120

# The longest time of all other settings. Moments much farther away do not fit into a database.
CENTURY_DAYS = 36_500
CENTURY = CENTURY_DAYS * 86_400  # seconds


def _is_number(value: Any, minimum: float = 0, maximum: float = CENTURY) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and minimum <= value <= maximum


def _is_positive(value: Any, maximum: float = CENTURY) -> bool:
    return _is_number(value, 0, maximum) and value > 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_dotted(value: Any) -> bool:
    return _is_text(value) and "." in value


def _is_host(value: Any) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9*._:-]+", value))


def _is_port(value: Any) -> bool:
    if isinstance(value, str):
        first, last = map(int, value.split("-"))
        return 0 < first <= last < 65536
    return _is_count(value) and value < 65536


def _is_origin(value: Any, *schemes: str) -> bool:
    """Whether it is a URL without path, query and fragment."""
    parts = urlsplit(value)
    has_host = parts.scheme in schemes and parts.hostname and parts.port != 0
    return bool(has_host) and parts.path in ("", "/") and not parts.query + parts.fragment


# The beginning of a URL, in the one spelling that all programs read alike. Its host may be a pattern.
_RECEIVER = re.compile(
    r"https?://(\[[0-9a-f:.]+\]|[a-z0-9*._-]+)(:[0-9]+)?(/(?!\.{1,2}(/|$))[a-z0-9._~-]+)*/?", re.ASCII | re.IGNORECASE
)


def _is_receiver(value: Any) -> bool:
    if "://" not in value:
        return _is_host(value) and value.count(":") != 1
    return bool(_RECEIVER.fullmatch(value)) and urlsplit(value).port != 0


def _list_of(items: str, is_valid: Callable[[Any], bool], min_length: int = 0) -> Rule:
    return (
        f"must be a list of {items}",
        lambda value: isinstance(value, list | tuple) and len(value) >= min_length and all(map(is_valid, value)),
    )


flag: Rule = ("must be True or False", lambda value: isinstance(value, bool))
text: Rule = ("must be a text", _is_text)
header: Rule = ("must be a text of visible ASCII characters", lambda value: bool(re.fullmatch(r"[\x20-\x7e]+", value)))
count: Rule = ("must be a whole number above 0", _is_count)
count_or_none: Rule = ("must be a whole number, 0 for none", lambda value: value == 0 or _is_count(value))
fraction: Rule = ("must be a number from 0 to 1", lambda value: _is_number(value, 0, 1))
days: Rule = ("must be a number of days, up to 100 years, 0 for none", lambda value: _is_number(value, 0, CENTURY_DAYS))
_is_positive_days = partial(_is_positive, maximum=CENTURY_DAYS)
positive_days: Rule = ("must be a number of days above 0, up to 100 years", _is_positive_days)
seconds: Rule = ("must be a number of seconds, up to 100 years", _is_number)
positive_seconds: Rule = ("must be a number of seconds above 0, up to 100 years", _is_positive)
attempt_seconds: Rule = (
    f"must be a number of seconds from 1 to {MAX_TIMEOUT}",
    lambda value: _is_number(value, 1, MAX_TIMEOUT),
)
retry_seconds = _list_of("numbers of seconds, up to 100 years, [] for no retries", _is_number)
probe_seconds = _list_of("numbers of seconds above 0, up to 100 years, at least one", _is_positive, min_length=1)
retention: Rule = (
    "must map succeeded, failed or discarded to a number of days above 0, up to 100 years",
    lambda value: value.keys() <= {"succeeded", "failed", "discarded"} and all(map(_is_positive_days, value.values())),
)
labels = _list_of(
    'labels such as "dcim.site" or "dcim.*", or "*" for all apps', lambda value: value == "*" or _is_dotted(value)
)
fields_of_models: Rule = (
    'must map labels such as "dcim.site" to lists of names of fields',
    lambda value: all(
        _is_dotted(label) and isinstance(fields, list | tuple) and all(map(_is_text, fields))
        for label, fields in value.items()
    ),
)
dotted_path: Rule = ('must be the path of a callable such as "webhooks.models.permissions.by_model"', _is_dotted)
optional_path: Rule = (
    'must be the path of a callable such as "project.audit.record", or ""',
    lambda value: value == "" or _is_dotted(value),
)
class_paths = _list_of('paths of classes such as "project.hooks.Tracing"', _is_dotted)
names = _list_of("names", _is_text)
emails = _list_of("e-mail addresses", _is_text)
WAKERS = ("rq", "database", "tasks")
waker: Rule = (f"must be one of {', '.join(WAKERS)}", lambda value: value in WAKERS)
fernet_keys = _list_of(
    "keys as Fernet.generate_key() makes them",
    lambda value: _is_text(value) and len(base64.urlsafe_b64decode(value)) == 32,
)
networks = _list_of(
    'networks such as "10.0.0.0/8" (no bits set after the prefix) and addresses',
    lambda value: _is_text(value) and bool(ip_network(value)),
)
hosts = _list_of('hosts such as "hooks.example.com" or "*.example.com", others than ASCII as xn--', _is_host)
auth_paths: Rule = (
    'must map hosts such as "hooks.example.com", or URLs such as "https://hooks.example.com:8443/in", to paths of '
    'callables such as "project.receivers.auth"',
    lambda value: all(_is_receiver(receiver) and _is_dotted(path) for receiver, path in value.items()),
)
ports = _list_of('ports such as 443 or "8000-8999"', _is_port)
schemes = _list_of('"https" and "http"', lambda value: value in ("https", "http"))
proxy_url: Rule = (
    'must be the URL of an HTTP proxy such as "http://proxy:3128", or ""',
    lambda value: value == "" or _is_origin(value, "http"),
)
site_url: Rule = (
    'must be the URL of the site without a path, such as "https://netbox.example.org", or ""',
    lambda value: value == "" or (_is_origin(value, "http", "https") and not re.search(r"[@\\\s]", value)),
)


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
        value = given[self.key]
        return cast(T, {**self.default, **value} if isinstance(self.default, dict) else value)

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

    enabled = Setting[bool](False, flag)
    models = Setting[Sequence[str]]((), labels)
    """Labels of models to register: ``"dcim.site"``, or ``"dcim.*"`` for all that have a serializer."""
    serializers = Setting[Sequence[str]]((), names)
    """Modules that have serializers of models of any app, by the names of the models: ``SiteSerializer``."""
    include_sensitive = Setting[Mapping[str, Sequence[str]]]({}, fields_of_models)
    """Fields to send although their names are sensitive, by the labels of their models."""
    base_url = Setting[str]("", site_url)
    """The URL of the site, such as ``"https://netbox.example.org"``. Without it, payloads have paths only."""
    queue = Setting[str]("webhooks", text)
    """The queue in ``RQ_QUEUES`` that wake-ups go to."""
    batch_requests = Setting[bool](False, flag)
    """Record the changes of each transaction of a request together at its end."""
    hooks = Setting[Sequence[str]]((), class_paths)
    """Paths of classes with hooks, see ``webhooks.hooks``."""
    history = Setting[str]("", optional_path)
    """The path of a callable that gets each entry of the history, see ``webhooks.insight.history``."""

    # Sending

    timeout = Setting[float](10, attempt_seconds)
    """Seconds for a whole attempt, unless the webhook has a timeout."""
    retry_schedule = Setting[Sequence[float]](RETRY_SCHEDULE, retry_seconds)
    """Seconds to wait after the first, second, … failed attempt. After the last one the delivery fails."""
    retry_jitter = Setting[float](0.2, fraction)
    """The random part of each wait, longer or shorter, as a fraction of it."""
    lane_wait = Setting[float](3600, positive_seconds)
    """Seconds that a failing head of a lane may hold up the deliveries behind it."""
    payload_bytes = Setting[int](1_000_000, count)
    """The largest payload, in bytes."""
    serialize_timeout = Setting[float](30, positive_seconds)
    """Seconds after which a serializer is stopped between two items of a list."""
    response_bytes = Setting[int](8192, count)
    """How many bytes of a response body are stored."""
    user_agent = Setting[str]("django-rq-webhooks", header)

    # Destinations

    allow_networks = DestinationSetting[Sequence[str]]((), networks)
    """Networks and addresses to send to although they are blocked by default, or private."""
    deny_networks = DestinationSetting[Sequence[str]]((), networks)
    deny_private = DestinationSetting[bool](False, flag)
    allow_hosts = DestinationSetting[Sequence[str]](("*",), hosts)
    """Patterns; the host of a URL must match one of them."""
    deny_hosts = DestinationSetting[Sequence[str]]((), hosts)
    allow_ports = DestinationSetting[Sequence[int | str]](("1-65535",), ports)
    deny_ports = DestinationSetting[Sequence[int | str]]((), ports)
    allow_schemes = DestinationSetting[Sequence[str]](("https", "http"), schemes)
    proxy = DestinationSetting[str]("", proxy_url, is_secret=True)
    """The URL of the HTTP proxy to send through, with user and password if it needs them."""

    # Secrets

    encryption_keys = Setting[Sequence[str]]((), fernet_keys, is_secret=True)
    """Fernet keys, the newest first: it encrypts, all decrypt. Without any, ``SECRET_KEY`` does. While the value is
    invalid, nothing is encrypted: another key must not take its place."""
    auth = Setting[Mapping[str, str]]({}, auth_paths)
    """Paths of callables that add credentials to requests, by the receivers that they are for. See
    ``webhooks.workers.network.auth.receivers``."""
    secret_overlap = Setting[float](86400, seconds)
    """Seconds for which a replaced secret still signs, next to the new one."""

    # Conditions, permissions, loops

    conditions_timeout = Setting[float](0.2, positive_seconds)
    """Seconds of processor time for the conditions of all webhooks, for one change."""
    may_view = Setting[str]("webhooks.models.permissions.by_restriction", dotted_path)
    """The path of a callable that takes a user and events, and returns the events this user may view."""
    may_view_all = Setting[str]("webhooks.models.permissions.by_query", dotted_path)
    """The path of a callable that takes a user and a model, and returns whether this user may view all its objects."""
    max_depth = Setting[int](3, count)
    """How many changes in a row may be caused by webhooks, each by a delivery of the change before."""

    # Pause and disable

    pause_after = Setting[int](10, count)
    """How many failed attempts in a row pause a webhook."""
    probe_schedule = Setting[Sequence[float]]((60, 120, 240, 480, 960, 1920, 3600), probe_seconds)
    """Seconds from the pause to the first probe, from that to the second, …; the last one repeats. An hour at the
    most: a receiver that works again waits no longer."""
    disable_after = Setting[float](5 * 86400, positive_seconds)
    """Seconds without a success after which a failing webhook is disabled."""
    notify = Setting[Sequence[str]]((), emails)
    """E-mail addresses that are notified of a disabled webhook; without any, Django's ``ADMINS``."""
    metrics_token = Setting[str]("", text, is_secret=True)
    """The bearer token with which Prometheus reads the metrics, see ``contrib.prometheus``."""

    # Workers

    wake_up = Setting[str]("rq", waker)
    """What wakes workers after a change: a job of django-rq, the database, or a task of Django."""
    senders = Setting[int](512, count)
    """How many requests a worker sends at once."""
    batch = Setting[int](250, count)
    """The most rows that one statement of a worker takes. A step of a run takes up to twice as many."""
    slice = Setting[float](3, positive_seconds)
    """Seconds that a worker delivers before its other duties."""
    lease = Setting[float](15, positive_seconds)
    """Seconds after which a claim expires that its worker has not renewed."""
    idle_poll = Setting[float](1, positive_seconds)
    """Seconds between two looks of an idle worker of the shipped class at the database."""
    sweep_interval = Setting[float](2, positive_seconds)
    """Seconds between two sweeps."""

    # Redis

    redis_timeout = Setting[float](0.1, positive_seconds)
    """Seconds that a save waits for Redis, once in each pause of a process after a failure."""

    # Retention

    retention_days = Setting[Mapping[str, float]](RETENTION, retention)
    """Days after which a delivery is deleted, by the state it ended in."""
    statistic_days = Setting[float](30, positive_days)
    """Days after which statistics are deleted."""
    skip_days = Setting[float](7, days)
    """Days after which a skip is deleted. With 0, none is stored."""
    skips_per_webhook = Setting[int](10_000, count_or_none)
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
        return [(key.key, key.phrase if key.is_secret else f"{key.phrase}, not {value[key.key]!r}") for key in invalid]

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
