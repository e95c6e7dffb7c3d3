"""What ends a job from outside while it happens to be in code of ours: its time limit, in rq or in Celery.

Both are raised once, as ordinary exceptions. Who takes one for an error of the code at hand lets the job run on without
a limit.
"""

from __future__ import annotations

# By name, for neither need be installed where changes are made.
NAMES = {("rq.timeouts", "BaseTimeoutException"), ("billiard.exceptions", "SoftTimeLimitExceeded")}


def pass_on(error: Exception) -> None:
    """Raise it again if it is one."""
    if any((kind.__module__, kind.__qualname__) in NAMES for kind in type(error).__mro__):
        raise error
