"""What axe-core finds on a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

ALL = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}


def violations(page: Page, within: str, rules: dict[str, Any] = ALL, without: Sequence[str] = ()) -> list[str]:
    """The serious findings: the rule, and the element. Elements in those of the selectors ``without`` are left out."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    # A preload would fetch all style sheets again, and none of these rules needs it.
    options = {"runOnly": rules, "resultTypes": ["violations"], "preload": False}
    asked = {"include": [within], "exclude": [*without]}, options
    found = page.evaluate("([context, options]) => axe.run(context, options)", asked)
    return [
        f"{one['id']}: {node['target'][0]} {node['html'][:160]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
