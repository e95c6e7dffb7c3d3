"""A stored request as a command of curl, for a shell. Pure.

A redacted value becomes a variable, such as ``${AUTHORIZATION}``: no secret is in the command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from webhooks.text import REDACTED

# Linux takes no longer argument than 128 KiB.
MAX_ARGUMENT = 100_000

# The command reads a body from this file if it is too long, or if the user may not see it.
BODY_FILE = "body.json"

# curl sets these headers itself.
SET_BY_CURL = {"content-length", "host", "connection", "transfer-encoding"}


def curl(method: str, url: str, headers: Mapping[str, Any], body: str | None) -> str:
    """The command, one option a line. ``body`` is None if it is unknown."""
    parts = [f"curl --request {shlex.quote(method)}", f"--url {shlex.quote(url)}"]
    parts += [f"--header {_header(name, str(value))}" for name, value in headers.items() if _is_sent(name)]
    is_inline = body is not None and len(body.encode()) <= MAX_ARGUMENT
    # Other options would take a body that begins with @ as the name of a file.
    parts.append(f"--data-raw {shlex.quote(body or '')}" if is_inline else f"--data-binary @{BODY_FILE}")
    return " \\\n  ".join(parts)


def _is_sent(name: str) -> bool:
    return name.lower() not in SET_BY_CURL


def _header(name: str, value: str) -> str:
    """A header as one word of the shell. Within double quotes, the shell replaces the variable."""
    before, redacted, after = value.partition(REDACTED)
    if not redacted:
        # curl leaves out a header without a value, unless a semicolon ends it.
        return shlex.quote(f"{name}: {value}" if value else f"{name};")
    variable = re.sub(r"\W", "_", name, flags=re.ASCII).upper()
    return f'{shlex.quote(f"{name}: {before}")}"${{{variable}}}"{shlex.quote(after) if after else ""}'
