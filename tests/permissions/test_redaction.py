"""URLs, errors and answers, shown to a user without permission to change the webhook."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from requests.exceptions import ConnectionError as RequestsConnectionError
from urllib3.exceptions import MaxRetryError

from webhooks.network.outcome import explain
from webhooks.redaction import Redaction

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


@pytest.mark.parametrize(
    ("reason", "kind"),
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
def test_an_error_is_shown_without_text_from_receivers_and_templates(reason: str, kind: str) -> None:
    assert LITTLE.error(1, reason) == kind
    assert ALL.error(1, reason) == reason


@pytest.mark.parametrize("user", [None, AnonymousUser()])
def test_without_a_user_nothing_is_shown_in_full(user: Any) -> None:
    assert not Redaction(user).sees_all(1)
    assert ALL.sees_all(1)


def test_errors_of_libraries_put_no_url_into_a_reason() -> None:
    path = URL.removeprefix("https://hooks.example:8443")
    inner = MaxRetryError(None, path, Exception("odd"))  # type: ignore[arg-type]
    for error in (RequestsConnectionError(inner), ValueError(f"Invalid URL {URL!r}: odd"), ValueError(f"no {URL}")):
        assert "T0ps3cret" in str(error)
        assert "T0ps3cret" not in explain(error, 10)
    assert "odd" in explain(RequestsConnectionError(inner), 10)
