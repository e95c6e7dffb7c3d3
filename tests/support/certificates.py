"""New certificates, which no system trusts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True)
class Certificate:
    """Paths of PEM files: the authority's, and a server's certificate with its key."""

    authority: str
    certificate: str
    key: str


def make_certificate(directory: Path, host: str | None = "127.0.0.1", **options: Any) -> Certificate:
    """``options`` go to ``trustme.CA.issue_cert``, such as ``not_after``. Without a ``host``, one must be a name."""
    authority = trustme.CA()
    server = authority.issue_cert(*([host] if host else []), **options)
    paths = [directory / name for name in ("authority.pem", "certificate.pem", "key.pem")]
    authority.cert_pem.write_to_path(str(paths[0]))
    paths[1].write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    server.private_key_pem.write_to_path(str(paths[2]))
    return Certificate(*map(str, paths))
