"""Addresses that no link of the plugin has: each is answered, and shows users only what they may see."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import transaction
from django.test import Client
from django.urls import get_resolver, reverse

from dcim.models import Site
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_site_skip, make_webhook
from tests.support.netbox_users import browser, grant, make_user
from webhooks.models import Run, State

pytestmark = [pytest.mark.django_db, pytest.mark.long]

SEED, COUNT = 20261130, 1
"""Each user asks for each address with so many odd queries."""

TOKEN, PAYLOAD, HIDDEN = "t0k3n-in-the-path", "p4yl0ad-of-the-event", "h1dden-webhook"

MODELS = ("webhook", "delivery", "event", "skip", "run")
NEEDED = {"status": "delivery", "why": "webhook", "statistics": "delivery"}
"""The model that a user must be able to view, for pages whose names do not begin with it."""

VALUES = (
    "", " ", "0", "-1", "1", "99", "99999999999999999999", "1e99", "NaN", "null", "true", "\x00", "\u202e", "é", "%",
    "'", "[]", "{}", '{"a": 1}', "a" * 3000, "2020-13-45", "2026-11-30T00:00:00", "0001-01-01", "9999-12-31T23:59:59Z",
    "..", "/etc/passwd", "https://evil.example/", "failed", "table", "name", "-name", "id,name", "dcim.site",
    "dcim.site:1", "rq_webhooks.webhook", "xyz.abc", "00000000-0000-0000-0000-000000000000", "1,2",
    "retry", "hour", "<b>", "{{ 7 }}",
)  # fmt: skip

NAMES = (
    "q", "id", "name", "enabled", "paused", "failing", "object_type", "object_type_id", "object_id", "object", "event",
    "request_id", "webhook", "state", "error_kind", "action", "within", "created_after", "created_before", "username",
    "page", "per_page", "sort", "ordering", "limit", "offset", "start", "export", "include_columns",
    "exclude_columns", "embedded", "return_url", "filter_id", "attempt", "kind", "hours", "since", "rule", "duplicate",
    "brief", "fields", "omit", "format", "tag", "modified_by_request", "created__gte", "name__ic", "superseded", "x",
)  # fmt: skip


@pytest.fixture
def rows() -> dict[str, list[Any]]:
    """The keys of rows by model, each with a key that no row has."""
    site = Site.objects.create(name="AMS1", slug="ams1")
    mine, hidden = (make_webhook(Site, name=name, url=f"https://a.example/{TOKEN}") for name in ("mine", HIDDEN))
    found: dict[str, list[Any]] = {"webhook": [mine.pk, hidden.pk, 0], "delivery": [uuid.UUID(int=7)]}
    found |= {"event": [2**62], "skip": [0], "run": [0], "site": [site.pk]}
    for webhook, state in ((mine, State.FAILED), (hidden, State.PENDING)):
        event = make_site_event(site.pk, data=f'{{"name": "{PAYLOAD}"}}', webhook_ids=[webhook.pk])
        delivery = make_site_delivery(webhook, state, event, reason=f"no answer from {TOKEN}")
        make_attempt(delivery, number=1, url=f"https://a.example/{TOKEN}", response_body=PAYLOAD)
        found["event"].append(event.pk)
        found["delivery"].append(delivery.pk)
        found["skip"].append(make_site_skip(webhook, site.pk).pk)
        filters = {"filters": {"webhook": webhook.pk}, "requested_by": "x", "last_event": 0}
        found["run"].append(Run.objects.create(kind="retry", **filters).pk)
    return found


def addresses(rows: dict[str, list[Any]]) -> Iterator[tuple[str, str]]:
    """Each address of the plugin, with the model that a user must be able to view."""
    for namespaces in (("plugins", "rq_webhooks"), ("plugins-api", "rq_webhooks-api")):
        resolver: Any = get_resolver()
        for one in namespaces:
            resolver = resolver.namespace_dict[one][1]
        for name in sorted(key for key in resolver.reverse_dict if isinstance(key, str)):
            if name == "api-root":
                continue
            model = next((one for one in MODELS if name.startswith(one)), "") or NEEDED[name.partition("_")[0]]
            parameters = resolver.reverse_dict.getlist(name)[0][0][0][1]
            for key in rows[model] if parameters else [None]:
                yield model, reverse(f"{':'.join(namespaces)}:{name}", args=[] if key is None else [key])
    for key in rows["site"]:
        yield "webhook or delivery", reverse("dcim:site_webhooks", args=[key])


@pytest.fixture
def readers() -> dict[str, tuple[Client, set[str]]]:
    """Clients, each with the models that its user may view."""
    some = make_user("view_webhook", constraints={"name": "mine"})
    grant(some, "view_delivery", "view_event", "view_skip", "view_run", "dcim.view_site")
    adder = make_user("add_webhook", "add_run", "retry_delivery", "dcim.view_site")
    all_models = {*MODELS, "webhook or delivery"}
    return {
        "not logged in": (Client(), set()),
        "without permissions": (browser(make_user()), set()),
        "deliveries only": (
            browser(make_user("view_delivery", "dcim.view_site")), {"delivery", "webhook or delivery"},
        ),
        "some webhooks": (browser(some), all_models),
        "adds without viewing": (browser(adder), set()),
        "superuser": (browser(make_user(is_superuser=True)), all_models),
    }  # fmt: skip


def odd_query(chance: random.Random) -> str:
    chosen = [(chance.choice(NAMES), chance.choice(VALUES)) for _ in range(chance.randint(0, 4))]
    return urlencode(chosen)


def test_every_address_is_answered_and_shows_only_what_the_user_may_see(
    rows: dict[str, list[Any]], readers: dict[str, tuple[Client, set[str]]]
) -> None:
    chance, wrong = random.Random(SEED), []
    found = list(addresses(rows))
    assert len(found) > 100
    for model, address in found:
        for name, (client, viewable) in [*readers.items()] * COUNT:
            url = f"{address}?{odd_query(chance)}"
            headers = {"HX-Request": "true"} if chance.random() < 0.2 else {}
            try:
                with transaction.atomic():
                    answer = client.get(url, headers=headers)
            except Exception as error:
                wrong.append(f"{name}: {url}: {type(error).__name__}: {error}")
                continue
            text = b"".join(answer.streaming_content).decode() if answer.streaming else answer.text
            if answer.status_code >= 500:
                wrong.append(f"{name}: {url}: {answer.status_code}")
            if answer.status_code == 200 and model not in viewable and not address.endswith(("/add/", "/import/")):
                wrong.append(f"{name} may see {url}")
            hidden = [] if name == "superuser" else [TOKEN, PAYLOAD]
            hidden += [HIDDEN] if name not in ("superuser", "deliveries only") else []
            wrong += [f"{name} sees {one} at {url}" for one in hidden if one in text]
    assert not wrong, "\n".join(wrong)
