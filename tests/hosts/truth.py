"""What happened to the rows, by the database's own account.

Triggers write each version of a row into a log. A rollback takes the entries back with the rows, so the log has what
was committed, in order. Into the same log go the signals that reached the app's place among the receivers, and the
bulk operations that the app's manager captures: only these owe an Event.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from django.db import connection, models
from django.db.models import signals

from tests.hosts.models import KINDS, TABLES
from webhooks.ground.errors import is_aborted

Row = dict[str, Any]
Key = tuple[str, str]
"""The label of a model, and a primary key as text."""

LABELS = {kind: model._meta.label_lower for kind, model in KINDS.items() if not model._meta.proxy}

WRITTEN = {
    model._meta.label_lower: {one._meta.label_lower for one in (model, *model._meta.get_parent_list())}
    for model in KINDS.values()
}
"""The labels of the models in whose tables a bulk operation of a model writes: its own, and its parents'."""

RELATIONS = {
    "Box": ("hosts_box_labels", "box_id", "labels"),
    "Crate": ("hosts_crate_labels", "crate_id", "labels"),
    "Vehicle": ("hosts_vehicle_labels", "vehicle_id", "labels"),
    "Club": ("hosts_membership", "box_id", "members"),
}
"""The relations to labels that serializers show: the table between, its key of the holder, and the field."""

RELATION_OF = {LABELS[kind]: name for kind, (_, _, name) in RELATIONS.items()}


def key_of(value: Any) -> str:
    """A primary key as the log has it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, Enum):
        value = value.value
    return str(value).replace("-", "") if hasattr(value, "hex") and not isinstance(value, float) else str(value)


# The log


def _key_sql(kind: str, row: str) -> str:
    key = " || ',' || ".join(f'CAST({row}."{one.column}" AS text)' for one in KINDS[kind]._meta.pk_fields)
    return f"REPLACE({key}, '-', '')" if kind == "Gizmo" else key


def _columns(kind: str) -> list[str]:
    return [one.column for one in KINDS[kind]._meta.local_concrete_fields]


def statements() -> list[str]:
    """Create the log, its triggers, and the view."""
    if connection.vendor == "sqlite":
        return [*_SQLITE_LOG, *_sqlite_triggers()]
    return [*_POSTGRESQL_LOG, *_postgresql_triggers(), *_VIEW]


_COLUMNS = "kind text, label text, key text, who text, old text, new text"
_SQLITE_LOG = [f"CREATE TABLE hosts_log (seq integer PRIMARY KEY AUTOINCREMENT, {_COLUMNS})"]
_POSTGRESQL_LOG = [f"CREATE TABLE hosts_log (seq bigserial PRIMARY KEY, {_COLUMNS})"]
_VIEW = [
    "CREATE VIEW hosts_overview AS SELECT DISTINCT id, name, n, custom FROM hosts_overviewrow",
    """
    CREATE FUNCTION hosts_write_overview() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO hosts_overviewrow (id, name, n, custom) VALUES (NEW.id, NEW.name, NEW.n, NEW.custom);
        ELSIF TG_OP = 'UPDATE' THEN
            UPDATE hosts_overviewrow SET name = NEW.name, n = NEW.n, custom = NEW.custom WHERE id = OLD.id;
        ELSE
            DELETE FROM hosts_overviewrow WHERE id = OLD.id;
            RETURN OLD;
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER hosts_overview INSTEAD OF INSERT OR UPDATE OR DELETE ON hosts_overview
        FOR EACH ROW EXECUTE FUNCTION hosts_write_overview()
    """,
]


def _sqlite_triggers() -> Iterable[str]:
    for kind, table in TABLES.items():
        rows = {row: ", ".join(f"'{name}', {row}.\"{name}\"" for name in _columns(kind)) for row in ("OLD", "NEW")}
        for event, key, old, new in (
            ("INSERT", "NEW", "NULL", f"json_object({rows['NEW']})"),
            ("UPDATE", "NEW", f"json_object({rows['OLD']})", f"json_object({rows['NEW']})"),
            ("DELETE", "OLD", f"json_object({rows['OLD']})", "NULL"),
        ):
            yield f"""
                CREATE TRIGGER hosts_log_{table}_{event} AFTER {event} ON {table} BEGIN
                    INSERT INTO hosts_log (kind, label, key, old, new)
                    VALUES ('row', '{LABELS[kind]}', {_key_sql(kind, key)}, {old}, {new});
                END
            """

    for kind, (table, holder, _) in RELATIONS.items():
        for event, rows in (("INSERT", ["NEW"]), ("UPDATE", ["OLD", "NEW"]), ("DELETE", ["OLD"])):
            written = (
                f"""
                INSERT INTO hosts_log (kind, label, key, new)
                VALUES ('{_MEMBER_KINDS[row]}', '{LABELS[kind]}', {row}.{holder}, {row}.label_id);
                """
                for row in rows
            )
            name = f"hosts_log_members_{table}_{event}"
            yield f"CREATE TRIGGER {name} AFTER {event} ON {table} BEGIN {''.join(written)} END"


_MEMBER_KINDS = {"OLD": "leaves", "NEW": "joins"}


def _postgresql_triggers() -> Iterable[str]:
    for kind, (table, holder, _) in RELATIONS.items():
        written = (
            f"""
                IF TG_OP <> '{other}' THEN
                    INSERT INTO hosts_log (kind, label, key, new)
                    VALUES ('{_MEMBER_KINDS[row]}', '{LABELS[kind]}', {row}.{holder}, {row}.label_id);
                END IF;
            """
            for row, other in (("OLD", "INSERT"), ("NEW", "DELETE"))
        )
        yield f"""
            CREATE FUNCTION hosts_log_members_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN {"".join(written)} RETURN NULL; END $$
        """
        yield f"""
            CREATE TRIGGER hosts_log_members AFTER INSERT OR UPDATE OR DELETE ON {table}
                FOR EACH ROW EXECUTE FUNCTION hosts_log_members_{table}()
        """
    for kind, table in TABLES.items():
        yield f"""
            CREATE FUNCTION hosts_log_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF TG_OP = 'DELETE' THEN
                    INSERT INTO hosts_log (kind, label, key, old)
                    VALUES ('row', '{LABELS[kind]}', {_key_sql(kind, "OLD")}, to_json(OLD)::text);
                ELSE
                    INSERT INTO hosts_log (kind, label, key, new)
                    VALUES ('row', '{LABELS[kind]}', {_key_sql(kind, "NEW")}, to_json(NEW)::text);
                END IF;
                RETURN NULL;
            END $$
        """
        yield f"""
            CREATE TRIGGER hosts_log AFTER INSERT OR UPDATE OR DELETE ON {table}
                FOR EACH ROW EXECUTE FUNCTION hosts_log_{table}()
        """


def drop_statements() -> list[str]:
    if connection.vendor == "sqlite":
        events = ("INSERT", "UPDATE", "DELETE")
        ours = (f"members_{table}" for table, *_ in RELATIONS.values())
        names = (f"hosts_log_{name}_{event}" for name in (*TABLES.values(), *ours) for event in events)
        return [*(f"DROP TRIGGER {name}" for name in names), "DROP TABLE hosts_log"]
    tables = (*TABLES.values(), *(f"members_{table}" for table, *_ in RELATIONS.values()))
    functions = (f"DROP FUNCTION hosts_log_{table} CASCADE" for table in tables)
    return [*functions, "DROP VIEW hosts_overview", "DROP FUNCTION hosts_write_overview", "DROP TABLE hosts_log"]


@dataclass(frozen=True)
class Entry:
    seq: int
    kind: str
    label: str
    key: str
    who: str
    new: Any
    """The new row, or the label that joins or leaves."""


def read(since: int) -> list[Entry]:
    """The committed entries after this one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq, kind, label, key, who, new FROM hosts_log WHERE seq > %s ORDER BY seq", [since])
        return [Entry(*rest, _parsed(new) if new else None) for *rest, new in cursor.fetchall()]


def _parsed(new: str) -> Any:
    row = json.loads(new)
    if isinstance(row, dict) and isinstance(row.get("custom"), str):  # SQLite has JSON as text
        row["custom"] = json.loads(row["custom"])
    return row


# The spy among the receivers


@dataclass
class Spy:
    """Notes each signal that reaches the place of the app's receivers. ``user`` is the one who acts."""

    user: str = ""
    _members: list[tuple[set[Any], set[Any]]] = field(default_factory=list)

    def reset(self) -> None:
        self.user = ""
        self._members.clear()

    def mark(self, kind: str, label: str = "", key: str = "") -> None:
        if not is_aborted("default"):  # then the entries before go, too
            with connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO hosts_log (kind, label, key, who) VALUES (%s, %s, %s, %s)",
                    [kind, label, key, self.user],
                )

    def on_saved_early(
        self, sender: Any, instance: Any, created: bool = False, raw: bool = False, **kwargs: Any
    ) -> None:
        """Before all others: if one of them raises, the app may have seen the save or not."""
        if not raw:
            self._mark_saved("early created" if created else "early saved", sender, instance)

    def on_saved(self, sender: Any, instance: Any, created: bool = False, raw: bool = False, **kwargs: Any) -> None:
        if "using" not in kwargs:  # the host sends it itself, so the app saw no beginning of the save
            self._mark_saved("raw", sender, instance)
        self._mark_saved("raw" if raw else "created" if created else "saved", sender, instance)

    def _mark_saved(self, kind: str, sender: Any, instance: Any) -> None:
        for model in _with_parents(sender):
            if model._meta.label_lower in LABELS.values():
                self.mark(kind, model._meta.label_lower, key_of(getattr(instance, model._meta.pk.attname)))

    def on_deleting(self, sender: Any, instance: Any, **kwargs: Any) -> None:
        self.mark("deleting", sender._meta.concrete_model._meta.label_lower, key_of(instance.pk))

    def on_members(
        self, sender: Any, instance: Any, action: str, reverse: bool, model: Any, pk_set: Any, **kwargs: Any
    ) -> None:
        """Note the objects that hold the relation. An edit that changes nothing "may" be an Event."""
        holders = model if reverse else type(instance)
        [relation] = [one for one in holders._meta.many_to_many if one.remote_field.through is sender]
        label = relation.model._meta.label_lower
        here = relation.m2m_reverse_name() if reverse else relation.m2m_column_name()
        there = relation.m2m_column_name() if reverse else relation.m2m_reverse_name()
        is_self = relation.model is relation.related_model
        if action.startswith("pre_"):
            members = set(sender._base_manager.filter(**{here: instance.pk}).values_list(there, flat=True))
            # A receiver may have left one direction of a symmetrical relation.
            pointing = sender._base_manager.filter(**{there: instance.pk}) if is_self else sender._base_manager.none()
            self._members.append((members, set(pointing.values_list(here, flat=True))))
            return
        members, pointing_here = self._members.pop()
        pointing_here = pointing_here if is_self else members
        chosen = members | pointing_here if pk_set is None else set(pk_set)

        def really(before: set[Any]) -> set[Any]:
            return chosen - before if action == "post_add" else chosen & before

        own = [] if reverse else [one for one in _with_parents(type(instance)) if issubclass(one, relation.model)]
        for pk in sorted(chosen) if reverse or is_self else ():
            self.mark("members" if pk in really(pointing_here) else "may", label, key_of(pk))
        real = really(members)
        for one in own:
            self.mark("members" if real else "may", one._meta.label_lower, key_of(instance.pk))


def _with_parents(model: type[models.Model]) -> list[type[models.Model]]:
    concrete: Any = model._meta.concrete_model
    return [concrete, *concrete._meta.get_parent_list()]


def connect_early(spy: Spy) -> list[Any]:
    """Connect what must be first, as the app's are. Returns its receivers, which must be kept."""
    found = [spy.on_saved_early, spy.on_deleting]
    for kind, model in KINDS.items():
        signals.post_save.connect(spy.on_saved_early, sender=model, dispatch_uid=f"hosts.early.{kind}")
        signals.pre_delete.connect(spy.on_deleting, sender=model, dispatch_uid=f"hosts.early.{kind}")
    return found


def connect(spy: Spy) -> list[Any]:
    """Connect the spy next to the app. Returns its receivers, which must be kept."""
    found = [spy.on_saved, spy.on_members]
    for kind, model in KINDS.items():
        signals.post_save.connect(spy.on_saved, sender=model, dispatch_uid=f"hosts.spy.{kind}")
    for through in throughs():
        signals.m2m_changed.connect(spy.on_members, sender=through, dispatch_uid=f"hosts.spy.{through.__name__}")
    return found


def throughs() -> list[type[models.Model]]:
    found = [one.remote_field.through for model in KINDS.values() for one in model._meta.many_to_many]
    return list(dict.fromkeys(found))


# The history of each object


EARLY = ("early created", "early saved")


@dataclass
class Touch:
    """A signalled change of an object. ``is_known``: the row was there. ``data_from``: from where on its data count."""

    seq: int
    kind: str
    who: str
    data_from: int


@dataclass
class History:
    """One object in one transaction: its versions with their places in the log, the first from before it."""

    versions: list[tuple[int, Row | None, bool]]
    """Each with whether the host wrote it in a way that it does not signal."""
    touches: list[Touch] = field(default_factory=list)
    is_raw: bool = False

    def at(self, seq: int) -> Row | None:
        return [row for at, row, _ in self.versions if at <= seq][-1]

    @property
    def before(self) -> Row | None:
        return self.versions[0][1]

    @property
    def after(self) -> Row | None:
        return self.versions[-1][1]


class World:
    """All rows after the transactions so far."""

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.members: dict[Key, list[int]] = {}

    def histories(self, entries: list[Entry]) -> dict[Key, History]:
        """What a transaction did, object by object. The world goes on to its end."""
        found: dict[Key, History] = {}
        ends = self._batch_ends(entries)
        window: list[Entry] = []
        touched: list[Key] = []
        for entry in entries:
            key = (entry.label, entry.key)
            if entry.kind == "row":
                around = [one for one in window if entry.label in WRITTEN[one.label]]
                is_bulk = any(one.kind == "bulk" for one in around)
                quiet = bool(around)
                with self._changing(found, key, entry, quiet and not is_bulk):
                    if entry.new is None:
                        self.rows.pop(key, None)
                    else:
                        self.rows[key] = entry.new
                if is_bulk and entry.new is not None:
                    touched.append(key)
            elif entry.kind in ("joins", "leaves"):
                with self._changing(found, key, entry, False):
                    members = self.members.setdefault(key, [])
                    members.append(int(entry.new)) if entry.kind == "joins" else members.remove(int(entry.new))
            elif entry.kind in ("quiet", "bulk"):
                window.append(entry)
            elif entry.kind in ("end", "void"):
                for one in dict.fromkeys(touched) if entry.kind == "end" else ():
                    self._touch(found, one, entry, ends, "bulk")
                window, touched = [], []
            elif entry.kind == "raw":
                self._history(found, key).is_raw = True
            elif entry.kind in (*EARLY, "created", "saved", "deleting", "members", "may"):
                self._touch(found, key, entry, ends, entry.kind)
        return found

    @staticmethod
    def _batch_ends(entries: list[Entry]) -> list[tuple[int, int]]:
        """The first and last entries of the outermost batches."""
        found, begin = [], 0
        for entry in entries:
            if entry.kind == "batch":
                begin = entry.seq
            elif entry.kind == "end batch":
                found.append((begin, entry.seq))
        return found

    def _history(self, found: dict[Key, History], key: Key) -> History:
        if key not in found:
            found[key] = History([(0, self._row(key), False)])
        return found[key]

    def _row(self, key: Key) -> Row | None:
        """An object as its serializer shows it: with the inherited row, and the members of its relation."""
        row = self.rows.get(key)
        if row is None:
            return None
        if key[0] in RELATION_OF:
            row = row | {RELATION_OF[key[0]]: sorted(self.members.get(key, []))}
        is_child = key[0] == LABELS["Truck"]
        parent = self._row((LABELS["Vehicle"], key[1])) if is_child else None
        return row | parent if parent else row

    @contextmanager
    def _changing(self, found: dict[Key, History], key: Key, entry: Entry, quiet: bool) -> Iterator[None]:
        """Add a version to an object, and to the child that inherits its row."""
        child = (LABELS["Truck"], key[1])
        changing = [key, child] if key[0] == LABELS["Vehicle"] and child in self.rows else [key]
        histories = [self._history(found, one) for one in changing]
        yield
        for one, history in zip(changing, histories, strict=True):
            history.versions.append((entry.seq, self._row(one), quiet))

    def _touch(self, found: dict[Key, History], key: Key, entry: Entry, ends: list[tuple[int, int]], kind: str) -> None:
        data_from = next((end for begin, end in ends if begin < entry.seq < end), entry.seq)
        self._history(found, key).touches.append(Touch(entry.seq, kind, entry.who, data_from))
