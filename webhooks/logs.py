"""Log records that cannot be forged, and the time limits of jobs, which no log may swallow."""

from __future__ import annotations

import logging

from webhooks.text import one_line

# The exceptions of rq and Celery that end a job, by name: neither has to be installed.
JOB_TIMEOUTS = {("rq.timeouts", "BaseTimeoutException"), ("billiard.exceptions", "SoftTimeLimitExceeded")}


def get_logger(name: str) -> logging.Logger:
    """The logger of a module, with each message on one line: a line break in a name could imitate another record."""
    logger = logging.getLogger(name)
    if not any(isinstance(one, OneLine) for one in logger.filters):
        logger.addFilter(OneLine())
    return logger


class OneLine(logging.Filter):
    """Keeps the message on one line, and starts each line of its traceback with a bar."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(one if isinstance(one, int | float) else one_line(str(one)) for one in record.args)
        if record.exc_info and not record.exc_text:
            trace = logging.Formatter().formatException(record.exc_info)
            record.exc_text = "\n".join(f"  | {one_line(line)}" for line in trace.split("\n"))
        return True


def reraise_job_timeout(error: Exception) -> None:
    """Raise the error again if it is the time limit of an rq or Celery job.

    Call it wherever the app handles every Exception. A timeout is raised once: if the app handled it, the job would run
    on without a limit.
    """
    if any((kind.__module__, kind.__qualname__) in JOB_TIMEOUTS for kind in type(error).__mro__):
        raise error
