"""Signatures: the golden vectors of their specifications, and the verification of requests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
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
from webhooks.ground.security import signing
from webhooks.ground.security.signing import ReplayWindow, VerificationError, verify

# From the specification of Standard Webhooks and its reference libraries' tests.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("length", range(1, 65))
def test_a_secret_may_lack_its_padding_as_in_the_reference_library(length: int) -> None:
    secret = signing.PREFIX + base64.b64encode(bytes(range(length))).decode().rstrip("=")
    reference = standardwebhooks.Webhook(secret).sign(MESSAGE, datetime.fromtimestamp(STAMP, UTC), BODY.decode())
    assert signing.standard_signature(secret, MESSAGE, STAMP, BODY) == reference


@pytest.mark.parametrize("text", ["A", "AAAAA", "AA=", "A===", "AA=A", "AA AA", "!!!!"])
def test_a_secret_that_is_not_base64_is_still_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must go on in base64"):
        signing.key_of(signing.PREFIX + text)


def test_the_example_of_standard_webhooks_gets_its_signature() -> None:
    signature = signing.standard_signature(SECRET, MESSAGE, STAMP, BODY)
    assert signature == SIGNATURE


def test_the_hook_signature_is_the_hmac_of_rfc_4231() -> None:
    # Test case 2.
    assert signing.headers("Jefe", MESSAGE, STAMP, b"what do ya want for nothing?")["X-Hook-Signature"] == (
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
    )


def test_netbox_computes_the_same_hook_signature() -> None:
    prepared = hmac.new(key=b"a secret", msg=BODY, digestmod=hashlib.sha512).hexdigest()
    assert signing.headers("a secret", MESSAGE, STAMP, BODY)["X-Hook-Signature"] == prepared


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        ("plain", b"plain"),
        ("ümlaut", "ümlaut".encode()),
        ("whsec_" + base64.b64encode(b"\x00\xff" * 12).decode(), b"\x00\xff" * 12),
        ("Whsec_notaprefix", b"Whsec_notaprefix"),
    ],
)
def test_a_secret_is_decoded_to_its_key(secret: str, key: bytes) -> None:
    assert signing.key_of(secret) == key


@pytest.mark.parametrize("secret", ["whsec_not base64!", "whsec_abcde", "whsec_ä", "whsec_"])
def test_a_prefixed_secret_that_is_not_base64_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        signing.key_of(secret)


def test_without_a_secret_there_is_no_signature() -> None:
    assert signing.headers("", MESSAGE, STAMP, BODY) == {"webhook-id": MESSAGE, "webhook-timestamp": str(STAMP)}


def test_the_previous_secret_signs_in_the_same_header() -> None:
    both = signing.headers(SECRET, MESSAGE, STAMP, BODY, previous="plain")
    new, old = both["webhook-signature"].split(" ")
    assert new == SIGNATURE
    assert old == signing.standard_signature("plain", MESSAGE, STAMP, BODY)
    assert both["X-Hook-Signature"] == signing.headers(SECRET, MESSAGE, STAMP, BODY)["X-Hook-Signature"]


@given(key=st.binary(min_size=1, max_size=64), data=st.dictionaries(st.text(), st.integers()), message=st.uuids())
def test_the_receivers_library_accepts_every_signature(key: bytes, data: dict[str, int], message: object) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    body = json.dumps(data).encode()
    headers = signing.headers(secret, str(message), int(time.time()), body)
    assert standardwebhooks.Webhook(secret).verify(body, headers) == data


@given(secret=st.text(min_size=1).filter(lambda text: not text.startswith("whsec_")), body=st.binary())
def test_any_text_can_be_a_secret(secret: str, body: bytes) -> None:
    if any(0xD800 <= ord(character) <= 0xDFFF for character in secret):
        return
    assert signing.headers(secret, MESSAGE, STAMP, body)["webhook-signature"].startswith("v1,")


def signed(secret: str = SECRET, age: int = 0, body: bytes = BODY, **options: Any) -> dict[str, str]:
    return signing.headers(secret, "msg_1", int(time.time()) - age, body, **options)


@pytest.fixture
def back_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing.time, "time", lambda: 1614265330.0)


@pytest.mark.usefixtures("back_then")
def test_the_example_of_standard_webhooks_is_verified() -> None:
    golden = {"webhook-id": MESSAGE, "webhook-timestamp": str(STAMP), "webhook-signature": SIGNATURE}
    assert verify(BODY, golden, SECRET) == MESSAGE


def test_a_signature_of_the_reference_library_is_verified() -> None:
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


def test_the_case_of_header_names_does_not_matter_and_django_headers_work() -> None:
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
        ({"webhook-id": "msg_2"}, "no signature matches"),
        *(({"webhook-id": one}, "an invalid character") for one in ("msg.1", ".", "msg_ä", "\ud800")),
        *(
            ({"webhook-timestamp": stamp}, "not a number of seconds")
            for stamp in ("nan", "inf", "-1", "0", "", "1e9", "1_000", " 1", "1 ", "٣", "01614265330", "1" * 400)
            if stamp
        ),
        ({"webhook-timestamp": "1614265330"}, "more than 300 s off"),
        ({"webhook-timestamp": "999999999999"}, "more than 300 s off"),
        *(({"webhook-signature": one}, "no signature matches") for one in ("v1,", "v1", "x", "v1,ä", "v1,\ud800", " ")),
    ],
)
def test_an_invalid_header_is_refused_with_the_reason(changes: dict[str, str | None], reason: str) -> None:
    headers = {name: value for name, value in (signed() | changes).items() if value is not None}
    with pytest.raises(VerificationError, match=reason):
        verify(BODY, headers, SECRET)


@pytest.mark.parametrize("secret", ["another", "whsec_" + base64.b64encode(b"x" * 24).decode(), ["a", "b"]])
def test_another_secret_is_refused(secret: str | Sequence[str]) -> None:
    with pytest.raises(VerificationError, match="no signature matches"):
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
def test_wrong_arguments_raise_an_error(secret: Any, body: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(body, signed(), secret)


@pytest.mark.parametrize("tolerance", [-1, float("nan")])
def test_an_invalid_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="the tolerance"):
        verify(BODY, signed(), SECRET, tolerance=tolerance)


def test_the_beginning_of_a_body_does_not_pass_as_the_timestamp() -> None:
    now = int(time.time())
    old = signed(age=3600, body=b"%d.%b" % (now, BODY))  # a template may write a number and a dot first
    forged = old | {"webhook-id": f"{old['webhook-id']}.{old['webhook-timestamp']}", "webhook-timestamp": str(now)}
    with pytest.raises(VerificationError):
        verify(BODY, forged, SECRET)


@pytest.mark.parametrize(
    ("age", "tolerance", "is_taken"),
    [(299, 300, True), (300, 300, False), (-301, 300, False), (-300, 300, True), (10, 10, False), (9, 10, True)],
)
def test_the_timestamp_may_be_off_by_the_tolerance(
    monkeypatch: pytest.MonkeyPatch, age: int, tolerance: float, is_taken: bool
) -> None:
    monkeypatch.setattr(signing, "time", SimpleNamespace(time=lambda: STAMP + age + 0.5))
    try:
        verify(BODY, signing.headers(SECRET, MESSAGE, STAMP, BODY), SECRET, tolerance=tolerance)
    except VerificationError:
        assert not is_taken
    else:
        assert is_taken


@pytest.mark.parametrize("remember", [ReplayWindow(), lambda key, seconds: cache.add(key, True, seconds)])
def test_a_request_is_verified_once_and_so_is_a_retry_of_its_delivery(remember: Any) -> None:
    cache.clear()
    first, again = signed(age=1), signed()
    verify(BODY, first, SECRET, remember=remember)
    verify(BODY, again, SECRET, remember=remember)
    for headers in (first, again):
        with pytest.raises(VerificationError, match="was received before"):
            verify(BODY, headers, SECRET, remember=remember)


def test_a_request_with_a_future_timestamp_is_remembered_until_it_is_too_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=1_000_000_000.0)
    monkeypatch.setattr(signing, "time", SimpleNamespace(time=lambda: clock.now, monotonic=lambda: clock.now))
    window, headers = ReplayWindow(), signing.headers(SECRET, "msg_1", int(clock.now) + 300, BODY)
    verify(BODY, headers, SECRET, remember=window)
    for seconds, reason in (
        (300, "received before"),
        (299, "received before"),
        (1, "received before"),
        (1, "more than 300 s off"),
    ):
        clock.now += seconds
        with pytest.raises(VerificationError, match=reason):
            verify(BODY, headers, SECRET, remember=window)


def test_a_forged_request_is_not_remembered() -> None:
    window = ReplayWindow()
    with pytest.raises(VerificationError):
        verify(BODY + b" ", headers := signed(), SECRET, remember=window)
    assert verify(BODY, headers, SECRET, remember=window)


def test_a_replay_window_forgets_expired_keys() -> None:
    window = ReplayWindow()
    assert window("old", 0.01)
    assert window("young", 60)
    time.sleep(0.02)
    assert window("another", 60)
    assert set(window._until) == {"young", "another"}
    assert not window("young", 60)


@given(body=st.binary(), place=st.integers(min_value=0), flip=st.integers(1, 255), key=st.binary(min_size=1))
def test_a_changed_body_is_refused(body: bytes, place: int, flip: int, key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    headers = signed(secret, body=body)
    assert verify(body, headers, secret) == "msg_1"
    changed = bytearray(body or b"\0")
    changed[place % len(changed)] ^= flip
    with pytest.raises(VerificationError):
        verify(changed, headers, secret)


def test_verify_needs_no_django() -> None:
    code = "import sys, webhooks; webhooks.verify, webhooks.VerificationError; assert 'django' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert webhooks.verify is verify
