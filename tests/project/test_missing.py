"""At its end, a run of the tests names the programs that this machine lacks."""

from __future__ import annotations

import pytest

from tests.support.missing import packages_of


def test_each_missing_package_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISSING_PACKAGES", "chromium")
    reasons = [
        "Skipped: no ruby on this machine: install it (Debian: apt-get install ruby ruby-webrick)",
        "Skipped: no ruby on this machine: install it (Debian: apt-get install ruby ruby-webrick)",
        "Skipped: needs libfaketime (Debian: apt-get install libfaketime)",
        "Skipped: this machine has one processor core",
    ]
    assert packages_of(reasons) == ["chromium", "libfaketime", "ruby", "ruby-webrick"]
