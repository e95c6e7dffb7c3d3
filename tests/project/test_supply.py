"""What CI installs: the very files that a lock names."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / ".ci/requirements.txt").read_text()
PINS = [entry for entry in re.split(r"(?<!\\)\n", LOCK) if not entry.startswith("#") and entry]


def requirements() -> list[Requirement]:
    """What the package, the extras and the build name."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    named = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], *chain(*extras)]
    return [one for one in map(Requirement, named) if one.name != PROJECT["project"]["name"]]


def test_the_lock_names_versions_and_hashes_and_nothing_else() -> None:
    assert len(PINS) > 60
    for entry in PINS:
        requirement, *hashes = [line.strip(" \\") for line in entry.splitlines()]
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z-]+\])?==[0-9][^ ]*( ; [a-z_]+ .+)?", requirement), entry
        assert hashes, entry
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), entry
    assert "://" not in LOCK


def test_the_lock_has_all_that_the_project_names_for_each_python() -> None:
    pinned: dict[str, list[Requirement]] = {}
    for entry in PINS:
        pin = Requirement(entry.splitlines()[0].strip(" \\"))
        pinned.setdefault(canonicalize_name(pin.name), []).append(pin)
    for python in ("3.11", "3.12", "3.13", "3.14"):
        environment = {"python_version": python, "python_full_version": f"{python}.0"}
        for wanted in requirements():
            pins = pinned.get(canonicalize_name(wanted.name), [])
            [pin] = [one for one in pins if not one.marker or one.marker.evaluate(environment)]
            assert wanted.specifier.contains(next(iter(pin.specifier)).version), (wanted, pin)
