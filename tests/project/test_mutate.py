"""``scripts/mutate`` names the changes of the code that no test notices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "mutation.py"
CODE = "def is_small(number):\n    return number < 3\n\n\ndef is_large(number):\n    return number > 3\n"
TESTS = "import sizes\n\n\ndef test_small():\n    assert sizes.is_small(2)\n    assert not sizes.is_small(3)\n"


def test_a_change_that_a_test_notices_is_killed_and_another_one_survives(tmp_path: Path) -> None:
    (tmp_path / "sizes.py").write_text(CODE)
    (tmp_path / "test_sizes.py").write_text(TESTS)
    command = [sys.executable, str(SCRIPT), "sizes.py", "--tests", "test_sizes.py"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PYTEST_"))}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert "killed sizes.py is_small: number < 3 -> number <= 3" in run.stdout, run.stdout + run.stderr
    assert "SURVIVED sizes.py is_large: number > 3 -> number >= 3" in run.stdout
    assert "3 of 6 changes survived" in run.stdout
    assert run.returncode == 1
