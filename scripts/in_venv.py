"""Run Python in this checkout's virtual environment. Create and fill it first if needed.

    python3 scripts/in_venv.py GROUP PYTHON-ARGUMENTS...

GROUP is the dependency group of pyproject.toml that the command needs: demo, docs, test or netbox-test. It is installed
again only if pyproject.toml has changed. PYTHON=/path/to/python chooses another Python, and VENV=.venv-newest another
environment beside .venv. With LOCKED=1, pip installs exactly the files in .ci/requirements.txt and checks their hashes.
The group netbox-test has a lock of its own, because NetBox pins its requirements.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"
# The locks of all groups, and of NetBox with the tests in it.
LOCKS = {name: ROOT / ".ci" / f"{name}.txt" for name in ("requirements", "requirements-netbox")}
VENV = ROOT / os.environ.get("VENV", ".venv")
PYTHON = VENV / "bin" / "python"
# Marks an environment of this script: its path, and the version of its Python.
MARKER = VENV / "made-for"


def main(group: str, arguments: list[str]) -> None:
    if sys.version_info < OLDEST:
        sys.exit(f"Python 3.11 or newer is needed, but {sys.executable} is {sys.version.split()[0]}.")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)
    with _venv_lock():
        if not _is_usable():
            _create()
        if os.environ.get("LOCKED"):
            group = "requirements-netbox" if group == "netbox-test" else "requirements"  # which has all other groups
        if _installed_hash(group) != _requirements_hash(group):
            _install(group)
    os.execv(PYTHON, [str(PYTHON), *arguments])


def _exit(number: int, frame: object) -> None:
    sys.exit(128 + number)


@contextmanager
def _venv_lock() -> Iterator[None]:
    """Let only one command at a time fill the environment."""
    with PYPROJECT.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another command is filling {VENV.name}: waiting for it ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_usable() -> bool:
    if not VENV.exists():
        return False
    if not MARKER.exists():
        sys.exit(f"{VENV} exists, but scripts/ did not create it. Move it away, then run this again.")
    path, version = MARKER.read_text().splitlines()
    is_right_version = version == _version() or "PYTHON" not in os.environ
    return path == str(VENV) and is_right_version and PYTHON.exists()


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _create() -> None:
    print(f"Creating {VENV.name} with Python {_version()} ...", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir()
    MARKER.write_text("nowhere\nunfinished\n")
    _run([sys.executable, "-m", "venv", str(VENV)], hint="On Debian and Ubuntu, install the package python3-venv.")
    MARKER.write_text(f"{VENV}\n{_version()}\n")


def _install(group: str) -> None:
    pip = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install"]
    if lock := LOCKS.get(group):
        print(f"Installing {lock.relative_to(ROOT)}; the first time takes a minute ...", flush=True)
        # Complete as it is. The one of NetBox deliberately lacks what NetBox demands and the tests do without.
        locked = [*pip, "--no-deps", "--require-hashes", "--requirement", str(lock)]
        _run(locked, hint="Is PyPI reachable? scripts/lock renews it.")
        _run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], hint="scripts/lock renews the lock.")
    else:
        print(f"Installing the group {group!r} of pyproject.toml; it may take a minute ...", flush=True)
        _run([*pip, *requirements(group)], hint="Is PyPI reachable?")
    _hash_file(group).write_text(_requirements_hash(group))


def requirements(group: str) -> list[str]:
    """This checkout and a dependency group, as arguments of ``pip install``.

    Python 3.11 to 3.13 may bring a pip before 25.1, which has no ``--group``. It also finds the extras of this package
    only if they follow the path of the checkout.
    """
    project = tomllib.loads(PYPROJECT.read_text())
    name, groups = project["project"]["name"], project["dependency-groups"]

    def members(group: str) -> Iterator[str]:
        for one in groups[group]:
            if isinstance(one, str):
                yield one
            else:
                yield from members(one["include-group"])

    checkout, others = str(ROOT), []
    for requirement in members(group):
        if requirement.startswith(f"{name}["):
            checkout += requirement.removeprefix(name)
        else:
            others.append(requirement)
    return [f"--editable={checkout}", *others]


def _hash_file(group: str) -> Path:
    return VENV / f"installed-{group}"


def _installed_hash(group: str) -> str | None:
    path = _hash_file(group)
    return path.read_text() if path.exists() else None


def _requirements_hash(group: str) -> str:
    files = [PYPROJECT, LOCKS[group]] if group in LOCKS else [PYPROJECT]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _run(command: list[str], hint: str) -> None:
    # In a new session, so that all processes of pip end together.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        if process.wait() != 0:
            sys.exit(f"The command failed: {' '.join(command)}\n{hint}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
