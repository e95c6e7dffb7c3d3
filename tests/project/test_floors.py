"""How much code a maintainer has to know to change a part of the app: a number for each, which may only fall."""

from __future__ import annotations

import ast
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS: dict[str, dict[str, object]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["floors"]

NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def files() -> Iterator[tuple[str, Path]]:
    for path in (ROOT / "webhooks").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


FILES = dict(files())


def code_lines(name: str) -> int:
    """The lines of a module without comments, docstrings, blank lines and imports."""
    skipped = set[int]()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        is_text = isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)
        if is_import or is_text:
            skipped |= {*range(node.lineno, (node.end_lineno or 0) + 1)}
    with FILES[name].open() as source:
        tokens = [one for one in tokenize.generate_tokens(source.readline) if one.type not in NO_CODE]
    return len({line for one in tokens for line in range(one.start[0], one.end[0] + 1)} - skipped)


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of the app that a module imports, in functions too, but not for types alone."""
    found, nodes = set[str](), [ast.parse(FILES[name].read_text())]
    while nodes:
        node: ast.AST = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {f"{node.module}.{one.name}" for one in node.names}
            found |= modules if modules <= FILES.keys() else {*modules, str(node.module)}
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            nodes += ast.iter_child_nodes(node)  # type: ignore[arg-type]
    return frozenset(found & FILES.keys() - {"webhooks"})


def closure(names: list[str]) -> set[str]:
    seen, todo = set[str](), list(names)
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += imports(name)
    return seen


@pytest.mark.parametrize("part", FLOORS)
def test_a_part_stands_on_no_more_code_than_before(part: str) -> None:
    names, limit = FLOORS[part]["modules"], FLOORS[part]["lines"]
    assert isinstance(names, list)
    assert isinstance(limit, int)
    lines = {name: code_lines(name) for name in closure([f"webhooks.{name}" for name in names])}
    found = sum(lines.values())
    shown = "\n".join(f"{count:6} {name}" for name, count in sorted(lines.items()))
    assert found <= limit, f"{part} stands on {found} lines of code, {limit} are allowed:\n{shown}"
    assert found > limit - 60, f"{part} stands on {found} lines of code: lower its number in pyproject.toml"
