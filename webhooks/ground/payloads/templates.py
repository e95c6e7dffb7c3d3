"""Render the Jinja2 templates of a webhook: the URL, headers and body of a request (``docs/templates.md``).

A child process (``render_child``) renders them under limits of the kernel. This module does not trust its answers: it
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

import jinja2
import markupsafe
from django.utils.translation import gettext, gettext_noop

from webhooks.ground import headers
from webhooks.ground.conf import conf
from webhooks.ground.errors import get_logger
from webhooks.ground.payloads.render_child import ANSWER, ERROR_LENGTH, OPEN, OUT_OF_MEMORY, TEXT, TOO_LARGE, Answer
from webhooks.ground.text import last_line

logger = get_logger(__name__)

Kind = Literal["body", "headers", "url"]

SOURCE_LENGTH = 50_000  # characters of a template
CPU_SECONDS = 0.3  # for a rendering, and again for compiling
SECONDS = 5.0  # then a child that uses no CPU is killed, too
MEMORY_MB = 300
MAX_BYTES = {"headers": 16_000, "url": 2_000}  # of a result; a setting has the limit of a body
START_SECONDS = 30
INVALID_ANSWER = "the process that renders templates gave an invalid answer"

# The pace of a webhook: NEW before its first rendering, then SLOW if the last one took more CPU seconds or ended the
# child, else QUICK.
NEW, QUICK, SLOW = "new", "quick", "slow"
QUICK_SECONDS = 0.02
REST = 0.5  # of the time of a slow rendering

TOO_LONG: dict[Kind, str] = {
    "body": gettext_noop("the body would have more than the %(most)s bytes that the setting PAYLOAD_BYTES allows"),
    "headers": gettext_noop("the headers would have more than the %(most)s bytes that are allowed"),
    "url": gettext_noop("the URL would have more than the %(most)s bytes that are allowed"),
}

# The child imports only from these directories: without ``site`` and without the environment.
_BOOT = "import sys; sys.path += sys.argv[3:]; import render_child; render_child.main()"
_PATHS = [str(Path(str(module)).parents[1]) for module in (jinja2.__file__, markupsafe.__file__)]
_PATHS.append(str(Path(__file__).parent))


class TemplateError(ValueError):
    """A refused template, or one that cannot be rendered. The text starts with the line, from 1, if it is known."""


def is_template(source: str) -> bool:
    """Whether the text has anything to render."""
    return "{" in source and any(mark in source for mark in ("{{", "{%", "{#"))


class Renderer:
    """Renders in a child process, and starts it when it is first needed. Thread-safe; close it.

    After a slow rendering, only QUICK webhooks render for half of the time that it took. So they have a third of the
    time of the child, however many others there are. ``context`` is JSON text, ``webhook`` a primary key. All methods
    raise TemplateError.
    """

    def __init__(self) -> None:
        self._child: _Child | None = None
        self._paces: dict[int, str] = {}
        self._others_from = 0.0  # when others than QUICK webhooks may render again
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child process, also in the middle of a rendering."""
        self._closed.set()
        if child := self._child:
            child.kill()  # then a thread that waits for an answer releases the lock
        with _one_at_a_time:
            if self._child:
                self._child.close()

    def pace(self, webhook: int) -> str:
        return self._paces.get(webhook, NEW)

    def check(self, kind: Kind, source: str) -> None:
        """Refuse a template that does not compile, and header lines that no value could make valid."""
        known = self._render(kind, source, len(source) * 4)
        for number, line in enumerate(known.split("\n") if kind == "headers" else (), 1):
            try:
                if line.strip() and OPEN not in line.partition(":")[0]:
                    headers.parse_rendered(line.replace(OPEN, ""))
            except ValueError as error:
                located = gettext("line %(number)d: %(problem)s") % {"number": number, "problem": error}
                raise TemplateError(located) from None

    def body(self, source: str, context: str, webhook: int = 0) -> str:
        return self._render("body", source, conf.payload_bytes, context, webhook)

    def url(self, source: str, context: str, webhook: int = 0) -> str:
        rendered = self._render("url", source, MAX_BYTES["url"], context, webhook)
        if headers.CONTROLS.search(rendered):
            raise TemplateError(gettext("the URL has a line break or another control character in it; use | urlencode"))
        return rendered

    def headers(self, source: str, context: str, webhook: int = 0) -> dict[str, str]:
        """Render lines of ``Name: value``. Of two lines with the same name, the later one counts."""
        return header_lines(self._render("headers", source, MAX_BYTES["headers"], context, webhook))

    def _render(self, kind: Kind, source: str, most: int, context: str = "", webhook: int = 0) -> str:
        if len(source) > SOURCE_LENGTH:
            too_long = gettext("the template has %(count)s characters; %(most)s are allowed")
            raise TemplateError(too_long % {"count": f"{len(source):,}", "most": f"{SOURCE_LENGTH:,}"})
        if not is_template(source):
            return _plain_text(source)
        request = json.dumps({"source": source, "one_line": kind == "headers", "most": most})
        if context:
            request = f'{request[:-1]}, "context": {context}}}'
        what, answer = self._answer(f"{request}\n".encode(), most, webhook)
        if what == TOO_LARGE:
            raise TemplateError(gettext(TOO_LONG[kind]) % {"most": f"{most:,}"})
        if what != TEXT:
            raise TemplateError(answer.decode(errors="replace"))
        try:
            return answer.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise TemplateError(INVALID_ANSWER) from None

    def _answer(self, request: bytes, most: int, webhook: int) -> Answer:
        if self.pace(webhook) != QUICK:
            self._closed.wait(self._others_from - time.monotonic())
        with _one_at_a_time:
            if not self._child or not self._child.is_alive:
                if self._child:
                    self._child.close()
                self._child = None if self._closed.is_set() else _Child()
            if not self._child or self._closed.is_set():  # ``close`` waits for the lock and ends a child
                raise TemplateError("the process that renders templates was ended")
            began, pace = time.monotonic(), SLOW
            try:
                answer, cpu_seconds = self._child.ask(request, max(most, 5 * ERROR_LENGTH))
                if cpu_seconds <= QUICK_SECONDS:
                    pace = QUICK
                return answer
            finally:
                self._paces[webhook] = pace
                if pace == SLOW:
                    now = time.monotonic()
                    self._others_from = now + (now - began) * REST


# One rendering at a time in a process: previews in many threads of a site would need too much memory.
_one_at_a_time = threading.Lock()


def _after_fork() -> None:
    """Another thread may have held the lock at the fork."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class _Child:
    """A process that renders one template at a time. Not thread-safe. Raises TemplateError if it does not start."""

    def __init__(self) -> None:
        # A fork meanwhile, by another thread, keeps a copy of ``theirs``. Then the end of this child is noticed only
        # after SECONDS. And a fork at any time keeps a copy of ``_socket``: the child ends after the fork, too.
        self._socket, theirs = socketpair()
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

    def ask(self, request: bytes, most: int) -> tuple[Answer, float]:
        """The answer, up to ``most`` bytes, and its CPU seconds. After a TemplateError, the process has ended."""
        try:
            self._socket.settimeout(SECONDS)
            self._socket.sendall(request)
            return self._receive(most, SECONDS)
        except TimeoutError:
            problem = gettext("the template took more than %(seconds)g s") % {"seconds": SECONDS}
        except ValueError as error:
            problem = str(error)
        except (OSError, EOFError):
            problem = self._exit_reason()
        self.close()
        raise TemplateError(problem)

    def _receive(self, most: int, seconds: float) -> tuple[Answer, float]:
        """Raises EOFError if the process has ended, OSError, and ValueError for an invalid answer."""
        end = time.monotonic() + seconds
        received = self._read(bytearray(), ANSWER.size, end)
        what, cpu_seconds, size = ANSWER.unpack_from(received)
        if size <= most:
            self._read(received, ANSWER.size + size, end)
        if len(received) != ANSWER.size + size:
            raise ValueError(INVALID_ANSWER)
        return (what, bytes(received[ANSWER.size :])), cpu_seconds

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
            return gettext("the process that rendered the template stopped answering")
        if status == OUT_OF_MEMORY:
            return gettext("the template needed more than %(most)s MB") % {"most": MEMORY_MB}
        if status == -signal.SIGPROF:
            return gettext("the template took more than %(seconds)g s of CPU time") % {"seconds": CPU_SECONDS}
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return gettext("the process that rendered the template ended (%(how)s)") % {"how": how}


def _started(standard: int) -> subprocess.Popen[bytes]:
    """Start a child process with this descriptor as standard input and output."""
    # In a new session: Ctrl-C in the worker's terminal must not interrupt a rendering.
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
    return TemplateError(gettext("the process that renders templates does not start: %(error)s") % {"error": reason})


def _plain_text(source: str) -> str:
    """Return text without a template as Jinja2 would."""
    return re.sub(r"\r\n|\r", "\n", source).removesuffix("\n")


def header_lines(text: str) -> dict[str, str]:
    """Parse rendered lines of ``Name: value``; of two with the same name, the later counts. Raises TemplateError."""
    try:
        return dict(headers.parse_rendered(line) for line in _plain_text(text).split("\n") if line.strip())
    except ValueError as error:
        raise TemplateError(str(error)) from None
