"""Puts payments into a template when it is read, and refuses what it cannot have. Pure.

Nothing that a template calls is told of a turn of a loop, the run of a macro or a list that is written out. So a filter
stands there that takes the payment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from jinja2 import TemplateAssertionError, nodes
from jinja2.visitor import NodeTransformer

from webhooks.rendering.budgets import STEP, current


def _tick(units: int) -> bool:
    current().pay(STEP + units)
    return True


def _keep(value: Any) -> Any:
    current().pay_for(value)
    return value


# Names of filters that no template can write. ``WRITE`` is what the sandbox does with all that is written out.
_TICK, _KEEP, WRITE = "tick!", "keep!", "write!"
FILTERS: dict[str, Callable[..., Any]] = {_TICK: _tick, _KEEP: _keep}


class Payments(NodeTransformer):
    """Visits a template. ``filters`` and ``tests`` are those that there are, by their names."""

    def __init__(self, filters: Mapping[str, Any], tests: Mapping[str, Any]) -> None:
        self._filters = filters
        self._tests = tests

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_filter(nodes.Const(0), _TICK, node.lineno), node.test, lineno=node.lineno)
        return _ticking(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return _ticking(self.generic_visit(node))

    visit_Block = visit_Macro

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        """What it calls is any expression, and Jinja2 writes what comes of it as though it stood in the template."""
        called = _ticking(self.generic_visit(node))
        return nodes.FilterBlock([called], _filter(None, WRITE, node.lineno), lineno=node.lineno)

    def visit_FilterBlock(self, node: nodes.FilterBlock) -> nodes.Node:
        """The same of a filter, whose arguments may be any values."""
        self.generic_visit(node)
        node.filter = _filter(node.filter, WRITE, node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filter(part, _KEEP, node.lineno) for part in node.nodes]
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        """Jinja2 would write an infinite number into its code as a name, which nothing has."""
        if node.value == math.inf:
            raise TemplateAssertionError("a number is too large.", node.lineno)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """To compare walks through what is compared."""
        self.generic_visit(node)
        node.expr = self._walked(node.expr)
        for operand in node.ops:
            operand.expr = self._walked(operand.expr)
        return node

    def _walked(self, node: nodes.Expr) -> nodes.Expr:
        return node if isinstance(node, nodes.Const) else _filter(node, _KEEP, node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """A slice is a copy."""
        self.generic_visit(node)
        return _filter(node, _KEEP, node.lineno) if isinstance(node.arg, nodes.Slice) and node.ctx == "load" else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._kept(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._kept(node, node.items) if node.ctx == "load" else self.generic_visit(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._kept(node, [pair.value for pair in node.items])

    def _kept(self, node: Any, items: list[nodes.Expr]) -> nodes.Node:
        self.generic_visit(node)
        return node if all(isinstance(item, nodes.Const) for item in items) else _filter(node, _KEEP, node.lineno)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        return self._known(node, self._filters, "filter")

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        return self._known(node, self._tests, "test")

    def _known(self, node: Any, names: Mapping[str, Any], kind: str) -> nodes.Node:
        if node.name not in names:
            raise TemplateAssertionError(f"No {kind} named {node.name!r}.", node.lineno)
        return self.generic_visit(node)

    def visit_Include(self, node: nodes.Node) -> NoReturn:
        raise TemplateAssertionError("a template cannot take in others.", node.lineno)

    visit_Import = visit_FromImport = visit_Extends = visit_Include


def _filter(node: nodes.Expr | None, name: str, line: int) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=line)


def _ticking(node: Any) -> nodes.Node:
    """Each run of the body pays first, for the text that stands in it too."""
    text = sum(len(found.data) for found in node.find_all(nodes.TemplateData))
    node.body.insert(0, nodes.ExprStmt(_filter(nodes.Const(text), _TICK, node.lineno), lineno=node.lineno))
    return node  # type: ignore[no-any-return]
