"""A receiver of webhooks in its own process, over real sockets, that behaves or misbehaves as the path says.

    http://127.0.0.1:PORT/INBOX/BEHAVIOUR/ARGUMENTS…

Each test has its own inbox. ``python -m tests.support.receiver TOKEN [CERTIFICATE KEY]`` prints its port.
"""

from __future__ import annotations

import base64
import functools
import gzip
import itertools
import json
import socket
import ssl
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

Request = dict[str, Any]
INBOXES: dict[str, list[Request]] = defaultdict(list)
SEEN: set[str] = set()
GATES: dict[str, threading.Event] = defaultdict(threading.Event)
LOCK = threading.Lock()


class Connection:
    """One client; HTTP/1.1 with keep-alive."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock, self.number = sock, number
        self.file = sock.makefile("rb")

    def serve(self) -> None:
        while (request := self.read()) is not None:
            inbox, _, rest = request["path"].lstrip("/").partition("/")
            if inbox.startswith("__"):
                self.administrate(inbox, rest)
                continue
            with LOCK:
                INBOXES[inbox].append(request)
                request["nth"] = (
                    sum(other["path"] == request["path"] for other in INBOXES[inbox]) if "first" in rest else 0
                )
            behaviour, *arguments = rest.split("?")[0].split("/")
            if BEHAVIOURS.get(behaviour, not_found)(self, request, *arguments) is False:
                return

    def read(self) -> Request | None:
        line = self.file.readline()
        if not line:
            return None
        method, path, _ = line.decode("latin-1").split()
        headers = []
        while (line := self.file.readline()) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name.strip(), value.strip()))
        if not line:
            return None  # cut off in its headers
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        body = self.file.read(length)
        if len(body) < length:
            return None  # its sender was killed in the midst of it: no request has come
        return {
            "at": time.time(),
            "method": method,
            "path": path,
            "headers": headers,
            "body": base64.b64encode(body).decode(),
            "connection": self.number,
        }

    def administrate(self, command: str, inbox: str) -> None:
        if command == "__id":
            self.answer(200, TOKEN.encode())
        elif command == "__requests":
            name, _, since = inbox.partition("/")
            with LOCK:
                found = INBOXES[name][int(since or 0) :]
            self.answer(200, json.dumps(found).encode())
        elif command == "__release":
            gate(inbox).set()
            self.answer(200)

    def answer(self, status: int, body: bytes = b"", headers: str = "") -> None:
        head = f"HTTP/1.1 {status} Status\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.sock.sendall(head.encode() + body)


def gate(inbox: str) -> threading.Event:
    """The event that lets the receiver answer the held requests of an inbox."""
    with LOCK:
        return GATES[inbox]


def ok(connection: Connection, request: Request, *_: str) -> None:
    connection.answer(200, b"ok")


def status(connection: Connection, request: Request, code: str, *_: str) -> None:
    connection.answer(int(code), f"this is {code}".encode())


def fail_first(connection: Connection, request: Request, times: str, *_: str) -> None:
    """Answers 503 to so many requests of this very path, then 200."""
    connection.answer(503 if request["nth"] <= int(times) else 200)


def slow(connection: Connection, request: Request, seconds: str, *_: str) -> None:
    time.sleep(float(seconds))
    connection.answer(200, b"at last")


def held(connection: Connection, request: Request, code: str = "200", *_: str) -> None:
    """Answers when the test says so."""
    gate(request["path"].split("/")[1]).wait()
    connection.answer(int(code), b"at last")


def refuse_some(connection: Connection, request: Request, one_in: str, seconds: str, *_: str) -> None:
    """Takes its time, and answers 503 to the first request of one in so many deliveries."""
    time.sleep(float(seconds))
    pk = dict(request["headers"])["webhook-id"]
    with LOCK:
        is_first = pk not in SEEN
        SEEN.add(pk)
    connection.answer(503 if is_first and int(pk.replace("-", ""), 16) % int(one_in) == 0 else 200)


def continues(connection: Connection, request: Request, *_: str) -> bool:
    """Promises an answer over and over."""
    while True:
        connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def header_flood(connection: Connection, request: Request, *_: str) -> bool:
    connection.sock.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sock.sendall(b"X-More: more\r\n" * 1000)


def hang(connection: Connection, request: Request, *_: str) -> bool:
    connection.file.read()
    return False


def hang_after_first(connection: Connection, request: Request, times: str, *_: str) -> bool | None:
    """Answers so many requests of this very path, and then no more."""
    if request["nth"] > int(times):
        return hang(connection, request)
    connection.answer(200)
    return None


def drip_header(connection: Connection, request: Request, *_: str) -> bool:
    for byte in itertools.chain(b"HTTP/1.1 200 OK\r\nX-Long: ", itertools.repeat(ord("x"))):
        connection.sock.sendall(bytes([byte]))
        time.sleep(0.3)
    return False


def drip_body(connection: Connection, request: Request, *_: str) -> bool:
    connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sock.sendall(b"x")
        time.sleep(0.3)


def endless(connection: Connection, request: Request, *_: str) -> bool:
    connection.sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        connection.sock.sendall(b"x" * 65536)


def big(connection: Connection, request: Request, size: str, *_: str) -> None:
    connection.answer(200, b"y" * int(size))


def redirect(connection: Connection, request: Request, code: str, target: str, *_: str) -> None:
    inbox = request["path"].split("/")[1]
    connection.answer(int(code), b"", f"Location: /{inbox}/{target}\r\n")


def close(connection: Connection, request: Request, *_: str) -> bool:
    return False


def half(connection: Connection, request: Request, *_: str) -> bool:
    """Closes in the middle of its body."""
    connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
    return False


def garbage(connection: Connection, request: Request, *_: str) -> bool:
    connection.sock.sendall(b"\x00\x01this is not HTTP\r\n\r\n")
    return False


def huge_header(connection: Connection, request: Request, *_: str) -> bool:
    connection.sock.sendall(b"HTTP/1.1 200 OK\r\nX-Huge: " + b"h" * 5_000_000 + b"\r\nContent-Length: 0\r\n\r\n")
    return False


def gzip_bomb(connection: Connection, request: Request, *_: str) -> None:
    connection.answer(200, bomb(), "Content-Encoding: gzip\r\n")


@functools.cache
def bomb() -> bytes:
    """200 MB of zeros, compressed."""
    return gzip.compress(b"\0" * 200_000_000, 1)


def tiny_chunks(connection: Connection, request: Request, *_: str) -> bool:
    """Chunks of one byte, without end. They are gzip, and unpack to nothing."""
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    beginning = b"\x1f\x8b\x08\0\0\0\0\0\0\x03"
    connection.sock.sendall(head + _in_tiny_chunks(beginning))
    while True:
        connection.sock.sendall(_in_tiny_chunks(b"\0\0\0\xff\xff" * 2000))


@functools.cache
def _in_tiny_chunks(data: bytes) -> bytes:
    return b"".join(b"1\r\n%c\r\n" % byte for byte in data)


def cookie(connection: Connection, request: Request, *_: str) -> None:
    connection.answer(200, b"ok", "Set-Cookie: session=secret; Path=/\r\n")


def echo(connection: Connection, request: Request, code: str = "200", *_: str) -> None:
    """Repeats the request: its body in the body, its headers in headers."""
    lines = [f"{name}: {value}" for name, value in request["headers"]]
    body = "\n".join(lines).encode("latin-1") + b"\n\n" + base64.b64decode(request["body"])
    connection.answer(int(code), body, "".join(f"X-You-Sent-{line}\r\n" for line in lines))


def parrot(connection: Connection, request: Request, *_: str) -> bool:
    """Repeats the request's headers instead of a status line, the last one first: secrets come last."""
    fields = "; ".join(f"{name}={value}" for name, value in reversed(request["headers"]))
    connection.sock.sendall(fields.encode() + b"\r\n\r\n")
    return False


def torn(connection: Connection, request: Request, *_: str) -> bool:
    """Repeats the headers that it was sent behind a line that is no header."""
    kept = [(name, value) for name, value in request["headers"] if name.lower() != "content-length"]
    lines = "".join(f"{name}: {value}\r\n" for name, value in kept)
    connection.sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno header\r\n{lines}\r\n".encode())
    return False


def retry_after(connection: Connection, request: Request, code: str, seconds: str, *_: str) -> None:
    connection.answer(int(code), b"later", f"Retry-After: {seconds}\r\n")


def text(connection: Connection, request: Request, encoding: str, *_: str) -> None:
    connection.answer(200, "Grüße\0!".encode(encoding), f"Content-Type: text/plain; charset={encoding}\r\n")


def raw(connection: Connection, request: Request, *pieces: str) -> None:
    """Answers these very bytes, see ``tests.support.inbox.raw``, and waits for the next request."""
    for piece in pieces:
        connection.sock.sendall(base64.urlsafe_b64decode(piece))


def flood(connection: Connection, request: Request, beginning: str, rest: str, *_: str) -> bool:
    connection.sock.sendall(base64.urlsafe_b64decode(beginning))
    while True:
        connection.sock.sendall(base64.urlsafe_b64decode(rest) * 1000)


def not_found(connection: Connection, request: Request, *_: str) -> None:
    connection.answer(404, b"no such behaviour")


BEHAVIOURS: dict[str, Callable[..., bool | None]] = {
    "ok": ok, "status": status, "fail-first": fail_first, "slow": slow, "held": held, "hang": hang,
    "hang-after-first": hang_after_first,
    "drip-header": drip_header, "drip-body": drip_body, "endless": endless, "big": big, "redirect": redirect,
    "close": close, "half": half, "garbage": garbage, "huge-header": huge_header, "gzip-bomb": gzip_bomb,
    "cookie": cookie, "retry-after": retry_after, "text": text, "refuse-some": refuse_some, "continues": continues,
    "header-flood": header_flood, "tiny-chunks": tiny_chunks,
    "echo": echo, "parrot": parrot, "torn": torn, "raw": raw, "flood": flood,
}  # fmt: skip


def serve(sock: socket.socket, number: int, context: ssl.SSLContext | None) -> None:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(sock, server_side=True) if context else sock as ready:
            Connection(ready, number).serve()
    except (OSError, ValueError):
        pass  # the client went away, or spoke nonsense


if __name__ == "__main__":
    TOKEN, *pair = sys.argv[1:]
    tls = None
    if pair:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*pair)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    for count in itertools.count(1):
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, count, tls), daemon=True).start()
