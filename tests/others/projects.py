"""The projects, at the versions whose results the documentation shows. Their source packages have their tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Project:
    """A project of which ``tests`` are run in ``folder`` of its source package."""

    name: str
    version: str
    folder: str
    tests: Sequence[str]
    settings: str = ""
    """Its settings module, unless its tests configure Django by themselves."""
    own_module: str = ""
    """The text of a module ``hosted``, written to ``folder``: settings, if the project has none."""
    requirements: Sequence[str] = ()
    explained: Mapping[str, str] = field(default_factory=dict)
    """Why tests may differ, by their ids."""
    explained_errors: Mapping[str, str] = field(default_factory=dict)
    """Why Events may fail, by a part of the message."""


_FILES = ("-o", "python_files=test*.py")

_SIMPLE_HISTORY = """
import runtests
globals().update(runtests.get_default_settings())
"""

# Ignored modules measure speed.
PROJECTS = (
    Project(
        "django-simple-history", "3.13.0", ".", ("simple_history/tests", "simple_history/registry_tests", *_FILES),
        "hosted", _SIMPLE_HISTORY,
    ),
    Project("django-reversion", "6.4.0", "tests", ("test_app",), "test_project.settings"),
    Project("django-safedelete", "1.5.0", ".", ("safedelete/tests",), "safedelete.tests.settings"),
    Project(
        "django-auditlog", "3.4.1", "auditlog_tests", (".", *_FILES), "test_settings",
        explained={
            f"tests.py::MiddlewareTest::{name}": "It demands that nothing listens to pre_save of LogEntry."
            for name in ("test_exception", "test_request", "test_request_anonymous")
        },
    ),
    Project(
        "djangorestframework", "3.18.3", ".", ("tests", "--no-migrations"),
        explained={
            "tests/test_lazy_hyperlinks.py::TestLazyHyperlinkNames::test_lazy_hyperlink_names":
                "It demands that nothing calls __str__ of an object. Its Event has its name.",
        },
    ),
    Project("django-treebeard", "7.0.3", ".", ("tests", "--ignore=tests/test_benchmarks.py"), "tests.settings"),
    Project(
        "django-guardian", "3.5.2", ".", ("guardian", "--ignore=guardian/testapp/tests/test_indexes.py"),
        "guardian.testapp.testsettings", requirements=("django-environ",),
    ),
    Project(
        "wagtail", "8.0.1", ".",
        (
            "wagtail/contrib/redirects", "wagtail/contrib/settings", "wagtail/contrib/simple_translation",
            "wagtail/locales", "wagtail/sites", "wagtail/tests/test_page_model.py", "wagtail/tests/test_signals.py",
            "wagtail/tests/test_reference_index.py", "wagtail/tests/test_workflow.py",
            "wagtail/tests/test_revision_model.py", "wagtail/tests/test_locale_model.py",
        ),
        "wagtail.test.settings", requirements=("Jinja2", "django-pattern-library", "freezegun", "responses"),
    ),
)  # fmt: skip
