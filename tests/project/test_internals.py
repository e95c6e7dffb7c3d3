"""What Django does not document is in ``webhooks.ground.db.django_internals``, or has a comment that says why."""

from __future__ import annotations

import ast
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

from django.db.models import Manager, QuerySet
from django.db.models.deletion import Collector
from django.db.transaction import Atomic

from webhooks.ground.db import django_internals

ROOT = Path(__file__).parents[2]
APP = ROOT / "webhooks"
FILES = [path for path in sorted(APP.rglob("*.py")) if "migrations" not in path.parts]
TREES = {path: ast.parse(path.read_text()) for path in FILES}

# Names with an underscore that are documented: of models, named tuples, enums, os and sys.
DOCUMENTED = {
    *("_meta", "_state", "_base_manager", "_default_manager", "_replace", "_fields", "_make", "_asdict", "_value_"),
    *("_exit", "_getframe"),
}

# Names without an underscore that no page of Django's documentation has.
UNDOCUMENTED = {
    *("atomic_blocks", "commit_on_exit", "in_atomic_block", "needs_rollback", "run_on_commit", "savepoint_ids"),
    *("close_if_unusable_or_obsolete", "errors_occurred", "execute_wrappers", "savepoint_state"),
    *("execute_sql", "get_compiler", "get_prefetch_querysets", "pre_sql_setup", "results_iter"),
    *("mark_for_rollback_on_error", "Atomic", "BaseDatabaseWrapper", "Collector", "ModelState", "UpdateQuery"),
}

OWNERS = r"(Django|DRF|rq|NetBox|argparse)'s"


def own_names() -> set[str]:
    """The names with an underscore that the app itself defines."""
    own = set[str]()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                is_of_class = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                own |= {node.attr} if is_of_class or "webhooks" in node.attr else set()
    of_django = QuerySet(), Manager(), Atomic("default", True, False), Collector("default")
    return own - {name for one in of_django for name in dir(one)}


OWN = own_names()


def internals(path: Path) -> Iterator[tuple[str, int, int]]:
    """The undocumented names of other packages in a module, each with the first line of its function and its own."""
    nodes: list[tuple[ast.AST, int]] = [(TREES[path], 0)]
    while nodes:
        node, start = nodes.pop()
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            start = min([line, *(one.lineno for one in node.decorator_list)])
        elif isinstance(node, ast.Attribute):
            is_private = re.match("_[a-z]", node.attr) and node.attr not in OWN | DOCUMENTED
            if is_private or node.attr in UNDOCUMENTED:
                yield node.attr, start or line, line
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("django"):
            names = {one.name for one in node.names}
            for name in {"sql"} if ".sql" in str(node.module) or "sql" in names else names & UNDOCUMENTED:
                yield name, line, line
        nodes += [(child, start) for child in ast.iter_child_nodes(node)]


def comments(path: Path) -> dict[int, str]:
    """The comments of a module by their lines."""
    with path.open() as source:
        tokens = tokenize.generate_tokens(source.readline)
        return {one.start[0]: one.string for one in tokens if one.type == tokenize.COMMENT}


def unexplained(path: Path) -> Iterator[str]:
    notes = comments(path)
    for name, start, line in internals(path):
        near = " ".join(notes.get(number, "") for number in range(start - 3, line + 1))
        if not re.search(rf"{OWNERS} [^#]*\b{name}\b", near):
            yield f"{path.relative_to(ROOT)}:{line} {name}"


def test_a_comment_says_why_the_app_uses_what_is_not_documented() -> None:
    others = [path for path in FILES if path != APP / "ground" / "db" / "django_internals.py"]
    assert [text for path in others for text in unexplained(path)] == []


def test_savepoints_are_merged_with_the_releases_of_django_that_the_package_names() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    named = [re.fullmatch(r"Framework :: Django :: (\d+)\.(\d+)", one) for one in classifiers]
    assert tuple((int(one[1]), int(one[2])) for one in named if one) == django_internals.TESTED
