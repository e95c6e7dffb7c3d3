"""Workers without rq and Redis: the database wakes them, by LISTEN and NOTIFY on PostgreSQL. On SQLite they look every
``IDLE_POLL`` seconds, which they do on PostgreSQL, too: a wake-up is a hint."""

from __future__ import annotations

import os
import signal
import socket
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from django.db import Error, connections

from webhooks import hooks
from webhooks.ground.conf import conf
from webhooks.ground.db import DatabaseNow, is_postgresql
from webhooks.models import Event
from webhooks.models import Worker as Lease
from webhooks.workers.jobs import CHANNEL
from webhooks.workers.slices import BUSY_POLL, HEARTBEAT_SECONDS, WARM_SECONDS, Slices, collect_garbage_seldom
from webhooks.workers.status import SILENT_SHIPPED, faults_as_json

# Seconds after which a wait looks whether the worker is to stop.
STOP_SECONDS = 1


class DatabaseWorker:
    """``manage.py webhooks_worker``. It delivers until SIGTERM or SIGINT. A row shows it on the status page."""

    def __init__(self) -> None:
        self._slices = Slices()
        self._token = uuid.uuid4()
        self._name = f"{socket.gethostname()}:{os.getpid()}"[:100]
        self._listening: Any = None
        """The connection that gets notifications."""
        self._is_stopping, self._next_heartbeat = False, 0.0

    def run(self) -> None:
        """Deliver until ``stop``. A second call of it ends the requests in flight."""
        collect_garbage_seldom()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        is_woken = True
        self._send_heartbeat()  # the first sweep would report that no worker is running
        try:
            while not self._is_stopping:
                has_more = self._slices.deliver(is_woken)
                is_woken = self._wait(BUSY_POLL if has_more else conf.idle_poll)
        finally:
            self._slices.close(WARM_SECONDS)
            with suppress(Error):
                Lease.objects.filter(token=self._token).delete()
            hooks.flush()

    def stop(self) -> None:
        """Claim nothing more, and end once the requests in flight have ended. Safe in a signal handler."""
        if self._is_stopping:
            self._slices.runner.hurry()
        self._is_stopping = True
        self._slices.runner.stop()

    def _wait(self, seconds: float) -> bool:
        """Wait for a wake-up. Returns whether there was one."""
        end = time.monotonic() + seconds
        while not self._is_stopping and (left := end - time.monotonic()) > 0:
            self._send_heartbeat()
            notified = self._notified(min(left, STOP_SECONDS))
            if notified is None:
                time.sleep(min(left, STOP_SECONDS))
            elif notified:
                return True
        return False

    def _notified(self, seconds: float) -> bool | None:
        """Whether the database notifies within ``seconds``. None if it cannot: it is no PostgreSQL, or psycopg is 2."""
        using = Event.objects.db
        if not is_postgresql(using):
            return None
        found: list[bool | None] = []
        with self._slices.surviving_errors():
            found.append(self._listen(connections[using], seconds))
        return found[0] if found else False

    def _listen(self, connection: Any, seconds: float) -> bool | None:
        connection.ensure_connection()
        notifies = getattr(connection.connection, "notifies", None)
        if not callable(notifies):  # psycopg 2
            return None
        if self._listening is not connection.connection:
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            self._listening = connection.connection
            return True  # what happened before is not notified
        with connection.wrap_database_errors:
            found = [*notifies(timeout=seconds, stop_after=1)]
        if found:
            _forget_others(connection.connection)
        return bool(found)

    def _send_heartbeat(self) -> None:
        """Show on the status page that this worker is alive, if that is due."""
        if time.monotonic() < self._next_heartbeat:
            return
        runner = self._slices.runner
        report = {
            "at": datetime.now(UTC).timestamp(),
            "clock_offset": round(runner.clock_offset, 1),
            "per_minute": round(self._slices.per_minute(), 1),
            "faults": faults_as_json(runner.faults),
        }
        with self._slices.surviving_errors():
            values = {"name": self._name, "lease_until": DatabaseNow(SILENT_SHIPPED), "report": report}
            if not Lease.objects.filter(token=self._token).update(**values):
                Lease.objects.create(token=self._token, **values)
            self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS


def _forget_others(connection: Any) -> None:
    """One look serves all notifications so far."""
    for _notification in connection.notifies(timeout=0):
        pass
