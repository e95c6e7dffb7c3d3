"""Every address of the REST API with each way of REST framework to name a version, and in its browsable pages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.db import transaction
from django.urls import include, path, reverse
from django.utils import timezone
from rest_framework import versioning
from rest_framework.test import APIClient
from rest_framework.views import APIView

from dcim.models import Site
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_webhook
from tests.support.rest import wanted
from webhooks.api import urls as ours
from webhooks.models.event import LOOP_PROTECTION
from webhooks.operations import runs

VERSION = "v1"
OURS = path("api/webhooks/", include("webhooks.api.urls"))


class Plain:
    urlpatterns = [OURS]


class InPath:
    urlpatterns = [path("<version>/api/webhooks/", include("webhooks.api.urls"))]


class InNamespace:
    urlpatterns = [path(f"{VERSION}/", include(([OURS], VERSION), namespace=VERSION))]


class InPathOfTenant:
    urlpatterns = [path("<slug:tenant>/api/webhooks/", include("webhooks.api.urls"))]


# For each way: the class, the URLs of the host, the address of the API, and what a request has.
WAYS: dict[str, tuple[Any, Any, str, dict[str, str]]] = {
    "none": (None, Plain, "/api/webhooks/", {}),
    "none, and the host's own argument": (None, InPathOfTenant, "/acme/api/webhooks/", {}),
    "path": (versioning.URLPathVersioning, InPath, f"/{VERSION}/api/webhooks/", {}),
    "namespace": (versioning.NamespaceVersioning, InNamespace, f"/{VERSION}/api/webhooks/", {}),
    "header": (versioning.AcceptHeaderVersioning, Plain, "/api/webhooks/", {"accept": f"; version={VERSION}"}),
    "query": (versioning.QueryParameterVersioning, Plain, "/api/webhooks/", {"query": f"version={VERSION}"}),
    "host": (versioning.HostNameVersioning, Plain, "/api/webhooks/", {"host": f"{VERSION}.example.com"}),
}

# What a request must have to succeed, by the name of its URL and its action.
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("webhook-list", "create"): wanted(),
    ("webhook-detail", "update"): wanted(),
    ("webhook-detail", "partial_update"): {"name": "other"},
    ("webhook-recover", "recover"): {"hours": 1},
    ("webhook-recover-skipped", "recover_skipped"): {"hours": 1},
    ("webhook-backfill", "backfill"): {"hours": 1},
    ("run-list", "create"): {"kind": "replay", "all": True},
}
QUERIES = {"delivery-retry-many": "state=failed", "why": "webhook={webhook}"}
# A row in another state than the usual one, by the name of its URL.
KEYS = {"webhook-resume": "paused_webhook", "run-resume": "paused_run", "skip-list": "webhook"}


def table() -> list[tuple[str, str, str]]:
    """The name of each URL, with each of its methods, and the action of that."""
    found = []
    for pattern in ours.urlpatterns:
        actions = getattr(pattern.callback, "actions", {"get": "root"})
        found += [(str(pattern.name), method, action) for method, action in actions.items()]
    return found


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def way(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The API of a host with one of the ways."""
    versioning_class, urls, root, extra = request.param
    monkeypatch.setattr(APIView, "versioning_class", versioning_class)
    monkeypatch.setattr(versioning.BaseVersioning, "allowed_versions", [VERSION])
    monkeypatch.setattr("rest_framework.views.set_rollback", lambda: None)  # the test is one transaction
    settings.ROOT_URLCONF = urls
    return SimpleNamespace(
        number=request.param_index, root=root, **{"accept": "", "query": "", "host": "testserver"} | extra
    )


@pytest.fixture
def rows(db: None, redis: Any) -> dict[str, Any]:
    webhook, paused = make_webhook(Site), make_webhook(Site, probe_at=timezone.now())
    event = make_site_event(webhook_ids=[webhook.pk], error=LOOP_PROTECTION)  # a replay keeps its data
    delivery = make_site_delivery(webhook, event=event)
    make_attempt(delivery)
    run, paused_run = (runs.start(kind, {}, takes_all=True) for kind in ("retry", "resend"))
    runs.pause(paused_run)
    made = {"webhook": webhook, "paused_webhook": paused, "delivery": delivery, "event": event}
    return {name: row.pk for name, row in (made | {"run": run, "paused_run": paused_run}).items()}


def ask(api: APIClient, way: Any, rows: dict[str, Any], entry: tuple[str, str, str], accept: str) -> Any:
    """Request one entry of the table."""
    name, method, action = entry
    pattern = next(one.pattern for one in ours.urlpatterns if one.name == name)
    key = rows.get(KEYS.get(name, name.partition("-")[0]))
    url = reverse(name, urlconf=ours, kwargs=dict.fromkeys(pattern.regex.groupindex, key))
    query = "&".join(filter(None, (QUERIES.get(name, "").format(**rows), way.query)))
    body = {} if method == "get" else {"data": BODIES.get((name, action)), "format": "json"}
    address = f"{way.root}{url.removeprefix('/')}?{query}"
    return getattr(api, method)(address, headers={"accept": f"{accept}{way.accept}", "host": way.host}, **body)


@pytest.mark.one_database
@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_each_address_answers_with_each_way_to_name_a_version(
    api: APIClient, way: Any, rows: dict[str, Any], accept: str, is_long: bool
) -> None:
    """Without --long, each way has a third of the browsable pages, and each page has two ways."""
    refused, api.raise_request_exception = {}, False
    entries = table() if is_long or accept == "application/json" else table()[way.number % 3 :: 3]
    for entry in entries:
        with transaction.atomic():
            answer = ask(api, way, rows, entry, accept)
            transaction.set_rollback(True)
        if answer.status_code >= 300 or (answer.content and accept not in answer["Content-Type"]):
            refused[entry] = (answer.status_code, answer.content[:300])
    assert not refused


@pytest.mark.one_database
def test_the_links_of_the_root_and_of_pages_keep_the_version(api: APIClient, way: Any, rows: dict[str, Any]) -> None:
    headers = {"accept": f"application/json{way.accept}", "host": way.host}
    links = [*api.get(f"{way.root}?{way.query}", headers=headers).json().values()]
    assert len(links) == 4
    links.append(api.get(f"{way.root}webhooks/?limit=1&{way.query}", headers=headers).json()["next"])
    for link in links:
        assert api.get(link, headers=headers).status_code == 200, link
        assert way.query in link
