"""The file of certificates that a webhook trusts, read such that no path can hold a worker."""

from __future__ import annotations

import os
import stat

from webhooks.network.outcome import Refused

LARGEST = 1_000_000  # bytes; those of all public authorities have a quarter of it


def read(path: str) -> str:
    """The text of a CA file, what is not ASCII in its comments left out. Raises Refused for what is no regular file: a
    pipe or a terminal keeps whoever reads it waiting, beyond every deadline; and OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Refused(f"the CA file {path} is no regular file")
        with open(handle, "rb", closefd=False) as file:
            content = file.read(LARGEST + 1)
    finally:
        os.close(handle)
    if len(content) > LARGEST:
        raise Refused(f"the CA file {path} has more than {LARGEST:,} bytes")
    return content.decode("ascii", "ignore")
