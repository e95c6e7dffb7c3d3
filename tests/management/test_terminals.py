"""What the commands print fits into every terminal, and a command that fails says so by its exit status."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.support.makers import make_webhook
from tests.testapp.models import Thing
from webhooks.management.commands import webhooks_status

NAME = "Bestände → “Lager”"


@pytest.fixture
def ascii_terminal() -> Callable[..., str]:
    """Run a command as with PYTHONIOENCODING=ascii, and return what it prints."""

    def run(*arguments: Any) -> str:
        written = io.BytesIO()
        terminal = io.TextIOWrapper(written, "ascii", write_through=True)
        try:
            call_command(*arguments, stdout=terminal)
        except SystemExit as end:
            assert end.code in (1, 2), "warnings or errors"
        return written.getvalue().decode()

    return run


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("command", ["webhooks_status", "webhooks_why"])
def test_a_terminal_without_utf_8_shows_other_letters_escaped(command: str, ascii_terminal: Callable[..., str]) -> None:
    make_webhook(Thing, name=NAME, enabled=False, disabled_reason="failing")
    thing = Thing.objects.create(name=NAME)
    arguments = {"webhooks_status": [], "webhooks_why": ["testapp.thing", str(thing.pk)]}
    printed = ascii_terminal(command, *arguments[command])
    assert "Best\\xe4nde \\u2192 \\u201cLager\\u201d" in printed


@pytest.mark.usefixtures("database")
def test_a_status_that_fails_unexpectedly_exits_as_with_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(user: Any) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(webhooks_status, "read_status", fail)
    with pytest.raises(CommandError, match="The status cannot be read: a mistake") as raised:
        call_command("webhooks_status")
    assert raised.value.returncode == 2
    assert "RuntimeError: a mistake" in capsys.readouterr().err, "the traceback, too"
