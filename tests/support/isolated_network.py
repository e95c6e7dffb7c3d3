"""An isolated network for one process: run with ``unshare --map-root-user --mount --net``, which needs no root.

It has only a loopback interface, so no packet can leave, with the addresses that an attacker wants to reach. The
system's resolver asks a name server with changing answers: DNS rebinding. Reads cases as JSON and writes their results:
the outcome, the reached address, and the number of lookups.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SIOCSIFADDR, SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8916, 0x8913, 0x8914
IFF_UP = 1

IPV4 = ["10.0.0.1", "10.0.0.2", "169.254.169.254", "100.100.100.200", "8.8.8.8"]
IPV6 = ["fd12::1", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::1"]

REACHED: list[str] = []

A, AAAA = 1, 28
NO_SUCH_NAME = 3


def raise_network() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _raise(control)
        for number, address in enumerate(IPV4, 1):
            alias = f"lo:{number}".encode()
            fcntl.ioctl(
                control, SIOCSIFADDR, struct.pack("16sH2x4s8x", alias, socket.AF_INET, socket.inet_aton(address))
            )
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        for address in IPV6:
            packed = socket.inet_pton(socket.AF_INET6, address)
            fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16sIi", packed, 128, socket.if_nametoindex("lo")))


def _raise(control: socket.socket) -> None:
    flags = struct.unpack("16sH", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))[:18])[1]
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def point_resolver_here() -> None:
    for path, text in (
        ("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:20 attempts:1\n"),
        ("/etc/nsswitch.conf", "hosts: dns\n"),
    ):
        with tempfile.NamedTemporaryFile("w", delete=False) as file:
            file.write(text)
        subprocess.run(["mount", "--bind", file.name, path], check=True)


class NameServer:
    """Answers over UDP (RFC 1035). ``zone`` has the answers to successive lookups of each name, and the last answer
    repeats. ``questions`` counts the lookups of each name by each type."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.zone: dict[str, list[list[str]]] = {}
        self.questions: dict[tuple[str, int], int] = defaultdict(int)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(address)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        name, end = _read_name(query)
        kind = struct.unpack_from(">H", query, end)[0]
        question = query[12 : end + 4]
        nth = self.questions[name, kind]
        self.questions[name, kind] += 1
        if not (answers := self.zone.get(name)):
            return query[:2] + struct.pack(">5H", 0x8180 | NO_SUCH_NAME, 1, 0, 0, 0) + question
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


class Receiver(BaseHTTPRequestHandler):
    """Answers 200 or redirects to the metadata service, and records the address that was reached."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        REACHED.append(self.connection.getsockname()[0].removeprefix("::ffff:"))
        redirects = self.path == "/redirect"
        self.send_response(302 if redirects else 200)
        if redirects:
            self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main() -> None:
    raise_network()
    point_resolver_here()
    threading.Thread(target=Server(("::", 80), Receiver).serve_forever, daemon=True).start()
    server = NameServer(("127.0.0.1", 53))

    import django
    from django.conf import settings

    django.setup()
    settings.WEBHOOKS["ALLOW_NETWORKS"] = []
    print(json.dumps([run(server, case) for case in json.load(sys.stdin)]))


def run(server: NameServer, case: dict[str, Any]) -> dict[str, Any]:
    from django.test import override_settings

    from tests.support.sending import Transport
    from webhooks.workers.network.attempt import Request

    server.zone = case["zone"]
    server.questions.clear()
    REACHED.clear()
    reasons = []
    with override_settings(WEBHOOKS=case["settings"]):
        for _ in range(case["times"]):
            transport = Transport()
            reasons.append(transport.send(Request(case["url"], {}, b"{}", 30)).reason)
            transport.close()
    asked = {f"{name} {kind}": count for (name, kind), count in server.questions.items()}
    return {"reasons": reasons, "reached": list(REACHED), "asked": asked}


if __name__ == "__main__":
    main()
