"""``python -m tests.netbox.own_suite``: NetBox's own tests, without the plugin and with a webhook on every model.

Each test must have the same result in both runs, as in ``tests.others``. Arguments choose other tests of NetBox.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
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

EXPLAINED_ERRORS = {
    "query was routed rather than pinned to a connection":
        "The test refuses to route. Django and taggit ask a router while they build the query of a prefetch, which "
        "the app then sends to the database of the change.",
    "Could not determine serializer for core.ManagedFile":
        "The rule of the test has an object that NetBox's serializer does not know.",
}  # fmt: skip
"""Why Events may fail, by a part of the message."""


def directory() -> Path:
    """Where NetBox's packages are."""
    found = importlib.util.find_spec("netbox")
    assert found
    assert found.origin
    return Path(found.origin).parents[1]


def main(*arguments: str) -> int:
    with servers() as (server, environment), tempfile.TemporaryDirectory(prefix="netbox-root-") as root:
        tables.create(server, environment)
        # The tests write scripts, and draw with a style sheet.
        (Path(root) / "scripts").mkdir()
        (Path(root) / "static").symlink_to(directory() / "netbox/_data/project-static/dist")
        environment |= {"NETBOX_CONFIGURATION": "tests.netbox.own_configuration", "NETBOX_ROOT": root}
        chosen: Sequence[str] = arguments or TESTS
        project = Project(
            "netbox",
            tables.installed(),
            ".",
            # Without the configuration of this checkout, in which the environment may be.
            (f"--config-file={os.devnull}", *chosen),
            "netbox.settings",
            explained_errors=EXPLAINED_ERRORS,
        )
        return 0 if compare_runs(project, directory(), environment) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
