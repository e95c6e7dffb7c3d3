"""Django's internals. Elsewhere, a comment says at each name that Django does not document why the app needs it.

Fewer round trips:

``savepoint``, ``MergedSavepoint``   a savepoint: SAVEPOINT and RELEASE go with other statements
``ReadWithNext``, ``LockWithNext``   a SELECT that goes with the next statement
``prepare_members``                  the members of many-to-many relations, read with their object
``merges_statements``                whether they do so: only with a Django that they were tested with

Places where Django sends no signal:

``call_before_commits``              call a function before each commit
``delete_within``                    run each deletion in a block
``reading_from``, ``route_reads``    read from the database that is written to, whatever the routers say
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, Self

import django
from django.db import DatabaseError, connections, router, transaction
from django.db.models import Model
from django.db.models.base import ModelState
from django.db.models.deletion import Collector
from django.db.transaction import Atomic

from webhooks.ground.db import PreparedRead, Statement, fetch_all, fetch_each, rows_of, sends_several
from webhooks.ground.errors import get_logger, is_aborted, log_errors, reraise_job_timeout

logger = get_logger(__name__)

# The releases of Django that the tests run with. It may change its internals in any other.
TESTED = ((5, 2), (6, 0), (6, 1))

IN_TRANSACTION = 2  # the transaction status of libpq


@cache
def merges_statements() -> bool:
    """Whether statements share round trips. With another Django, savepoints and reads take their own."""
    if django.VERSION[:2] in TESTED:
        return True
    logger.warning(
        "This app was not tested with Django %s: each savepoint takes its own round trips", django.get_version()
    )
    return False


_before_commit: list[Callable[[Any, bool], None]] = []


def call_before_commits(call: Callable[[Any, bool], None]) -> None:
    """Let ``call`` get the connection of each outermost block of ``atomic()`` before the block ends, and whether the
    block is to be committed. If it raises, the block is rolled back. Django itself calls nothing before a commit."""
    if not _before_commit:
        Atomic.__exit__ = _exit_after_calls(Atomic.__exit__)  # type: ignore[method-assign]
    if call not in _before_commit:
        _before_commit.append(call)


def _exit_after_calls(exit_block: Callable[[Atomic, Any, Any, Any], None]) -> Any:
    """``exit_block`` with the calls before it. It need not be Django's: django-cachalot has one of its own."""

    def exit_atomic(block: Atomic, kind: Any, error: Any, traceback: Any) -> None:
        connection = transaction.get_connection(block.using)
        blocks: list[Any] = connection.atomic_blocks
        if len(blocks) == 1 or (blocks and blocks[-2]._from_testcase):  # a TestCase runs in blocks of its own
            try:
                for call in _before_commit:
                    call(connection, kind is None and not connection.needs_rollback)
            except BaseException as raised:
                exit_block(block, type(raised), raised, raised.__traceback__)
                raise
        exit_block(block, kind, error, traceback)

    return exit_atomic


_around_deletions: list[Callable[[Collector], AbstractContextManager[None]]] = []


def delete_within(block: Callable[[Collector], AbstractContextManager[None]]) -> None:
    """Let Django delete what a collector has found within ``block``. Django signals only the deletions of models with
    receivers, and no key that it sets to null. A receiver would make it load the rows of cascades."""
    if block in _around_deletions:
        return
    _around_deletions.append(block)
    delete = Collector.delete

    @wraps(delete)
    def delete_in_block(collector: Collector) -> Any:
        with block(collector):
            return delete(collector)

    Collector.delete = delete_in_block  # type: ignore[method-assign,assignment]


_reads_from: ContextVar[str | None] = ContextVar("webhooks_reads_from", default=None)


@contextmanager
def reading_from(using: str | None) -> Iterator[None]:
    """Let the project's code in this block read from the database that is written to, whatever its routers say: a
    replica lacks what the open transaction has written.

    Models that are written to other databases are read where the routers say.
    """
    before = _reads_from.get()
    _reads_from.set(using)
    try:
        yield
    finally:
        _reads_from.set(before)


def route_reads() -> None:
    """Let Django ask for ``reading_from`` before the routers of the project. The project may change its routers later:
    Django replaces their list, and keeps this function."""
    if "db_for_read" in vars(router):
        return
    route = router.db_for_read

    def db_for_read(model: type[Model], **hints: Any) -> str:
        using = _reads_from.get()
        return using if using is not None and _is_written_to(using, model, hints) else route(model, **hints)

    router.db_for_read = db_for_read  # type: ignore[method-assign]


def _is_written_to(using: str, model: type[Model], hints: Mapping[str, Any]) -> bool:
    try:
        with reading_from(None):  # a router of the project may ask where to read
            return bool(router.db_for_write(model, **hints) == using)
    except Exception as error:  # a project may refuse to write a model that it reads from elsewhere
        reraise_job_timeout(error)
        return False


def savepoint(using: str) -> AbstractContextManager[Any]:
    """A savepoint in the open transaction. Nothing in autocommit mode: there a failed query ends nothing."""
    return nullcontext() if connections[using].get_autocommit() else MergedSavepoint(using)


class MergedSavepoint(Atomic):
    """A savepoint in the open transaction that takes no round trip, if the driver can send several statements at once.

    SAVEPOINT goes with the first statement of the block. RELEASE goes with the one in ``last()``, or with the next one
    after the block. Otherwise as ``atomic()``.
    """

    def __init__(self, using: str) -> None:
        super().__init__(using, savepoint=True, durable=False)
        self._connection: Any = connections[using]
        self._sid = self._earlier = ""
        self._is_begun = self._is_last = self._is_released = False

    def __enter__(self) -> Self:  # type: ignore[override] # the stubs say that Django's returns nothing
        connection = self._connection
        is_nested = connection.in_atomic_block and not connection.needs_rollback
        is_merged = merges_statements() and is_nested and sends_several(connection.alias, connection.connection)
        self.savepoint = not is_merged
        super().__enter__()
        if is_merged:
            self._sid = connection.savepoint_ids[-1] = new_savepoint_id(connection)
            self._earlier = ReleaseWithNext.take(connection)
            wrappers = connection.execute_wrappers
            # Before those of the savepoints around it, which then write their SAVEPOINT before its own.
            around = (place for place, wrapper in enumerate(wrappers) if _begins_savepoint(wrapper))
            wrappers.insert(next(around, len(wrappers)), self._merge)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        connection = self._connection
        if self._sid:
            connection.execute_wrappers.remove(self._merge)
            if not self._is_begun and (error or connection.needs_rollback):
                # Nothing reached the database, but Django must forget the callbacks.
                connection.needs_rollback = False
                connection.run_on_commit = [call for call in connection.run_on_commit if self._sid not in call[0]]
            if self._earlier:  # no statement of the block took it along
                ReleaseWithNext(connection, self._earlier)
            elif self._is_begun and not (self._is_released or error or connection.needs_rollback):
                ReleaseWithNext(connection, self._sid)
                self._is_released = True
            if self._is_released or not self._is_begun:
                # There is no savepoint, and without one Django would roll back the transaction.
                connection.savepoint_ids[-1] = None
                kind = error = traceback = None
        super().__exit__(kind, error, traceback)

    @contextmanager
    def last(self) -> Iterator[None]:
        """The next statement is the last one of the savepoint."""
        self._is_last = bool(self._sid)
        yield
        self._is_last = False

    def _begin(self) -> None:
        self._is_begun = True
        self._connection._savepoint(self._sid)

    def _merge(self, execute: Any, statement: Any, parameters: Any, many: bool, context: Any) -> Any:
        if self._is_begun and (self._is_released or not self._is_last):
            return execute(statement, parameters, many, context)
        is_plain = isinstance(statement, str) and not many and not getattr(context["cursor"], "name", None)
        if not is_plain:  # a query of the host, such as one with a cursor of the server
            self._earlier = ""
            if not self._is_begun:
                self._begin()
            return execute(statement, parameters, many, context)
        name = self._connection.ops.quote_name(self._sid)
        first = [] if self._is_begun else [f"SAVEPOINT {name}"]
        if self._earlier and _is_in_transaction(self._connection):
            first.insert(0, release_sql(self._connection, self._earlier))
        self._earlier = ""
        begin = "".join(f"{statement}; " for statement in first)
        end = f"\n; RELEASE SAVEPOINT {name}" if self._is_last else ""
        try:
            result = execute(f"{begin}{statement}{end}", parameters, many, context)
        except Exception:
            # If the driver refused a parameter, it sent nothing.
            self._is_begun |= self._connection.connection.info.transaction_status != IN_TRANSACTION
            raise
        self._is_begun, self._is_released = True, self._is_last
        for _ in first:
            context["cursor"].nextset()
        return result


class ReleaseWithNext:
    """A RELEASE that goes to the database with the next statement of the transaction, in one round trip.

    If there is none, or it must not be joined, the savepoint stays open. That does no harm: a savepoint around it, or
    the end of the transaction, ends it.
    """

    def __init__(self, connection: Any, sid: str) -> None:
        self._connection, self.sid = connection, sid
        # The next transaction has another block, or another list. The list itself would keep much in memory.
        self._block, self._callbacks = weakref.ref(connection.atomic_blocks[0]), id(connection.run_on_commit)
        connection.execute_wrappers.insert(0, self)

    @classmethod
    def take(cls, connection: Any) -> str:
        """The savepoint that is still to be released. The caller releases it. Empty if there is none."""
        for wrapper in connection.execute_wrappers:
            if isinstance(wrapper, cls):
                connection.execute_wrappers.remove(wrapper)
                return wrapper.sid if wrapper._is_of_open_transaction else ""
        return ""

    def __call__(self, execute: Any, statement: Any, parameters: Any, many: bool, context: Any) -> Any:
        wrappers = self._connection.execute_wrappers
        if self not in wrappers:  # a statement of the app, before this one, took it along
            return execute(statement, parameters, many, context)
        wrappers.remove(self)
        is_joined = not wrappers and _may_go_with(statement, parameters, many, context)
        if not is_joined or not self._is_of_open_transaction:
            return execute(statement, parameters, many, context)
        result = execute(f"{release_sql(self._connection, self.sid)}; {statement}", parameters, many, context)
        context["cursor"].nextset()
        return result

    @property
    def _is_of_open_transaction(self) -> bool:
        """Whether the savepoint may still be there. Its transaction may have ended without another statement here, and
        the next one may have begun with one that Django does not see, such as COPY."""
        connection = self._connection
        if not connection.atomic_blocks or self._block() is not connection.atomic_blocks[0]:
            return False
        return id(connection.run_on_commit) == self._callbacks and _is_in_transaction(connection)


def release_sql(connection: Any, sid: str) -> str:
    return f"RELEASE SAVEPOINT {connection.ops.quote_name(sid)}"


def _is_in_transaction(connection: Any) -> bool:
    """Whether a statement was executed in the open transaction, and none failed."""
    return bool(connection.connection.info.transaction_status == IN_TRANSACTION)


def _begins_savepoint(wrapper: Any) -> bool:
    return isinstance(getattr(wrapper, "__self__", None), MergedSavepoint)


def new_savepoint_id(connection: Any) -> str:
    """A name as Django gives it to savepoints. It ends in a number that rises with each of them."""
    connection.savepoint_state += 1
    return f"s{threading.get_ident()}_x{connection.savepoint_state}"


def _may_go_with(statement: Any, parameters: Any, many: bool, context: Any) -> bool:
    """Whether other statements may go with this one, which code of the project executes, in one round trip."""
    is_plain = isinstance(statement, str) and isinstance(parameters, list | tuple) and not many
    return is_plain and not getattr(context["cursor"], "name", None)


class ReadWithNext:
    """A SELECT that goes to the database with the next statement of the connection, in one round trip if possible.

    ``use`` gets its rows. ``is_wanted``: a rollback may have made it needless.
    """

    def __init__(
        self,
        using: str,
        statement: Statement,
        use: Callable[[list[tuple[Any, ...]]], object],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._using, self._statement, self._use, self._is_wanted = using, statement, use, is_wanted
        self._wrappers: list[Any] = []
        if merges_statements():
            self._wrappers = connections[using].execute_wrappers
            self._join()
        elif is_wanted():
            self._run_alone()

    def _join(self) -> None:
        self._wrappers.insert(0, self)  # Django removes the last one at the end of its blocks

    def now(self) -> None:
        """Read it now, unless it was read already."""
        if self._is_taken() and self._is_wanted():
            self._use(fetch_all(self._using, *self._statement))

    def __call__(self, execute: Any, statement: Any, parameters: Any, many: bool, context: Any) -> Any:
        if not self._is_taken() or not self._is_wanted():
            return execute(statement, parameters, many, context)
        cursor = context["cursor"]
        is_alone = not all(map(self._goes_with, self._wrappers)) or not sends_several(self._using, cursor.connection)
        if is_alone or not _may_go_with(statement, parameters, many, context):
            self._run_alone()
            return execute(statement, parameters, many, context)
        return self._run_with(execute, statement, parameters, many, context)

    def _goes_with(self, wrapper: Any) -> bool:
        """Whether another wrapper of the connection may see two statements as one. One of the project may not."""
        return isinstance(wrapper, ReleaseWithNext | ReadWithNext)

    def _run_alone(self) -> None:
        self._use(fetch_all(self._using, *self._statement))

    def _run_with(self, execute: Any, statement: str, parameters: Any, many: bool, context: Any) -> Any:
        cursor = context["cursor"]
        text, values = self._statement
        result = execute(f"{text}; {statement}", [*values, *parameters], many, context)
        rows = rows_of(cursor)
        cursor.nextset()
        self._use(rows)
        return result

    def _is_taken(self) -> bool:
        """Take it out of the connection. False if it was taken before."""
        if self not in self._wrappers:
            return False
        self._wrappers.remove(self)
        return True


class LockWithNext(ReadWithNext):
    """Locks of rows that the next statement of the open transaction takes along, as ``ReadWithNext`` does. PostgreSQL
    takes them before the statement.

    In a savepoint: if they cannot be had, the error is logged, and the statement is executed without them. ``take``
    returns the statements that lock the rows, as of that moment.
    """

    def __init__(self, using: str, take: Callable[[], Sequence[Statement]], is_wanted: Callable[[], bool]) -> None:
        self._take = take
        super().__init__(using, ("", ()), lambda rows: None, is_wanted)

    @property
    def is_pending(self) -> bool:
        """Whether no statement has taken it along yet."""
        return self in self._wrappers

    def _join(self) -> None:
        # After the reads, so that its locks come before theirs in the text.
        reads = next((n for n, wrapper in enumerate(self._wrappers) if not isinstance(wrapper, ReadWithNext)), None)
        self._wrappers.insert(len(self._wrappers) if reads is None else reads, self)

    def _goes_with(self, wrapper: Any) -> bool:
        return super()._goes_with(wrapper) or _begins_savepoint(wrapper)

    def _run_alone(self) -> None:
        with locking_errors(self._using), transaction.atomic(self._using):
            fetch_each(self._using, *self._take())

    def _run_with(self, execute: Any, statement: str, parameters: Any, many: bool, context: Any) -> Any:
        connection: Any = connections[self._using]
        locks = self._take()
        sid = new_savepoint_id(connection)
        texts = [f"SAVEPOINT {connection.ops.quote_name(sid)}", *(text for text, _ in locks)]
        values = [value for _, given in locks for value in given]
        try:
            result = execute("; ".join([*texts, statement]), [*values, *parameters], many, context)
        except DatabaseError as error:
            if not is_aborted(self._using):
                raise
            connection._savepoint_rollback(sid)
            result = execute(statement, parameters, many, context)  # it may have been the one that failed
            with locking_errors(self._using):
                raise error
            return result
        for _ in texts:
            context["cursor"].nextset()
        if not any(map(_begins_savepoint, self._wrappers)):  # else it ends with the outer one
            ReleaseWithNext(connection, sid)
        return result


def locking_errors(using: str) -> log_errors:
    return log_errors(using, "The objects of a change cannot be locked before it")


class PreparedMembers:
    """The members of a many-to-many relation of one object, to read in one round trip with its row.

    Raises AttributeError, TypeError or ValueError if the primary key does not suffice, or the manager cannot do it.
    """

    def __init__(self, model: type[Model], pk: Any, using: str, relation: str) -> None:
        self._relation = relation
        instance: Any = model.__new__(model)  # without the code that a project runs for each instance
        instance._state = ModelState()
        instance._state.db, instance._state.adding = using, False
        setattr(instance, model._meta.pk.attname, pk)
        rows, _, _, _, self._cache_name, _ = getattr(instance, relation).get_prefetch_querysets([instance])
        self.prepared = PreparedRead(rows.using(using))

    def keep(self, instance: Any, rows: list[tuple[Any, ...]]) -> None:
        """Let the object know its members, as ``prefetch_related`` does."""
        members: Any = getattr(instance, self._relation).get_queryset()
        members._result_cache = self.prepared.objects(rows)
        members._prefetch_done = True
        instance.__dict__.setdefault("_prefetched_objects_cache", {})[self._cache_name] = members


def prepare_members(model: type[Model], pk: Any, using: str, relations: Sequence[str]) -> list[PreparedMembers]:
    """The members of these relations of one object, unless Django can only read them with the object."""
    prepared = []
    for relation in relations if merges_statements() else ():
        with suppress(AttributeError, TypeError, ValueError):
            prepared.append(PreparedMembers(model, pk, using, relation))
    return prepared
