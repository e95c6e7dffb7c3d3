"""The templates: what the pages of the admin and of NetBox both say is in one part."""

from __future__ import annotations

import re
from collections import defaultdict

from tests.support.inbox import ROOT

TEMPLATES = ROOT / "webhooks" / "templates"

TEXT = re.compile(
    r"""\{% translate (?P<quote>["'])(?P<text>.*?)(?P=quote)"""
    r"""|\{% blocktranslate.*?%\}(?P<block>.*?)\{% endblocktranslate %\}""",
    re.DOTALL,
)


def test_no_sentence_is_in_two_templates() -> None:
    found = defaultdict(set)
    for path in TEMPLATES.rglob("*.html"):
        for match in TEXT.finditer(path.read_text()):
            text = " ".join((match["text"] or match["block"]).split())
            found[text].add(str(path.relative_to(TEMPLATES)))
    sentences = {text: paths for text, paths in found.items() if text.endswith(".")}
    assert len(sentences) > 50
    assert {text: paths for text, paths in sentences.items() if len(paths) > 1} == {}


def test_no_part_names_the_addresses_of_a_framework() -> None:
    named = [path for path in (TEMPLATES / "rq_webhooks" / "parts").rglob("*.html") if "{% url " in path.read_text()]
    assert named == []
