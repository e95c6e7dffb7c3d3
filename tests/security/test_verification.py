"""What a receiver in Python takes and what it refuses."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import standardwebhooks
from django.core.cache import cache
from django.http import HttpRequest
from hypothesis import given
from hypothesis import strategies as st

import webhooks
from tests.support.inbox import ROOT
from webhooks.security import signing, verification
from webhooks.security.verification import ReplayWindow, VerificationError, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'

# The example of the specification, and of the tests of its reference libraries.
GOLDEN = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def signed(secret: str = SECRET, age: int = 0, body: bytes = BODY, **options: Any) -> dict[str, str]:
    return signing.headers(secret, "msg_1", int(time.time()) - age, body, **options)


@pytest.fixture
def back_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification.time, "time", lambda: 1614265330.0)


@pytest.mark.usefixtures("back_then")
def test_the_standards_own_example_is_taken() -> None:
    assert verify(BODY, GOLDEN, SECRET) == "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_what_the_reference_library_signs_is_taken() -> None:
    now = standardwebhooks.webhooks.datetime.now(tz=standardwebhooks.webhooks.timezone.utc)
    signature = standardwebhooks.Webhook(SECRET).sign("m", now, BODY.decode())
    stamp = str(int(now.timestamp()))
    assert verify(BODY, {"webhook-id": "m", "webhook-timestamp": stamp, "webhook-signature": signature}, SECRET) == "m"


@pytest.mark.parametrize("secret", [SECRET, "plain", "ümlaut", ["no", SECRET], (SECRET, "plain")])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_of_the_secrets_is_enough(secret: str | Sequence[str], kind: Any) -> None:
    one = secret if isinstance(secret, str) else SECRET
    assert verify(kind(BODY), signed(one), secret) == "msg_1"


def test_any_of_the_signatures_is_enough() -> None:
    headers = signed("new", previous="old")
    assert headers["webhook-signature"].count("v1,") == 2
    assert [verify(BODY, headers, secret) for secret in ("new", "old")] == ["msg_1"] * 2
    headers["webhook-signature"] = "v1a,abc  v2,x , " + headers["webhook-signature"]
    assert verify(BODY, headers, "old") == "msg_1"


def test_names_of_headers_may_be_written_in_any_case_and_django_s_are_taken() -> None:
    assert verify(BODY, {name.title(): value for name, value in signed().items()}, SECRET)
    request = HttpRequest()
    request.META = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in signed().items()}
    assert verify(BODY, request.headers, SECRET)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"webhook-id": None}, "the header webhook-id is missing"),
        ({"webhook-timestamp": None}, "the header webhook-timestamp is missing"),
        ({"webhook-signature": ""}, "the header webhook-signature is missing"),
        ({"webhook-id": "msg_2"}, "no signature fits"),
        *(({"webhook-id": one}, "a character in it that no id has") for one in ("msg.1", ".", "msg_ä", "\ud800")),
        *(
            ({"webhook-timestamp": stamp}, "not a number of seconds")
            for stamp in ("nan", "inf", "-1", "0", "", "1e9", "1_000", " 1", "1 ", "٣", "01614265330", "1" * 400)
            if stamp
        ),
        ({"webhook-timestamp": "1614265330"}, "more than 300 s old"),
        ({"webhook-timestamp": "999999999999"}, "or ahead"),
        *(({"webhook-signature": one}, "no signature fits") for one in ("v1,", "v1", "x", "v1,ä", "v1,\ud800", " ")),
    ],
)
def test_whatever_is_wrong_is_refused_with_its_reason(changes: dict[str, str | None], reason: str) -> None:
    headers = {name: value for name, value in (signed() | changes).items() if value is not None}
    with pytest.raises(VerificationError, match=reason):
        verify(BODY, headers, SECRET)


@pytest.mark.parametrize("secret", ["another", "whsec_" + base64.b64encode(b"x" * 24).decode(), ["a", "b"]])
def test_another_secret_is_refused(secret: str | Sequence[str]) -> None:
    with pytest.raises(VerificationError, match="no signature fits"):
        verify(BODY, signed(), secret)


@pytest.mark.parametrize(
    ("secret", "body", "error"),
    [
        ("", BODY, ValueError),
        ([], BODY, ValueError),
        ([SECRET, ""], BODY, ValueError),
        ("whsec_", BODY, ValueError),
        ("whsec_ä", BODY, ValueError),
        (SECRET, BODY.decode(), TypeError),
    ],
)
def test_what_no_receiver_may_do_is_an_error_of_its_own(secret: Any, body: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(body, signed(), secret)


@pytest.mark.parametrize("tolerance", [-1, float("nan")])
def test_a_tolerance_that_is_none_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="the tolerance"):
        verify(BODY, signed(), SECRET, tolerance=tolerance)


def test_the_beginning_of_a_body_does_not_pass_for_the_time() -> None:
    now = int(time.time())
    old = signed(age=3600, body=b"%d.%b" % (now, BODY))  # a template may write a number and a dot first
    forged = old | {"webhook-id": f"{old['webhook-id']}.{old['webhook-timestamp']}", "webhook-timestamp": str(now)}
    with pytest.raises(VerificationError):
        verify(BODY, forged, SECRET)


@pytest.mark.parametrize(
    ("age", "tolerance", "is_taken"),
    [(297, 300, True), (303, 300, False), (-303, 300, False), (20, 10, False), (5, 10, True), (-5, 10, True)],
)
def test_the_time_may_be_off_by_the_tolerance(age: int, tolerance: float, is_taken: bool) -> None:
    try:
        verify(BODY, signed(age=age), SECRET, tolerance=tolerance)
    except VerificationError:
        assert not is_taken
    else:
        assert is_taken


@pytest.mark.parametrize("remember", [ReplayWindow(), lambda key, seconds: cache.add(key, True, seconds)])
def test_a_request_is_taken_once_and_another_attempt_of_its_delivery_too(remember: verification.Remember) -> None:
    cache.clear()
    first, again = signed(age=1), signed()
    verify(BODY, first, SECRET, remember=remember)
    verify(BODY, again, SECRET, remember=remember)
    for headers in (first, again):
        with pytest.raises(VerificationError, match="was here already"):
            verify(BODY, headers, SECRET, remember=remember)


def test_a_request_of_a_clock_that_is_ahead_is_remembered_for_as_long_as_its_time_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=1_000_000_000.0)
    monkeypatch.setattr(verification, "time", SimpleNamespace(time=lambda: clock.now, monotonic=lambda: clock.now))
    window, headers = ReplayWindow(), signing.headers(SECRET, "msg_1", int(clock.now) + 300, BODY)
    verify(BODY, headers, SECRET, remember=window)
    for seconds, reason in (
        (300, "here already"),
        (299, "here already"),
        (1, "here already"),
        (1, "more than 300 s old"),
    ):
        clock.now += seconds
        with pytest.raises(VerificationError, match=reason):
            verify(BODY, headers, SECRET, remember=window)


def test_a_forged_request_is_not_remembered() -> None:
    window = ReplayWindow()
    with pytest.raises(VerificationError):
        verify(BODY + b" ", headers := signed(), SECRET, remember=window)
    assert verify(BODY, headers, SECRET, remember=window)


def test_a_window_forgets_what_is_too_old_to_pass_again() -> None:
    window = ReplayWindow()
    assert window("old", 0.01)
    assert window("young", 60)
    time.sleep(0.02)
    assert window("another", 60)
    assert set(window._until) == {"young", "another"}
    assert not window("young", 60)


@given(body=st.binary(), place=st.integers(min_value=0), flip=st.integers(1, 255), key=st.binary(min_size=1))
def test_no_changed_body_is_taken(body: bytes, place: int, flip: int, key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    headers = signed(secret, body=body)
    assert verify(body, headers, secret) == "msg_1"
    changed = bytearray(body or b"\0")
    changed[place % len(changed)] ^= flip
    with pytest.raises(VerificationError):
        verify(changed, headers, secret)


def test_it_needs_no_django() -> None:
    code = "import sys, webhooks; webhooks.verify, webhooks.VerificationError; assert 'django' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert webhooks.verify is verify
