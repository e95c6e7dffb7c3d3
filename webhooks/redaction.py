"""What a user reads of URLs, headers and templates, which may be secrets in themselves, as a chat's URL is.

In full, if they may change webhooks. Others read where a URL leads to, and of failures and answers what has nothing of
the rest in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from webhooks import permissions
from webhooks.models import Attempt, Webhook
from webhooks.network import headers, url_policy
from webhooks.network.outcome import error_kind
from webhooks.text import hide

TO_WHOM = "shown to those who may change the webhook (webhooks.change_webhook)"

# What follows the host is a secret from so many characters on; a part of it, as a word of a header is.
SHORTEST = 4

_ENDS_OF_PARTS = re.compile(r"[/?#&=;]")


@dataclass(frozen=True)
class Disclosure:
    """What one user may read of a webhook; ``in_full`` is everything."""

    in_full: bool

    def url(self, url: str) -> str:
        return url if self.in_full else url_policy.redacted(url)

    def reason(self, reason: str) -> str:
        """Why an attempt failed."""
        return reason if self.in_full else error_kind(reason)

    def headers(self, attempt: Attempt, webhook: Webhook) -> dict[str, str]:
        """What the receiver answered to an attempt, without what it repeated of the request."""
        return {name: self._answered(value, attempt, webhook) for name, value in attempt.response_headers.items()}

    def body(self, attempt: Attempt, webhook: Webhook) -> str:
        return self._answered(attempt.response_body, attempt, webhook)

    def _answered(self, text: str, attempt: Attempt, webhook: Webhook) -> str:
        return text if self.in_full else hide(text, _repeated(attempt.url, webhook.additional_headers))


def to(user: Any) -> Callable[[int], Disclosure]:
    """What the user may read of the webhook of an id."""
    is_in_full = permissions.changeable(user)
    return lambda webhook_id: Disclosure(is_in_full(webhook_id))


@lru_cache(maxsize=256)
def _repeated(url: str, header_lines: str) -> frozenset[str]:
    return frozenset([*_parts(url), *_words(header_lines)])


def _parts(url: str) -> Iterator[str]:
    _, rest = url_policy.split(url)
    for text in {rest, unquote(rest)}:
        if len(text) >= SHORTEST:
            yield text
        yield from (part for part in _ENDS_OF_PARTS.split(text) if len(part) >= headers.SECRET_WORD_LENGTH)


def _words(header_lines: str) -> Iterator[str]:
    for line in header_lines.splitlines():
        yield from (word for word in line.partition(":")[2].split() if len(word) >= headers.SECRET_WORD_LENGTH)
