"""How many changes a second NetBox's usual worker sends, for NetBox's own event rule and for a webhook of the app.

Run it alone, on a machine that does nothing else: ``scripts/test-netbox -m long -k rates``. docs/performance.md has the
figures. Both send what waits for them, one after the other, to the same receiver.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core.events import OBJECT_CREATED
from django.contrib.contenttypes.models import ContentType
from extras.models import EventRule
from extras.models import Webhook as OwnWebhook
from redis import Redis

from dcim.models import Site
from tests.netbox.workers import redis_alone, usual_worker
from tests.support.inbox import Inbox, ReceiverProcess
from tests.support.netbox import admin, api_client, content_types, watch
from webhooks.models import Webhook

pytestmark = [pytest.mark.long, pytest.mark.django_db(transaction=True)]

# Changes in one request, and requests of each side: NetBox's own way takes longer.
AT_ONCE = 100
OWN_REQUESTS, REQUESTS = 1, 10


@pytest.fixture
def redis() -> Iterator[Redis]:
    with redis_alone() as redis:
        yield redis


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    process = ReceiverProcess()
    yield Inbox(process)
    process.stop()


def create_sites(prefix: str, requests: int) -> int:
    api = api_client(admin(prefix))
    for request in range(requests):
        sites = [{"name": name, "slug": name} for name in (f"{prefix}-{request}-{n}" for n in range(AT_ONCE))]
        assert api.post("/api/dcim/sites/", sites, format="json").status_code == 201
    return requests * AT_ONCE


def rate_of(inbox: Inbox, count: int, redis: Redis, log: Path) -> float:
    """Requests a second, from the first to the last."""
    with usual_worker(redis, log):
        received = inbox.wait_for(count, seconds=60)
    assert len({one.json["data"]["id"] for one in received}) == len(received) == count
    times = sorted(one.at for one in received)
    return (count - 1) / (times[-1] - times[0])


def test_the_app_sends_more_changes_a_second_than_netboxs_own_rule(
    redis: Redis, inbox: Inbox, tmp_path: Path, capsys: Any
) -> None:
    own = OwnWebhook.objects.create(name="Own", payload_url=inbox.url("ok"))
    chosen = ContentType.objects.get_for_model(OwnWebhook)
    rule = EventRule.objects.create(
        name="Own", event_types=[OBJECT_CREATED], action_object_type=chosen, action_object_id=own.pk
    )
    rule.object_types.set(content_types(("dcim.site",)))
    own_rate = rate_of(inbox, create_sites("own", OWN_REQUESTS), redis, tmp_path / "own.log")
    rule.delete()
    inbox = Inbox(inbox._receiver)
    watch("dcim.site", payload_url=inbox.url("ok"))
    rate = rate_of(inbox, create_sites("app", REQUESTS), redis, tmp_path / "app.log")
    assert Site.objects.count() == (OWN_REQUESTS + REQUESTS) * AT_ONCE
    assert Webhook.objects.get().paused_at is None
    with capsys.disabled():
        print(
            f"\n{rate:,.0f} deliveries/s of the app, {own_rate:,.1f} of NetBox's own rule: {rate / own_rate:.0f} times"
        )
    assert rate > own_rate
