"""``python -m tests.netbox.own_suite``: NetBox's own tests, without the plugin and with a webhook on every model.

Each test must have the same result in both runs, as in ``tests.others``. Arguments choose other tests of NetBox.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.netbox import tables
from tests.netbox.__main__ import servers
from tests.others.__main__ import compare_runs
from tests.others.projects import Project

TESTS = (
    "extras/tests", "tenancy/tests", "wireless/tests", "core/tests/test_changelog.py", "dcim/tests/test_cablepaths.py",
    "dcim/tests/test_cablepaths2.py", "dcim/tests/test_cablepath_rebuilds.py",
)  # fmt: skip

EXPLAINED: dict[str, str] = {}
"""Why tests may differ, by their ids."""


def directory() -> Path:
    """Where NetBox's packages are."""
    found = importlib.util.find_spec("netbox")
    assert found
    assert found.origin
    return Path(found.origin).parents[1]


def main(*arguments: str) -> int:
    with servers() as (server, environment):
        tables.create(server, environment)
        environment["NETBOX_CONFIGURATION"] = "tests.netbox.own_configuration"
        chosen: Sequence[str] = arguments or TESTS
        project = Project(
            "netbox",
            tables.installed(),
            ".",
            # Without the configuration of this checkout, in which the environment may be.
            (f"--config-file={os.devnull}", *chosen),
            "netbox.settings",
            explained=EXPLAINED,
        )
        return 0 if compare_runs(project, directory(), environment) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
