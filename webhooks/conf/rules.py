"""The rules for values of settings.

Each is a phrase that continues "The setting X …", and whether a value is valid. An AttributeError, TypeError or
ValueError also means that it is not.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

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


def _is_positive_days(value: Any) -> bool:
    return _is_positive(value, CENTURY_DAYS)


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
dotted_path: Rule = ('must be the path of a callable such as "webhooks.permissions.by_model"', _is_dotted)
optional_path: Rule = (
    'must be the path of a callable such as "project.audit.record", or ""',
    lambda value: value == "" or _is_dotted(value),
)
class_paths = _list_of('paths of classes such as "project.hooks.Tracing"', _is_dotted)
emails = _list_of("e-mail addresses", _is_text)
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
    'must map hosts such as "hooks.example.com" to paths of callables such as "project.receivers.auth"',
    lambda value: all(_is_host(host) and _is_dotted(path) for host, path in value.items()),
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
