"""``scripts/mutate``: change the code in one place at a time, and name each change that no test notices.

The tests are collected once, and run once unchanged. Then this process forks for each change: the child changes the
functions in its memory, and runs the tests until one fails, those named after the module first. Processes that a test
starts run the unchanged code. Log lines and texts are left alone.
"""

from __future__ import annotations

import argparse
import ast
import functools
import gc
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType

import pytest

ALLOWED = Path(__file__).with_name("mutate.allowed")  # changes that mean the same, one a line
TEST_LIMIT = 60  # seconds for one test: a change may make it endless
NOTICED, UNNOTICED, NO_CHANGE = 10, 11, 12  # exit statuses of a child

SWAPS: dict[type[ast.AST], type[ast.AST]] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add}
PAIRS = ("Lt LtE", "Gt GtE", "Eq NotEq", "Is IsNot", "In NotIn", "And Or")
for one, other in ([getattr(ast, name) for name in pair.split()] for pair in PAIRS):
    SWAPS |= {one: other, other: one}
REMOVED = (ast.AugAssign, ast.Break, ast.Continue, ast.Delete, ast.Raise, ast.Return)

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Mutant:
    """One child of a node of a module, and what replaces it."""

    path: Path
    module: ast.Module
    function: str
    parent: ast.AST
    field: str
    index: int | None
    child: ast.AST
    replacement: ast.AST

    def __str__(self) -> str:
        """Without the line: an allowed change outlives the edits around it."""
        before, after = (" ".join(ast.unparse(node).split()) for node in (self.child, self.replacement))
        return f"{self.path} {self.function}: {before} -> {after}"

    def codes(self) -> dict[Key, CodeType]:
        """The changed code of all functions of the module."""
        self._put(self.replacement)
        try:
            code = compile(ast.fix_missing_locations(self.module), str(self.path.resolve()), "exec")
        finally:
            self._put(self.child)
        return {key(one): one for one in nested(code)}

    def _put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def key(code: CodeType) -> Key:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def mutants(path: Path) -> Iterator[Mutant]:
    """All changes of the bodies of a module's functions."""
    module = ast.parse(path.read_text())

    def below(node: ast.AST, name: str, is_function: bool) -> Iterator[Mutant]:
        for field, value in ast.iter_fields(node):
            if (is_definition(node) and field != "body") or "annotation" in field:
                continue
            for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(child, ast.AST) or is_log_line(child):
                    continue
                if is_function:
                    for replacement in replacements(child, is_test=field == "test"):
                        yield Mutant(
                            path, module, name, node, field, index, child, ast.copy_location(replacement, child)
                        )
                inner = f"{name}.{child.name}".lstrip(".") if is_definition(child) else name  # type: ignore[attr-defined]
                yield from below(child, inner, is_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return below(module, "", is_function=False)


def is_definition(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def is_log_line(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith(("logger.", "'", '"'))


def replacements(node: ast.AST, is_test: bool) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left, [operator, *operators], comparators):
            yield ast.Compare(left, [SWAPS[type(operator)](), *operators], comparators)  # type: ignore[list-item]
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(SWAPS[type(operator)](), values)  # type: ignore[arg-type]
        case ast.BinOp(left, operator, right) if type(operator) in SWAPS:
            yield ast.BinOp(left, SWAPS[type(operator)](), right)  # type: ignore[arg-type]
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.Name() | ast.Attribute() | ast.Call() if is_test:
            yield ast.UnaryOp(ast.Not(), node)
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.Expr(ast.Call()) | ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.stmt() if isinstance(node, REMOVED):
            yield ast.Pass()


class Mutating:
    """A plugin for pytest that runs the tests once for each change instead of once."""

    def __init__(self, wanted: list[Mutant]) -> None:
        self.wanted, self.survivors, self.killed, self.failed = wanted, list[Mutant](), 0, ""

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or (f"{report.nodeid}\n{report.longreprtext}" if report.failed else "")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        say = session.config.pluginmanager.getplugin("terminalreporter").write_line
        if not self._passes(session, session.items):
            pytest.exit(f"A test fails without a change: {self.failed}", returncode=2)
        gc.unfreeze()
        paths = {str(mutant.path.resolve()) for mutant in self.wanted}
        live = [one for one in gc.get_objects() if isinstance(one, FunctionType) and one.__code__.co_filename in paths]
        for mutant in self.wanted:
            began = time.monotonic()
            status = self._forked(session, mutant, live)
            if status == NO_CHANGE:
                continue
            self.killed += status != UNNOTICED
            if status == UNNOTICED:
                self.survivors.append(mutant)
            place = f"line {mutant.child.lineno}, {time.monotonic() - began:.1f} s"  # type: ignore[attr-defined]
            say(f"\n{'SURVIVED' if status == UNNOTICED else 'killed'} {mutant} ({place})")
        say(f"{len(self.survivors)} of {self.killed + len(self.survivors)} changes survived")
        session.testsfailed = len(self.survivors)
        return True

    def _passes(self, session: pytest.Session, items: list[pytest.Item]) -> bool:
        for item in items:
            # The session as the next item keeps its servers, and nothing else.
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=session)
            if self.failed:
                return False
        return True

    def _forked(self, session: pytest.Session, mutant: Mutant, live: list[FunctionType]) -> int:
        if "django.db" in sys.modules:
            sys.modules["django.db"].connections.close_all()  # each process has its own
        if child := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        status = NOTICED
        try:
            session.config.pluginmanager.unregister(name="terminalreporter")
            stem = mutant.path.stem
            items = sorted(session.items, key=lambda item: item.path.stem != f"test_{stem}")
            status = NO_CHANGE if not change(mutant, live) else UNNOTICED if self._passes(session, items) else NOTICED
        finally:
            os._exit(status)


def change(mutant: Mutant, live: list[FunctionType]) -> bool:
    """Change this process. False if no function of it has the code, or if it would lose a variable of another."""
    changed, codes = False, mutant.codes()
    try:
        for function in live:
            if code := codes.get(key(function.__code__)):
                function.__code__ = code
                changed = True
    except ValueError:
        return False
    for cached in gc.get_objects():
        if isinstance(cached, functools._lru_cache_wrapper):
            cached.cache_clear()
    return changed


def main() -> int:
    parser = argparse.ArgumentParser(description="Name each change of the code that no test notices.")
    parser.add_argument("modules", nargs="+", type=Path, help="files or directories")
    parser.add_argument("--tests", nargs="+", required=True, help="paths for pytest")
    parser.add_argument("--count", type=int, default=50, help="how many changes, at most. Default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="which ones. Default: %(default)s")
    options = parser.parse_args()
    files = [file for path in options.modules for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    allowed = set(ALLOWED.read_text().splitlines()) if ALLOWED.exists() else set()
    every = [mutant for path in files for mutant in mutants(path) if str(mutant) not in allowed]
    wanted = random.Random(options.seed).sample(every, min(options.count, len(every)))  # noqa: S311 # nosec B311 # no secret
    plugin = Mutating(wanted)
    arguments = ["-n0", "-q", "--no-header", "--no-summary", "-pno:randomly", f"--timeout={TEST_LIMIT}"]
    return int(pytest.main([*arguments, *options.tests], plugins=[plugin]))


if __name__ == "__main__":
    sys.exit(main())
