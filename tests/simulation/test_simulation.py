"""The simulator itself: it repeats exactly, finds what is planted, and says so in few lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.planted import DEFECTS

ROOT = Path(__file__).resolve().parents[2]
PLANTED, FOUND_BY = "a dispatch makes two heads", 5


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: it lays a world over Django."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}"}
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_the_place_of_each_planted_defect_is_in_the_code_once(defect):
    path = ROOT.joinpath(*defect.module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert source.read_text().count(defect.old) == 1


@pytest.mark.slow
def test_a_seed_repeats_to_the_statement():
    first, second = (simulate("--seed", "1023", "--trace") for _ in range(2))
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr
    assert first.stdout.count("\n") > 300
    assert first.stdout == second.stdout


@pytest.mark.slow
def test_a_planted_defect_is_found_and_its_story_is_shortened():
    done = simulate("--plant", PLANTED, "--seed", str(FOUND_BY))
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr
    whole, _, shortest = done.stdout.partition("The shortest story")
    assert "more than one head" in shortest
    assert 0 < shortest.count("\n") < whole.count("\n")
