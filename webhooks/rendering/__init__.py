"""URL, headers and body of a request from the templates that an admin writes. Pure: a payload in, text out.

The templates are Jinja2's, with NetBox's names in them (``docs/templates.md``).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from jinja2 import Template, TemplateSyntaxError, nodes

from webhooks import headerlines
from webhooks.rendering.budgets import Budget, OverBudget, spending
from webhooks.rendering.sandbox import Sandbox
from webhooks.texts import quoted

SOURCE = 50_000  # characters of a template
UNITS = 10_000_000  # characters, or half a million turns of loops
LARGEST = 2_000_000  # characters of one value
SECONDS = 1.0  # of processor time
OUTPUT = {"headers": 16_000, "url": 2_000}  # bytes; what a body may have is a setting

Kind = Literal["body", "headers", "url"]

# What no value may have: beside ASCII's, the control characters of Latin-1, which some receivers take for line breaks.
_UNWRITABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_OPEN = "\ue000"  # stands for what is known only when rendered


class TemplateError(ValueError):
    """A template that is refused. What it says begins with the line, counted from 1, where one is to blame."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem)


class RenderingError(TemplateError):
    """A template that could be read but not rendered with these data."""


def is_template(source: str) -> bool:
    """Whether there is anything in it to render."""
    return "{" in source and any(mark in source for mark in ("{{", "{%", "{#"))


def check(kind: Kind, source: str) -> None:
    """Whether a template can be saved. Raises TemplateError with what is wrong and its line."""
    _ready(kind, source)


def body(source: str, context: Mapping[str, Any]) -> str:
    """The body of a request. Raises TemplateError."""
    return _render("body", source, context)


def url(source: str, context: Mapping[str, Any]) -> str:
    """The URL of a request. Raises TemplateError."""
    rendered = _render("url", source, context)
    if _UNWRITABLE.search(rendered):
        raise RenderingError("the URL has a line break or another control character in it; use | urlencode")
    return rendered


def headers(source: str, context: Mapping[str, Any]) -> dict[str, str]:
    """Headers of a request, from lines of ``Name: value``; of two with one name, the later. Raises TemplateError."""
    lines = _render("headers", source, context).split("\n")
    return dict(_header(line, None) for line in lines if line.strip())


def _render(kind: Kind, source: str, context: Mapping[str, Any]) -> str:
    template = _ready(kind, source)
    with spending(Budget(UNITS, LARGEST, SECONDS)):
        try:
            rendered = template.render(context)
        except OverBudget as error:
            raise RenderingError(str(error), _line_of(error)) from error
        except RecursionError as error:
            raise RenderingError("a macro, block or loop calls itself too often", _line_of(error)) from error
        except Exception as error:
            raise RenderingError(f"{type(error).__name__}: {error}", _line_of(error)) from error
    size = len(rendered.encode(errors="replace")) if kind in OUTPUT else 0
    if size and size > OUTPUT[kind]:
        raise RenderingError(f"the {kind} has {size:,} bytes; {OUTPUT[kind]:,} are allowed")
    return rendered


@functools.lru_cache(maxsize=256)
def _ready(kind: Kind, source: str) -> Template:
    if len(source) > SOURCE:
        raise TemplateError(f"the template has {len(source):,} characters; {SOURCE:,} are allowed")
    sandbox = _sandbox(kind == "headers")
    try:
        tree = sandbox.prepared(source)
        if kind == "headers":
            _check_lines(tree)
        code = sandbox.compile(tree)
    except TemplateSyntaxError as error:
        raise TemplateError(error.message or "it cannot be read", error.lineno) from error
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise TemplateError("the template is nested too deeply; make it flatter") from error
    except ValueError as error:
        if isinstance(error, TemplateError):
            raise
        raise TemplateError(str(error)) from error
    return Template.from_code(sandbox, code, sandbox.make_globals(None))


@functools.cache
def _sandbox(one_line: bool) -> Sandbox:
    return Sandbox(one_line)


def _check_lines(tree: nodes.Template) -> None:
    """Refuse lines that are no headers, as far as they are known before they are rendered."""
    for number, line in enumerate("".join(_known(tree.body)).split("\n"), 1):
        if line.strip() and _OPEN not in line.partition(":")[0]:
            _header(line.replace(_OPEN, ""), number)


def _known(body: Iterable[nodes.Node]) -> Iterator[str]:
    for node in body:
        parts = node.nodes if isinstance(node, nodes.Output) else [node]
        for part in parts:
            yield part.data if isinstance(part, nodes.TemplateData) else _OPEN


def _header(line: str, number: int | None) -> tuple[str, str]:
    refuse = RenderingError if number is None else TemplateError
    name, colon, value = (part.strip(" \t\r") for part in line.partition(":"))
    if not colon:
        raise refuse(f"there is no colon in {quoted(line)}; a header is written as 'Name: value'", number)
    if not headerlines.NAME.fullmatch(name):
        raise refuse(f"{quoted(name)} cannot be the name of a header", number)
    if headerlines.is_own(name):
        raise refuse(f"{name} is not for a template to set; leave it out", number)
    if _UNWRITABLE.search(value):
        raise refuse(f"the value of {name} has a control character in it; use | header_safe", number)
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise refuse(f"the value of {name} has characters beyond Latin-1; use | urlencode", number) from None
    return name, value


def _line_of(error: BaseException) -> int | None:
    """The line of the template that an error came from, in the traceback that Jinja2 has rewritten."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
