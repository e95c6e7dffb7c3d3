"""The pages of the plugin in NetBox, as a user's browser gets them."""

from __future__ import annotations

import re
from typing import Any

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse


def address(name: str, *args: Any) -> str:
    """The address of a page of the plugin, such as "delivery_list"."""
    return reverse(f"plugins:rq_webhooks:{name}", args=args)


def shown(client: Client, url: str, **query: Any) -> str:
    """The text of a page."""
    answer = client.get(url, query)
    assert answer.status_code == 200, f"{url}: {answer.status_code}"
    return answer.text


def rows(page: str) -> list[str]:
    """The text of each row of the list on a page, without its tags."""
    table = page.partition("<tbody>")[2].partition("</tbody>")[0]
    texts = (" ".join(re.sub("<[^>]*>", " ", row).split()) for row in table.split("</tr>"))
    return [text for text in texts if text and "&mdash;" not in text]


def messages(answer: Any) -> list[str]:
    """The messages on the page to which an act redirects."""
    return [" ".join(str(one).split()) for one in answer.context["messages"]]


def queries_of(client: Client, url: str) -> int:
    """How many queries a page costs."""
    client.get(url)  # the first one fills caches
    with CaptureQueriesContext(connection) as found:
        assert client.get(url).status_code == 200
    return len(found)
