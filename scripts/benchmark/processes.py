"""What the system says about other processes. Linux only."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from django.db import connection

CPU_CLOCK = 2  # of all threads of a process, those that have ended included: clock_getcpuclockid(3)


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used so far, in user and system mode. Raises OSError for one that is
    gone."""
    return sum(time.clock_gettime(~pid << 3 | CPU_CLOCK) for pid in pids)


def memory_mb(pid: int) -> float:
    """Resident memory in megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmRSS")]
    return int(kilobytes) / 1024


def backends() -> list[int]:
    """The processes of PostgreSQL that serve others on this database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return sorted(row[0] for row in cursor.fetchall())
