"""Give the README of a package links that work outside the repository, on PyPI for one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# The target of a link or a picture that is a path in the repository.
RELATIVE = re.compile(r"(?<=\]\()(?!#|[a-z]+:)")
PICTURE = re.compile(r"(!\[[^\]]*\]\()(?!#|[a-z]+:)")


class Readme(MetadataHookInterface):
    """Set ``readme``: README.md with links into the repository that ``[project.urls]`` names as Source."""

    def update(self, metadata: dict[str, Any]) -> None:
        source = metadata["urls"]["Source"]
        text = PICTURE.sub(rf"\1{source}/raw/HEAD/", (Path(self.root) / "README.md").read_text())
        text = RELATIVE.sub(f"{source}/blob/HEAD/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
