"""Additional headers as NetBox and Nautobot have them, and what of them is secret here. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from webhooks.network import headers
from webhooks.payloads import templates
from webhooks.registry.registration import is_sensitive

# Names of headers with one of these words carry what lets somebody in, as those do that ``sensitive`` knows.
WORDS = {"auth", "authorization", "cookie", "key"}

_OPENING = re.compile(r"\{(?=[%{#])")
_CLOSING = {"{%": "%}", "{{": "}}", "{#": "#}"}
_HIDDEN = "\ue000"


def split(text: str, credentials: str, unequal: list[str]) -> tuple[str, str]:
    """Additional and secret headers of lines of headers, and of the ``credentials`` that stood in a URL, which were
    what was sent there. What changes is added to ``unequal``, in words and without a value."""
    additional: list[str] = []
    secret: dict[str, str] = {}
    for number, (line, is_plain) in enumerate(_lines(text), 1):
        name = line.partition(":")[0].strip()
        if is_plain and line.strip() and ":" not in line:
            unequal.append(f"line {number} of its headers has no colon: left out, as it was not sent there")
        elif is_plain and _is_secret(name) and not headers.problem(line):
            secret[name.lower()] = line.strip()  # of two with one name, the later is sent
        else:
            additional.append(line)
    if secret:
        names = [line.partition(":")[0].strip() for line in secret.values()]
        unequal.append(f"headers that become secret ones, which are not shown again: {', '.join(names)}")
    if credentials:
        secret["authorization"] = f"Authorization: Basic {credentials}"
        unequal.append("the user and password in its URL: they become a secret header, Authorization")
    return "\n".join(additional).strip("\n"), "\n".join(secret.values())


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is sent just as it stands."""
    hidden = _without_templates(text)
    for line, seen in zip(text.split("\n"), hidden.split("\n"), strict=True):
        yield line, _HIDDEN not in seen and not templates.is_template(line)


def _without_templates(text: str) -> str:
    """The text with what a template writes or decides hidden: an expression, a comment, or from the first statement to
    the last. A single pattern for it takes minutes for a text of many openings."""
    parts, last, unclosed = [], 0, set()
    for found in _OPENING.finditer(text):
        start = found.start()
        opening = text[start : start + 2]
        if start < last or opening in unclosed:
            continue
        closing = _CLOSING[opening]
        end = text.rfind(closing, start + 2) if opening == "{%" else text.find(closing, start + 2)
        if end < 0:
            unclosed.add(opening)
            continue
        parts += [text[last:start], re.sub(r".", _HIDDEN, text[start : end + 2])]
        last = end + 2
    return "".join([*parts, text[last:]])


def _is_secret(name: str) -> bool:
    return is_sensitive(name) or not WORDS.isdisjoint(re.split(r"[-_]", name.lower()))
