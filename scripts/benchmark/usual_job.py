"""The job of the usual way, as people write it. Nothing else is here: each fork of a worker imports it."""

from __future__ import annotations

import requests


def post(url: str, headers: dict[str, str], body: bytes) -> None:
    requests.post(url, data=body, headers=headers, timeout=10).raise_for_status()
