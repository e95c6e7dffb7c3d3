"""The files in the wheel and the sdist, built as an installer builds them, and the packages that CI installs."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import webhooks
from scripts import in_venv
from tests.support.inbox import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

TOP = f"django_rq_webhooks-{webhooks.__version__}"


def run_python(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    directory = tmp_path_factory.mktemp("sdist")
    run_python("-m", "hatchling", "build", "--target", "sdist", "--directory", str(directory), cwd=ROOT)
    with tarfile.open(directory / f"{TOP}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return directory / TOP


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> zipfile.ZipFile:
    """The wheel that pip builds from the sdist, after an older build left a module that no longer exists."""
    leftover = sdist / "build" / "lib" / "webhooks" / "deleted.py"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    before = files(sdist)
    arguments = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(sdist.parent)]
    run_python("-m", "pip", "wheel", *arguments, str(sdist), cwd=sdist.parent)
    assert files(sdist) == before  # pip install . leaves nothing in a checkout
    shutil.rmtree(sdist / "build")
    return zipfile.ZipFile(sdist.parent / f"{TOP}-py3-none-any.whl")


def files(directory: Path) -> set[str]:
    """The files in a folder, without what tools and a site that ran there have left."""
    found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not re.search(r"(^|/)(__pycache__|\.\w+_cache|var)/", path.as_posix())}


def of(*folders: str) -> set[str]:
    return {f"{folder}/{name}" for folder in folders for name in files(ROOT / folder)}


def test_the_wheel_has_every_file_of_the_app_and_no_other(wheel: zipfile.ZipFile) -> None:
    named = set(wheel.namelist())
    assert {name for name in named if ".dist-info/" not in name} == of("webhooks", "rq_webhooks")
    assert named >= {
        "webhooks/py.typed",
        "webhooks/migrations/0001_initial.py",
        "webhooks/static/rq_webhooks/admin.css",
        "webhooks/templates/rq_webhooks/admin/status/page.html",
        "webhooks/templates/rq_webhooks/parts/status/figures.html",
        f"{TOP}.dist-info/licenses/LICENSE",
    }


def test_the_sdist_has_the_docs_the_example_and_what_operators_copy(sdist: Path) -> None:
    expected = of("docs", "example", "webhooks", "scripts", "tests", "supervisord.d")
    top = {
        ".ci/run", "CHANGELOG.md", "COMPATIBILITY.md", "LICENSE", "README.md", "SECURITY.md", "netbox-plugin.yaml",
        "supervisord.conf.example",
    }  # fmt: skip
    assert files(sdist) >= expected | top


def test_only_what_users_need_is_an_extra(wheel: zipfile.ZipFile) -> None:
    assert set(metadata(wheel).get_all("Provides-Extra", [])) == {
        "health", "netbox", "opentelemetry", "prometheus", "yaml",
    }  # fmt: skip


def test_the_version_is_that_of_the_package(wheel: zipfile.ZipFile) -> None:
    assert metadata(wheel)["Version"] == webhooks.__version__
    assert f"## [{webhooks.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_links_and_the_picture_of_the_readme_work_outside_the_repository(wheel: zipfile.ZipFile) -> None:
    source = "https://github.com/django-rq-webhooks/django-rq-webhooks"
    links = dict(one.split(", ") for one in metadata(wheel).get_all("Project-URL", []))
    assert links.pop("Source") == source
    assert links.pop("Issues") == f"{source}/issues"
    for link in links.values():
        assert (ROOT / link.removeprefix(f"{source}/blob/HEAD/")).is_file(), link
    text = metadata(wheel).get_payload()
    assert isinstance(text, str)
    assert f"]({source}/raw/HEAD/docs/images/status-page.webp)" in text
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 20
    for target in targets:
        is_known = re.fullmatch(rf"{re.escape(source)}/(?:blob|raw)/HEAD/([^#]+)", target)
        assert is_known, target
        assert (ROOT / is_known[1]).is_file(), target


def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_bytes(wheel.read(f"{TOP}.dist-info/METADATA"))


# The dependency groups

GROUPS = PROJECT["dependency-groups"]


def test_the_tests_install_every_extra_and_group_but_the_one_of_netbox() -> None:
    """So one lock is enough for all of them."""
    checkout, *members = in_venv.requirements("test")
    assert checkout == f"--editable={ROOT}[health,opentelemetry,prometheus,yaml]"
    assert set(members) >= {*in_venv.requirements("demo")[1:], *in_venv.requirements("docs")[1:]}
    assert set(GROUPS) == {"demo", "docs", "test", "netbox-test"}


def test_the_page_of_the_dependencies_names_each_package() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    wanted = chain(requirements("test"), requirements("netbox-test"))
    assert [one.name for one in wanted if not re.search(rf"`{one.name}[`[]", text)] == []


@pytest.mark.parametrize("name", [".readthedocs.yaml", "noxfile.py", "example/README.md", "scripts/lock"])
def test_what_names_a_group_names_one_that_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    named = re.findall(r"--group\W+(?:pyproject\.toml:)?(\$?[a-z-]+)", text)
    assert named
    assert set(named) <= {*GROUPS, "$group"}


# The lock files of CI

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# By the name of the file: the group, and the versions of Python that it is for.
LOCKS = {"requirements": ("test", PYTHONS), "requirements-netbox": ("netbox-test", PYTHONS[1:])}


def pins(lock: str) -> list[str]:
    """The entries of a lock file, with their hashes."""
    text = (ROOT / ".ci" / f"{lock}.txt").read_text()
    assert "://" not in text
    return re.findall(r"^[^ #].*(?:\n .*)*", text, re.MULTILINE)


def requirements(group: str) -> list[Requirement]:
    """The requirements of the package, of a group, of the extras in it, and of the build."""
    checkout, *members = in_venv.requirements(group)
    extras = Requirement(f"package{checkout.removeprefix(f'--editable={ROOT}')}").extras
    wanted = chain(*(PROJECT["project"]["optional-dependencies"][extra] for extra in extras))
    return [
        *map(
            Requirement, [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], *members, *wanted]
        )
    ]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_versions_and_hashes_and_nothing_else(lock: str) -> None:
    assert len(pins(lock)) > 60
    for entry in pins(lock):
        requirement, *hashes = [line.strip(" \\") for line in entry.splitlines()]
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z, -]+\])?==[0-9][^ ]*( ; [a-z_]+ .+)?", requirement), entry
        assert hashes, entry
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), entry


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_satisfies_each_requirement_on_each_python(lock: str) -> None:
    group, pythons = LOCKS[lock]
    pinned: dict[str, list[Requirement]] = {}
    for entry in pins(lock):
        pin = Requirement(entry.splitlines()[0].strip(" \\"))
        pinned.setdefault(canonicalize_name(pin.name), []).append(pin)
    for python in pythons:
        environment = {"python_version": python, "python_full_version": f"{python}.0"}
        for wanted in requirements(group):
            found = pinned.get(canonicalize_name(wanted.name), [])
            [pin] = [one for one in found if not one.marker or one.marker.evaluate(environment)]
            assert wanted.specifier.contains(next(iter(pin.specifier)).version), (wanted, pin)
