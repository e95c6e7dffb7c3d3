"""What the REST APIs of NetBox and Nautobot answered: kept in files, or asked for page by page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from webhooks.network import url_policy
from webhooks.network.outcome import explain

LARGEST = 50_000_000  # bytes of one answer
PAGES = 1_000  # of one list
DEEPEST = 100  # lists and objects within each other
TIMEOUT = 30  # seconds for each read

WEBHOOKS, RULES = "webhooks", "event rules"
_PATHS = ("/api/extras/webhooks/", "/api/extras/event-rules/")

Item = dict[str, Any]


class UnreadableSource(Exception):
    """A source that gives no webhooks, with the reason."""


class _NotThere(UnreadableSource):
    pass


@dataclass
class Answers:
    """What was read, each item once; ``counts`` is how many there are by what the server says."""

    items: dict[str, dict[Any, Item]] = field(default_factory=lambda: {WEBHOOKS: {}, RULES: {}})
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def webhooks(self) -> list[Item]:
        return list(self.items[WEBHOOKS].values())

    @property
    def rules(self) -> list[Item]:
        return list(self.items[RULES].values())

    @property
    def missing(self) -> list[str]:
        """What more there is than was read, in words."""
        return [
            f"only {len(self.items[kind])} of {count} {kind} were given: give the files of the other pages too"
            for kind, count in self.counts.items()
            if len(self.items[kind]) < count
        ]

    def add(self, answer: Any, source: str) -> None:
        """Take in one answer, a list of answers, or a list of items."""
        if isinstance(answer, list):
            for one in answer:
                self.add(one, source)
        elif isinstance(answer, dict) and isinstance(answer.get("results"), list):
            kinds = {self._add_item(item, source) for item in answer["results"]}
            count = answer.get("count")
            if isinstance(count, int):
                self.counts |= dict.fromkeys(kinds, count)
        else:
            self._add_item(answer, source)

    def _add_item(self, item: Any, source: str) -> str:
        keys = item.keys() if isinstance(item, dict) else ()
        kind = WEBHOOKS if "payload_url" in keys else RULES if "action_type" in keys else ""
        if not kind or not isinstance(item.get("id"), int | str):
            raise UnreadableSource(
                f"{source} is no answer of /api/extras/webhooks/ or /api/extras/event-rules/: there is something in it "
                "that is neither a webhook nor an event rule"
            )
        known = self.items[kind].setdefault(item["id"], item)
        if known.get("name") != item.get("name"):
            raise UnreadableSource(f"two {kind} have the id {item['id']}: import from one server at a time")
        return kind


def read(sources: Iterable[str], token: str = "") -> Answers:  # nosec B107 # none by default
    """Read files and URLs. Of a URL that does not lead into the API, both lists are asked for; the ``token`` goes
    to the origin of each URL and nowhere else. Raises UnreadableSource."""
    answers = Answers()
    for source in sources:
        if source.lower().startswith(("http://", "https://")):
            for url, answer in _asked(source, token):
                answers.add(answer, url)
        else:
            answers.add(_in_file(source), source)
    return answers


def _in_file(path: str) -> Any:
    if "://" in path:
        raise UnreadableSource("Only http:// and https:// can be asked.")
    try:
        return _parsed(Path(path).read_bytes())
    except OSError as error:
        raise UnreadableSource(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableSource(f"{path} is no JSON: {error}") from error


def _parsed(text: bytes) -> Any:
    """Raises ValueError or RecursionError."""
    value = json.loads(text)
    level, depth = [value], 0
    while level := [inner for one in level for inner in _within(one)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"lists and objects stand more than {DEEPEST} deep in each other")
    return value


def _within(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()


def _asked(url: str, token: str) -> Iterator[tuple[str, Any]]:
    if reason := url_policy.problem(url):
        raise UnreadableSource(reason)
    if "/api/extras/" in urlsplit(url).path:
        yield from _pages(url, token)
        return
    root = url.partition("?")[0].partition("#")[0].rstrip("/").removesuffix("/api")
    webhooks, rules = (root + path for path in _PATHS)
    yield from _pages(webhooks, token)
    try:
        yield from _pages(rules, token)
    except _NotThere:
        return  # Nautobot, and NetBox before 3.7, have none: their webhooks say themselves what they want


def _pages(first: str, token: str) -> Iterator[tuple[str, Any]]:
    url, seen = first, set[str]()
    while url:
        if url in seen or len(seen) == PAGES:
            raise UnreadableSource(f"the pages of {first} have no end")
        seen.add(url)
        answer = _get(url, token)
        yield url, answer
        url = _next(answer, url)


def _next(answer: Any, url: str) -> str:
    following = answer.get("next") if isinstance(answer, dict) else None
    if not following:
        return ""
    try:
        target = urljoin(url, str(following))
        is_same = url_policy.parse(target) == url_policy.parse(url)
    except ValueError:  # BadURL is one, too
        target, is_same = str(following), False
    if not is_same:
        # The token is for this server, and an answer must not choose what else is asked from here.
        raise UnreadableSource(
            f"{url} says that its next page is at {target}, which is another origin and is not asked; fetch the pages "
            "into files and give those"
        )
    return target


def _get(url: str, token: str) -> Any:
    try:
        with requests.get(
            url,
            headers={"Accept": "application/json"},
            auth=_Token(token),
            timeout=TIMEOUT,
            allow_redirects=False,
            stream=True,
        ) as response:
            _refuse(url, response)
            body = b"".join(_limited(url, response))
    except requests.RequestException as error:
        raise UnreadableSource(f"{url} cannot be asked: {explain(error, TIMEOUT)}") from error
    try:
        return _parsed(body)
    except (ValueError, RecursionError) as error:
        raise UnreadableSource(f"{url} did not answer with JSON: {error}") from error


def _limited(url: str, response: requests.Response) -> Iterator[bytes]:
    size = 0
    for chunk in response.iter_content(65536):
        size += len(chunk)
        if size > LARGEST:
            raise UnreadableSource(f"{url} answers with more than {LARGEST:,} bytes")
        yield chunk


def _refuse(url: str, response: requests.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    said = f"{url} answered HTTP {status}"
    if status == 404:
        raise _NotThere(f"{said}: there is no such list; is it the URL of a NetBox or Nautobot?")
    if 300 <= status < 400:
        raise UnreadableSource(
            f"{said}, a redirect to {response.headers.get('Location', 'nowhere')}, which is not followed"
        )
    if status in (401, 403):
        raise UnreadableSource(f"{said}: it wants a token that may view webhooks and event rules")
    raise UnreadableSource(said)


class _Token(requests.auth.AuthBase):
    """Also without a token, so that no password is taken from a .netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            # NetBox's tokens of version 2 begin like this; those before, and Nautobot's, have a scheme of their own.
            scheme = "Bearer" if self._token.startswith("nbt_") else "Token"
            request.headers["Authorization"] = f"{scheme} {self._token}"
        return request
