"""URLs, errors and answers, shown to a user without permission to change the webhook."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.urls import reverse
from requests.exceptions import ConnectionError as RequestsConnectionError
from urllib3.exceptions import MaxRetryError

from dcim.models import Site
from tests.support.admin_pages import STATUS
from tests.support.answers import API, answers
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_webhook
from tests.support.users import api_client, browser, make_user
from users.models import User
from webhooks.ground.error_kinds import ErrorKind
from webhooks.models import Body, BodyKind, Delivery, State
from webhooks.models.permissions.redaction import Explanation, Redaction, explain
from webhooks.workers.network.attempt import explain as explain_error

URL = "https://hooks.example:8443/services/T0ps3cret/a%2Fb?key=an+other1"


ALL, LITTLE = Redaction(User(is_superuser=True)), Redaction(AnonymousUser())


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        (URL, "https://hooks.example:8443/…"),
        ("https://hooks.example", "https://hooks.example"),
        ("https://hooks.example/", "https://hooks.example/"),
        ("HTTP://Hooks.example/x", "HTTP://Hooks.example/…"),
        ("https://hooks.example?token=x", "https://hooks.example/…"),
        ("https://hooks.example#x", "https://hooks.example/…"),
        ("https://[2001:db9::1]:8443/x", "https://[2001:db9::1]:8443/…"),
        ("https://hooks.example/{{ data.id }}", "https://hooks.example/…"),
        ("https://hooks.example/x y\u202e", "https://hooks.example/…"),
        ("https://{{ data.host }}/x", "…"),
        ("https://hooks.example{{ '/x' }}", "…"),
        ("https://hooks.example:{{ 8443 }}/x", "…"),
        ("{% if data.a %}https://a.example/{% else %}https://b.example/{% endif %}", "…"),
        ("https://user:password@hooks.example/x", "…"),
        ("https://hooks.example\\x/y", "…"),
        ("https:/hooks.example/x", "…"),
        ("token", "…"),
        ("", ""),
    ],
)
def test_a_url_is_cut_after_its_host_and_port(url: str, origin: str) -> None:
    assert LITTLE.url(1, url) == origin
    assert ALL.url(1, url) == url


def test_an_error_is_shown_without_text_from_receivers_and_templates() -> None:
    reason = "HTTP 404 Cannot POST /services/T0ps3cret"
    assert LITTLE.error(1, reason, ErrorKind.HTTP_404) == "HTTP 404 Not Found"
    assert LITTLE.error(1, reason, ErrorKind.TEMPLATE) == "a template failed"
    assert LITTLE.error(1, "", "") == ""
    assert ALL.error(1, reason, ErrorKind.HTTP_404) == reason


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (URL, "https://hooks.example:8443"), ("http://hooks.example/", "http://hooks.example"),
        ("https://{{ data.host }}/x", "The receiver"), ("https://hooks.example/{{ data.id }}", "https://hooks.example"),
    ],
)  # fmt: skip
def test_an_explanation_names_the_receiver_and_nothing_else_of_the_url(url: str, host: str) -> None:
    assert explain(ErrorKind.HTTP_403, url).cause == f"{host} refuses this sender."
    assert explain("", url) == Explanation()


@pytest.mark.parametrize("user", [None, AnonymousUser()])
def test_without_a_user_nothing_is_shown_in_full(user: Any) -> None:
    assert not Redaction(user).may_change(1)
    assert ALL.may_change(1)


def test_errors_of_libraries_put_no_url_into_a_reason() -> None:
    path = URL.removeprefix("https://hooks.example:8443")
    inner = MaxRetryError(None, path, Exception("odd"))  # type: ignore[arg-type]
    for error in (RequestsConnectionError(inner), ValueError(f"Invalid URL {URL!r}: odd"), ValueError(f"no {URL}")):
        assert "T0ps3cret" in str(error)
        assert "T0ps3cret" not in explain_error(error, 10)[1]
    assert "odd" in explain_error(RequestsConnectionError(inner), 10)[1]


# Pages and responses

PLANTED = "T0ps3cret"
HOOK = f"https://hooks.example:8443/services/{PLANTED}?key={PLANTED}"
VIEWS = ("view_webhook", "view_delivery", "view_event", "read_payload_event")
DEEDS = ("retry_delivery", "discard_delivery", "add_webhook", "delete_webhook")


def planted() -> Delivery:
    """A delivery to a secret URL. The secret is in every place that a URL, a header or a template may reach."""
    webhook = make_webhook(
        Site, name="Chat", url=HOOK, additional_headers=f"X-Token: {PLANTED}", body_template=f"{PLANTED} {{{{ data }}}}"
    )
    event = make_site_event()
    redirected = f"HTTP 308: redirects to {HOOK}/, which is not followed"
    make_site_delivery(
        webhook, State.PENDING, event, reason=redirected, error_kind="redirect", in_lane=True, failures=1
    )
    delivery = make_site_delivery(
        webhook,
        event=make_site_event(),
        reason=f"the URL came out as '{HOOK}': odd",
        error_kind="template",
        in_lane=False,
    )
    answer = {"response_headers": {"Location": HOOK}, "response_body": f"Cannot POST /services/{PLANTED}"}
    body = f"{PLANTED} 7".encode()
    digest = hashlib.sha256(body).hexdigest()
    Body.objects.create(delivery=delivery, sha256=digest, content=zlib.compress(body))
    sent = {"request_headers": {"X-Token": PLANTED}, "body_kind": BodyKind.TEMPLATE, "body_sha256": digest}
    make_attempt(delivery, reason=redirected, error_kind="redirect", **answer, **sent)
    return delivery


@pytest.mark.one_database
def test_users_who_may_change_a_webhook_see_a_secret_in_its_url_headers_template_and_answers(
    db: None, redis: Any
) -> None:
    delivery = planted()
    shown = answers(make_user(*VIEWS, "change_webhook"), delivery)
    showing = {address for address, said in shown.items() if PLANTED in said}
    assert showing >= {
        STATUS, reverse("admin:rq_webhooks_webhook_change", args=[delivery.webhook_id]),
        reverse("admin:rq_webhooks_delivery_change", args=[delivery.pk]),
        reverse("admin:rq_webhooks_event_change", args=[delivery.event_id]),
        f"{API}/webhooks/", f"{API}/deliveries/", f"{API}/deliveries/{delivery.pk}/",
    }  # fmt: skip


@pytest.mark.one_database
def test_other_users_see_only_scheme_host_and_port_and_the_permission_that_shows_more(db: None, redis: Any) -> None:
    delivery = planted()
    shown = answers(make_user(*VIEWS, *DEEDS), delivery)
    assert [address for address, said in shown.items() if PLANTED in said] == []
    form = shown[reverse("admin:rq_webhooks_webhook_change", args=[delivery.webhook_id])]
    of_it = shown[reverse("admin:rq_webhooks_delivery_change", args=[delivery.pk])]
    listed = shown[reverse("admin:rq_webhooks_webhook_changelist")]
    for said in (form, of_it, listed):
        assert "https://hooks.example:8443/…" in said
    assert form.count("shown to users who may change the webhook (rq_webhooks.change_webhook)") == 1
    assert of_it.count("shown to users who may change the webhook (rq_webhooks.change_webhook)") == 2
    assert "redirects are not followed" in of_it
    assert "https://hooks.example:8443 redirects to another URL, and redirects are not followed." in of_it
    answer = json.loads(shown[f"{API}/webhooks/{delivery.webhook_id}/"])
    hidden = {name: answer[name] for name in ("payload_url", "additional_headers", "body_template")}
    assert hidden == {
        "payload_url": "https://hooks.example:8443/…", "additional_headers": None, "body_template": None,
    }  # fmt: skip
    [attempt] = json.loads(shown[f"{API}/deliveries/{delivery.pk}/"])["attempts"]
    assert attempt["request"] | {"body_sha256": ""} == {
        "method": "POST", "url": "https://hooks.example:8443/…", "headers": None, "body": None, "body_sha256": "",
    }  # fmt: skip
    assert (attempt["response_body"], attempt["response_headers"]) == (None, None)


@pytest.mark.one_database
def test_search_filters_and_order_reveal_no_url_and_no_answer(db: None, redis: Any) -> None:
    delivery = planted()
    viewer, changer = make_user(*VIEWS), make_user(*VIEWS, "change_webhook")
    webhooks, deliveries, events = (
        reverse(f"admin:rq_webhooks_{one}_changelist") for one in ("webhook", "delivery", "event")
    )
    found = {
        user: [len(browser(user).get(webhooks, {"q": q}).context["cl"].result_list) for q in (PLANTED[:3], "Chat")]
        for user in (viewer, changer)
    }
    assert found == {viewer: [0, 1], changer: [1, 1]}
    suggest = {"app_label": "rq_webhooks", "model_name": "delivery", "field_name": "webhook", "term": PLANTED[:3]}
    for user, count in ((viewer, 0), (changer, 1)):
        assert len(browser(user).get(reverse("admin:autocomplete"), suggest).json()["results"]) == count
    for address, asked in (
        (webhooks, "payload_url__startswith"), (deliveries, "webhook__payload_url__startswith"),
        (deliveries, "reason__contains"), (deliveries, "attempts__url__startswith"),
        (deliveries, "attempts__response_body__contains"), (events, "deliveries__webhook__payload_url__contains"),
    ):  # fmt: skip
        answer = browser(viewer).get(address, {asked: "h"})
        goes_on = answer.headers.get("location", "").rstrip("?")
        assert (answer.status_code, goes_on) in [(400, ""), (302, address)], asked  # without the filter
    make_webhook(Site, name="Other", url="https://zzz.example/")
    for asked in ({"search": PLANTED}, {"ordering": "-payload_url"}, {"payload_url": HOOK}):
        assert api_client(viewer).get(f"{API}/webhooks/", asked).status_code == 400
    assert api_client(viewer).get(f"{API}/webhooks/", {"q": PLANTED}).json()["results"] == []
    assert api_client(viewer).get(f"{API}/deliveries/", {"webhook": delivery.webhook_id}).status_code == 200
