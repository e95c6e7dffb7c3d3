"""Read the webhooks and event rules of a NetBox or Nautobot, from files or page by page from its REST API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from webhooks.network import url_policy
from webhooks.network.attempt import explain
from webhooks.text import clean

PAGE = 1000  # items, the default maximum of both
TIMEOUT = 30  # seconds for each read

WEBHOOKS, RULES = "webhooks", "event rules"
WEBHOOKS_PATH, RULES_PATH = "/api/extras/webhooks/", "/api/extras/event-rules/"


class Item(dict[str, Any]):
    """A webhook or an event rule, with typed values. A value of another type counts as missing."""

    def text(self, key: str) -> str:
        value = self.get(key)
        return clean(value.strip()) if isinstance(value, str) else ""

    def texts(self, key: str) -> list[str]:
        value = self.get(key)
        return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []

    def choice(self, key: str) -> str:
        """The value of a choice. Some versions write it with its label."""
        value = self.get(key)
        return str((value.get("value") if isinstance(value, dict) else value) or "")

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        return value if isinstance(value, bool) else default


class UnreadableSource(Exception):
    """A source without webhooks, with the reason."""


class _NotFound(UnreadableSource):
    pass


@dataclass
class Responses:
    """Webhooks and event rules by id. ``counts`` has the number of each that the server reports."""

    webhooks: dict[Any, Item] = field(default_factory=dict)
    rules: dict[Any, Item] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """A sentence for each list with missing pages."""
        return [
            f"only {len(found)} of {self.counts[kind]} {kind} were given: give the files of the other pages too"
            for kind, found in ((WEBHOOKS, self.webhooks), (RULES, self.rules))
            if len(found) < self.counts.get(kind, 0)
        ]

    def add(self, response: Any, source: str) -> None:
        """Add one response, a list of responses, or a list of items. Raises UnreadableSource."""
        for one in response if isinstance(response, list) else [response]:
            if isinstance(one, dict) and isinstance(one.get("results"), list):
                kinds = {self._add_item(item, source) for item in one["results"]}
                count = one.get("count")
                if isinstance(count, int):
                    self.counts |= dict.fromkeys(kinds, count)
            else:
                self._add_item(one, source)

    def _add_item(self, item: Any, source: str) -> str:
        keys = item.keys() if isinstance(item, dict) else ()
        kind = WEBHOOKS if "payload_url" in keys else RULES if "action_type" in keys else ""
        if not kind or not isinstance(item.get("id"), int | str):
            raise UnreadableSource(
                f"{source} is no response of {WEBHOOKS_PATH} or {RULES_PATH}: it contains something that is neither a "
                "webhook nor an event rule"
            )
        found = self.webhooks if kind == WEBHOOKS else self.rules
        known = found.setdefault(item["id"], Item(item))
        if known.get("name") != item.get("name"):
            raise UnreadableSource(f"two {kind} have the id {item['id']}: import from one server at a time")
        return kind


def read(sources: Iterable[str], token: str = "") -> Responses:  # nosec B107 # none by default
    """Read files and URLs. For a URL outside the API, read both lists. Raises UnreadableSource.

    The ``token`` goes only to the server of each URL."""
    responses = Responses()
    for source in sources:
        if source.lower().startswith(("http://", "https://")):
            for url, response in _fetch_lists(source, token):
                responses.add(response, url)
        elif "://" in source:
            raise UnreadableSource("Only http:// and https:// URLs can be read.")
        else:
            try:
                responses.add(json.loads(Path(source).read_bytes()), source)
            except OSError as error:
                raise UnreadableSource(f"{source} cannot be read: {error.strerror}") from error
            except (ValueError, RecursionError) as error:
                raise UnreadableSource(f"{source} is no JSON: {error}") from error
    return responses


def _fetch_lists(url: str, token: str) -> Iterator[tuple[str, Any]]:
    if problem := url_policy.problem(url):
        raise UnreadableSource(problem)
    if "/api/extras/" in urlsplit(url).path:
        yield from _fetch_pages(url, token)
        return
    root = url.partition("?")[0].partition("#")[0].rstrip("/").removesuffix("/api")
    yield from _fetch_pages(root + WEBHOOKS_PATH, token)
    try:
        yield from _fetch_pages(root + RULES_PATH, token)
    except _NotFound:
        return  # Nautobot, and NetBox before 3.7, have no event rules: webhooks have their own models and actions


def _fetch_pages(url: str, token: str) -> Iterator[tuple[str, Any]]:
    """The pages of a list, found by number: behind a proxy, the ``next`` of a response may name another server."""
    read = 0
    while True:
        response = _fetch(url, token, read)
        yield url, response
        page = response if isinstance(response, dict) else {}
        results, count = page.get("results"), page.get("count")
        if not results or not isinstance(count, int) or read + len(results) >= count:
            return
        read += len(results)


def _fetch(url: str, token: str, offset: int) -> Any:
    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if token:
            # NetBox's tokens of version 2 have this prefix. Older ones, and Nautobot's, have another scheme.
            request.headers["Authorization"] = f"{'Bearer' if token.startswith('nbt_') else 'Token'} {token}"
        return request

    try:
        response = requests.get(
            url,
            params={"limit": PAGE, "offset": offset},
            headers={"Accept": "application/json"},
            auth=authorize,  # also without a token: otherwise requests would read a password from a .netrc
            timeout=TIMEOUT,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        raise UnreadableSource(f"{url} cannot be read: {explain(error, TIMEOUT)[1]}") from error
    _check_status(url, response)
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        raise UnreadableSource(f"{url} did not answer with JSON: {error}") from error


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    problem = f"{url} answered HTTP {status}"
    if status == 404:
        raise _NotFound(f"{problem}: there is no such list. Is it the URL of a NetBox or Nautobot?")
    if status in (401, 403):
        problem += ": the token needs permission to view webhooks and event rules"
    if 300 <= status < 400:
        problem += f", a redirect to {response.headers.get('Location', 'nowhere')}, which is not followed"
    if status != 200:
        raise UnreadableSource(problem)
