"""JSON, headers and other text as highlighted blocks. CSS classes alone give the colours, as a CSP asks for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from pygments.lexers.data import JsonLexer
from pygments.token import STANDARD_TYPES

from webhooks.text import clean

# Characters. Longer texts are shown without colours: each token becomes an element of the page.
MAX_HIGHLIGHTED = 50_000

# Pygments' short names: a key, texts, numbers, and true, false or null. Brackets and spaces stay plain.
COLOURED = {"nt", "s", "s2", "mi", "mf", "kc"}


def json_text(text: str, marked: Collection[str] = ()) -> SafeString:
    """JSON text with line breaks, without escapes, and highlighted. Other text is only escaped.

    ``marked`` has the names of changed fields: their keys are marked.
    """
    try:
        indented = clean(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return escape(text)
    if len(indented) > MAX_HIGHLIGHTED:
        return escape(indented)
    tokens = ((STANDARD_TYPES.get(kind, ""), text) for kind, text in JsonLexer().get_tokens(indented))
    elements = "".join(_token(name, text, marked) for name, text in tokens)
    return mark_safe(elements)  # noqa: S308 # nosec B308 B703 # each token is escaped


def _token(name: str, text: str, marked: Collection[str]) -> str:
    if name not in COLOURED:
        return escape(text)
    tag = "mark" if name == "nt" and text.strip('"') in marked else "span"
    return f'<{tag} class="{name}">{escape(text)}</{tag}>'


def block(content: SafeString | str, label: str) -> SafeString:
    """A block of code that scrolls, for the keyboard too. ``label`` names it to screen readers."""
    return format_html('<pre class="wh-pre" tabindex="0" role="region" aria-label="{}">{}</pre>', label, content)


def json_block(text: str, label: str, marked: Collection[str] = ()) -> SafeString:
    """JSON text as a highlighted block."""
    return block(json_text(text, marked), label)


def headers_block(headers: Mapping[str, Any], label: str) -> SafeString:
    """HTTP headers, one a line with a highlighted name, as a block."""
    return block(format_html_join("\n", '<span class="wh-name">{}</span>: {}', headers.items()), label)
