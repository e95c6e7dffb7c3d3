"""Hostile names and answers cannot break a page of the admin or forge a log line."""

from __future__ import annotations

import logging
import re
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pytest
from django.db import DatabaseError
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from tests.support.hostile_rows import CORPUS, MARK, TOGETHER, fill, pages
from tests.support.makers import make_webhook
from tests.testapp.api.serializers import FragileSerializer
from tests.testapp.models import Fragile
from users.models import User
from webhooks.ground.text import escape_invisible, one_line
from webhooks.models import Delivery, Event, Webhook


class Page(HTMLParser):
    """Finds markup in a page that a browser would run."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.dangers: list[str] = []
        self._open = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        for name, value in attrs:
            is_link = name in ("href", "src", "action", "formaction")
            is_script = is_link and (value or "").strip().lower().startswith("javascript:")
            if ((name.startswith("on") or is_script) and MARK in (value or "")) or MARK in name:
                self.dangers.append(f"<{tag} {name}={value!r}>")
        if tag in ("iframe", "object", "embed", "base") or dict(attrs).get("src") == "x":
            self.dangers.append(f"<{tag}>")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style") and MARK in data:
            self.dangers.append(data)

    def handle_comment(self, data: str) -> None:
        if MARK in data:
            self.dangers.append(data)


# Forms show their input unchanged. Other pages here belong to Django or REST framework.
NOT_WRITTEN_OUT = re.compile(r"/webhook/(add|\d+/(change|ping))/|form|/api/.*|/admin/(rq_webhooks/)?$")


def clean_of_nul(text: str) -> str:
    return text.replace("\0", "")


@pytest.fixture
def browser(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    return client


def answers_of(browser: Client, text: str, addresses: list[str]) -> list[tuple[str, Any]]:
    api = APIClient()
    api.force_authenticate(User.objects.get(email="admin"))
    got = [(address, browser.get(address)) for address in addresses]
    for model in ("webhook", "delivery", "event"):
        address = reverse(f"admin:rq_webhooks_{model}_changelist")
        got.append((f"search {address}", browser.get(address, {"q": text})))
    chosen = list(Webhook.objects.values_list("pk", flat=True))
    asked = {"action": "delete_selected", "_selected_action": chosen}
    got.append(("delete selected", browser.post(reverse("admin:rq_webhooks_webhook_changelist"), asked)))
    refused = {"name": text, "payload_url": text, "additional_headers": text, "body_template": text}
    got.append(("refused form", browser.post(reverse("admin:rq_webhooks_webhook_add"), refused)))
    for kind in ("webhooks", "deliveries", "events"):
        address = f"/api/webhooks/{kind}/"
        got.append((address, api.get(address, HTTP_ACCEPT="text/html")))
        of_rows = [f"{address}{row['id']}/" for row in api.get(address).json()["results"][:1]]
        got += [(one, api.get(one, HTTP_ACCEPT="text/html")) for one in of_rows]
    # Requests that change rows come last.
    failed = Delivery.objects.failed().get()
    for address, data in (
        (
            reverse("admin:rq_webhooks_webhook_resume", args=[Webhook.objects.paused().get().pk]),
            {"next": reverse("webhooks_backend_status")},
        ),
        (reverse("admin:rq_webhooks_event_replay", args=[Event.objects.failed().get().pk]), {}),
        (reverse("admin:rq_webhooks_delivery_retry", args=[failed.pk]), {}),
        (reverse("admin:rq_webhooks_delivery_discard", args=[failed.pk]), {}),
        (reverse("admin:rq_webhooks_webhook_changelist"), {"action": "enable", "_selected_action": chosen}),
        (reverse("admin:rq_webhooks_webhook_ping", args=[chosen[0]]), {}),
    ):
        got.append((f"POST {address}", browser.post(address, data, follow=True)))
    return got


@pytest.mark.one_database
@pytest.mark.parametrize("name", TOGETHER)
def test_hostile_text_breaks_no_page(name: str, browser: Client, redis: Any, figures: Any, is_long: bool) -> None:
    """Without --long, each text that is no markup has a third of the pages."""
    text = TOGETHER[name]
    assert len(text) <= 150 or name == "long"
    fill(text, redis)
    # Rows of other states show a text in no other way, so one text is enough for them.
    addresses = pages(of_each_row=name == "markup")
    others = [one for one in TOGETHER if "markup" not in one]
    parts = 1 if is_long or name not in others else len(others)
    if parts > 1:
        addresses = addresses[others.index(name) :: parts]
    answers = answers_of(browser, text, addresses)
    telling = 0
    for address, answer in answers:
        assert answer.status_code == 200, address
        content = answer.content.decode()
        telling += MARK in content
        assert not Page(content).dangers, address
        assert "7000007" not in content, address
        if not NOT_WRITTEN_OUT.search(address):
            assert escape_invisible(content) == content, address
    assert telling > 30 / parts
    figures(f"{len(answers)} pages and answers, {telling} with it")


def test_a_name_with_invisible_characters_is_refused(browser: Client) -> None:
    answer = browser.post(reverse("admin:rq_webhooks_webhook_add"), {"name": f"a{CORPUS['direction']}"})
    [error] = answer.context["adminform"].form.errors["name"]
    assert error == rf"Contains invisible characters: a\u202e{MARK}\u2066\u2069\u202d\u200f"


@pytest.mark.one_database
@pytest.mark.parametrize("name", CORPUS)
def test_a_name_cannot_forge_a_log_line(name: str, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    text = clean_of_nul(CORPUS[name])
    handler = logging.StreamHandler(StringIO())
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("webhooks").addHandler(handler)
    make_webhook(Fragile)

    def has_no_name(self: Fragile) -> str:
        raise DatabaseError(text)

    try:
        monkeypatch.setattr(Fragile, "__str__", has_no_name)
        Fragile.objects.create(name=text[:50], behaviour="raises")

        def breaks(*args: Any) -> None:
            raise RuntimeError(text)

        monkeypatch.setattr(FragileSerializer, "to_representation", breaks)
        Fragile.objects.create(name=text[:50])
        monkeypatch.setattr("webhooks.capture.events.record_now", breaks)
        Fragile.objects.create(name=text[:50])
    finally:
        logging.getLogger("webhooks").removeHandler(handler)
    lines = handler.stream.getvalue().splitlines()  # type: ignore[attr-defined]
    records = [line for line in lines if not line.startswith("  | ")]
    assert len(records) == 5
    for line in lines:
        assert line == one_line(line)
        assert line.startswith(("ERROR webhooks.", "WARNING webhooks.", "  | "))
