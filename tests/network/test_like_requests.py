"""The worker sends and reads what ``requests`` does: the same request at the receiver, the same answer from it.

No timeout decides here: on a machine under load it would show differences that are none. The time limit of pytest ends
a test that hangs.
"""

from __future__ import annotations

import gzip
import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError, ConnectionError, ContentDecodingError
from urllib3.exceptions import DecodeError, HTTPError

from tests.support.figures import Figures
from tests.support.sending import Transport
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.text import clean
from webhooks.workers.network.attempt import Request, explain
from webhooks.workers.network.auth.strategies import Adapter, Conversation, Received

KEEP = 8192
FOREVER = 100_000  # seconds

Headers = dict[str, str]


class Server:
    """Answers each connection with ``answer``, in pieces that end at ``cuts``, and closes it."""

    def __init__(self) -> None:
        self.answer, self.cuts = b"", list[int]()
        self.requests: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self._converse(connection)
            except OSError:
                return  # the client has read enough

    def _converse(self, connection: socket.socket) -> None:
        request = b""
        while not (end := request.find(b"\r\n\r\n") + 4) > 3 or len(request) < end + _length(request):
            if not (piece := connection.recv(65536)):
                return  # the client gave up
            request += piece
        self.requests.append(request)
        ends = sorted({min(cut, len(self.answer)) for cut in self.cuts} | {len(self.answer)})
        for begin, stop in zip([0, *ends], ends, strict=False):
            connection.sendall(self.answer[begin:stop])
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # until the client closes it, too


def _length(request: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", request)
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with closing(Server()) as opened:
        yield opened


@dataclass(frozen=True)
class Seen:
    """What a client makes of an answer."""

    status: int | None
    headers: dict[str, str]
    body: str
    kind: str


def plain(value: str) -> str:
    """A value without its folds, which ``requests`` keeps, and without spaces at commas, which join values."""
    return re.sub(r"\s*,\s*", ", ", re.sub(r"\s*\r?\n\s+", " ", value)).strip()


def seen_by_us(url: str, method: str = "POST", headers: Headers | None = None, body: bytes = b"{}") -> Seen:
    with closing(Transport()) as transport:
        outcome = transport.send(Request(url, headers or {}, body, FOREVER, method=method, keep=KEEP))
    answer = {name.lower(): plain(value) for name, value in outcome.headers.items()}
    kind = "" if outcome.kind.startswith("http_") or outcome.kind == ErrorKind.REDIRECT else outcome.kind
    if ", but the body could not be read" in outcome.reason:
        kind = "in body"
    return Seen(outcome.status, answer, outcome.body, kind)


def seen_by_requests(
    url: str, method: str = "POST", headers: dict[str, str] | None = None, body: bytes = b"{}"
) -> Seen:
    with requests.Session() as session:
        session.trust_env = False
        session.headers.clear()
        try:
            response = session.request(method, url, data=body, headers=headers, stream=True, allow_redirects=False)
        except requests.RequestException as error:
            return Seen(None, {}, "", explain(error, FOREVER)[0])
        found = {name.lower(): plain(value) for name, value in response.headers.items()}
        with response:  # else its socket stays open until it is collected
            try:
                text, kind = clean(body_read_by(response, url).decode(errors="replace")), ""
            except DecodeError:
                text, kind = "", "" if is_whole(url) else "in body"
            except Exception:
                text, kind = "", "in body"
        return Seen(response.status_code, found, text, kind)


def is_whole(url: str) -> bool:
    """Whether a body that ``requests`` cannot decode is complete."""
    with requests.Session() as session:
        session.trust_env = False
        with session.post(url, b"{}", stream=True, allow_redirects=False) as response:
            try:
                response.raw.read(decode_content=False)
            except HTTPError:
                return False
        return True


def body_read_by(response: requests.Response, url: str) -> bytes:
    """The first bytes of the body. ``read`` waits for as many compressed bytes as it returns decoded ones, so a
    compressed body that is cut off later than it is wanted would be unreadable. Byte by byte, it stops in time. At the
    end, ``read(1)`` may return nothing before all is decoded. urllib3 then loses the end of a "deflate" without
    a header of zlib, so a body that ends before is read at once."""
    step, body = 1 if "Content-Encoding" in response.headers else KEEP, bytearray()
    while len(body) < KEEP and (
        piece := response.raw.read(step, decode_content=True) or response.raw.read(decode_content=True)
    ):
        body += piece
    if step == 1 and len(body) < KEEP:
        with requests.Session() as session:
            session.trust_env = False
            return session.post(url, b"{}", allow_redirects=False).content[:KEEP]
    return bytes(body[:KEEP])


# Answers

NAMES = st.from_regex(r"\AX-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}\Z")
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=30)
SPACES = st.sampled_from(["", " ", "  ", "\t", " \t "])
PHRASES = st.sampled_from(["", " ", " OK", " Not Found", " Ça va", "  two  words "])
STATUS = st.sampled_from([200, 200, 201, 204, 302, 304, 400, 404, 410, 429, 500, 503]) | st.integers(200, 999)


@st.composite
def answers(draw: Any) -> bytes:
    end = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    status = draw(STATUS)
    lines = [f"HTTP/1.{draw(st.integers(0, 1))} {status}{draw(PHRASES)}"]
    for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=8)):
        lines.append(f"{name}:{draw(SPACES)}{value.strip()}{draw(SPACES)}")
        if draw(st.integers(0, 9)) == 0:
            lines.append(f" folded {value.strip()}")
    body = draw(st.binary(max_size=200) | st.integers(0, 20_000).map(lambda size: b"0123456789" * (size // 10)))
    match draw(st.sampled_from(["", "", "", "gzip", "deflate", "raw deflate", "gzip, gzip", "broken"])):
        case "gzip":
            body = gzip.compress(body, mtime=0)
            lines.append("Content-Encoding: gzip")
        case "deflate":
            body = zlib.compress(body)
            lines.append("content-encoding: Deflate")
        case "raw deflate":
            body = zlib.compress(body, wbits=-zlib.MAX_WBITS)
            lines.append("Content-Encoding: deflate")
        case "gzip, gzip":
            body = gzip.compress(gzip.compress(body, mtime=0), mtime=0)
            lines.append("Content-Encoding: gzip, x-gzip")
        case "broken":
            body = b"no gzip, but long enough" + body
            lines.append("Content-Encoding: gzip")
    if status in (204, 304):
        return end.join([*lines, "", ""]).encode("latin-1")  # such an answer has no body
    match draw(st.sampled_from(["length", "length", "chunks", "chunks", "end", "cut", "cut chunks"])):
        case "length":
            lines.append(f"Content-Length:{draw(SPACES)}{len(body)}{draw(SPACES)}")
        case "cut":
            lines.append(f"CONTENT-LENGTH: {len(body) + draw(st.integers(1, 100))}")
        case "chunks":
            lines.append("Transfer-Encoding: chunked")
            body = draw(chunks(body))
        case "cut chunks":
            lines.append("Transfer-Encoding: Chunked")
            body = draw(chunks(body))
            body = body[: draw(st.integers(0, body.rindex(b"0\r\n")))]  # in the last chunk, or before
    interim = draw(st.sampled_from(["", "", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 \r\nX: y\r\n\r\n"]))
    head = draw(st.permutations(lines[1:])) if not any(line.startswith(" ") for line in lines) else lines[1:]
    return (interim + end.join([lines[0], *head, "", ""])).encode("latin-1") + body


@st.composite
def chunks(draw: Any, body: bytes) -> bytes:
    size = draw(st.integers(1, max(1, len(body))))
    size = max(size, len(body) // 50)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    extension = draw(st.sampled_from([b"", b"", b";a=b", b' ; name="value"', b";;", b" ; ;"]))
    sign = draw(st.sampled_from([b"", b"", b"", b"+", b" ", b"0x"]))
    whole = b"".join(b"%b%x%b\r\n%b\r\n" % (sign, len(part), extension, part) for part in parts)
    trailer = draw(st.sampled_from([b"\r\n", b"\r\n", b"X-Trailer: 1\r\n\r\n", b"X-Cut: 1\r\n", b""]))
    return whole + b"0\r\n" + trailer


# What is no HTTP, with the kind of error that both must find.
BROKEN = st.sampled_from(
    [
        (b"", ErrorKind.CLOSED),
        (b"HTTP/2.0 200 OK\r\n\r\n", ErrorKind.INVALID_HTTP),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", ErrorKind.INVALID_HTTP),
        (b"<html>\r\n\r\n", ErrorKind.INVALID_HTTP),
        (b"HTTP/1.1 abc OK\r\n\r\n", ErrorKind.INVALID_HTTP),
        (b"HTTP/1.1 20 OK\r\n\r\n", ErrorKind.INVALID_HTTP),
        (b"\r\n\r\n", ErrorKind.INVALID_HTTP),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", ErrorKind.INVALID_HTTP),
    ]
)


@settings(max_examples=50, deadline=None, database=None)
@given(BROKEN, st.lists(st.integers(1, 20), max_size=2))
def test_what_is_no_http_gives_the_same_kind_of_error(
    server: Server, broken: tuple[bytes, ErrorKind], cuts: list[int]
) -> None:
    server.answer, kind, server.cuts = *broken, cuts
    url = f"http://127.0.0.1:{server.port}/"
    assert {seen_by_us(url).kind, seen_by_requests(url).kind} == {kind}


def response_by(adapter: HTTPAdapter, url: str) -> tuple[Any, ...]:
    """What a caller of ``requests`` gets. Only the first element if the body cannot be read."""
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", adapter)
        try:
            with session.post(url, b"{}", allow_redirects=False, stream=True) as got:
                try:
                    content = got.content
                except ContentDecodingError:  # our adapter gives an empty body
                    if not is_whole(url):
                        return ("unreadable",)
                    content = b""
        except (ConnectionError, ChunkedEncodingError):
            return ("unreadable",)
        if isinstance(got.raw, Received) and got.raw.reply.error:
            return ("unreadable",)
        headers = {name.lower(): plain(value) for name, value in got.headers.items()}
        return got.status_code, got.reason.strip(), headers, content, got.url, got.encoding, got.is_redirect


def outcomes(url: str) -> tuple[Any, Any, bool]:
    """By the transport and by requests, and whether the answer cannot be read."""
    ours = seen_by_us(url)
    return ours, seen_by_requests(url), bool(ours.kind)


def responses(url: str) -> tuple[Any, Any, bool]:
    """As ``outcomes``, by our adapter and by that of requests."""
    request = Request(url, {}, b"{}", FOREVER, keep=100_000)
    with closing(Conversation(request)) as conversation:
        ours = response_by(Adapter(request, conversation), url)
    return ours, response_by(HTTPAdapter(), url), len(ours) == 1


@pytest.mark.slow
@pytest.mark.parametrize("read", [outcomes, responses])
def test_answers_are_read_as_requests_reads_them(
    server: Server, figures: Figures, is_long: bool, read: Callable[[str], tuple[Any, Any, bool]]
) -> None:
    many, failed = 10_000 if is_long else 100, 0
    url = f"http://127.0.0.1:{server.port}/"

    @settings(max_examples=many, deadline=None, database=None)
    @example(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut off", [])
    @given(answers(), st.lists(st.integers(1, 600), max_size=4))
    def compare(answer: bytes, cuts: list[int]) -> None:
        nonlocal failed
        server.answer, server.cuts = answer, cuts
        ours, theirs, is_unreadable = read(url)
        assert ours == theirs
        failed += is_unreadable

    compare()
    figures(f"{many} answers, {failed} of them unreadable")
    assert failed


# Requests

PATHS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_categories=["Cc", "Cs"]), max_size=30)


@pytest.mark.slow
def test_receivers_get_what_requests_sends(server: Server, figures: Figures, is_long: bool) -> None:
    many = 10_000 if is_long else 100
    server.answer, server.cuts = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", []

    @settings(max_examples=many, deadline=None, database=None)
    @given(
        st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
        PATHS,
        st.dictionaries(NAMES, st.from_regex(r"\A[!-~]([ -~]*[!-~])?\Z"), max_size=5),
        st.binary(min_size=1, max_size=300),
    )
    def compare(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        headers = {**{name.lower(): value for name, value in headers.items()}, "User-Agent": "tests"}
        url = f"http://127.0.0.1:{server.port}/{path}"
        server.requests.clear()
        assert seen_by_us(url, method, headers, body).status == seen_by_requests(url, method, headers, body).status
        ours, theirs = map(taken_apart, server.requests)
        assert ours == theirs

    compare()
    figures(f"{many} requests")


def taken_apart(request: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """The request line, the headers and the body."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(b": ") for one in lines)}
    return line, headers, body
