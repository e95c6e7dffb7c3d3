"""The child process that renders templates: it reads requests from standard input until that closes.

``templates`` starts it. It has no Django, no settings and no secrets: it imports only Jinja2 and the standard library.
The kernel limits its resources, so a template that uses too much ends only this process.
"""

from __future__ import annotations

import codecs
import gc
import html  # noqa: F401 # Jinja2 imports some modules while it renders, when no file can be opened
import json
import math
import os
import re
import resource
import signal
import struct
import sys
import textwrap  # noqa: F401
import time
import unicodedata  # noqa: F401
from collections.abc import Callable, Iterator
from functools import partial
from pprint import pformat  # noqa: F401
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, BinaryIO

from jinja2 import (
    ChainableUndefined,
    Template,
    TemplateAssertionError,
    TemplateSyntaxError,
    constants,  # noqa: F401
    debug,  # noqa: F401
    nodes,
    pass_context,
)
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import SandboxedEnvironment, safe_range
from jinja2.utils import Cycler, Joiner, Namespace, generate_lorem_ipsum
from jinja2.visitor import NodeTransformer

ANSWER = struct.Struct("!cdQ")  # the kind, CPU seconds, and the size of the text
TEXT, ERROR, TOO_LARGE = b"t", b"e", b"s"
OUT_OF_MEMORY = 9  # an exit status
ERROR_LENGTH = 500  # characters
MAX_CACHED = 50_000  # characters of templates that stay compiled, for headers and for others
OPEN = "\ue000"  # replaces expressions in the text that is known before rendering

TEST = "ping"  # the event of a test: ``models.event.PING``, which this process cannot import

Answer = tuple[bytes, bytes]  # the kind, and the text


def main() -> None:
    """Answer requests. The arguments are CPU seconds for a rendering, and bytes of memory."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    sandboxes = {
        (one_line, is_test): Sandbox(one_line, is_test) for one_line in (False, True) for is_test in (False, True)
    }
    codecs.lookup("unicode_escape")  # imports the codec now, because no file can be opened later
    _limit(memory)
    # Each template pays for collecting its own garbage.
    gc.freeze()
    gc.disable()

    def start_clock() -> None:
        signal.setitimer(signal.ITIMER_PROF, seconds)

    with open(0, "rb", closefd=False) as requests, open(1, "wb", closefd=False) as answers:
        _send(answers, TEXT)  # it is ready
        for line in requests:
            start_clock()
            began = time.process_time()
            try:
                request = json.loads(line)
                is_test = request.get("context", {}).get("event") == TEST
                answer = _rendered(sandboxes[request["one_line"], is_test], request, start_clock)
                gc.collect(0)
            except MemoryError:
                os._exit(OUT_OF_MEMORY)
            signal.setitimer(signal.ITIMER_PROF, 0)  # before the answer: the next request must not run out of this time
            _send(answers, *answer, time.process_time() - began)


def _limit(memory: int) -> None:
    """Set the limits of the kernel. Its signals end the process even during a long operation in C."""
    for number in (signal.SIGPROF, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.close(2)
    limits = {"RLIMIT_AS": memory, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NOFILE": 0, "RLIMIT_NPROC": 0}
    for name, most in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), (most, most))
        except (ValueError, OSError):
            if sys.platform == "linux":
                raise  # macOS refuses some; the clock works there


def _send(answers: BinaryIO, what: bytes, text: bytes = b"", seconds: float = 0) -> None:
    try:
        answers.write(ANSWER.pack(what, seconds, len(text)) + text)
        answers.flush()
    except OSError:
        os._exit(0)  # the worker is gone


def _rendered(sandbox: Sandbox, request: dict[str, Any], start_clock: Callable[[], None]) -> Answer:
    """Render, or only compile if the request has no context."""
    try:
        template, text = sandbox.compiled(request["source"])
        if "context" in request:
            start_clock()  # rendering has as much time as compiling
            text = template.render(request["context"])
        encoded = text.encode("utf-8", "surrogatepass")
    except MemoryError:
        raise
    except TemplateSyntaxError as error:
        return _error(error.message or "it cannot be read", error.lineno)
    except (SyntaxError, RecursionError) as error:
        if line := _line_of(error):
            return _error("a macro, block or loop calls itself too often", line)
        return _error("the template is nested too deeply; make it flatter")
    except Exception as error:  # maybe while it compiles: Jinja2 evaluates the argument of autoescape then
        return _error(f"{type(error).__name__}: {error}", _line_of(error))
    return (TEXT, encoded) if len(encoded) <= request["most"] else (TOO_LARGE, b"")


def _error(problem: str, line: int = 0) -> Answer:
    place = f"line {line}: " if line else ""
    return ERROR, f"{place}{problem[:ERROR_LENGTH]}".encode(errors="replace")


def _line_of(error: BaseException) -> int:
    """The line of the template that raised an error, from the traceback that Jinja2 rewrites."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


# The methods and functions that a template may call. A method that changes a list or an object changes a copy: each
# rendering has a new context.
_TEXT = """
capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha isascii isdecimal
isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition
removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip
striptags swapcase title unescape upper zfill
"""
_METHODS: tuple[tuple[type, frozenset[str]], ...] = tuple(
    (kind, frozenset(names.split()))
    for kind, names in [
        (str, _TEXT),
        (dict, "clear copy get items keys pop popitem setdefault update values"),
        (list, "append clear copy count extend index insert pop remove reverse sort"),
        (tuple, "count index"),
        (int, "bit_length is_integer"),
        (float, "is_integer"),
        (LoopContext, "changed cycle"),
        (Cycler, "next reset"),
        (BlockReference, "super"),
        (Macro, ""),
        (Joiner, ""),
    ]
)


def _may_call(owner: Any, name: str) -> bool:
    return any(isinstance(owner, kind) and name in names for kind, names in _METHODS)


_METHOD = BuiltinMethodType | MethodType


# Functions, not the classes: a class can be subscripted and has more attributes.
_FUNCTIONS = {
    "range": safe_range,
    "lipsum": generate_lorem_ipsum,
    "dict": lambda *args, **values: dict(*args, **values),
    "namespace": lambda *args, **values: Namespace(*args, **values),
    "cycler": lambda *items: Cycler(*items),
    "joiner": lambda sep=", ": Joiner(sep),
}


class Blank(ChainableUndefined):
    """A missing value of a test, which has no object. Whatever a template does with it, it renders as nothing."""

    def _itself(self, *args: Any, **kwargs: Any) -> Any:
        return self

    # Jinja2 raises errors here.
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _itself
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __pos__ = __neg__ = __round__ = _itself
    __lt__ = __le__ = __gt__ = __ge__ = __call__ = _itself

    def __int__(self) -> int:  # type: ignore[override]
        return 0

    def __float__(self) -> float:  # type: ignore[override]
        return 0.0


def _null(value: Any) -> None:
    """What JSON has for a value that it cannot write: a missing one."""
    if not isinstance(value, Undefined):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


class Sandbox(SandboxedEnvironment):
    """Jinja2 with a list of allowed calls. ``one_line``, for headers, refuses control characters in values."""

    def __init__(self, one_line: bool, is_test: bool) -> None:
        # Without optimizing: constants that Jinja2 computes while it compiles would stay in memory with the template.
        super().__init__(
            optimized=False,
            cache_size=0,
            finalize=_on_one_line if one_line else _unchanged,
            undefined=Blank if is_test else Undefined,
        )
        self.policies["json.dumps_function"] = partial(json.dumps, default=_null, allow_nan=False)
        self.globals = dict(_FUNCTIONS)
        self._one_line = one_line
        if one_line:
            self.filters |= {"header_safe": header_safe, _WRITE: _on_one_line}
        self._cache: dict[str, tuple[Template, str]] = {}

    def compiled(self, source: str) -> tuple[Template, str]:
        """Return the template, and its text with ``OPEN`` in place of expressions. Caches the last ones. Raises
        TemplateSyntaxError, SyntaxError, RecursionError and others."""
        if source in self._cache:
            return self._cache[source]
        tree = self.parse(source)
        self._refuse(tree)
        known = "".join(_known(tree.body))
        if self._one_line:
            tree = _Blocks().visit(tree)
            tree.set_environment(self)
        made = Template.from_code(self, self.compile(tree), self.make_globals(None)), known
        if len(source) + sum(map(len, self._cache)) > MAX_CACHED:
            self._cache.clear()
            gc.collect()
        self._cache[source] = made
        return made

    def _refuse(self, tree: nodes.Template) -> None:
        """Refuse what Jinja2 would report only while rendering, or never."""
        for node in tree.find_all(nodes.Node):
            match node:
                case nodes.Include() | nodes.Import() | nodes.FromImport() | nodes.Extends():
                    problem = "a template cannot take in others."
                case nodes.Filter(name=name) if name not in self.filters:
                    problem = f"No filter named {name!r}."
                case nodes.Test(name=name) if name not in self.tests:
                    problem = f"No test named {name!r}."
                case nodes.Const(value=math.inf):  # Jinja2 would write a name into its code that does not exist
                    problem = "a number is too large."
                case _:
                    continue
            raise TemplateAssertionError(problem, node.lineno)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if not super().is_safe_attribute(obj, attr, value):
            return False
        if isinstance(obj, Namespace) or _may_call(obj, attr):
            return True
        return not callable(value) and any(isinstance(obj, kind) for kind, _ in _METHODS)

    def is_safe_callable(self, obj: Any) -> bool:
        if isinstance(obj, Macro | Joiner | LoopContext | BlockReference | Undefined):
            return True
        if isinstance(obj, FunctionType) and isinstance(method := getattr(obj, "__wrapped__", None), _METHOD):
            return isinstance(method.__self__, str)  # format and format_map as the sandbox has them
        if isinstance(obj, _METHOD):
            return _may_call(obj.__self__, obj.__name__) and not obj.__name__.startswith("format")
        return any(obj is function for function in _FUNCTIONS.values())


class _Blocks(NodeTransformer):
    """Treats the output of ``call`` and ``filter`` blocks as output of expressions. For Jinja2 it is plain text."""

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        return nodes.FilterBlock([node], _write(None, node.lineno), lineno=node.lineno)

    def visit_FilterBlock(self, node: nodes.FilterBlock) -> nodes.Node:
        self.generic_visit(node)
        node.filter = _write(node.filter, node.lineno)
        return node


_WRITE = "write!"  # a name that no template can write


def _write(node: nodes.Expr | None, line: int) -> nodes.Filter:
    return nodes.Filter(node, _WRITE, [], [], None, None, lineno=line)


def _known(body: list[nodes.Node]) -> Iterator[str]:
    for node in body:
        for part in node.nodes if isinstance(node, nodes.Output) else [node]:
            yield part.data if isinstance(part, nodes.TemplateData) else OPEN


# Line breaks, for HTTP or for str.splitlines(), and other characters that no header may have.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]+")


@pass_context  # then Jinja2 does not call it while it compiles
def _unchanged(context: Context, value: Any) -> Any:
    return value


@pass_context
def _on_one_line(context: Context, value: Any) -> Any:
    if isinstance(value, str) and _CONTROLS.search(value):
        raise ValueError("a value has a line break or another control character; put it through | header_safe")
    return value


def header_safe(value: Any) -> str:
    """The value as text, with a space in place of line breaks and other control characters."""
    return _CONTROLS.sub(" ", str(value))
