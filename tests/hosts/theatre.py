"""Run programs with and without webhooks, on the same empty tables, and judge what they did."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.db.models import signals
from django.test import override_settings
from django.utils import timezone

import webhooks
from tests.hosts import truth
from tests.hosts.models import KINDS, TABLES, WITH_SECRET_KEYS, Desk, restart_uuids
from tests.hosts.play import NoNotes, Notes, Stage, what_failed
from tests.hosts.programs import BY_HAND, VIEWERS, WEBHOOKS, Block, Define, Do, Program, Step
from tests.hosts.serializers import EXCLUDED, SERIALIZERS, draw_on
from tests.hosts.truth import Spy
from tests.hosts.verdict import Hook, HostDiffers, Judge, LoggedError, Refused
from tests.support.makers import make_webhook
from tests.support.users import api_client
from tests.testapp.object_permissions import restricting
from users.models import User
from webhooks.ground import registry
from webhooks.models import Event, Webhook

SIGNALS = {
    name: getattr(signals, name) for name in ("pre_save", "post_save", "pre_delete", "post_delete", "m2m_changed")
}


class Errors(logging.Handler):
    """Keeps what the app logs as errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        cause = f"{record.exc_info[1]!r}" if record.exc_info else ""
        # The host ended its transaction by an error, and went on.
        if "TransactionManagementError" not in cause and "TransactionManagementError" not in record.getMessage():
            self.records.append(f"{record.getMessage()} {cause}")


@dataclass
class Run:
    """What a program did: what its operations returned or raised, and the rows that it left."""

    transcript: list[Any]
    rows: dict[str, list[Any]]


@dataclass
class Theatre:
    """Connects receivers in the order of a host, some before and some after the app's."""

    hooks: dict[str, Hook] = field(default_factory=dict)
    spy: Spy = field(default_factory=Spy)
    errors: Errors = field(default_factory=Errors)
    viewers: dict[str, User] = field(default_factory=dict)
    transactions: int = 0
    stage: Stage | None = None
    _names: tuple[str, ...] = ()
    _kept: list[Any] = field(default_factory=list)
    _host: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    _spies: set[int] = field(default_factory=set)
    _all: dict[str, list[Any]] = field(default_factory=dict)

    @contextmanager
    def open(self) -> Iterator[Theatre]:
        before = {name: list(signal.receivers) for name, signal in SIGNALS.items()}
        with connection.cursor() as cursor:
            for statement in truth.statements():
                cursor.execute(statement)
        logging.getLogger("webhooks").addHandler(self.errors)
        try:
            self._connect()
            for name, (on, columns) in WEBHOOKS.items():
                wanted = [model for kind, model in KINDS.items() if model in _registered() and self.has(kind)]
                self.hooks[name] = Hook(make_webhook(*wanted, on=on, name=name, **columns).pk, name)
            for name, constraints in VIEWERS.items():
                self.viewers[name] = _make_viewer(name, constraints)
            backend = "tests.testapp.object_permissions.ObjectPermissionBackend"
            with override_settings(AUTHENTICATION_BACKENDS=[backend]), restricting(Desk):
                yield self
        finally:
            logging.getLogger("webhooks").removeHandler(self.errors)
            self._set_receivers(before)
            self._empty()
            with connection.cursor() as cursor:
                for statement in truth.drop_statements():
                    cursor.execute(statement)

    @staticmethod
    def has(kind: str) -> bool:
        return kind != "Overview" or connection.vendor == "postgresql"

    def _connect(self) -> None:
        self._kept.append(truth.connect_early(self.spy))
        self._connect_host("before")
        spies = truth.connect(self.spy)
        self._kept += spies
        draw_on(())
        # Next to the receivers of the app: a signal that comes here comes to them, too.
        for kind, serializer in SERIALIZERS.items():
            with suppress(ImproperlyConfigured) if kind in WITH_SECRET_KEYS else nullcontext():
                webhooks.register(KINDS[kind], serializer, exclude=EXCLUDED.get(kind, ()))
        self._connect_host("after")
        self._all = {name: list(signal.receivers) for name, signal in SIGNALS.items()}

    def _connect_host(self, where: str) -> None:
        for name, signal in SIGNALS.items():
            senders = KINDS if name != "m2m_changed" else {one.__name__: one for one in truth.throughs()}
            for kind, sender in senders.items():
                receiver = self._receiver(name, kind, where)
                self._kept.append(receiver)
                self._host[id(receiver)] = name, kind, where
                signal.connect(receiver, sender=sender, dispatch_uid=f"hosts.{where}.{name}.{kind}")

    def _receiver(self, name: str, kind: str, where: str) -> Callable[..., None]:
        def receive(signal: Any, sender: Any, instance: Any, **kwargs: Any) -> None:
            assert self.stage is not None
            for on in self.stage.receivers:
                kinds = (kind, type(instance).__name__) if name == "m2m_changed" else (kind,)
                if (on.signal, on.where) == (name, where) and on.kind in kinds:
                    self.stage.receive(on, instance, **kwargs)

        return receive

    def _set_receivers(self, receivers: dict[str, list[Any]]) -> None:
        for name, signal in SIGNALS.items():
            signal.receivers = receivers[name]
            signal.sender_receivers_cache.clear()

    def _chosen(self, program: Program, with_webhooks: bool) -> dict[str, list[Any]]:
        """Leave out the receivers that the program does not have: each receiver of deletions makes Django load rows."""
        used = {(on.signal, on.kind, on.where) for on in program.receivers}
        through = {(on.signal, on.where) for on in program.receivers if on.signal == "m2m_changed"}

        def is_chosen(entry: Any) -> bool:
            function = entry[1]()
            if id(function) in self._host:
                name, kind, where = self._host[id(function)]
                return (name, kind, where) in used or (name, where) in through
            module = getattr(function, "__module__", "")
            return with_webhooks or not (module.startswith("webhooks.") or module == truth.__name__)

        return {name: [one for one in entries if is_chosen(one)] for name, entries in self._all.items()}

    # Runs

    def check(self, program: Program) -> None:
        """Run a program twice, and compare. Raises ``Wrong``."""
        program = replace(program, steps=tuple(self._possible(program.steps)))
        draw_on(program.guises)
        plain = self.run(program, with_webhooks=False)
        seen = self.run(program, with_webhooks=True)
        if any(getattr(step, "act", "") == "update_random" for step in program.walk()):
            return
        if seen.transcript != plain.transcript:
            differing = [pair for pair in zip(plain.transcript, seen.transcript, strict=False) if pair[0] != pair[1]]
            raise HostDiffers(f"without webhooks, and with them: {differing or (plain.transcript, seen.transcript)}")
        if seen.rows != plain.rows:
            differing = [
                (table, rows, seen.rows[table]) for table, rows in plain.rows.items() if rows != seen.rows[table]
            ]
            raise HostDiffers(f"rows without webhooks, and with them: {differing}")

    def _possible(self, steps: tuple[Step, ...]) -> Iterator[Step]:
        for step in steps:
            if isinstance(step, Block):
                # On SQLite, the release of a savepoint commits what a host that commits by hand has begun.
                is_impossible = step.way in BY_HAND and connection.vendor == "sqlite"
                yield Block("atomic" if is_impossible else step.way, tuple(self._possible(step.steps)), step.name)
            elif isinstance(step, Define) or self.has(step.kind):
                yield step

    def run(self, program: Program, with_webhooks: bool) -> Run:
        self._empty()
        restart_uuids()
        self.errors.records.clear()
        self.spy.reset()
        notes: Notes = self.spy if with_webhooks else NoNotes()
        self.stage = Stage(notes, program.receivers)
        with ExitStack() as stack:
            if with_webhooks:
                self._choose_webhooks(program.webhooks)
            else:
                stack.enter_context(override_settings(WEBHOOKS={**settings.WEBHOOKS, "ENABLED": False}))
            stack.enter_context(patch("webhooks.ground.db.host_rows.MAX_KEYS", 2))
            self._set_receivers(self._chosen(program, with_webhooks))
            stack.callback(self._set_receivers, self._chosen(Program(()), with_webhooks=False))
            judge, world = Judge([self.hooks[name] for name in program.webhooks]), truth.World()
            stack.callback(self._delete_defined, judge)
            for step in program.steps:
                if not isinstance(step, Define):
                    self._step(step, judge if with_webhooks else None, world)
                elif with_webhooks:
                    self._define(step.viewer, judge)
        return Run(self.stage.transcript, self._rows())

    def _choose_webhooks(self, names: tuple[str, ...]) -> None:
        """Take the others for deleted: disabled ones would cost a statement for each change."""
        if names != self._names:
            self._names = names
            chosen = [self.hooks[name].pk for name in names]
            known = Webhook.with_deleted
            known.filter(pk__in=chosen).update(deleted_at=None)
            known.exclude(pk__in=chosen).update(deleted_at=timezone.now())

    def _define(self, viewer: str, judge: Judge) -> None:
        wanted = {
            "name": f"{viewer} {len(judge.hooks)}", "object_types": ["hosts.desk"], "payload_url": "http://127.0.0.1:1/",
            "on_created": True, "on_updated": True, "on_deleted": True,
        }  # fmt: skip
        answer = api_client(self.viewers[viewer]).post("/api/webhooks/webhooks/", wanted, format="json")
        if answer.status_code == 201:
            judge.hooks.append(Hook(answer.json()["id"], "plain", viewer))
        elif VIEWERS[viewer] == {}:
            raise Refused(f"{viewer} may define no webhook: {answer.content.decode()}")

    @staticmethod
    def _delete_defined(judge: Judge) -> None:
        if defined := [hook.pk for hook in judge.hooks if hook.viewer]:
            Webhook.with_deleted.filter(pk__in=defined).delete_rows()

    def _step(self, step: Do | Block, judge: Judge | None, world: truth.World) -> None:
        """One transaction; in autocommit, one operation."""
        assert self.stage is not None
        since, known = _newest() if judge else (0, 0)
        try:
            self.stage.play(step)
        except Exception as error:  # the host ends here
            self.stage.transcript.append(("ended", what_failed(error)[0]))
        assert not connection.in_atomic_block
        assert connection.get_autocommit()
        self.transactions += 1
        if judge is None:
            return
        if self.errors.records:
            raise LoggedError(self.errors.records[0])
        labels = {model._meta.label_lower for model in _registered()}
        histories = {key: one for key, one in world.histories(truth.read(since)).items() if key[0] in labels}
        events = list(Event.objects.filter(pk__gte=known).order_by("pk"))
        if known:
            assert events.pop(0).pk == known, "an earlier Event is gone"
        judge.judge(histories, events, _is_one_transaction(step), _is_by_hand(step))

    @staticmethod
    def _rows() -> dict[str, list[Any]]:
        """All rows of the host, without the keys of the rows between: the app writes some before Django does."""
        columns = dict.fromkeys(TABLES.values(), "*")
        for through in truth.throughs():
            if through._meta.auto_created:
                names = (one.column for one in through._meta.concrete_fields if not one.primary_key)
                columns[through._meta.db_table] = ", ".join(names)
        found: dict[str, list[Any]] = {table: [] for table in columns}
        with connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                for table, chosen in columns.items():
                    cursor.execute(f"SELECT {chosen} FROM {table}")
                    found[table] = sorted(cursor.fetchall(), key=str)
                return found
            queries = (
                f"SELECT '{table}', to_json(chosen)::text FROM (SELECT {chosen} FROM {table}) AS chosen"
                for table, chosen in columns.items()
            )
            cursor.execute(" UNION ALL ".join(queries))
            for table, row in sorted(cursor.fetchall()):
                found[table].append(row)
        return found

    def _empty(self) -> None:
        """Delete the rows of the host and the Events, and let keys begin at 1 again."""
        tables = [*TABLES.values(), *(one._meta.db_table for one in truth.throughs() if one.__name__ != "Membership")]
        ours = ["rq_webhooks_undispatched", "rq_webhooks_event", "rq_webhooks_skip", "hosts_log"]
        with connection.constraint_checks_disabled(), transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                for table in [*tables, *ours]:
                    cursor.execute(f"DELETE FROM {table}")
                cursor.execute("DELETE FROM sqlite_sequence WHERE name LIKE 'hosts%%' OR name = 'rq_webhooks_event'")
                return
            cursor.execute("; ".join(f"DELETE FROM {table}" for table in [*reversed(tables), *ours]))
            cursor.execute(
                "SELECT setval(oid, 1, false) FROM pg_class "
                "WHERE relkind = 'S' AND (relname LIKE 'hosts%' OR relname LIKE 'rq_webhooks_event%')"
            )


def _registered() -> set[Any]:
    return {*registry.registered_models().values()}


def _newest() -> tuple[int, int]:
    """The last entry of the log, and the last Event."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT COALESCE((SELECT MAX(seq) FROM hosts_log), 0), COALESCE((SELECT MAX(id) FROM rq_webhooks_event), 0)"
        )
        seq, event = cursor.fetchone()
        return int(seq), int(event)


def _make_viewer(name: str, constraints: dict[str, Any] | None) -> User:
    user = User.objects.create_user(name, is_staff=True)
    user.object_permissions.create(permission="rq_webhooks.add_webhook", constraints={})
    if constraints is not None:
        user.object_permissions.create(permission="hosts.view_desk", constraints=constraints)
    return user


def _is_one_transaction(step: Step) -> bool:
    """Whether Django manages a transaction for it, which the app merges."""
    if not isinstance(step, Block) or step.way in BY_HAND or step.way.startswith("savepoint"):
        return False
    if step.way in ("actor", "request", "catch"):
        return len(step.steps) == 1 and _is_one_transaction(step.steps[0])
    return True


def _is_by_hand(step: Step) -> bool:
    return isinstance(step, Block) and step.way in BY_HAND
