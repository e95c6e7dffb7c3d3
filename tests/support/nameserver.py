"""A name server with changing answers (RFC 1035), and a resolver that asks it: DNS rebinding."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

A, AAAA = 1, 28
SERVER_FAILURE, NO_SUCH_NAME = 2, 3

# The answers to successive lookups of each name. The last answer repeats.
Zone = dict[str, list[list[str]]]


class NameServer:
    """Answers over UDP, on loopback. ``questions`` counts the lookups of each name by each type. While ``is_broken``,
    every answer is an error of the server."""

    def __init__(self, zone: Zone, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.zone = zone
        self.is_broken = False
        self.questions: dict[tuple[str, int], int] = defaultdict(int)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self.address = self._socket.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                query, client = self._socket.recvfrom(4096)
                self._socket.sendto(self._answer(query), client)
            except OSError:
                return

    def _answer(self, query: bytes) -> bytes:
        name, end = _read_name(query)
        kind = struct.unpack_from(">H", query, end)[0]
        question = query[12 : end + 4]
        nth = self.questions[name, kind]
        self.questions[name, kind] += 1
        answers = self.zone.get(name)
        if self.is_broken or not answers:
            error = SERVER_FAILURE if self.is_broken else NO_SUCH_NAME
            return query[:2] + struct.pack(">5H", 0x8180 | error, 1, 0, 0, 0) + question
        found = list(map(ipaddress.ip_address, answers[min(nth, len(answers) - 1)]))
        wanted = [one for one in found if one.version == (4 if kind == A else 6)]
        # A pointer to the name in the question, the type, the class IN, no seconds to live, the address
        records = [
            struct.pack(">3HIH", 0xC00C, kind, 1, 0, len(one.packed)) + one.packed
            for one in wanted
            if kind in (A, AAAA)
        ]
        return query[:2] + struct.pack(">5H", 0x8180, 1, len(records), 0, 0) + question + b"".join(records)


def _read_name(message: bytes, at: int = 12) -> tuple[str, int]:
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), at + 1


@contextmanager
def name_server(zone: Zone) -> Iterator[NameServer]:
    server = NameServer(zone)
    yield server
    server.close()


def resolve_at(server: NameServer) -> Any:
    """A ``getaddrinfo`` that asks only this server, like the system's function."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        try:
            return real(host, port, *args, **{**kwargs, "flags": socket.AI_NUMERICHOST})
        except socket.gaierror:  # it is a name
            addresses = [one for kind in (AAAA, A) for one in _ask(server.address, host, kind)]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found for address in addresses for found in real(address, port, *args, **kwargs)]

    return getaddrinfo


def _ask(server: tuple[str, int], name: str, kind: int) -> list[str]:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    query = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.sendto(query, server)
        answer = sock.recv(4096)
    if answer[3] & 0xF == SERVER_FAILURE:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    # Each record: twelve bytes with a pointer to the name, and the address.
    size, records = (4 if kind == A else 16), answer[len(query) :]
    starts = range(12, len(records), 12 + size)
    return [str(ipaddress.ip_address(records[start : start + size])) for start in starts]
