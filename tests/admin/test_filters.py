"""Filters and search with unusual values."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.support.admin_pages import (
    DELIVERIES,
    EVENTS,
    STATUS,
    WEBHOOKS,
)

MANY_DIGITS = "9" * 5_000


@pytest.mark.parametrize(
    ("address", "status"),
    [
        *((f"{rows}?{key}=%00", 200) for rows in (EVENTS, DELIVERIES) for key in ("model", "event_action", "q")),
        (f"{WEBHOOKS}?name__regex=(", 400),
        (f"{WEBHOOKS}?name=%00", 400),
        (f"{WEBHOOKS}?name__exact=a&enabled__exact=1", 200),
        (f"{WEBHOOKS}?object_types__id__exact=1", 200),
        (f"{STATUS}retry-all/?webhook={MANY_DIGITS}", 404),
        (f"{STATUS}retry-all/?webhook=%00", 404),
    ],
)
def test_unusual_addresses_cause_no_server_error(
    database: str, redis: Any, admin_user: User, address: str, status: int
) -> None:
    client = Client()
    client.force_login(admin_user)
    assert client.get(address).status_code == status


def test_unusual_posts_cause_no_server_error(database: str, redis: Any, admin_user: User) -> None:
    client = Client()
    client.force_login(admin_user)
    posted = {"custom_events": "\0", "object_types": [MANY_DIGITS, "\0", "1"], "on_created": "on"}
    assert client.post(f"{WEBHOOKS}try/", posted).status_code == 200
    for pk in (MANY_DIGITS, "\0", "-1", ""):
        assert client.post(f"{STATUS}resume/", {"webhook": pk}).status_code == 302
