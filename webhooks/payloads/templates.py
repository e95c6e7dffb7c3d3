"""Render the Jinja2 templates of a webhook: the URL, headers and body of a request (``docs/templates.md``).

Child processes (``render_child``) render them under limits of the kernel. This module does not trust their answers: it
accepts only text of a limited length.
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
CPU_SECONDS = 0.3  # for a rendering, and again for compiling
SECONDS = 5.0  # then a child that uses no CPU is killed, too
MEMORY_MB = 300
MAX_BYTES = {"headers": 16_000, "url": 2_000}  # of a result; a setting has the limit of a body
START_SECONDS = 30
INVALID_ANSWER = "the process that renders templates gave an invalid answer"

# A rendering with more CPU seconds makes a webhook slow for SLOW_FACTOR times as long, times the number of slow
# webhooks. So all slow webhooks together take little time from the others. A rendering that ends the process costs a
# start, so it counts as CPU_SECONDS at least.
QUICK_SECONDS = 0.02
SLOW_FACTOR = 100

# Control characters of ASCII and of Latin-1, which some receivers take for line breaks.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")

# The child imports only from these directories: without ``site`` and without the environment.
_BOOT = "import sys; sys.path += sys.argv[3:]; import render_child; render_child.main()"
_PATHS = [str(Path(str(found)).parents[1]) for found in (jinja2.__file__, markupsafe.__file__)]
_PATHS.append(str(Path(__file__).parent))


class TemplateError(ValueError):
    """A refused template, or one that cannot be rendered. The text starts with the line, from 1, if it is known."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem)


def is_template(source: str) -> bool:
    """Whether the text has anything to render."""
    return "{" in source and any(mark in source for mark in ("{{", "{%", "{#"))


class Renderer:
    """Renders in up to two child processes: one for quick webhooks and one for slow ones, so that a slow webhook delays
    only other slow ones. Starts a process when it is first needed. Thread-safe; close it.

    ``context`` is JSON text, ``webhook`` a primary key. All methods raise TemplateError.
    """

    def __init__(self) -> None:
        self._children: dict[str, _Child] = {}
        self._slow_until: dict[int, float] = {}
        self._known_quick: set[int] = set()
        self._new_are_slow_until = 0.0
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child processes, also in the middle of a rendering."""
        self._is_closed = True
        for child in list(self._children.values()):
            child.kill()  # then a thread that waits for an answer releases its lock
        for pace, lock in _locks.items():
            with lock:
                if pace in self._children:
                    self._children.pop(pace).close()

    def pace(self, webhook: int) -> str:
        """SLOW for a while after a slow rendering, else QUICK. While others are slow, a new webhook is slow too."""
        until = self._slow_until.get(webhook, 0)
        if webhook not in self._known_quick:
            until = max(until, self._new_are_slow_until)
        if time.monotonic() < until:
            return SLOW
        self._slow_until.pop(webhook, None)
        return QUICK

    def check(self, kind: Kind, source: str) -> None:
        """Refuse a template that does not compile, and header lines that no value could make valid."""
        known = self._render(kind, source, len(source) * 4)
        if kind == "headers":
            for number, line in enumerate(known.split("\n"), 1):
                if line.strip() and OPEN not in line.partition(":")[0]:
                    _header(line.replace(OPEN, ""), number)

    def body(self, source: str, context: str, webhook: int = 0) -> str:
        return self._render("body", source, conf.payload_bytes, context, webhook)

    def url(self, source: str, context: str, webhook: int = 0) -> str:
        rendered = self._render("url", source, MAX_BYTES["url"], context, webhook)
        if _CONTROLS.search(rendered):
            raise TemplateError("the URL has a line break or another control character in it; use | urlencode")
        return rendered

    def headers(self, source: str, context: str, webhook: int = 0) -> dict[str, str]:
        """Render lines of ``Name: value``. Of two lines with the same name, the later one counts."""
        return header_lines(self._render("headers", source, MAX_BYTES["headers"], context, webhook))

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
            raise TemplateError(INVALID_ANSWER) from None

    def _answer(self, request: bytes, most: int, webhook: int) -> Answer:
        if self.pace(webhook) == QUICK:
            with _locks[QUICK]:
                if self.pace(webhook) == QUICK:  # not slow since this thread began to wait
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
        self._new_are_slow_until = max(self._new_are_slow_until, now + seconds * SLOW_FACTOR)

    def _child(self, pace: str) -> _Child:
        child = self._children.get(pace)
        if child and child.is_alive:
            return child
        if child:
            child.close()
        if not self._is_closed:
            child = self._children[pace] = _Child()
        if self._is_closed or not child:  # maybe during the start; then ``close`` waits for the lock and ends the child
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

    def leave_to_parent(self) -> None:
        """After a fork: close this process's copy of the socket."""
        self._socket.close()

    def ask(self, request: bytes, most: int) -> tuple[Answer, float]:
        """Return the answer to a request, up to ``most`` bytes, and its CPU seconds. Raises TemplateError, and then the
        process has ended."""
        try:
            self._socket.settimeout(SECONDS)
            self._socket.sendall(request)
            answer, seconds = self._receive(most, SECONDS)
        except TimeoutError:
            problem = f"the template took more than {SECONDS:g} s"
        except ValueError as error:
            problem = str(error)
        except (OSError, EOFError):
            problem = self._exit_reason()
        else:
            if answer[0] != OUT_OF_MEMORY:
                return answer, seconds
            problem = f"the template needed more than {MEMORY_MB} MB"
        self.close()
        raise TemplateError(problem)

    def _receive(self, most: int, seconds: float) -> tuple[Answer, float]:
        """Raises EOFError if the process has ended, OSError, and ValueError for an invalid answer."""
        end = time.monotonic() + seconds
        received = self._read(bytearray(), ANSWER.size, end)
        what, line, took, size = ANSWER.unpack_from(received)
        if size <= most:
            self._read(received, ANSWER.size + size, end)
        if len(received) != ANSWER.size + size:
            raise ValueError(INVALID_ANSWER)
        return (what, line, bytes(received[ANSWER.size :])), took

    def _read(self, received: bytearray, wanted: int, end: float) -> bytearray:
        while len(received) < wanted:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            if not (part := self._socket.recv(65536)):
                raise EOFError
            received += part
        return received

    def _exit_reason(self) -> str:
        try:
            status = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            return "the process that rendered the template stopped answering"
        if status == -signal.SIGPROF:
            return f"the template took more than {CPU_SECONDS:g} s of CPU time"
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"the process that rendered the template ended ({how})"


def _started(standard: int) -> subprocess.Popen[bytes]:
    """Start a child process with this descriptor as standard input and output, in a new session: Ctrl-C in the worker's
    terminal must not interrupt a rendering."""
    limits = map(str, (CPU_SECONDS, MEMORY_MB * 1_000_000))
    command = [_python(), "-I", "-S", "-c", _BOOT, *limits, *_PATHS]
    needed = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return subprocess.Popen(
        command, stdin=standard, stdout=standard, stderr=subprocess.PIPE, cwd="/", env=needed, start_new_session=True
    )


def _python() -> str:
    """The Python interpreter. Under a server that embeds Python, such as uWSGI, ``sys.executable`` is the server."""
    version = sys.version_info
    is_python = Path(sys.executable).name.startswith(("python", "pypy"))
    return sys.executable if is_python else str(Path(sys.exec_prefix, "bin", f"python{version.major}.{version.minor}"))


def _not_started(reason: str) -> TemplateError:
    logger.error("The process that renders templates does not start: %s", reason)
    return TemplateError(f"the process that renders templates does not start: {reason}")


# At most two renderings at a time in this process, one quick and one slow: previews in many threads of a site would
# need too much memory.
_locks = {QUICK: threading.Lock(), SLOW: threading.Lock()}
_children: WeakSet[_Child] = WeakSet()

# A fork waits for the start of a child. Else it would keep the child's end of the socket open, and nothing would notice
# when the child ends.
_starting = threading.Lock()


def _after_fork() -> None:
    """Close the sockets in a fork, such as rq's for a job: the children end when their socket closes."""
    _locks.update({QUICK: threading.Lock(), SLOW: threading.Lock()})
    _starting.release()
    for child in list(_children):
        child.leave_to_parent()


os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_after_fork)


def _plain(source: str) -> str:
    """Return text without a template as Jinja2 would."""
    return re.sub(r"\r\n|\r", "\n", source).removesuffix("\n")


def header_lines(text: str) -> dict[str, str]:
    """Parse rendered lines of ``Name: value``; of two with the same name, the later counts. Raises TemplateError."""
    return dict(_header(line) for line in _plain(text).split("\n") if line.strip())


def _header(line: str, number: int = 0) -> tuple[str, str]:
    name, colon, value = (part.strip(" \t\r") for part in line.partition(":"))
    if not colon:
        raise TemplateError(f"there is no colon in {short_repr(line)}; a header is written as 'Name: value'", number)
    if not headers.NAME.fullmatch(name):
        raise TemplateError(f"{short_repr(name)} cannot be the name of a header", number)
    if headers.is_reserved(name):
        raise TemplateError(f"{name} is not for a template to set; leave it out", number)
    if _CONTROLS.search(value):
        raise TemplateError(f"the value of {name} has a control character in it; use | header_safe", number)
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise TemplateError(f"the value of {name} has characters beyond Latin-1; use | urlencode", number) from None
    return name, value
