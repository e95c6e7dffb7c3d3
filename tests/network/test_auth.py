"""Credentials that the project's own code adds."""

from __future__ import annotations

import logging
import threading
from asyncio import CancelledError
from dataclasses import replace
from typing import Any

import pytest
import requests
from requests.auth import AuthBase, HTTPBasicAuth

from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.testapp.models import Thing
from webhooks.ground.error_kinds import ErrorKind
from webhooks.models import Attempt
from webhooks.workers.compose import credentials
from webhooks.workers.network.attempt import Refused, Request
from webhooks.workers.network.auth import Credentials, authenticate, waits

TOKEN = "token-of-the-project-1"
REQUEST = Request("https://hooks.example.com/a?b=c", {"X-A": "1", "Authorization": "Bearer old"}, b"{}", 5)


class TokenAuth(AuthBase):
    """Adds a token, and a header made of what is sent."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        assert isinstance(request.body, bytes)
        request.headers["authorization"] = f"Bearer {TOKEN}"
        request.headers["X-Sent"] = f"{request.method} {request.path_url} {len(request.body)} {request.headers['X-A']}"
        return request


def fail(request: requests.PreparedRequest) -> requests.PreparedRequest:
    raise LookupError(f"no token like {TOKEN}")


def cancel(request: requests.PreparedRequest) -> requests.PreparedRequest:
    raise CancelledError


def change_body(request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.prepare_body(b"[]", None)
    return request


def set_header(name: str, value: str) -> Any:
    def auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers[name] = value
        return request

    return auth


def add_auth(request: Request) -> Request:
    """The request with credentials, of a webhook without secret headers."""
    return authenticate(request, Credentials(request.url, str, request.verify is not False))


token, basic = TokenAuth(), HTTPBasicAuth("jane", "password-of-jane")
sets_host, sets_two_lines = set_header("Host", "other.example.com"), set_header("X-B", "1\r\nX-C: 2")


@pytest.fixture
def auth(webhooks_settings: Any) -> Any:
    return lambda name, host="*.example.com": webhooks_settings(AUTH={host: f"{__name__}.{name}"})


def test_the_code_for_a_host_sets_headers_that_are_secrets(auth: Any) -> None:
    auth("token")
    request = add_auth(REQUEST)
    assert request.headers == {"X-A": "1", "authorization": f"Bearer {TOKEN}", "X-Sent": "POST /a?b=c 2 1"}
    assert TOKEN in request.hidden
    assert set(request.secret_names) == {"authorization", "x-sent"}
    assert TOKEN not in repr(request) + repr(request.stored())


def test_the_classes_of_requests_work(auth: Any) -> None:
    auth("basic")
    request = add_auth(REQUEST)
    assert request.headers["Authorization"] == "Basic amFuZTpwYXNzd29yZC1vZi1qYW5l"
    assert "password-of-jane" in request.hidden


@pytest.mark.parametrize(
    ("key", "url", "gets"),
    [
        ("hooks.example.com", "https://hooks.example.com/a?b=c", True),
        ("Hooks.Example.com", "HTTPS://hooks.example.COM:443", True),
        ("*.example.com", "https://hooks.example.com./a", True),
        ("hooks.example.com.", "https://hooks.example.com/", True),
        ("https://hooks.example.com./", "https://hooks.example.com/", True),
        ("example.com", "https://hooks.example.com/", False),
        ("*.example.org", "https://hooks.example.com/", False),
        ("hooks.example.com", "http://hooks.example.com/", False),
        ("hooks.example.com", "http://hooks.example.com:443/", False),
        ("hooks.example.com", "https://hooks.example.com:22100/", False),
        ("hooks.example.com", "https://hooks.example.com.evil.example/", False),
        ("2001:db8::1", "https://[2001:db8::1]/", True),
        ("https://[2001:db8::1]:8443", "https://[2001:DB8:0::1]:8443/a", True),
        ("hooks.example.com:443", "https://hooks.example.com/", False),
        ("https://hooks.example.com", "https://hooks.example.com/a", True),
        ("https://hooks.example.com/", "https://hooks.example.com", True),
        ("https://hooks.example.com", "http://hooks.example.com/a", False),
        ("https://hooks.example.com:8443", "https://hooks.example.com:8443/a", True),
        ("https://hooks.example.com:8443", "https://hooks.example.com/a", False),
        ("http://hooks.example.com", "http://hooks.example.com/a", True),
        ("http://hooks.example.com", "http://hooks.example.com:8080/a", False),
        ("http://hooks.example.com", "https://hooks.example.com/a", False),
        ("https://*.example.com/in", "https://hooks.example.com/in", True),
        ("https://*.example.com/in/", "https://hooks.example.com/in/a?b", True),
        ("https://*.example.com/in", "https://hooks.example.com/in?/../out", True),
        ("https://*.example.com/in", "https://hooks.example.com/", False),
        ("https://*.example.com/in", "https://hooks.example.com/?/in", False),
        ("https://*.example.com/in", "https://hooks.example.com/inner", False),
        ("https://*.example.com/in", "https://hooks.example.com/IN", False),
        ("https://*.example.com/in", "https://hooks.example.com//in", False),
        ("https://*.example.com/in", "https://hooks.example.com/in/../out", False),
        ("https://*.example.com/in", "https://hooks.example.com/in/..", False),
        ("https://*.example.com/in", "https://hooks.example.com/in/..;x/out", False),
        ("https://*.example.com/in", "https://hooks.example.com/in/%2E%2e/out", False),
        ("https://*.example.com/in", "https://hooks.example.com/in/..%2fout", False),
        ("https://*.example.com/in", "https://hooks.example.com/in/%252e%252e/out", False),
        ("https://*.example.com/in", "https://hooks.example.com/in/..%5Cout", False),
        ("https://*.example.com/in", "https://hooks.example.com/in/...", True),
    ],
)
def test_credentials_go_only_to_the_receiver_that_they_are_for(auth: Any, key: str, url: str, gets: bool) -> None:
    auth("token", key)
    assert ("authorization" in add_auth(replace(REQUEST, url=url, headers={"X-A": "1"})).headers) == gets


def test_credentials_go_to_no_receiver_whose_certificate_is_not_verified(auth: Any) -> None:
    for key in ("hooks.example.com", "https://hooks.example.com"):
        auth("token", key)
        unverified = replace(REQUEST, verify=False)
        assert add_auth(unverified) is unverified
        assert add_auth(replace(REQUEST, verify="/etc/ssl/own.pem")).secret_names


@pytest.mark.usefixtures("database")
def test_a_webhook_without_tls_verification_sends_no_credentials(auth: Any) -> None:
    auth("token", "hooks.example.com")
    assert not waits(credentials(make_webhook(Thing, ssl_verification=False), REQUEST.url))
    assert waits(credentials(make_webhook(Thing), REQUEST.url))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fail", "LookupError, see the worker's log"),
        ("cancel", "CancelledError, see the worker's log"),
        ("nowhere", "ImportError, see the worker's log"),
        ("change_body", "it may only set headers, and changed the method, URL or body"),
        ("sets_host", "ValueError, see the worker's log"),
        ("sets_two_lines", "it sets a header with a line break in it"),
    ],
)
def test_code_that_fails_or_does_more_is_refused_without_its_text(
    auth: Any, caplog: pytest.LogCaptureFixture, name: str, reason: str
) -> None:
    auth(name)
    with caplog.at_level(logging.ERROR), pytest.raises(Refused) as refused:
        add_auth(REQUEST)
    assert refused.value.kind == ErrorKind.AUTH
    assert str(refused.value) == f"{__name__}.{name} failed: {reason}"
    [record] = caplog.records
    assert record.getMessage() == f"The authentication by {__name__}.{name} failed for https://hooks.example.com/…"


released = threading.Event()


def wait(request: requests.PreparedRequest) -> requests.PreparedRequest:
    assert released.wait(60)
    return token(request)


@pytest.mark.usefixtures("database")
def test_slow_code_keeps_no_other_webhook_waiting(auth: Any, inbox: Inbox, webhooks_settings: Any) -> None:
    released.clear()
    auth("wait", inbox.url("").rstrip("/"))
    slow = [make_webhook(Thing, url=inbox.url("ok/slow"), additional_headers="X-A: 1") for _ in range(6)]
    quick = make_webhook(Thing, url=inbox.url("ok/quick").replace("127.0.0.1", "localhost"))
    make_event(*slow, quick)
    release = threading.Thread(target=lambda: inbox.wait_for(1, behaviour="ok/quick") and released.set())
    release.start()
    drain()
    release.join()
    assert states() == ["succeeded"] * 7
    assert {one.headers["authorization"] for one in inbox.received("ok/slow")} == {f"Bearer {TOKEN}"}
    assert "authorization" not in inbox.received("ok/quick")[0].headers
    assert TOKEN not in str(list(Attempt.objects.values()))
