"""Signatures: golden vectors, and what the receivers' own library says of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from webhooks.security import signing

# From the specification of Standard Webhooks and its reference libraries' tests.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STAMP = 1614265330
BODY = b'{"test": 2432232314}'


def test_the_standards_own_example_is_signed_as_it_says() -> None:
    signature = signing.standard_signature(SECRET, MESSAGE, STAMP, BODY)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("secret", "body", "signature"),
    [
        # RFC 4231, test cases 1 and 2.
        (
            "Jefe",
            b"what do ya want for nothing?",
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
            "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
    ],
)
def test_the_hook_signature_is_the_hmac_of_rfc_4231(secret: str, body: bytes, signature: str) -> None:
    assert signing.hook_signature(secret, body) == signature


def test_netboxes_own_computation_gives_the_same() -> None:
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
def test_a_secret_stands_for_its_key(secret: str, key: bytes) -> None:
    assert signing.key_of(secret) == key


@pytest.mark.parametrize("secret", ["whsec_not base64!", "whsec_abc", "whsec_ä", "whsec_"])
def test_a_prefixed_secret_that_is_not_base64_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        signing.key_of(secret)


def test_without_a_secret_there_is_an_id_and_a_time_and_no_signature() -> None:
    assert signing.headers("", MESSAGE, STAMP, BODY) == {"webhook-id": MESSAGE, "webhook-timestamp": str(STAMP)}


def test_the_previous_secret_signs_beside_the_new_one_in_one_header() -> None:
    both = signing.headers(SECRET, MESSAGE, STAMP, BODY, previous="plain")
    new, old = both["webhook-signature"].split(" ")
    assert new == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert old == signing.standard_signature("plain", MESSAGE, STAMP, BODY)
    assert both["X-Hook-Signature"] == signing.hook_signature(SECRET, BODY)


@given(key=st.binary(min_size=1, max_size=64), data=st.dictionaries(st.text(), st.integers()), message=st.uuids())
def test_the_receivers_library_accepts_every_signature(key: bytes, data: dict[str, int], message: object) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    body = json.dumps(data).encode()
    headers = signing.headers(secret, str(message), int(time.time()), body)
    assert standardwebhooks.Webhook(secret).verify(body, headers) == data


@given(
    key=st.binary(min_size=1, max_size=64),
    body=st.binary(min_size=1),
    place=st.integers(min_value=0),
    flip=st.integers(1, 255),
)
def test_a_body_that_was_changed_has_another_signature(key: bytes, body: bytes, place: int, flip: int) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    place %= len(body)
    changed = body[:place] + bytes([body[place] ^ flip]) + body[place + 1 :]
    honest, forged = (signing.headers(secret, MESSAGE, STAMP, text) for text in (body, changed))
    assert honest["webhook-signature"] != forged["webhook-signature"]
    assert honest["X-Hook-Signature"] != forged["X-Hook-Signature"]


@given(secret=st.text(min_size=1).filter(lambda text: not text.startswith("whsec_")), body=st.binary())
def test_any_other_text_signs_too(secret: str, body: bytes) -> None:
    if any(0xD800 <= ord(character) <= 0xDFFF for character in secret):
        return
    assert signing.headers(secret, MESSAGE, STAMP, body)["webhook-signature"].startswith("v1,")
