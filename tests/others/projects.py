"""The projects, at the versions whose results the documentation shows. Their source packages have their tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SQLITE, POSTGRESQL = "sqlite", "postgresql"


@dataclass(frozen=True)
class Project:
    """A project of which ``tests`` are run in ``folder`` of its source package."""

    name: str
    version: str
    folder: str
    tests: Sequence[str]
    settings: str = ""
    """Its settings module, unless its tests configure Django by themselves."""
    settings_source: str = ""
    """The text of that module, if the project has none."""
    requirements: Sequence[str] = ()
    requirements_file: str = ""
    """A file of its source package, whose requirements are installed instead of the project."""
    without: tuple[str, ...] = ()
    """The beginnings of the lines of that file to leave out."""
    engine: str = SQLITE
    explained: Mapping[str, str] = field(default_factory=dict)
    """Why tests may differ, by their ids."""


_FILES = ("-o", "python_files=test*.py")

_SIMPLE_HISTORY = """
import runtests
globals().update(runtests.get_default_settings())
"""

_NETBOX = """
import os
from urllib.parse import urlsplit
from netbox.configuration_testing import *
for one in REDIS.values():
    one |= {"HOST": urlsplit(os.environ["REDIS_URL"]).hostname, "PORT": urlsplit(os.environ["REDIS_URL"]).port}
"""

PROJECTS = (
    Project(
        "django-simple-history", "3.13.0", ".", ("simple_history", *_FILES), "hosted", _SIMPLE_HISTORY,
    ),
    Project("django-reversion", "6.4.0", "tests", ("test_app",), "test_project.settings"),
    Project("django-safedelete", "1.5.0", ".", ("safedelete/tests",), "safedelete.tests.settings"),
    Project(
        "django-guardian", "3.5.2", ".", ("guardian",), "guardian.testapp.testsettings",
        requirements=("django-environ",),
    ),
)  # fmt: skip
