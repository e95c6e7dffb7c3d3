"""Render the templates that admins write: the URL, headers and body of a request.

The templates are Jinja2's, with NetBox's names in them (``docs/templates.md``). Child processes (``render_child``)
render them, under limits of the kernel. Their answers are not trusted: an answer is text of a limited length.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from socket import socketpair
from typing import Literal, Self
from weakref import WeakSet

import jinja2
import markupsafe

from webhooks.conf import conf
from webhooks.logs import get_logger
from webhooks.network import headers
from webhooks.payloads.render_child import ANSWER, ERROR_LENGTH, OPEN, OUT_OF_MEMORY, TEXT, TOO_LARGE, Answer
from webhooks.text import last_line, short_repr

logger = get_logger(__name__)

Kind = Literal["body", "headers", "url"]
QUICK, SLOW = "quick", "slow"

SOURCE_LENGTH = 50_000  # characters of a template
CPU_SECONDS = 0.3  # for a rendering; compiling has as much
SECONDS = 5.0  # after which a child that uses no CPU is ended, too
MEMORY_MB = 300
BYTES = {"headers": 16_000, "url": 2_000}  # of what is rendered; for a body, a setting says it
START_SECONDS = 30
NONSENSE = "the process that renders templates answered what no template makes"

# A webhook with a rendering of more CPU seconds is slow, and stays so for this many times as long, times the number of
# slow webhooks. So all of them together take little of the time of the others. A rendering that ends the process costs
# a start, and so counts as CPU_SECONDS at least.
QUICK_SECONDS = 0.02
SLOW_FACTOR = 100

# Other than ASCII's, the control characters of Latin-1, which some receivers take for line breaks.
_UNWRITABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")

# Imports what it needs from where this process has it, and nothing else: no ``site``, no environment.
_BOOT = "import sys; sys.path += sys.argv[3:]; import render_child; render_child.main()"
_PATHS = [str(Path(str(found)).parents[1]) for found in (jinja2.__file__, markupsafe.__file__)]
_PATHS.append(str(Path(__file__).parent))


class TemplateError(ValueError):
    """A template that is refused, or cannot be rendered. The text begins with the line, from 1, where it is known."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem)


def is_template(source: str) -> bool:
    """Whether there is anything in it to render."""
    return "{" in source and any(mark in source for mark in ("{{", "{%", "{#"))


class Renderer:
    """Renders in two child processes at most: one for webhooks that are quick, one for those that are slow, which so
    keep only each other waiting. A process is started when it is first needed. Thread-safe; close it.

    The context is JSON text; ``webhook`` is a primary key. All methods raise TemplateError.
    """

    def __init__(self) -> None:
        self._children: dict[str, _Child] = {}
        self._slow_until: dict[int, float] = {}
        self._known_quick: set[int] = set()
        self._wary_until = 0.0
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes, and with them what they render."""
        self._is_closed = True
        for child in list(self._children.values()):
            child.kill()  # a thread that waits for an answer lets go of its lock
        for pace, lock in _locks.items():
            with lock:
                if pace in self._children:
                    self._children.pop(pace).close()

    def pace(self, webhook: int) -> str:
        """SLOW for a while after a rendering took long, else QUICK. While others are slow, a new webhook is too."""
        until = self._slow_until.get(webhook, 0)
        if webhook not in self._known_quick:
            until = max(until, self._wary_until)
        if time.monotonic() < until:
            return SLOW
        self._slow_until.pop(webhook, None)
        return QUICK

    def check(self, kind: Kind, source: str) -> None:
        """Refuse a template that cannot be compiled, and lines that cannot be headers as far as they are known."""
        known = self._render(kind, source, len(source) * 4)
        if kind == "headers":
            for number, line in enumerate(known.split("\n"), 1):
                if line.strip() and OPEN not in line.partition(":")[0]:
                    _header(line.replace(OPEN, ""), number)

    def body(self, source: str, context: str, webhook: int = 0) -> str:
        return self._render("body", source, conf.payload_bytes, context, webhook)

    def url(self, source: str, context: str, webhook: int = 0) -> str:
        rendered = self._render("url", source, BYTES["url"], context, webhook)
        if _UNWRITABLE.search(rendered):
            raise TemplateError("the URL has a line break or another control character in it; use | urlencode")
        return rendered

    def headers(self, source: str, context: str, webhook: int = 0) -> dict[str, str]:
        """Headers from lines of ``Name: value``; of two with one name, the later."""
        return header_lines(self._render("headers", source, BYTES["headers"], context, webhook))

    def _render(self, kind: Kind, source: str, most: int, context: str = "", webhook: int = 0) -> str:
        if len(source) > SOURCE_LENGTH:
            raise TemplateError(f"the template has {len(source):,} characters; {SOURCE_LENGTH:,} are allowed")
        if not is_template(source):
            return _plain(source)
        request = json.dumps({"source": source, "one_line": kind == "headers", "most": most})
        if context:
            request = f'{request[:-1]}, "context": {context}}}'
        what, line, answer = self._answer(f"{request}\n".encode(), most, webhook)
        if what == TOO_LARGE:
            by = " (the setting PAYLOAD_BYTES)" if kind == "body" else ""
            raise TemplateError(f"the {kind} would have more than the {most:,} bytes that are allowed{by}")
        if what != TEXT:
            raise TemplateError(answer.decode(errors="replace"), line)
        try:
            return answer.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise TemplateError(NONSENSE) from None

    def _answer(self, request: bytes, most: int, webhook: int) -> Answer:
        if self.pace(webhook) == QUICK:
            with _locks[QUICK]:
                if self.pace(webhook) == QUICK:  # it may have become slow while this waited
                    return self._timed(QUICK, request, most, webhook)
        with _locks[SLOW]:
            return self._timed(SLOW, request, most, webhook)

    def _timed(self, pace: str, request: bytes, most: int, webhook: int) -> Answer:
        child = self._child(pace)
        began = time.monotonic()
        try:
            answer, seconds = child.ask(request, max(most, 4 * ERROR_LENGTH))
        except TemplateError:
            self._slow_down(webhook, max(time.monotonic() - began, CPU_SECONDS))
            raise
        if seconds > QUICK_SECONDS:
            self._slow_down(webhook, seconds)
        else:
            self._known_quick.add(webhook)
        return answer

    def _slow_down(self, webhook: int, seconds: float) -> None:
        now = time.monotonic()
        others = sum(until > now for other, until in list(self._slow_until.items()) if other != webhook)
        self._slow_until[webhook] = now + seconds * SLOW_FACTOR * (1 + others)
        self._known_quick.discard(webhook)
        self._wary_until = max(self._wary_until, now + seconds * SLOW_FACTOR)

    def _child(self, pace: str) -> _Child:
        child = self._children.get(pace)
        if child and child.is_alive:
            return child
        if child:
            child.close()
        if not self._is_closed:
            child = self._children[pace] = _Child()
        if self._is_closed or not child:  # maybe while it started; then ``close`` waits for the lock, and ends it
            raise TemplateError("the process that renders templates was ended")
        return child


class _Child:
    """A process that renders one template at a time. Not thread-safe. Raises TemplateError if it does not start."""

    def __init__(self) -> None:
        with _starting:
            self._socket, theirs = socketpair()
            _children.add(self)
            try:
                with theirs:
                    self._process = _started(theirs.fileno())
            except OSError as error:
                self._socket.close()
                raise _not_started(str(error)) from error
        try:
            self._receive(0, START_SECONDS)
        except (OSError, EOFError):
            self._process.kill()
            reason = last_line(self._process.communicate()[1].decode(errors="replace"))
            self.close()
            raise _not_started(reason or f"it was not ready within {START_SECONDS} s") from None
        self._process.stderr.close()  # type: ignore[union-attr]

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()
        self._socket.close()

    def forget(self) -> None:
        """Leave it to the process that started it: this one is a fork of that."""
        self._socket.close()

    def ask(self, request: bytes, most: int) -> tuple[Answer, float]:
        """The answer to a request, of ``most`` bytes at most, and the CPU seconds that it took. If it raises
        TemplateError, the process is gone."""
        try:
            self._socket.settimeout(SECONDS)
            self._socket.sendall(request)
            answer, seconds = self._receive(most, SECONDS)
        except TimeoutError:
            problem = f"the template took more than {SECONDS:g} s"
        except ValueError as error:
            problem = str(error)
        except (OSError, EOFError):
            problem = self._how_it_ended()
        else:
            if answer[0] != OUT_OF_MEMORY:
                return answer, seconds
            problem = f"the template needed more than {MEMORY_MB} MB"
        self.close()
        raise TemplateError(problem)

    def _receive(self, most: int, seconds: float) -> tuple[Answer, float]:
        """Raises EOFError if the process has ended, TimeoutError and other OSErrors, and ValueError for nonsense."""
        end = time.monotonic() + seconds
        received = self._read(bytearray(), ANSWER.size, end)
        what, line, took, size = ANSWER.unpack_from(received)
        if size <= most:
            self._read(received, ANSWER.size + size, end)
        if len(received) != ANSWER.size + size:
            raise ValueError(NONSENSE)
        return (what, line, bytes(received[ANSWER.size :])), took

    def _read(self, received: bytearray, wanted: int, end: float) -> bytearray:
        while len(received) < wanted:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            if not (part := self._socket.recv(65536)):
                raise EOFError
            received += part
        return received

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            return "the process that rendered the template stopped answering"
        if status == -signal.SIGPROF:
            return f"the template took more than {CPU_SECONDS:g} s of CPU time"
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"the process that rendered the template ended ({how})"


def _started(standard: int) -> subprocess.Popen[bytes]:
    """A child process that talks by this descriptor. It has a session to itself: Ctrl-C in the worker's terminal lets
    what is under way end."""
    limits = map(str, (CPU_SECONDS, MEMORY_MB * 1_000_000))
    command = [_python(), "-I", "-S", "-c", _BOOT, *limits, *_PATHS]
    needed = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return subprocess.Popen(
        command, stdin=standard, stdout=standard, stderr=subprocess.PIPE, cwd="/", env=needed, start_new_session=True
    )


def _python() -> str:
    """The interpreter: ``sys.executable`` is the server's program where that embeds Python, as uWSGI does."""
    version = sys.version_info
    is_python = Path(sys.executable).name.startswith(("python", "pypy"))
    return sys.executable if is_python else str(Path(sys.exec_prefix, "bin", f"python{version.major}.{version.minor}"))


def _not_started(reason: str) -> TemplateError:
    logger.error("The process that renders templates does not start: %s", reason)
    return TemplateError(f"the process that renders templates does not start: {reason}")


# A process has one rendering under way, and one of the slow ones: previews in many threads of a site need no more
# memory than that.
_locks = {QUICK: threading.Lock(), SLOW: threading.Lock()}
_children: WeakSet[_Child] = WeakSet()

# A fork waits while a child is started, or it would keep the child's end of the socket. Then its end would not be seen.
_starting = threading.Lock()


def _after_fork() -> None:
    """The children end when their socket closes, so a fork, such as rq's for a job, must not hold it open."""
    _locks.update({QUICK: threading.Lock(), SLOW: threading.Lock()})
    _starting.release()
    for child in list(_children):
        child.forget()


os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_after_fork)


def _plain(source: str) -> str:
    """What Jinja2 makes of text without a template."""
    lines = re.sub(r"\r\n|\r", "\n", source)
    return lines.removesuffix("\n")


def header_lines(text: str) -> dict[str, str]:
    """Headers from lines of ``Name: value``; of two with one name, the later. Raises TemplateError."""
    return dict(_header(line) for line in _plain(text).split("\n") if line.strip())


def _header(line: str, number: int = 0) -> tuple[str, str]:
    name, colon, value = (part.strip(" \t\r") for part in line.partition(":"))
    if not colon:
        raise TemplateError(f"there is no colon in {short_repr(line)}; a header is written as 'Name: value'", number)
    if not headers.NAME.fullmatch(name):
        raise TemplateError(f"{short_repr(name)} cannot be the name of a header", number)
    if headers.is_reserved(name):
        raise TemplateError(f"{name} is not for a template to set; leave it out", number)
    if _UNWRITABLE.search(value):
        raise TemplateError(f"the value of {name} has a control character in it; use | header_safe", number)
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise TemplateError(f"the value of {name} has characters beyond Latin-1; use | urlencode", number) from None
    return name, value
