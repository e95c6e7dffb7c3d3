"""The OpenAPI document of drf-spectacular: its contents, and requests that follow it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, given, settings
from rest_framework.authtoken.models import Token

from dcim.models import Site
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_webhook
from users.models import User
from webhooks.models.event import LOOP_PROTECTION
from webhooks.operations import runs

URLS = "tests.support.host_api"
OURS = "/api/webhooks/"
EXAMPLES = 2  # for each operation, valid and invalid
LONG_EXAMPLES = 4

# A document cannot express all rules for the fields of a webhook, nor that filters belong together.
RULED = {
    "post webhooks/", "put webhooks/{id}/",
    "post deliveries/retry/", "post runs/", "post webhooks/{webhook}/recover/", "post webhooks/{webhook}/backfill/",
    "post webhooks/{webhook}/recover_skipped/",
}  # fmt: skip


def document() -> dict[str, Any]:
    made: dict[str, Any] = SchemaGenerator(urlconf=URLS).get_schema(request=None, public=True)
    return made


def operations(whole: dict[str, Any]) -> dict[str, Any]:
    """Ours, by method and path."""
    return {
        f"{method} {path.removeprefix(OURS)}": one
        for path, methods in whole["paths"].items()
        for method, one in methods.items()
        if path.startswith(OURS)
    }


def test_the_document_has_no_warning_in_a_host_with_its_own_webhook_and_choices(tmp_path: Any) -> None:
    made = tmp_path / "schema.yml"
    call_command("spectacular", "--urlconf", URLS, "--validate", "--fail-on-warn", "--file", str(made))
    assert "RqWebhook" in made.read_text()


def test_the_names_of_the_host_stay_its_own() -> None:
    whole = document()
    components = whole["components"]["schemas"]
    assert components["Webhook"]["properties"].keys() == {"id", "state", "http_method"}
    assert components["StateEnum"]["enum"] == ["on", "off"]
    assert components["HttpMethodEnum"]["enum"] == ["GET", "TRACE"]
    used = {name for name in components if "Webhook" in name and "RqWebhook" not in name}
    assert used == {"Webhook", "PatchedWebhook", "PaginatedWebhookList"}
    ids = [one["operationId"] for methods in whole["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids))


def test_filters_and_pages_are_described() -> None:
    found = {
        name: {parameter["name"] for parameter in one["parameters"] if parameter["in"] == "query"}
        for name, one in operations(document()).items()
        if "parameters" in one
    }
    pages, of_object = {"limit", "cursor"}, {"object_type", "object_id"}
    of_event = of_object | {"action", "request_id", "name", "user", "created_after", "created_before"}
    of_delivery = of_event | {"state", "error_kind", "status", "webhook"}
    assert found["get webhooks/"] == pages | {
        "name", "identifier", "q", "enabled", "paused", "failing", "object_type", "action",
    }  # fmt: skip
    assert found["get events/"] == pages | of_event | {"failed", "webhook"}
    assert found["get runs/"] == pages | {"kind", "state"}
    assert found["get deliveries/"] == pages | of_delivery
    assert found["post deliveries/retry/"] == of_delivery
    assert found["get deliveries/{id}/"] == set()
    assert found["get statistics/"] == {"webhook", "period", "since"}
    assert found["get why/"] == of_object | {"event", "request_id", "webhook"}


def headers_of(one: dict[str, Any]) -> set[str]:
    return {parameter["name"] for parameter in one.get("parameters", ()) if parameter["in"] == "header"}


def test_headers_are_described_where_they_are_read() -> None:
    ours = operations(document())
    read = {name: headers_of(one) for name, one in ours.items() if headers_of(one)}
    of_webhook = [f"webhooks/{{webhook}}/{one}/" for one in ("recover", "backfill", "recover_skipped")]
    begin = ("deliveries/retry/", "runs/", *of_webhook)
    assert read == {f"post {name}": {"Idempotency-Key"} for name in begin} | {
        f"{method} webhooks/{{id}}/": {"If-Match"} for method in ("put", "patch", "delete")
    }
    given = {
        name
        for name, one in ours.items()
        if any("ETag" in response.get("headers", {}) for response in one["responses"].values())
    }
    assert given == {"post webhooks/", "get webhooks/{id}/", "put webhooks/{id}/", "patch webhooks/{id}/"} | {
        f"post webhooks/{{id}}/{deed}/" for deed in ("pause", "resume")
    }


def test_retry_and_discard_take_no_body_and_json_columns_have_types() -> None:
    whole = document()
    ours, components = operations(whole), whole["components"]["schemas"]
    for name in ("deliveries/retry/", "deliveries/{id}/retry/", "deliveries/{id}/discard/"):
        assert "requestBody" not in ours[f"post {name}"]
    answer = ours["post deliveries/retry/"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/RqWebhookRetried"}
    event = components["RqWebhookEventDetail"]["properties"]
    assert {name: event[name].get("type") for name in ("data", "snapshots", "changed", "serializers", "request")} == {
        "data": None, "snapshots": "object", "changed": "array", "serializers": "object", "request": "object",
    }  # fmt: skip
    assert components["RqWebhookDeliveryDetail"]["properties"]["payload"]["type"] == "object"


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Requests leave the connection and the transaction open: the test is one transaction."""
    monkeypatch.setattr("rest_framework.views.set_rollback", lambda: None)
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.mark.one_database
@pytest.mark.urls(URLS)
@pytest.mark.usefixtures("connected", "redis")
def test_requests_and_responses_follow_the_document(db: None, is_long: bool) -> None:
    # Imported here: it takes 0.4 s, each process of the suite imports this module, and one of them runs this test.
    import schemathesis

    headers = {"Authorization": f"Token {Token.objects.create(user=User.objects.create_superuser('root')).key}"}
    webhook = make_webhook(Site, identifier="cmdb-sync", probe_at=timezone.now())  # it can be paused, and resumed
    event = make_site_event(webhook_ids=[webhook.pk], error=LOOP_PROTECTION)  # a replay keeps its data
    delivery = make_site_delivery(webhook, event=event)
    make_attempt(delivery)
    running, paused = (runs.start(kind, {}, takes_all=True) for kind in ("retry", "resend"))
    runs.pause(paused)
    existing = {
        "webhooks/{id}": [webhook], "webhooks/{webhook}": [webhook],
        "deliveries/{id}": [delivery], "events/{id}": [event], "runs/{id}": [running, paused],
    }  # fmt: skip
    # As numbers, Schemathesis would also write them as 5.0.
    ids = {name: [str(row.pk) for row in rows] for name, rows in existing.items()}
    ids["webhooks/{id}"].append(webhook.identifier)
    schema = schemathesis.openapi.from_dict(_about(document(), ids))
    schema.app = WSGIHandler()
    statuses: dict[str, Counter[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        name = f"{operation.method} {operation.path.removeprefix(OURS)}"
        statuses[name] = Counter()
        takes_nothing = not any(map(operation.definition.raw.get, ("parameters", "requestBody")))
        modes = schemathesis.GenerationMode
        for mode in [modes.POSITIVE] if takes_nothing else modes:
            cases = operation.as_strategy(generation_mode=mode)
            _send(cases, LONG_EXAMPLES if is_long else EXAMPLES, headers, statuses[name])
    assert len(statuses) == 31
    assert {name for name, seen in statuses.items() if not any(status < 300 for status in seen)} <= RULED


@pytest.mark.one_database
@pytest.mark.urls(URLS)
@pytest.mark.usefixtures("connected", "redis")
def test_a_put_to_a_new_identifier_follows_the_document(db: None) -> None:
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    headers = {"Authorization": f"Token {Token.objects.create(user=User.objects.create_superuser('root')).key}"}
    schema = schemathesis.openapi.from_dict(document())
    schema.app = WSGIHandler()
    body = {"name": "CMDB", "payload_url": "https://example.com", "object_types": ["dcim.site"], "on_updated": True}
    operation = schema[f"{OURS}webhooks/{{id}}/"]["PUT"]
    case = operation.Case(path_parameters={"id": "cmdb-sync"}, body=body, media_type="application/json")
    for status in (201, 200):
        answer = case.call(headers=headers)
        assert answer.status_code == status
        checks = [not_a_server_error, response_schema_conformance, status_code_conformance]
        case.validate_response(answer, checks=checks)


def _about(whole: dict[str, Any], ids: dict[str, list[str]]) -> dict[str, Any]:
    """Our part of the document, with the ids of existing rows."""
    paths = {path: methods for path, methods in whole["paths"].items() if path.startswith(OURS)}
    for path, methods in paths.items():
        for one in methods.values():
            # Nor which tag is the current one.
            one["parameters"] = [found for found in one.get("parameters", ()) if found["name"] != "If-Match"]
            for parameter in one["parameters"]:
                if parameter["in"] == "path":
                    parameter["schema"] = {"enum": ids["/".join(path.removeprefix(OURS).split("/")[:2])]}
                if parameter["name"] == "event":
                    # Nor that a question is about one thing, so ask about an event alone.
                    one["parameters"] = [parameter | {"schema": {"enum": ids["events/{id}"]}, "required": True}]
    return {**whole, "paths": paths}


def _send(cases: Any, count: int, headers: dict[str, str], seen: Counter[int]) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance

    @settings(
        max_examples=count, phases=[Phase.generate], database=None, derandomize=True,
        suppress_health_check=list(HealthCheck), deadline=None,
    )  # fmt: skip
    @given(case=cases)
    def send(case: Any) -> None:
        with transaction.atomic():
            answer = case.call(headers=headers)
            transaction.set_rollback(True)
        seen[answer.status_code] += 1
        case.validate_response(answer, checks=[not_a_server_error, response_schema_conformance])

    send()
