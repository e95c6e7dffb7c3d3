"""What a TLS connection trusts: the public authorities, a webhook's CA file, or any certificate."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from webhooks.network.error_kinds import ErrorKind
from webhooks.network.outcome import Refused
from webhooks.network.sockets import TLSSocket

_MAX_CA_FILE = 1_000_000  # bytes; the file of all public authorities has a quarter of that


def context(verify: bool | str) -> ssl.SSLContext:
    """The settings of connections that verify certificates by the public authorities, by a CA file, or not at all.

    Takes milliseconds, or for ever if the file is on a disk that hangs: call it in a thread. Raises OSError, and
    Refused for anything but a regular file: OpenSSL would wait for ever for a pipe or a terminal.
    """
    if isinstance(verify, bool):
        return _context(verify, None)
    if not Path(verify).is_file():
        raise Refused(f"the CA file {verify} is no regular file", ErrorKind.CA_FILE)
    with open(verify, "rb") as file:
        content = file.read(_MAX_CA_FILE + 1)
    if len(content) > _MAX_CA_FILE:
        raise Refused(f"the CA file {verify} has more than {_MAX_CA_FILE:,} bytes", ErrorKind.CA_FILE)
    return _context(True, content.decode("ascii", "ignore"))  # its comments may have other characters


@lru_cache(maxsize=64)
def _context(verify: bool, authorities: str | None) -> ssl.SSLContext:
    if authorities is None:
        found = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
    else:
        found = ssl.create_default_context(cadata=authorities)
    if not verify:
        found.check_hostname = False
        found.verify_mode = ssl.CERT_NONE
    found.hostname_checks_common_name = False
    found.set_alpn_protocols(["http/1.1"])
    found.sslsocket_class = TLSSocket
    return found
