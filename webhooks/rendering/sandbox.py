"""Jinja2 for templates that admins write: they see what they are given, change nothing, and come to an end. Pure.

Jinja2's sandbox keeps templates from Python's inner parts, not from running for ever. Here calls, filters, tests and
operators pay from a budget (``budgets``), as loops, macros and literals are made to (``payments``), and what grows is
checked before it does (``growth``).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from jinja2.utils import Namespace, generate_lorem_ipsum
from markupsafe import Markup

from webhooks.rendering import growth, payments
from webhooks.rendering.budgets import READ, STEP, OverBudget, current

RANGE = 100_000  # as in NetBox

# What a template may call on plain values. Among the methods of text are none that make bytes or a mapping of it.
_TEXT = """
capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha isascii isdecimal
isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition
removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip
striptags swapcase title unescape upper zfill
"""
_METHODS: tuple[tuple[type | tuple[type, ...], frozenset[str]], ...] = (
    (str, frozenset(_TEXT.split())),
    (dict, frozenset({"copy", "get", "items", "keys", "values"})),
    ((list, tuple), frozenset({"copy", "count", "index"})),
    ((int, float), frozenset({"bit_length", "is_integer"})),
)
# What Jinja2 adds to the arguments of each call within a loop or a block.
_OF_JINJA = ("_loop_vars", "_block_vars")


class _Names(Namespace):
    def __repr__(self) -> str:  # or it would write out what it holds, without having paid
        return "<Namespace>"


class Sandbox(ImmutableSandboxedEnvironment):
    """``one_line`` refuses line breaks and other control characters in what expressions write: for headers."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, one_line: bool = False) -> None:
        # Not optimized: that would run filters when a template is read, without a budget.
        super().__init__(optimized=False, cache_size=0, finalize=_written_on_one_line if one_line else _written)
        self.globals.update(range=_range, lipsum=_lipsum, namespace=_Names)
        self.policies["json.dumps_function"] = _dumps
        self.filters.update(
            {name: _paid(function, growth.FILTERS.get(name)) for name, function in self.filters.items()}
        )
        self.tests.update({name: _paid(function, None) for name, function in self.tests.items()})
        self.filters.update(payments.FILTERS | {payments.WRITE: self.finalize})
        if one_line:
            self.filters["header_safe"] = _paid(header_safe, None)

    def prepared(self, source: str) -> nodes.Template:
        """A template as Jinja2 reads it, with the payments put in. Raises TemplateSyntaxError."""
        tree = payments.Payments(self.filters, self.tests).visit(self.parse(source))
        tree.set_environment(self)
        return tree  # type: ignore[no-any-return]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if not super().is_safe_attribute(obj, attr, value):
            return False
        for kind, names in _METHODS:
            if isinstance(obj, kind):
                return attr in names or not callable(value)
        return not isinstance(obj, bytes | type | BuiltinMethodType | MethodType)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Each step of a path that a filter or a format goes is one, too."""
        current().pay(0)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        text = value.__self__
        formatter = _EscapeFormatter(self, escape=text.escape) if isinstance(text, Markup) else _Formatter(self)

        @functools.wraps(value)
        def formatted(*args: Any, **kwargs: Any) -> str:
            current().pay_for(text)
            values, named = ((), args[0]) if value.__name__ == "format_map" else (args, kwargs)
            result: str = type(text)(formatter.vformat(text, values, named))
            return result

        return formatted

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = current()
        growth.operation(budget, operator, left, right)
        result = super().call_binop(context, operator, left, right)
        budget.pay_for(result)
        return result

    # Methods read a text or a list to its end and may tell little of it. Of an object they look up one key, or give
    # what is paid for as a result.
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = current()
        args = tuple(_listed(value) for value in args)
        named = {name: value for name, value in kwargs.items() if name not in _OF_JINJA}
        budget.pay(STEP + budget.size((args, named)))
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            budget.pay(budget.size(owner) // READ)
            if check := growth.METHODS.get(getattr(__obj, "__name__", "")):
                check(budget, owner, *args, **named)
        elif isinstance(owner, list | tuple):
            budget.pay_for(owner)
        result = super().call(__context, __obj, *args, **kwargs)
        budget.pay_for(result)
        return result


def _paid(function: Any, check: Callable[..., None] | None) -> Callable[..., Any]:
    """The filter or test, made to pay for what goes in and what comes out."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def paying(*args: Any, **kwargs: Any) -> Any:
        budget = current()
        given = tuple(_listed(value) for value in args[skipped:])
        budget.pay(STEP + budget.size((given, kwargs)))
        if check is not None:
            check(budget, *given, **kwargs)
        result = function(*args[:skipped], *given, **kwargs)
        budget.pay_for(result)
        return result

    return paying


def _listed(value: Any) -> Any:
    """A list of what an iterator has left, so that it can be measured."""
    if not isinstance(value, Iterator):
        return value
    budget = current()
    items = []
    for item in value:
        budget.pay(1)
        items.append(item)
    return items


@pass_context  # so that Jinja2 does not call it when a template is read
def _written(context: Context, value: Any) -> Any:
    current().pay_for(value)
    return value


# What separates lines, for HTTP or for str.splitlines(), and other characters that no header may have.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]+")


@pass_context
def _written_on_one_line(context: Context, value: Any) -> Any:
    value = _listed(value)
    current().pay_for(value)
    if isinstance(value, str) and _CONTROLS.search(value):
        raise ValueError("a value has a line break or another control character; put it through | header_safe")
    return value


def header_safe(value: Any) -> str:
    """The value as text, a space in place of line breaks and other control characters."""
    return _CONTROLS.sub(" ", str(value))


def _range(*args: int) -> range:
    made = range(*args)
    if len(made) > RANGE:
        raise OverBudget(f"a range may have {RANGE:,} numbers")
    return made


def _lipsum(n: int = 5, html: bool = True, min: int = 20, max: int = 100) -> str:
    current().afford(abs(n) * (abs(min) + abs(max)) * 10)
    return generate_lorem_ipsum(n, html, min, max)


def _dumps(value: Any, **options: Any) -> str:
    if options.get("indent") is None:
        return json.dumps(value, **options)
    budget = current()
    parts = []
    for part in json.JSONEncoder(**options).iterencode(value):
        budget.pay(len(part))
        parts.append(part)
    return "".join(parts)


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        budget = current()
        budget.pay_for(value)
        growth.spec(budget, format_spec)
        result: str = super().format_field(value, format_spec)
        budget.pay_for(result)
        return result


class _EscapeFormatter(_Formatter, SandboxedEscapeFormatter):
    pass
