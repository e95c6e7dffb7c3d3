"""Nothing that an object, a receiver, a user or a worker is called, or says, can break a page of the admin."""

from __future__ import annotations

import json
import logging
import re
from html.parser import HTMLParser
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient
from rq import Queue, Worker

from dcim.models import Site
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_webhook
from tests.testapp.api.serializers import FragileSerializer
from tests.testapp.models import Fragile
from webhooks.models import Delivery, Event, State, Webhook
from webhooks.operations import history
from webhooks.text import escape_invisible

MARK = "wicked"
CORPUS = {
    "script": f"<script>{MARK}()</script>",
    "end of a script": f"</script><script>{MARK}()</script>",
    "end of a text area": f"</textarea></pre></title></style><svg onload={MARK}()>",
    "image": f"<img src=x onerror={MARK}()>",
    "attribute": f'" onmouseover="{MARK}()" x=\'',
    "other attribute": f"' autofocus onfocus='{MARK}()",
    "comment": f"--><iframe src=javascript:{MARK}()></iframe><!--",
    "entity": f"&lt;script&gt;{MARK}()&lt;/script&gt;&#x202e;",
    "template": f"{{{{ 7|add:7000000 }}}}{{% debug %}}{{# {MARK} #}}",
    "address": f"javascript:{MARK}()",
    "direction": f"\u202e{MARK}\u2066\u2069\u202d\u200f",
    "controls": f"\x1b[31m{MARK}\x07\x08\x7f\x85\x9b",
    "breaks": f"{MARK}\n2026-01-01 00:00:00,000 ERROR root: {MARK}\r\n\u2028\u2029\x0b\x0c",
    "byte order mark": f"\ufeff{MARK}",
    "half a pair": f"\\ud800{MARK}\\udc00",
    "format": f"%s %(x)s {{0}} {{x!r}} {MARK}",
    "long": MARK * 500,
}

# Several at once, as many as a name has room for: there are sixty pages to look at for each.
TOGETHER = {
    "markup": "".join(CORPUS[name] for name in ("end of a text area", "attribute", "other attribute")),
    "more markup": "".join(CORPUS[name] for name in ("end of a script", "comment", "image")),
    "text": "".join(CORPUS[name] for name in ("address", "entity", "template", "format")),
    "unseen": "".join(CORPUS[name] for name in ("direction", "controls", "breaks", "byte order mark", "half a pair")),
    "long": CORPUS["long"],
}


class Page(HTMLParser):
    """What a browser would make of it, as far as it could run."""

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


# Forms, which give back what is in them; what is Django's own, or REST framework's.
NOT_WRITTEN_OUT = re.compile(r"/webhook/(add|\d+/(change|ping))/|form|/api/.*|/admin/(webhooks/)?$")


def clean_of_nul(text: str) -> str:
    return text.replace("\0", "")


@pytest.fixture
def browser(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    return client


def fill(text: str, redis: Any) -> Webhook:
    """Rows in every state, with the text wherever somebody else can write."""
    user = User.objects.create_user(text[:150], is_staff=True)
    webhook = make_webhook(
        Site, name=text[:150], url=f"http://127.0.0.1/{text}"[:500], additional_headers=f"X-A: {text}",
        body_template=text, disabled_reason=text, last_failure=text, last_failure_at=timezone.now(),
        failures_in_a_row=3, enabled=False,
    )  # fmt: skip
    Webhook.objects.filter(pk=webhook.pk).update(disabled_reason=text, excluded_usernames=[text])
    paused = make_webhook(Site, name=f"paused {text}"[:150])
    Webhook.objects.filter(pk=paused.pk).update(
        probe_at=timezone.now(), failures_in_a_row=11, last_failure=text, last_failure_at=timezone.now()
    )
    told = json.dumps({text: [text, {text: text}]})
    for state in State:
        event = make_site_event(
            f"{state} {text}"[:200], text[:200], object_type=f"dcim.{text}"[:150], data=told,
            snapshots=f'{{"prechange":null,"postchange":{told}}}', request=told, username=text[:150],
            request_id=text[:200],
        )  # fmt: skip
        delivery = make_site_delivery(webhook, state, event, reason=text)
        make_attempt(
            delivery, url=text[:2000], reason=text, response_headers={text: text, "X": text}, response_body=text,
            worker=text[:100],
        )  # fmt: skip
        for row in (event, delivery, webhook):
            history.record(user, [row], CHANGE, text)
    make_site_event(text[:200], text[:200], data="", error=f"Traceback\n{text}", dispatched_at=None)
    register_worker(text, redis)
    LogEntry.objects.create(
        user=User.objects.get(username="admin"), content_type=ContentType.objects.get_for_model(Webhook),
        object_id=str(webhook.pk), object_repr=text[:200], action_flag=CHANGE, change_message=text,
    )  # fmt: skip
    return webhook


def register_worker(text: str, redis: Any) -> None:
    """A living worker, as whoever can write into Redis makes one up."""
    worker = Worker([Queue("webhooks", connection=redis)], name=uuid4().hex, connection=redis)
    worker.register_birth()
    key = f"rq:worker:{text}"
    redis.hset(key, mapping=redis.hgetall(worker.key))
    redis.hset(
        key, mapping={"queues": f"webhooks,{text}", "hostname": text, "state": text, "pid": text, "current_job": text}
    )
    redis.sadd("rq:workers", key)


def pages() -> list[str]:
    """All of the app's pages, with each row on its own, and what leads to them."""
    rows = {"webhook": Webhook.objects.all(), "delivery": Delivery.objects.all(), "event": Event.objects.all()}
    found = [
        reverse("admin:index"), reverse("admin:app_list", args=["webhooks"]), reverse("webhooks_backend_status"),
        reverse("webhooks_backend_status_retry_all"), reverse("admin:webhooks_webhook_add"),
    ]  # fmt: skip
    for model, those in rows.items():
        found.append(reverse(f"admin:webhooks_{model}_changelist"))
        found += [
            reverse(f"admin:webhooks_{model}_{what}", args=[row.pk]) for row in those for what in ("change", "history")
        ]
    for webhook in rows["webhook"]:
        found.append(reverse("admin:webhooks_webhook_delete", args=[webhook.pk]))
        found.append(f"{reverse('webhooks_backend_status_retry_all')}?webhook={webhook.pk}")
    return found


def answers_of(browser: Client, text: str) -> list[tuple[str, Any]]:
    api = APIClient()
    api.force_authenticate(User.objects.get(username="admin"))
    got = [(address, browser.get(address)) for address in pages()]
    for model in ("webhook", "delivery", "event"):
        address = reverse(f"admin:webhooks_{model}_changelist")
        got.append((f"search {address}", browser.get(address, {"q": text})))
    chosen = list(Webhook.objects.values_list("pk", flat=True))
    asked = {"action": "delete_selected", "_selected_action": chosen}
    got.append(("delete selected", browser.post(reverse("admin:webhooks_webhook_changelist"), asked)))
    refused = {"name": text, "payload_url": text, "additional_headers": text, "body_template": text}
    got.append(("refused form", browser.post(reverse("admin:webhooks_webhook_add"), refused)))
    for kind in ("webhooks", "deliveries", "events"):
        address = f"/api/webhooks/{kind}/"
        got.append((address, api.get(address, HTTP_ACCEPT="text/html")))
        of_rows = [f"{address}{row['id']}/" for row in api.get(address).json()["results"][:3]]
        got += [(one, api.get(one, HTTP_ACCEPT="text/html")) for one in of_rows]
    # What changes something comes last, and tells of it on the next page.
    failed = Delivery.objects.failed().get()
    for address, data in (
        (reverse("webhooks_backend_status_resume"), {"webhook": Webhook.objects.paused().get().pk}),
        (reverse("admin:webhooks_event_replay", args=[Event.objects.failed().get().pk]), {}),
        (reverse("admin:webhooks_delivery_retry", args=[failed.pk]), {}),
        (reverse("admin:webhooks_delivery_discard", args=[failed.pk]), {}),
        (reverse("admin:webhooks_webhook_changelist"), {"action": "enable", "_selected_action": chosen}),
        (reverse("admin:webhooks_webhook_ping", args=[chosen[0]]), {}),
    ):
        got.append((f"POST {address}", browser.post(address, data, follow=True)))
    return got


@pytest.mark.parametrize("name", TOGETHER)
def test_no_page_is_broken_by_what_others_write(name: str, browser: Client, redis: Any, figures: Any) -> None:
    text = TOGETHER[name]
    assert len(text) <= 150 or name == "long"
    fill(text, redis)
    answers = answers_of(browser, text)
    telling = 0
    for address, answer in answers:
        assert answer.status_code == 200, address
        content = answer.content.decode()
        telling += MARK in content
        assert not Page(content).dangers, address
        assert "7000007" not in content, address
        if not NOT_WRITTEN_OUT.search(address):
            assert escape_invisible(content) == content, address
    assert telling > 30
    figures(f"{len(answers)} pages and answers, {telling} with it")


def test_a_webhook_has_a_name_that_can_be_seen(browser: Client) -> None:
    answer = browser.post(reverse("admin:webhooks_webhook_add"), {"name": f"a{CORPUS['direction']}"})
    [error] = answer.context["adminform"].form.errors["name"]
    assert error == rf"Contains invisible characters: a\u202e{MARK}\u2066\u2069\u202d\u200f"


@pytest.mark.parametrize("name", CORPUS)
def test_no_line_of_the_log_is_forged_by_a_name(name: str, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    text = clean_of_nul(CORPUS[name])
    handler = logging.StreamHandler(StringIO())
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("webhooks").addHandler(handler)
    make_webhook(Fragile)
    try:
        monkeypatch.setattr(Fragile, "__str__", lambda self: [][text])  # type: ignore[call-overload]
        Fragile.objects.create(name=text[:50], behaviour="raises")

        def breaks(*args: Any) -> None:
            raise RuntimeError(text)

        monkeypatch.setattr(FragileSerializer, "to_representation", breaks)
        Fragile.objects.create(name=text[:50])
        monkeypatch.setattr("webhooks.capture.recording._record", breaks)
        Fragile.objects.create(name=text[:50])
    finally:
        logging.getLogger("webhooks").removeHandler(handler)
    lines = handler.stream.getvalue().splitlines()  # type: ignore[attr-defined]
    records = [line for line in lines if not line.startswith("  | ")]
    assert len(records) == 5
    for line in lines:
        assert line == escape_invisible(line, breaks=True)
        assert line.startswith(("ERROR webhooks.", "WARNING webhooks.", "  | "))
