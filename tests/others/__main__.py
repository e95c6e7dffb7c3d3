"""``python -m tests.others NAME SOURCE``: run the tests of a project without the app and with it, and compare.

SOURCE is the directory of its unpacked source package. Exits with 1 if a test differs and nothing explains it, if the
app logged an error, or if it recorded no Event.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.others.comparison import Comparison, add_up, compare
from tests.others.projects import PROJECTS, Project

HERE = Path(__file__).parent
ENABLED = {"EVERYWHERE_ENABLED": "1"}


def run(project: Project, source: Path, tests: Sequence[str], **variables: str) -> tuple[Any, dict[str, Counter[str]]]:
    """The results of the tests by their ids, and what was counted."""
    results = Path(tempfile.mkdtemp(prefix="others-"))
    path = os.pathsep.join([str(HERE), ".", str(source)])
    environment = {
        **os.environ,
        **variables,
        "PYTHONPATH": path,
        "EVERYWHERE_RESULTS": str(results),
    }
    if project.settings:
        environment["DJANGO_SETTINGS_MODULE"] = project.settings
    # Without the project's own options, which ask for coverage and such things.
    options = ["-p", "everywhere", "-p", "no:cacheprovider", "--rootdir=.", "-q", "--tb=line", "-o", "addopts="]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    with (results / "log").open("w") as log:
        subprocess.run(command, cwd=source / project.folder, env=environment, stdout=log, stderr=log, check=False)
    if not (results / "tests.json").exists():
        raise SystemExit((results / "log").read_text()[-5000:])
    counted = [json.loads(part.read_text()) for part in results.glob("events-*.json")]
    return json.loads((results / "tests.json").read_text()), add_up(counted)


def compare_runs(project: Project, source: Path, variables: dict[str, str]) -> bool:
    """Run the suite twice, print what differs, and return whether all of it is explained."""
    without, _ = run(project, source, project.tests, **variables)
    with_app, counted = run(project, source, project.tests, **variables, **ENABLED)
    found = compare(without, with_app, project.explained)
    options = [one for one in project.tests if one.startswith("-") or "=" in one]
    if found.unexplained:
        again = [*options, *found.unexplained]
        second = [run(project, source, again, **variables, **more)[0] for more in ({}, ENABLED)]
        for test, outcome in found.settle(*second).items():
            print(f"  the same in a second run: {test}: {outcome}")
    hidden = Comparison()
    if counting := [*found.counting, *found.consequences]:
        tests, _ = run(project, source, [*options, *counting], **variables, **ENABLED, EVERYWHERE_HIDDEN="1")
        hidden = compare({test: without[test] for test in counting}, tests)
        found.accept(hidden)
    report(project, found, hidden, counted)
    has_run = bool(found.passed and counted["actions"])
    return has_run and not found.unexplained and not any(unexplained(project, counted).values())


def unexplained(project: Project, counted: dict[str, Counter[str]]) -> dict[str, Counter[str]]:
    """The failed Events and the logged errors without a reason."""
    return {
        name: Counter({text: count for text, count in counted[name].items() if not reason_of(project, text)})
        for name in ("failed", "logged")
    }


def reason_of(project: Project, text: str) -> str:
    """Why an Event may fail with this message. Empty if there is no reason."""
    return next((reason for part, reason in project.explained_errors.items() if part in text), "")


def report(project: Project, found: Comparison, hidden: Comparison, counted: dict[str, Counter[str]]) -> None:
    tests = found.same + len(found.counting) + len(found.explained) + len(found.unexplained)
    print(f"{project.name} {project.version}: {tests} tests, {found.same} same, {found.passed} of them passed")
    print(f"  {len(found.counting)} count queries; {hidden.same} of them are the same without the app's own queries")
    for test in found.counting:
        print(f"    {test}")
    for test in found.explained:
        print(f"  explained: {test}: {project.explained[test]}")
    for test, reason in found.unexplained.items():
        print(f"  UNEXPLAINED: {test}: {reason}")
    models = len(counted["models"])
    print(f"  changes {dict(counted['changes'])}, Events {dict(counted['actions'])} of {models} models")
    for name in ("failed", "logged", "refused", "unreadable"):
        for text, count in counted[name].items():
            print(f"  {name}, {count} times: {text}")
            if reason := reason_of(project, text):
                print(f"    explained: {reason}")


def main(name: str, directory: str) -> int:
    [project] = [one for one in PROJECTS if one.name == name]
    source = Path(directory).resolve()
    if project.own_module:
        (source / project.folder / "hosted.py").write_text(project.own_module)
    are_explained = []
    for words, more in (("In the transactions of TestCase.", {}), ("With commits.", {"EVERYWHERE_COMMITS": "1"})):
        print(words)
        are_explained.append(compare_runs(project, source, {"EVERYWHERE_ENGINE": "sqlite", **more}))
    return 0 if all(are_explained) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
