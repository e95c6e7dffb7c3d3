"""What is told of URLs, headers and templates to those who may not set them."""

from __future__ import annotations

import pytest
from requests.exceptions import ConnectionError as RequestsConnectionError
from urllib3.exceptions import MaxRetryError

from webhooks.models import Attempt, Webhook
from webhooks.network import url_policy
from webhooks.network.outcome import explain
from webhooks.redaction import Disclosure

IN_FULL, IN_PART = Disclosure(in_full=True), Disclosure(in_full=False)
URL = "https://hooks.example:8443/services/T0ps3cret/a%2Fb?key=an+other1"


@pytest.mark.parametrize(
    ("url", "shown"),
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
def test_of_a_url_only_where_it_leads_to_is_told(url: str, shown: str) -> None:
    assert url_policy.redacted(url) == IN_PART.url(url) == shown
    assert IN_FULL.url(url) == url


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("", ""),
        ("connection refused", "connection refused"),
        ("no answer within 10 s", "no answer within 10 s"),
        ("HTTP 404 Cannot POST /services/T0ps3cret", "HTTP 404 Not Found"),
        ("HTTP 599 odd", "HTTP 599"),
        ("HTTP 200, but the body could not be read: T0ps3cret", "HTTP 200 OK, but the body could not be read"),
        (f"HTTP 302: redirects to {URL}, which is not followed", "HTTP 302 Found: redirects are not followed"),
        ("HTTP 500 x; its answer could not be stored: T0ps3cret", "HTTP 500 Internal Server Error"),
        (f"the URL came out as '{URL} ': The URL has a space", "the URL came out as …"),
        ("the headers could not be rendered: there is no colon in 'T0ps3cret'", "the headers could not be rendered …"),
        ("the body could not be rendered: line 1: KeyError: 'T0ps3cret'", "the body could not be rendered …"),
        ("the request could not be made: 'T0ps3cret'", "the request could not be made …"),
        ("UnicodeError: 'T0ps3cret'", "UnicodeError …"),
        ("TLS certificate not trusted: self-signed", "TLS certificate not trusted: self-signed"),
        ("connection failed: No route to host", "connection failed: No route to host"),
        ("the body has 7 bytes; 3 are allowed", "the body has 7 bytes; 3 are allowed"),
        ("the answer is no valid HTTP: BadStatusLine T0ps3cret", "the answer is no valid HTTP"),
    ],
)  # fmt: skip
def test_a_reason_is_told_without_what_receivers_and_templates_put_into_it(reason: str, told: str) -> None:
    assert IN_PART.reason(reason) == told
    assert IN_FULL.reason(reason) == reason


def test_no_error_of_a_library_brings_a_url_into_a_reason() -> None:
    path = URL.removeprefix("https://hooks.example:8443")
    inner = MaxRetryError(None, path, Exception("odd"))  # type: ignore[arg-type]
    for error in (RequestsConnectionError(inner), ValueError(f"Invalid URL {URL!r}: odd"), ValueError(f"no {URL}")):
        assert "T0ps3cret" in str(error)
        assert "T0ps3cret" not in explain(error, 10)
    assert "odd" in explain(RequestsConnectionError(inner), 10)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Cannot POST /services/T0ps3cret/a%2Fb?key=an+other1", "Cannot POST ********"),
        ("Cannot POST \\/services\\/T0ps3cret\\/a%2Fb", "Cannot POST ********"),
        ("Cannot POST /services/T0ps3cret/a/b?key=an+other1", "Cannot POST ********"),
        ("no such token: T0ps3cret", "no such token: ********"),
        ("cut off: T0ps3", "cut off: ********"),
        ("key is an+other1", "key is ********"),
        ('{"X-Token": "t0ken-in-header"}', '{"X-Token": "********"}'),
        ("fine, thank you", "fine, thank you"),
        ("", ""),
    ],
)
def test_an_answer_is_told_without_what_it_repeats_of_the_request(text: str, told: str) -> None:
    webhook = Webhook(additional_headers="X-Token: t0ken-in-header\nX-Name: {{ data.name }}\nodd")
    attempt = Attempt(url=URL, response_body=text, response_headers={"X-Said": text})
    assert IN_PART.body(attempt, webhook) == told
    assert IN_PART.headers(attempt, webhook) == {"X-Said": told}
    assert (IN_FULL.body(attempt, webhook), IN_FULL.headers(attempt, webhook)) == (text, {"X-Said": text})


@pytest.mark.parametrize("url", ["https://hooks.example", "https://hooks.example/", "https://hooks.example/in"])
def test_an_answer_to_a_url_without_a_secret_is_told_as_it_is(url: str) -> None:
    attempt = Attempt(url=url, response_body="see https://hooks.example/index", response_headers={})
    assert IN_PART.body(attempt, Webhook()) == attempt.response_body
