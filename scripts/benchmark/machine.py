"""What the figures were measured on, for whoever compares them with others."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import django_rq
from django.db import connection

from tests.inbox import ROOT

POSTGRESQL_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
PACKAGES = ("django", "rq", "django-rq", "redis", "requests", "urllib3", "psycopg")


def describe() -> dict[str, Any]:
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "postgresql": _postgresql(),
        "valkey": _valkey(),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _postgresql() -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", [list(POSTGRESQL_SETTINGS)]
        )
        settings = dict(cursor.fetchall())
        cursor.execute("SHOW server_version")
        return {"version": cursor.fetchone()[0], **settings}


def _valkey() -> str:
    information = django_rq.get_queue("webhooks").connection.info("server")
    return str(information.get("valkey_version", information.get("redis_version", "unknown")))
