"""What the value of a setting must be like: each rule in words, as a test, and as a type. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

T = TypeVar("T")

# Seconds that one attempt may take in all, whoever says how many: a webhook, or the setting for all.
LONGEST_TIMEOUT = 120


@dataclass(frozen=True)
class Rule(Generic[T]):
    """The words go on from the name of a setting; what the test allows is a T."""

    words: str
    allows: Callable[[Any], bool]


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


FLAG: Rule[bool] = Rule("must be True or False", lambda value: isinstance(value, bool))
TEXT: Rule[str] = Rule("must be a text", _is_text)
NATURAL: Rule[int] = Rule("must be a whole number above 0", _is_natural)
POSITIVE: Rule[float] = Rule("must be a number above 0", _is_positive)
SECONDS: Rule[float] = Rule("must be a number of seconds", lambda value: _is_number(value) and value >= 0)
TIMEOUT: Rule[float] = Rule(
    f"must be a number of seconds from 1 to {LONGEST_TIMEOUT}",
    lambda value: _is_number(value) and 1 <= value <= LONGEST_TIMEOUT,
)
FRACTION: Rule[float] = Rule("must be a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
RETRIES: Rule[Sequence[float]] = Rule(
    "must be a list of numbers of seconds, [] for no retries",
    _is_list_of(SECONDS.allows),
)
PROBES: Rule[Sequence[float]] = Rule(
    "must be a list of numbers of seconds above 0, with at least one",
    lambda value: bool(value) and _is_list_of(_is_positive)(value),
)


# The states whose deliveries are deleted after a while.
RETAINED = {"succeeded", "failed", "discarded"}


def _is_retention(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) <= RETAINED and all(map(_is_positive, value.values()))


def _is_dotted(value: Any) -> bool:
    return _is_text(value) and "." in value


RETENTION: Rule[Mapping[str, float]] = Rule(
    "must map succeeded, failed or discarded to a number of days",
    _is_retention,
)
LABELS: Rule[Sequence[str]] = Rule(
    'must be a list of labels such as "dcim.site" or "dcim.*", or "*" for all apps',
    _is_list_of(lambda value: value == "*" or _is_dotted(value)),
)
CALLABLE: Rule[str] = Rule('must be the path of a callable such as "webhooks.permissions.by_model"', _is_dotted)
ADDRESSES: Rule[Sequence[str]] = Rule("must be a list of e-mail addresses", _is_list_of(_is_text))


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


def _is_scheme(value: Any) -> bool:
    return value in ("https", "http")


NETWORKS: Rule[Sequence[str]] = Rule(
    'must be a list of networks such as "10.0.0.0/8" (no bits set after the prefix) and addresses',
    _is_list_of(_is_network),
)
HOSTS: Rule[Sequence[str]] = Rule(
    'must be a list of hosts such as "hooks.example.com" or "*.example.com", others than ASCII as xn--',
    _is_list_of(_is_host_pattern),
)
PORTS: Rule[Sequence[int | str]] = Rule('must be a list of ports such as 443 or "8000-8999"', _is_list_of(_is_port))
SCHEMES: Rule[Sequence[str]] = Rule('must be a list of "https" and "http"', _is_list_of(_is_scheme))


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


def _is_bare(parts: SplitResult) -> bool:
    return bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/") and not parts.query + parts.fragment


def _is_key(value: Any) -> bool:
    try:
        return _is_text(value) and len(base64.urlsafe_b64decode(value)) == 32
    except ValueError:
        return False


PROXY: Rule[str] = Rule('must be the URL of an HTTP proxy such as "http://proxy:3128", or ""', _is_proxy)
BASE_URL: Rule[str] = Rule(
    'must be the URL of the site without a path, such as "https://netbox.example.org", or ""',
    _is_base_url,
)
KEYS: Rule[Sequence[str]] = Rule("must be a list of keys as Fernet.generate_key() makes them", _is_list_of(_is_key))
