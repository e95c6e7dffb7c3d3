"""The programs that this machine lacks, so that some tests do not run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable


def packages_of(reasons: Iterable[str]) -> list[str]:
    """The packages of Debian that these reasons for skipped tests name, and those that ``scripts/test`` has missed."""
    named = re.findall(r"apt-get install ([^)]+)\)", " ".join(reasons))
    return sorted({*" ".join(named).split(), *os.environ.get("MISSING_PACKAGES", "").split()})
