"""What is encrypted, with which key, and who gets to see it."""

from __future__ import annotations

import base64
import json
import pickle
import timeit
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.support.figures import Figures
from webhooks.security import encryption
from webhooks.security.encryption import Secret, Unreadable

A, B = Fernet.generate_key().decode(), Fernet.generate_key().decode()
PLAIN = "hush-hush"


def test_the_text_is_not_in_what_is_stored_and_comes_out_again() -> None:
    text = "Grüße an alle, die das lesen"
    stored = encryption.encrypt(text)
    assert stored.startswith("fernet:gAAAA")
    assert not any(word in stored for word in ("alle", "lesen", base64.b64encode(text.encode()).decode()[:8]))
    assert encryption.encrypt(text) != stored
    assert encryption.decrypt(stored) == text


def test_what_stands_in_clear_is_its_own_text_and_not_current() -> None:
    assert encryption.decrypt(PLAIN) == PLAIN
    assert not encryption.is_current(PLAIN)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"SECRET_KEY": "one"}, {"SECRET_KEY": "two", "SECRET_KEY_FALLBACKS": ["one"]}),
        ({"SECRET_KEY": "one"}, {"SECRET_KEY": "two", "SECRET_KEY_FALLBACKS": [b"three", "one"]}),
        ({"SECRET_KEY": b"one"}, {"SECRET_KEY": "one", "keys": [A]}),
        ({"keys": [A]}, {"keys": [B, A]}),
        ({"keys": [A], "SECRET_KEY": "one"}, {"keys": (B, A), "SECRET_KEY": "two"}),
    ],
)
def test_an_older_key_still_reads_and_the_newest_writes(
    settings: Any, before: dict[str, Any], after: dict[str, Any]
) -> None:
    use(settings, before)
    stored = encryption.encrypt(PLAIN)
    assert encryption.is_current(stored)
    use(settings, after)
    assert encryption.decrypt(stored) == PLAIN
    assert not encryption.is_current(stored)
    renewed = encryption.encrypt(PLAIN)
    assert encryption.is_current(renewed)
    use(settings, before)
    with pytest.raises(Unreadable):
        encryption.decrypt(renewed)


def use(settings: Any, keys: dict[str, Any]) -> None:
    settings.SECRET_KEY = keys.get("SECRET_KEY", "the same")
    settings.SECRET_KEY_FALLBACKS = keys.get("SECRET_KEY_FALLBACKS", [])
    settings.WEBHOOKS = {"ENCRYPTION_KEYS": keys.get("keys", [])}


def test_a_key_that_is_gone_is_said_so_and_its_return_is_enough(settings: Any) -> None:
    use(settings, {"keys": [A]})
    secret = Secret(stored=encryption.encrypt(PLAIN))
    use(settings, {"keys": [B]})
    with pytest.raises(Unreadable, match="a key that is no longer in the settings"):
        secret.reveal()
    assert secret
    assert secret.problem.startswith("it cannot be decrypted")
    use(settings, {"keys": [B, A]})
    assert (secret.reveal(), secret.problem) == (PLAIN, "")


@pytest.mark.parametrize("stored", ["fernet:", "fernet:gAAAA", "fernet:ä", "fernet:" + "A" * 120])
def test_what_was_damaged_is_unreadable_like_a_missing_key(stored: str) -> None:
    with pytest.raises(Unreadable):
        encryption.decrypt(stored)
    assert not encryption.is_current(stored)


def test_keys_that_cannot_be_used_are_not_replaced_by_others(settings: Any) -> None:
    use(settings, {})
    stored = encryption.encrypt(PLAIN)
    use(settings, {"keys": ["not a key"]})
    for call in (
        lambda: encryption.encrypt(PLAIN),
        lambda: encryption.decrypt(stored),
        lambda: encryption.is_current(stored),
    ):
        with pytest.raises(Unreadable, match="ENCRYPTION_KEYS"):
            call()


class TestSecret:
    @pytest.mark.parametrize("secret", [Secret(PLAIN), Secret(stored=encryption.encrypt(PLAIN))])
    def test_nothing_but_reveal_shows_it(self, secret: Secret) -> None:
        shown = [str(secret), repr(secret), f"{secret}", f"{[secret]}", "%s" % secret, f"{secret!r:>20}"]  # noqa: UP031
        shown += [repr(pickle.dumps(secret)), str(secret.__reduce__()), repr(secret == PLAIN)]
        assert not [one for one in shown if PLAIN in one]
        assert repr(secret) == "********"
        with pytest.raises(TypeError):
            json.dumps(secret)
        assert secret.reveal() == PLAIN

    def test_it_is_pickled_encrypted_and_can_be_read_again(self) -> None:
        again = pickle.loads(pickle.dumps(Secret(PLAIN)))
        assert again.reveal() == PLAIN

    def test_it_is_encrypted_once(self) -> None:
        secret = Secret(PLAIN)
        assert secret.stored == secret.stored

    def test_an_empty_one_is_false_is_stored_empty_and_shows_nothing(self) -> None:
        for secret in (Secret(), Secret(""), Secret(stored="")):
            assert not secret
            assert (secret.stored, secret.reveal(), repr(secret), secret == "") == ("", "", "", True)

    def test_it_is_compared_by_its_text(self) -> None:
        assert Secret(PLAIN) == PLAIN == Secret(stored=encryption.encrypt(PLAIN)) == Secret(PLAIN)
        assert Secret(PLAIN) != "other"
        assert Secret(PLAIN) != Secret("other")
        assert Secret(PLAIN) != 1
        assert Secret("\ud800") == "\ud800"

    def test_one_that_cannot_be_read_equals_itself_alone(self) -> None:
        lost = Secret(stored="fernet:lost")
        assert lost == Secret(stored="fernet:lost")
        assert lost not in ("", PLAIN, Secret(PLAIN), Secret(stored="fernet:other"))


@pytest.mark.timing
def test_reading_the_same_again_costs_next_to_nothing(figures: Figures) -> None:
    stored = encryption.encrypt(PLAIN)
    Secret(stored=stored).reveal()
    each = min(timeit.repeat(lambda: Secret(stored=stored).reveal(), number=1000, repeat=9)) / 1000
    figures(f"{each * 1e6:.1f} µs to reveal a secret that was revealed before")
    assert each < 50e-6, "a worker sends a thousand requests a second, a millisecond each"
