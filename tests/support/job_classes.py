"""Job classes of hosts."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import SuspiciousOperation
from rq.job import Job


class OnlyTasks(Job):
    """As ``django_tasks_rq.Job``: it runs tasks of Django, and refuses any other function."""

    @property
    def func(self) -> Any:
        raise SuspiciousOperation(f"Task {self.id} does not point to a Task ({self.func_name})")
