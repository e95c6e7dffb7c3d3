"""Header lines: parsing, refusing, and hiding their secrets."""

from __future__ import annotations

import time

import pytest

from webhooks.ground import headers
from webhooks.ground.text.redaction import redact


def test_lines_are_parsed_in_order() -> None:
    text = "Authorization:  Bearer abc \r\n\n  X-Token : a:b=c\nX-Empty-Looking: -\t-"
    assert headers.parse(text) == {"Authorization": "Bearer abc", "X-Token": "a:b=c", "X-Empty-Looking": "-\t-"}
    assert headers.parse("") == headers.parse(" \n ") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hush", "Line 1: write a header as Name: value."),
        (": hush", "Line 1: write a header"),
        ("X Y: hush", "Line 1: write a header"),
        ("Ä: hush", "Line 1: write a header"),
        ("X-A\0: hush", "Line 1: write a header"),
        ("X-A: 1\nX-B: hush\rX-C: hush", "Line 2: the value of X-B must be visible ASCII"),
        ("X-A: hush\0", "Line 1: the value of X-A must be"),
        ("X-A: hush\x0b", "Line 1: the value of X-A must be"),
        ("X-A: hush\x85X-B: 1", "Line 1: the value of X-A must be"),
        ("X-A: hüsh", "Line 1: the value of X-A must be"),
        ("X-A:", "Line 1: the value of X-A must be"),
        ("X-A: hush\nx-a: hush", "Line 2: x-a is there twice."),
        ("\n".join(f"X-{number}: hush" for number in range(51)), "There are 51 headers; 50 are the most."),
        *(
            (f"{name}: hush", f"Line 1: {name} cannot be set")
            for name in (
                "Host", "content-length", "Content-Type", "Transfer-Encoding", "Connection", "Keep-Alive", "TE",
                "Trailer", "Upgrade", "Proxy-Authorization", "Proxy-Connection", "Proxy-Authenticate", "Expect",
                "webhook-id", "Webhook-Signature", "WEBHOOK-ANYTHING", "X-Hook-Signature", "Content-Encoding",
                "X-Webhook-Depth", "HTTP2-Settings", "Proxy-Anything", "webhook_signature", "Transfer_Encoding",
            )
        ),
    ],
)  # fmt: skip
def test_invalid_headers_are_refused_without_showing_values(text: str, reason: str) -> None:
    message = headers.problem(text)
    assert message.startswith(reason)
    assert "hush" not in message
    with pytest.raises(ValueError, match=r"Line|headers"):
        headers.parse(text)


HIDDEN = headers.secrets_in('Authorization: Bearer tok-12345678\nX-Pin: 42\nX-Odd: a"b\\c/d e')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nothing of it", "nothing of it"),
        ("you sent Bearer tok-12345678!", "you sent ********!"),
        ("token tok-12345678 is wrong", "token ******** is wrong"),
        ("Bearer is not secret", "Bearer is not secret"),
        ('{"odd": "a\\"b\\\\c/d e"}', '{"odd": "********"}'),
        ("q=a%22b%5Cc%2Fd%20e&", "q=********&"),
        ("cut off at tok-123", "cut off at ********"),
        ("cut off at Bearer tok-1234567", "cut off at ********"),
        ("no cut at tok", "no cut at tok"),
        ('{"odd": "a\\u0022b\\u005Cc\\/d e"}', '{"odd": "********"}'),
        ("odd=a%22b%5cc%2fd+e", "odd=********"),
        ("<p>a&quot;b&#92;c&#x2F;d e</p>", "<p>********</p>"),
        ("cut off at a&quot;b&#9", "cut off at ********"),
        ("pin 42", "pin ********"),
        ('{"page": "<p>a\\u0026quot;b\\\\c\\/d e</p>"}', '{"page": "<p>********</p>"}'),
        ("{'odd': 'a%22b&#92;c/d+e'}", "{'odd': '********'}"),
        ("t=%74ok-1234567%38", "t=********"),
        ("tok-12345678tok-12345678", "****************"),
        ("cut off at tok%2", "cut off at ********"),
        ('cut off at a\\"b\\', "cut off at ********"),
        ("not cut off & at all", "not cut off & at all"),
        ("", ""),
    ],
)
def test_secrets_that_a_receiver_repeats_are_hidden(text: str, shown: str) -> None:
    assert redact(text, HIDDEN) == shown


@pytest.mark.cost
@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("\\" * 60 + "x", "\\" * 1024),
        ("\\" * 4000 + "x", "\\" * 8192),
        ("a" * 4000 + "b", "a" * 4000 + "c" + "a" * 4000),
        ("&#0" * 1000, "&#0" * 2700),
        (" ".join(["%" * 80 + "x"] * 90), "%25" * 2700),
        ("+" * 4000 + "x", "\\+&+%2" * 1000),
    ],
)
def test_hiding_secrets_is_quick_for_hostile_answers(value: str, answer: str) -> None:
    hidden = headers.secrets_in(f"X-Token: {value}")
    begun = time.thread_time()
    shown = redact(answer, hidden)
    assert time.thread_time() - begun < 5
    assert value not in shown


def test_a_too_long_text_is_hidden_as_a_whole() -> None:
    assert redact("x" * 100_000, {"y" * 1000}) == "x" * 100_000
    assert redact("x" * 100_001, {"y" * 1000}) == "********"


def test_basic_credentials_are_hidden() -> None:
    hidden = headers.secrets_in("Authorization: Basic YWxpY2U6aHVudGVyMi1ldmVyeXdoZXJl")
    assert redact("you are alice:hunter2-everywhere, hunter2-everywhere", hidden) == "you are ********, ********"
    assert redact("Basic nonsense is no secret", headers.secrets_in("Authorization: Basic nonsense-")) == (
        "Basic nonsense is no secret"
    )


def test_a_secret_header_without_credentials_does_not_make_redaction_endless() -> None:
    assert redact("Basic is what you sent", headers.secrets_in("Authorization: Basic")) == "******** is what you sent"
    assert redact("whatever", [""]) == "whatever"


@pytest.mark.parametrize("encoded", ["", "Og=="], ids=["nothing", "an empty user and password"])
def test_basic_authentication_without_credentials_hides_nothing_else(encoded: str) -> None:
    value = f"Basic {encoded}".strip()
    assert headers.secrets_in(f"Authorization: {value}") <= {value}
    assert redact("at 12:30", headers.secrets_in(f"Authorization: {value}")) == "at 12:30"


def test_nothing_is_hidden_without_secrets() -> None:
    assert redact("whatever", headers.secrets_in("")) == "whatever"


def test_no_break_spaces_around_a_value_are_no_part_of_it() -> None:
    assert headers.parse("X-Token:\xa0abc\xa0\nX-Other: \xa0 d e") == {"X-Token": "abc", "X-Other": "d e"}
    assert headers.parse_rendered("X-Token:\xa0abc\xa0") == ("X-Token", "abc")
    assert "visible ASCII" in headers.problem("X-Token: a\xa0b")
    assert "visible ASCII" in headers.problem("X-Token: \xa0")
