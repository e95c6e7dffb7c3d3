"""The pages in German: every text of the app is translated, and plurals, numbers and dates follow the language."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import django
import pytest
from django.apps import apps
from django.db.models import Model
from django.test import Client
from django.utils import translation
from django.utils.text import capfirst

from tests.support.admin_pages import STATUS
from tests.support.every_page import addresses, fill
from tests.support.makers import make_webhook
from tests.support.users import browser
from users.models import User

# Django 6.1 has no German for these texts above the lists of its admin.
OF_DJANGO = {"- Select an option -", "Run"} if django.VERSION >= (6, 1) else set[str]()

# Words that German has from English, texts that people or programs wrote, and names of models.
SAME = re.compile(
    r"""
      (Webhooks?|Name|Status|URL|Body|Header|Filter|HTTP|JSON|Snapshots|Timeout|Secret|Workers?|Test|Queue):?
    | (Redis|Payload|Content-Type|DELETE|Serializer:?|Django-RQ|p50\ /\ p95|24\ h|[0-9]+/min|(in\ )?[0-9]+\ min)
    | (active|planned|ping|tags|status|Search|jane\.doe|admin|CMDB\ sync|DNS\ updater|Access\ control|An\ endpoint.*)
    | (Amsterdam\ AMS[0-9]|AMS1|Rack\ A-17|.*KeyError:\ .*|web1:10803|\{"error".*|HTTP\ 401(\ Unauthorized)?(\ ·)?)
    | (·\ (jane\.doe|CMDB\ sync).*|Webhook:\ CMDB\ sync|Webhooks:\ 1|Rack\ audited.*|rq_webhooks_[a-z0-9_]+)
    | [a-z_]+\.[a-z_]+(\ [0-9]+)?(\ ·)? | .*\ \([a-z]+\.[a-z]+\) | [0-9a-f-]{20,} | https?://.* | [A-Z]{3,5}
    """,
    re.VERBOSE,
)


class Texts(HTMLParser):
    """The visible texts of a page, and the attributes that people read or hear."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found = list[str]()
        self._hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style", "code", "pre", "textarea")
        given = dict(attrs)
        self.found += [given[name] or "" for name in ("title", "aria-label", "placeholder", "alt") if given.get(name)]

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style", "code", "pre", "textarea")

    def handle_data(self, data: str) -> None:
        if not self._hidden and (text := " ".join(data.split())):
            self.found.append(text)


def texts(client: Client, address: str, language: str) -> set[str]:
    with translation.override(language):  # the middleware leaves its language to the next test
        response: Any = client.get(address, headers={"Accept-Language": language})
    assert response.status_code == 200, address
    page = response.content.decode()
    content = page[page.find(">", page.find('id="content"')) + 1 :]
    return {one for one in Texts(content).found if re.search("[A-Za-z]{3}", one)}


def _untranslated(client: Client, address: str) -> set[str]:
    both = texts(client, address, "en") & texts(client, address, "de")
    of_host = {str(text) for model in apps.get_models() for text in _names(model)}
    return {one for one in both - of_host - OF_DJANGO if not SAME.fullmatch(one)}


def _names(model: type[Model]) -> list[str]:
    """The names of a model of the host in the admin's lists and forms."""
    meta = model._meta
    if meta.app_label == "rq_webhooks":
        return []
    return [capfirst(str(meta.verbose_name_plural)), str(meta.verbose_name), meta.app_config.verbose_name]


@pytest.mark.one_database
def test_every_text_of_every_page_is_translated(db: None, redis: Any) -> None:
    fill()
    client = browser(User.objects.create_superuser("admin"))
    same = {address: found for address in addresses() if (found := _untranslated(client, address))}
    assert not same, "\n".join(f"{address}: {text}" for address, found in same.items() for text in sorted(found))


@pytest.mark.usefixtures("in_utc")
def test_the_reason_of_a_disabled_webhook_is_translated(admin_client: Client) -> None:
    make_webhook(enabled=False, disabled_reason="gone")
    since = datetime(2026, 11, 22, 2, 11, tzinfo=UTC)
    make_webhook(enabled=False, disabled_reason="failing", failing_since=since, last_failure="HTTP 503")
    shown = "\n".join(texts(admin_client, STATUS, "de"))
    assert "mit 410 Gone geantwortet" in shown
    assert "jeder Versuch seit 22.11.2026 02:11:00 UTC ist gescheitert, der letzte mit: HTTP 503" in shown
