"""From nothing to a site that answers: the database, then the programs, each asked whether it is ours."""

from __future__ import annotations

import http.client
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import redis
import redis.exceptions

from demo import ports, run
from demo.errors import DemoError, PortTaken, wait_for
from demo.run import Run
from demo.site import Site
from demo.supervise import Supervisord

TRIES = 3
START_SECONDS = 90


@contextmanager
def started(directory: Path, web_ports: range) -> Iterator[tuple[Run, Supervisord]]:
    """A run whose programs have all answered. They are stopped when the block ends, whatever ends it."""
    here = run.new(directory, web_ports)
    enter(here)
    print("Making the database ...", flush=True)
    make_database(here)
    make_webhooks(here)
    print("Starting gunicorn, Valkey, rqworker and a receiver under supervisord ...", flush=True)
    for tries_left in reversed(range(TRIES)):
        supervisord = Supervisord(here)
        try:
            supervisord.start()
            try:
                wait_until_up(here, supervisord)
            except PortTaken:
                if not tries_left:
                    raise
            else:
                yield here, supervisord
                return
        finally:
            supervisord.stop()
        here = move(here, web_ports)


def enter(here: Run) -> None:
    """Give this process the environment of the site, so that it reads the same database."""
    import django

    os.environ.clear()
    os.environ.update(here.environment())
    django.setup()


def make_database(here: Run) -> None:
    manage(here, "migrate")
    manage(here, "demo_data", username=run.USERNAME, password=run.PASSWORD, token=here.key)


def make_webhooks(here: Run) -> None:
    manage(here, "demo_webhooks", here.receiver_url, secret=here.webhook_secret)


def manage(here: Run, command: str, *arguments: str, **options: str) -> None:
    """Run a management command; what it says goes to a log. Raises DemoError when it fails."""
    from django.core.management import call_command

    log = here.log("database")
    with log.open("a") as output:
        try:
            call_command(command, *arguments, stdout=output, **options)
        except Exception as error:
            raise DemoError(f"manage.py {command} failed: {type(error).__name__}: {error}", log) from error


def move(here: Run, web_ports: range) -> Run:
    """The same run on other ports, with logs that start anew."""
    for log in (here.directory / "logs").glob("*.log"):
        log.unlink()
    web, valkey, receiver = ports.choose(web_ports, (), ())
    moved = Run(here.directory, here.key, web, valkey, receiver)
    make_webhooks(moved)
    return moved


def wait_until_up(here: Run, supervisord: Supervisord) -> None:
    """Raises PortTaken when another program answers in place of ours, DemoError when none does in time."""
    for program, is_up in (("valkey", valkey_is_up), ("receiver", receiver_is_up), ("web", web_is_up)):
        answers = partial(answers_or_starts, is_up, here, supervisord)
        wait_for(answers, START_SECONDS, f"The start of {program}", here.log(program))
    supervisord.check()


def answers_or_starts(is_up: Callable[[Run], bool], here: Run, supervisord: Supervisord) -> bool | None:
    if is_up(here):
        return True
    supervisord.check()
    return None


def valkey_is_up(here: Run) -> bool:
    """Only ours takes our password; nothing is written to any other."""
    try:
        with redis.Redis.from_url(here.redis_url, socket_timeout=5) as client:
            return bool(client.ping())
    except redis.exceptions.AuthenticationError as error:
        raise taken(here.valkey_port, here.log("valkey")) from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
        return False
    except redis.exceptions.RedisError as error:
        raise taken(here.valkey_port, here.log("valkey")) from error


def receiver_is_up(here: Run) -> bool:
    connection = http.client.HTTPConnection(ports.HOST, here.receiver_port, timeout=5)
    try:
        connection.request("GET", urlsplit(here.receiver_url).path)
        is_ours = connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    if not is_ours:
        raise taken(here.receiver_port, here.log("receiver"))
    return True


def web_is_up(here: Run) -> bool:
    """Only our site knows our token."""
    try:
        status, _ = Site(here).request("GET", "/api/")
    except (OSError, http.client.HTTPException):
        return False
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        raise DemoError(f"The site answers its first request with HTTP {status}", here.log("web"))
    if status != http.HTTPStatus.OK:
        raise taken(here.web_port, here.log("web"))
    return True


def taken(port: int, log: Path) -> PortTaken:
    return PortTaken(f"Another program has taken port {port} meanwhile", log)
