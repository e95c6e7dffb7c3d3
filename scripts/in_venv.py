"""Run Python in the virtual environment of this checkout, which is made and filled first where that is needed.

    python3 scripts/in_venv.py EXTRA PYTHON-ARGUMENTS...

EXTRA names the optional dependencies of pyproject.toml that the command needs: demo, docs or test. They are
installed again only when pyproject.toml has changed. PYTHON (an interpreter) chooses another Python. With LOCKED set,
the very files that .ci/requirements.txt names are installed, and none whose hash is not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"
LOCK = ROOT / ".ci" / "requirements.txt"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# Says that this script made the environment, for which place, and with which Python.
MADE_FOR = VENV / "made-for"


def main(extra: str, arguments: list[str]) -> None:
    if sys.version_info < OLDEST:
        sys.exit(f"Python 3.11 or newer is needed, and {sys.executable} is {sys.version.split()[0]}.")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    with _alone():
        if not _is_usable():
            _make()
        if os.environ.get("LOCKED"):
            extra = "locked"  # it has what every extra names
        if _stamp(extra) != _wanted(extra):
            _install(extra)
    os.execv(PYTHON, [str(PYTHON), *arguments])


def _stop(number: int, frame: object) -> None:
    sys.exit(128 + number)


@contextmanager
def _alone() -> Iterator[None]:
    """Two commands that start at once in one checkout must not both fill the environment."""
    with PYPROJECT.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another command is at work on .venv: waiting for it ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_usable() -> bool:
    if not VENV.exists():
        return False
    if not MADE_FOR.exists():
        sys.exit(f"{VENV} is there already and scripts/ did not make it: move it away, then run this again.")
    place, version = MADE_FOR.read_text().splitlines()
    is_wanted = version == _version() or "PYTHON" not in os.environ
    return place == str(VENV) and is_wanted and PYTHON.exists()


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _make() -> None:
    print(f"Making .venv with Python {_version()} ...", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir()
    MADE_FOR.write_text("nowhere\nunfinished\n")
    _run([sys.executable, "-m", "venv", str(VENV)], hint="Debian and Ubuntu keep venv in the package python3-venv.")
    MADE_FOR.write_text(f"{VENV}\n{_version()}\n")


def _install(extra: str) -> None:
    pip = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install"]
    if extra == "locked":
        print(f"Installing what {LOCK.relative_to(ROOT)} names; the first time takes a minute ...", flush=True)
        _run([*pip, "--require-hashes", "--requirement", str(LOCK)], hint="Is PyPI reachable? scripts/lock renews it.")
        _run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], hint="scripts/lock renews the lock.")
    else:
        print(f"Installing what the extra {extra!r} of pyproject.toml names; it may take a minute ...", flush=True)
        _run([*pip, "--editable", f"{ROOT}[{extra}]"], hint="Is PyPI reachable?")
    _stamp_path(extra).write_text(_wanted(extra))


def _stamp_path(extra: str) -> Path:
    return VENV / f"installed-{extra}"


def _stamp(extra: str) -> str | None:
    path = _stamp_path(extra)
    return path.read_text() if path.exists() else None


def _wanted(extra: str) -> str:
    files = [PYPROJECT, LOCK] if extra == "locked" else [PYPROJECT]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _run(command: list[str], hint: str) -> None:
    # A session of its own, so that stopping takes along whatever pip has started.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        if process.wait() != 0:
            sys.exit(f"This failed: {' '.join(command)}\n{hint}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
