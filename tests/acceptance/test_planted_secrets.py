"""Secrets enter by every way and are used; then every row, Redis key, page, log line and export is searched."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import standardwebhooks
from django.core import mail
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils.log import AdminEmailHandler
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from dcim.models import Site
from tests.support.admin_pages import form, staff
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.waiting import until
from tests.support.workers import SHIPPED, STOCK, Workers
from users.models import User
from webhooks.models import Attempt, Delivery, State, Webhook
from webhooks.operations import kinds

pytestmark = pytest.mark.usefixtures("database")

KEY, NEW_KEY, REFUSED_KEY = (base64.b64encode(f"planted key {number:02} abc".encode()).decode() for number in range(3))
TOKEN, NEW_TOKEN, REFUSED_TOKEN = (f'planted-token-{number}-"q"/x' for number in range(3))

PLANTED = {
    "secret": f"whsec_{KEY}",
    "new secret": f"whsec_{NEW_KEY}",
    "refused secret": f"whsec_{REFUSED_KEY}",
    "plain secret": "planted plain secret",
    "token": TOKEN,
    "new token": NEW_TOKEN,
    "refused token": REFUSED_TOKEN,
    "token of a query string": "planted-in-a-query",
}

RECEIVERS = (
    "ok", "echo", "torn", "echo/500", "echo/404", "parrot", "garbage", "close", "half", "redirect/302/echo", "slow/5",
)  # fmt: skip


def spellings(secret: str) -> set[bytes]:
    """Encodings that could hide a secret."""
    key = secret.removeprefix("whsec_")
    raw = {secret, key, json.dumps(secret)[1:-1], quote(secret), quote(secret, safe=""), secret.replace('"', "&quot;")}
    encoded = {base64.b64encode(secret.encode()), secret.encode().hex().encode(), secret[::-1].encode()}
    decoded = {base64.b64decode(key)} if key != secret else set()
    return {one.encode() for one in raw} | encoded | decoded


NEEDLES = {name: spellings(secret) for name, secret in PLANTED.items()}


class Search:
    """Counts the searched texts, and lists the secrets found."""

    def __init__(self) -> None:
        self.searched: Counter[str] = Counter()
        self.found: list[str] = []

    def look(self, kind: str, where: str, what: Any) -> None:
        data = bytes(what) if isinstance(what, bytes | memoryview) else str(what).encode("utf-8", "replace")
        self.searched[kind] += 1
        for text in {data, unpacked(data)}:
            self.found += [f"{kind} {where}: {name}" for name, ways in NEEDLES.items() if any(x in text for x in ways)]

    def rows(self) -> None:
        with connection.cursor() as cursor:
            for table in connection.introspection.table_names(cursor):
                self.searched["tables"] += 1
                cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
                names = [column[0] for column in cursor.description]
                for row in cursor.fetchall():
                    for name, value in zip(names, row, strict=True):
                        self.look("values in tables", f"{table}.{name}", value)

    def redis(self, client: Any) -> None:
        for key in client.scan_iter():
            self.look("Redis keys", "name", key)
            for value in parts(client, key):
                self.look("values in Redis", key.decode(), value)

    def page(self, kind: str, address: str, response: Any) -> None:
        self.look(kind, address, response.content)
        self.look("headers of answers", address, response.headers)


def unpacked(data: bytes) -> bytes:
    """Decompress the data of an rq job, or a stored body."""
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data


def parts(client: Any, key: bytes) -> Iterator[bytes]:
    match client.type(key):
        case b"string":
            yield client.get(key)
        case b"hash":
            yield from (part for pair in client.hgetall(key).items() for part in pair)
        case b"list":
            yield from client.lrange(key, 0, -1)
        case b"set":
            yield from client.smembers(key)
        case b"zset":
            yield from client.zrange(key, 0, -1)
        case b"stream":
            yield repr(client.xrange(key)).encode()
        case b"none":
            pass  # gone a moment ago
        case other:
            raise AssertionError(f"{key!r} is a {other!r}")


@pytest.fixture
def everything_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Log at the lowest level, here and in the workers, and mail error reports with local variables to the admins."""
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    caplog.set_level(logging.DEBUG)
    handler, logger = AdminEmailHandler(include_html=True), logging.getLogger("django.request")
    logger.addHandler(handler)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.removeHandler(handler)


@pytest.fixture
def admin() -> User:
    return User.objects.create_superuser("alice", "-")


@pytest.fixture
def browser(admin: User) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(admin)
    return client


@pytest.fixture
def api(admin: User) -> APIClient:
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=admin).key}")
    return client


def headers_with(token: str) -> str:
    return f"Authorization: Bearer {token}\nX-Planted: {token}"


def plant(search: Search, browser: Client, api: APIClient, inbox: Inbox) -> None:
    """Create a webhook for each receiver, by the admin and the API in turn; then replace every secret."""
    add = reverse("admin:rq_webhooks_webhook_add")
    for number, receiver in enumerate(RECEIVERS):
        timeout = "1" if receiver.startswith("slow") else "30"
        values = {"name": receiver, "payload_url": inbox.url(receiver), "timeout": timeout, "on_updated": "on"}
        secrets = {"secret": PLANTED["secret"], "secret_headers": headers_with(TOKEN)}
        if number % 2:
            answer = api.post(
                "/api/webhooks/webhooks/",
                {**values, **secrets, "object_types": ["dcim.site"], "on_created": True},
                format="json",
            )
            assert answer.status_code == 201, answer.content
        else:
            answer = browser.post(add, form(**values, **secrets))
            assert answer.status_code == 302, answer.content
        search.page("answers to forms and the API", receiver, answer)
    for number, webhook in enumerate(Webhook.objects.all()):
        new = PLANTED["new secret"] if number % 3 else PLANTED["plain secret"]
        address = f"/api/webhooks/webhooks/{webhook.pk}/"
        answer = api.patch(address, {"secret": new, "secret_headers": headers_with(NEW_TOKEN)}, format="json")
        assert answer.status_code == 200, answer.content
        search.page("answers to forms and the API", address, answer)


def provoke(search: Search, browser: Client, api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send secrets in requests that are refused or that fail."""
    webhook = Webhook.objects.order_by("pk")[0]
    change, address = (
        reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk]),
        f"/api/webhooks/webhooks/{webhook.pk}/",
    )
    secrets = {"secret": PLANTED["refused secret"], "secret_headers": headers_with(REFUSED_TOKEN)}
    bad_lines = {"secret_headers": f"Host: {REFUSED_TOKEN}\n{REFUSED_TOKEN}"}
    answers = []
    for wrong in ({"name": ""}, {"payload_url": "ftp://x"}, bad_lines, {"secret": f"whsec_!{REFUSED_KEY}"}):
        answers.append(browser.post(change, form(**(secrets | wrong))))
        for kind, accept in (("json", "application/json"), ("json", "text/html"), ("multipart", "text/html")):
            answers.append(api.patch(address, secrets | wrong, format=kind, HTTP_ACCEPT=accept))
    assert {answer.status_code for answer in answers} == {200, 400}

    def breaks(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("planted: it breaks here")

    broken = []
    for name in ("_write", "full_clean", "replace_secret", "clean"):
        with monkeypatch.context() as patched:
            patched.setattr(Webhook, name, breaks)
            broken.append(browser.post(change, form(**secrets)))
            broken += [api.patch(address, secrets, format=kind) for kind in ("json", "multipart")]
    with monkeypatch.context() as patched:
        patched.setattr("webhooks.pages.forms.webhook.registered_object_types", breaks)
        broken.append(browser.post(change, form(**secrets)))
    assert {answer.status_code for answer in broken} == {500}
    for answer in answers + broken:
        search.page("answers to what is refused or breaks", answer.request["PATH_INFO"], answer)
    for message in mail.outbox:
        for text in (message.subject, message.body, *(part for part, _ in message.alternatives)):
            search.look("reports of errors by mail", message.subject, text)
    in_full = [message.alternatives[0][0] for message in mail.outbox if message.alternatives]
    assert len([report for report in in_full if "planted: it breaks here" in report]) == len(broken)


def show(search: Search, browser: Client, api: APIClient) -> None:
    """Open every page of the admin and every URL of the API. Pages that show no more of a row than of others are opened
    for two: one of them was made in the admin, and one by the API."""
    viewer = staff("view_webhook", "view_delivery", "view_event")
    pages = [
        reverse("admin:index"),
        reverse("admin:app_list", args=["rq_webhooks"]),
        reverse("webhooks_backend_status"),
    ]
    pages += ["/django-rq/", "/admin/django_rq/dashboard/"]
    deliveries = list(Delivery.objects.all())
    rows = {"webhook": list(Webhook.objects.all()), "delivery": deliveries}
    rows["event"] = [delivery.event for delivery in deliveries[:5]]
    for model, found in rows.items():
        pages.append(reverse(f"admin:rq_webhooks_{model}_changelist"))
        pages += [reverse(f"admin:rq_webhooks_{model}_change", args=[row.pk]) for row in found]
        pages += [reverse(f"admin:rq_webhooks_{model}_history", args=[row.pk]) for row in found[:2]]
    pages += [reverse("admin:rq_webhooks_webhook_delete", args=[row.pk]) for row in rows["webhook"][:2]]
    pages.append(reverse("admin:rq_webhooks_webhook_add"))
    for client in (browser, viewer):
        for address in pages:
            answer = client.get(address, follow=True)
            assert answer.status_code in (200, 403, 404), (address, answer.status_code)
            search.page("admin pages", address, answer)
    for name, found in zip(("webhooks", "deliveries", "events"), rows.values(), strict=True):
        addresses = [f"/api/webhooks/{name}/", *(f"/api/webhooks/{name}/{row.pk}/" for row in found)]
        for address in addresses:
            search.page("API answers", address, api.get(address, HTTP_ACCEPT="application/json"))
        for address in addresses[:3]:
            search.page("API answers", address, api.get(address, HTTP_ACCEPT="text/html"))
            search.page("API answers", address, api.options(address))


def export(search: Search, tmp_path: Any) -> None:
    for kind in ("json", "jsonl"):
        path = tmp_path / f"dump.{kind}"
        call_command("dumpdata", output=str(path), format=kind, exclude=["django_rq", "hosts"])
        search.look("exports", kind, path.read_bytes())
    for webhook in Webhook.objects.all():
        search.look("pickles and reprs", "pickle", pickle.dumps(webhook))
        search.look("pickles and reprs", "repr", f"{webhook!r} {webhook.__dict__}")


@pytest.mark.parametrize("name", PLANTED)
def test_the_search_finds_a_secret_that_was_stored(name: str, redis: Any) -> None:
    User.objects.create(email=PLANTED[name])
    redis.hset("rq:job:1", "data", zlib.compress(pickle.dumps(PLANTED[name])))
    search = Search()
    search.rows()
    search.redis(redis)
    search.look("log lines", "log", f"{{'secret': {PLANTED[name]!r}}}")
    assert Counter(found.partition(":")[0] for found in search.found).keys() >= {"values in tables users_user.email"}
    assert [found.rpartition(": ")[2] for found in search.found] == [name] * 3


def wait_for_attempts(count: int) -> None:
    until(lambda: Attempt.objects.count() >= count, 60, lambda: f"{count} attempts, not {Attempt.objects.count()}")


@pytest.mark.one_database
def test_no_planted_secret_is_kept_or_shown_anywhere(
    workers: Workers, redis: Any, inbox: Inbox, browser: Client, api: APIClient, tmp_path: Any,
    everything_is_logged: Any, figures: Figures, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    search = Search()
    plant(search, browser, api, inbox)
    site = Site.objects.create(name="Berlin", slug="berlin")
    search.redis(redis)
    assert search.searched["Redis keys"], "a wake-up waits for a worker"

    for worker_class in (SHIPPED, STOCK):
        workers.start(worker_class, RETRY_SCHEDULE=[]).wait_until_listening()
    wait_for_attempts(len(RECEIVERS))
    search.redis(redis)
    address = f"/api/dcim/sites/{site.pk}/?dry=1&token={PLANTED['token of a query string']}"
    assert api.patch(address, {"name": "Hamburg"}, format="json").status_code == 200
    kinds.RETRY.perform(Delivery.objects.in_states(State.FAILED))
    wait_for_attempts(3 * len(RECEIVERS) - len(("ok", "echo", "torn")))

    # The receivers got the secrets, and repeated them.
    [received] = [one for one in inbox.received("ok") if one.json["event"] == "created"]
    assert received.headers["x-planted"] == NEW_TOKEN
    assert received.headers["webhook-signature"].count("v1,") == 2
    standardwebhooks.Webhook(PLANTED["secret"]).verify(received.body, received.headers)
    [received] = [one for one in inbox.received("ok") if one.json["event"] == "updated"]
    assert received.json["request"]["GET"] == {"dry": "1"}
    assert Attempt.objects.filter(response_body__contains="X-Planted: ********").count() >= 3
    assert Attempt.objects.filter(reason__contains="********").exists()

    provoke(search, browser, api, monkeypatch)
    show(search, browser, api)
    export(search, tmp_path)
    search.redis(redis)
    search.rows()
    workers.stop_all()
    for line in everything_is_logged.text.splitlines() + [
        line for log in workers.logs for line in log.read_text().splitlines()
    ]:
        search.look("log lines", "log", line)
    assert any("planted: it breaks here" in line for line in everything_is_logged.text.splitlines())

    assert not search.found, Counter(search.found)
    figures(
        f"searched for {len(PLANTED)} secrets in {sum(map(len, NEEDLES.values()))} spellings: "
        + ", ".join(f"{count} {kind}" for kind, count in search.searched.items())
    )
