"""Why nothing arrived: each cause is made with a real worker, receiver and Valkey, and read in two clicks or fewer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.urls import reverse
from playwright.sync_api import Locator, Page, expect

from dcim.api.serializers import SiteSerializer
from dcim.models import Site
from tests.support import servers
from tests.support.certificates import make_certificate
from tests.support.figures import Figures
from tests.support.inbox import Inbox, ReceiverProcess
from tests.support.makers import make_webhook
from tests.support.valkey import Valkey
from tests.support.waiting import until
from tests.support.workers import Workers
from webhooks.models import Delivery, Event, QueuedDelivery, Skip, State, Webhook
from webhooks.operations import webhooks as acts

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.postgresql]


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    server = Valkey()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def redis_url(redis_url: str, valkey: Valkey) -> Iterator[str]:
    """A Valkey for this module, so that the test can kill it."""
    servers.point_queues_to(valkey.url)
    yield valkey.url
    servers.point_queues_to(redis_url)


@pytest.fixture
def insecure_url(tmp_path: Path) -> Iterator[str]:
    """A receiver with a certificate that no system trusts."""
    made = make_certificate(tmp_path)
    process = ReceiverProcess(made.certificate, made.key)
    yield Inbox(process).url()
    process.stop()


class Reader:
    """An admin who opens the index, and clicks."""

    def __init__(self, page: Page, figures: Figures) -> None:
        self._page, self._figures = page, figures

    def status(self) -> Locator:
        self._page.goto("/admin/")
        self._page.get_by_role("link", name=re.compile("^Webhooks: ")).click()
        return self._page.locator("#wh-problems")

    def finds(self, cause: str, knowable: Callable[[], Any], *words: str, buttons: tuple[str, ...] = ()) -> None:
        """Wait until the cause can be known, then look for a box with its words and buttons."""
        until(knowable, 30, f"{cause} to be knowable")
        begun = time.monotonic()
        box = self.status().locator("li.wh-cause")
        for word in words:
            box = box.filter(has_text=word)
        expect(box).to_have_count(1)
        for label in buttons:
            expect(box.get_by_role("button", name=label).or_(box.get_by_role("link", name=label)).first).to_be_visible()
        self._figures(f"{cause}: {time.monotonic() - begun:.1f} s after it was knowable")

    def asks_why(self, site: Site, webhook: str) -> Locator:
        """The page "Why didn't it fire?": a click opens it, another one asks."""
        self._page.goto("/admin/")
        self._page.get_by_role("link", name="Why didn't it fire?").click()
        self._page.get_by_label("Model", exact=True).select_option("dcim.site")
        self._page.get_by_label("Id or name of the object").fill(site.name)
        self._page.get_by_role("button", name="Ask").click()
        return self._page.locator(".wh-verdict", has_text=webhook).first

    def reloads_why(self, site: Site, webhook: str) -> Locator:
        """The same page by its address."""
        self._page.goto(f"{reverse('webhooks_why')}?object_type=dcim.site&object_id={site.pk}")
        return self._page.locator(".wh-verdict", has_text=webhook).first

    def is_told_why(self, cause: str, site: Site, webhook: str, *words: str) -> None:
        begun = time.monotonic()
        verdict = self.asks_why(site, webhook)
        for word in words:
            expect(verdict).to_contain_text(word)
        self._figures(f"{cause}: {time.monotonic() - begun:.1f} s")


def test_each_cause_and_its_remedy_is_two_clicks_from_the_index(
    page: Page, workers: Workers, inbox: Inbox, insecure_url: str, valkey: Valkey, figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    reader = Reader(page, figures)
    worker = workers.start(RETRY_SCHEDULE=[600], PAUSE_AFTER=2)
    worker.wait_until_listening()

    def change(name: str, url: str, **fields: Any) -> Callable[[], Any]:
        """A webhook for one new site. Returns whether its first attempt has failed."""
        Webhook.objects.update(on_created=False, on_deleted=True)
        webhook = make_webhook(Site, name=name, url=url, on="c", **fields)
        Site.objects.create(name=f"Site of {name}", slug=f"site-{webhook.pk}")
        return lambda: Webhook.objects.get(pk=webhook.pk).last_failure_at

    down = change("Down", "http://127.0.0.1:1/")
    reader.finds("receiver down", down, "“Down”", "connection refused", "Start the receiver", buttons=("Send test",))
    refused = change("Refused", inbox.url("status/401"))
    reader.finds("401", refused, "“Refused”", "HTTP 401", "Compare the secret", buttons=("See request", "Send test"))
    untrusted = change("Untrusted", insecure_url)
    reader.finds("TLS", untrusted, "“Untrusted”", "certificate", "CA file", buttons=("See request",))
    gone = change("Gone", inbox.url("status/410"))
    reader.finds("410", gone, "“Gone”", "410 Gone", "enter the new URL", buttons=("Enable",))

    # The head of a lane, and what waits behind it.
    head = change("Head", inbox.url("status/500"))
    until(head, 30, "the first attempt")
    Webhook.objects.filter(name="Head").update(on_updated=True)
    site = Site.objects.get(name="Site of Head")
    site.save()

    def is_behind() -> bool:
        return QueuedDelivery.objects.filter(webhook__name="Head", state=State.WAITING).exists()

    reader.finds("behind a head", is_behind, "“Head”", "HTTP 500", "1 more problem because of this")
    Webhook.objects.filter(name="Head").update(on_updated=False)

    change("Paused", inbox.url())
    acts.pause(Webhook.objects.filter(name="Paused"), "jane.doe")
    reader.finds("paused", lambda: True, "“Paused” was paused by jane.doe", "Resume it", buttons=("Resume",))

    with monkeypatch.context() as broken:
        broken.setattr(SiteSerializer, "to_representation", lambda self, instance: {}["rack"])
        change("Serialized", inbox.url())
    failed = Event.objects.exclude(error="")
    reader.finds("serializer error", failed.exists, "1 event failed", "KeyError: 'rack'", buttons=("See the error",))

    change("Disabled", inbox.url(), enabled=False)
    until(Skip.objects.exists, 30, "the skip")
    reader.is_told_why("disabled", Site.objects.get(name="Site of Disabled"), "Disabled", "Enable the webhook")
    change("Conditions", inbox.url(), conditions={"attr": "status.value", "value": "retired"})
    conditional = Site.objects.get(name="Site of Conditions")
    reader.is_told_why("condition", conditional, "Conditions", 'status.value eq "retired"', "change the conditions")

    worker.stop()
    change("Alone", inbox.url())
    reader.finds("no worker", lambda: True, "No worker is running", "rqworker webhooks")
    valkey.kill()
    reader.finds("Redis down", lambda: True, "Redis cannot be used")
    valkey.revive()


def test_the_buttons_beside_a_verdict_end_what_it_found(
    page: Page, workers: Workers, inbox: Inbox, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(page, figures)
    workers.start(RETRY_SCHEDULE=[600]).wait_until_listening()

    def presses(label: str, site: Site, webhook: Webhook) -> None:
        reader.reloads_why(site, webhook.name).get_by_role("button", name=label).click()
        expect(page.locator(".messagelist .success")).to_be_visible()
        until(lambda: Delivery.objects.filter(webhook=webhook).in_states(State.SUCCEEDED), 30, f"success after {label}")
        assert inbox.received(f"ok/{label}")
        expect(reader.reloads_why(site, webhook.name).get_by_text("sent", exact=True)).to_be_visible()

    failing = make_webhook(Site, name="Fails once", url=inbox.url("status/400"), on="c")
    site = Site.objects.create(name="Retried", slug="retried")
    until(lambda: Webhook.objects.get(pk=failing.pk).last_failure_at, 30, "the failure")
    Webhook.objects.update(payload_url=inbox.url("ok/Retry"), on_created=False, on_deleted=True)
    presses("Retry", site, failing)

    paused = make_webhook(Site, name="Paused", url=inbox.url("ok/Resume"), on="c")
    acts.pause(Webhook.objects.filter(pk=paused.pk), "jane.doe")
    presses("Resume", Site.objects.create(name="Resumed", slug="resumed"), paused)
    Webhook.objects.update(on_created=False, on_deleted=True)

    broken = make_webhook(Site, name="Broken", url=inbox.url("ok/Replay"), on="c")
    with monkeypatch.context() as patched:
        patched.setattr(SiteSerializer, "to_representation", lambda self, instance: {}["rack"])
        site = Site.objects.create(name="Replayed", slug="replayed")
    presses("Replay", site, broken)

    late = make_webhook(Site, name="Late", url=inbox.url("ok/Backfill"), on="c")
    reader.reloads_why(site, late.name).get_by_role("link", name="Open the webhook").click()
    page.get_by_role("link", name="Backfill").click()
    page.get_by_role("button", name="Show what would be sent").click()
    page.get_by_role("button", name=re.compile("^Send . now")).click()
    expect(page.get_by_text("has begun: backfill of events for Late")).to_be_visible()
    until(lambda: Delivery.objects.filter(webhook=late).count() == 3, 30, "the end of the backfill")
    until(lambda: not QueuedDelivery.objects.exists(), 30, "the last record")
    expect(reader.reloads_why(site, late.name).get_by_text("sent", exact=True)).to_be_visible()
