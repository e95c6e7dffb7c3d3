"""The oldest and the newest versions that are supported together, and a project without time zones: ``nox``, or ``nox
-s newest -- -k lanes``."""

from __future__ import annotations

import nox

nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["oldest", "newest", "naive"]

# The lower bound of everything that the package itself demands.
OLDEST = (
    *("cryptography~=42.0.0", "django~=5.2.0", "django-rq~=4.0.0", "djangorestframework~=3.16.0", "idna~=3.7.0"),
    *("jinja2==3.1.6", "redis~=5.2.0", "regex==2024.11.6", "requests~=2.32.0", "rq~=2.8.0"),
)
NEWEST = ("django~=6.1.0", "rq~=3.0", "django-rq>=4.2")


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    run_tests(session, OLDEST)


@nox.session(python=["3.13", "3.14"])
def newest(session: nox.Session) -> None:
    run_tests(session, NEWEST)


@nox.session(python="3.11")
def naive(session: nox.Session) -> None:
    """Django gives naive times, as in a project with ``USE_TZ`` off."""
    session.env["TEST_USE_TZ"] = "0"
    run_tests(session)


def run_tests(session: nox.Session, versions: tuple[str, ...] = ()) -> None:
    # In one step, so that pip weighs these versions together with what the package itself demands.
    session.install("--editable", ".[test]", *versions)
    session.run("pytest", *session.posargs)
