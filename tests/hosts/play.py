"""Run a program: its steps, and the receivers of its host. The same program does the same with and without webhooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

from asgiref.sync import async_to_sync
from django.core.exceptions import ObjectDoesNotExist
from django.db import connection, models, transaction
from django.db.models import F, Max, Subquery, signals
from django.http import HttpRequest

import webhooks
from tests.hosts.models import KINDS, MARK, TABLES, Code, next_uuid
from tests.hosts.programs import LOGINS, Block, Do, On, Step
from tests.support.rollbacks import bare_savepoint
from webhooks import TrackedQuerySet
from webhooks.middleware import WebhooksMiddleware

BROKEN = ("can only be rolled back", "")


def what_failed(error: BaseException) -> tuple[str, str]:
    """The kind of an error, and the first line of its message. That a transaction can only be rolled back is one kind:
    Django says so, or else PostgreSQL."""
    if isinstance(error, transaction.TransactionManagementError) or "current transaction is aborted" in str(error):
        return BROKEN
    return type(error).__name__, str(error).splitlines()[0] if str(error) else ""


FLAGS = (False, 0, 1)  # JSON takes the first for another value than the second, Python does not


class HostError(Exception):
    """Raised by the host's own code."""


class Notes(Protocol):
    """Writes what the database does not know into its log. ``user`` is the one who acts."""

    user: str

    def mark(self, kind: str, label: str = "") -> None: ...


class NoNotes:
    user = ""

    def mark(self, kind: str, label: str = "") -> None:
        pass


@dataclass
class Slot:
    """An object of the program: its key, once it had one, and the instance that the host keeps in memory."""

    key: Any = None
    instance: Any = None


@dataclass
class Stage:
    """One run of a program. ``transcript`` has what each operation returned or raised."""

    notes: Notes
    receivers: tuple[On, ...] = ()
    transcript: list[Any] = field(default_factory=list)
    slots: dict[tuple[str, int], Slot] = field(default_factory=dict)
    batches: int = 0
    _active: set[On] = field(default_factory=set)

    def slot(self, kind: str, number: int) -> Slot:
        # A proxy and its model have the same objects.
        found = self.slots.setdefault((kind.removesuffix("Proxy"), number), Slot())
        if found.key is None and kind in NATURAL_KEYS:
            found.key = NATURAL_KEYS[kind](number)
        return found

    def keep(self, kind: str, number: int, instance: Any) -> Any:
        slot = self.slot(kind, number)
        slot.key, slot.instance = instance.pk, instance
        return instance

    def fresh(self, kind: str, number: int) -> Any:
        """The object as it is in the database, or None."""
        key = self.slot(kind, number).key
        return None if key is None else KINDS[kind]._base_manager.filter(pk=key).first()

    @contextmanager
    def unsignalled(self, model: type[models.Model]) -> Iterator[None]:
        """Around what Django does not signal: the app's manager captures it, Django's does not."""
        is_tracked = isinstance(model._default_manager.get_queryset(), TrackedQuerySet)
        kind = "bulk" if is_tracked else "quiet"
        self.notes.mark(kind, model._meta.label_lower)
        try:
            yield
        except Exception:
            self.notes.mark("void")
            raise
        self.notes.mark("end")

    # Steps

    def play(self, step: Step) -> None:
        if isinstance(step, Do):
            self.transcript.append(self._do(step))
        else:
            getattr(self, f"_{step.way}")(step)

    def _steps(self, block: Block) -> None:
        for step in block.steps:
            self.play(step)

    def _do(self, step: Do) -> Any:
        model = KINDS[step.kind]
        try:
            return step.act, _plain(OPERATIONS[step.act](self, step.kind, model, step.slot, step.other))
        except Exception as error:
            if what_failed(error) != BROKEN:  # which step meets that first is no matter
                self.transcript.append((step.act, *what_failed(error)))
            raise

    def _atomic(self, block: Block) -> None:
        with transaction.atomic():
            self._steps(block)

    def _atomic_raise(self, block: Block) -> None:
        with _expecting_rollback(), transaction.atomic():
            self._steps(block)
            raise Rollback

    def _durable(self, block: Block) -> None:
        with transaction.atomic(durable=True):
            self._steps(block)

    def _savepoint(self, block: Block) -> None:
        self._by_hand(block, transaction.savepoint_commit)

    def _savepoint_rollback(self, block: Block) -> None:
        self._by_hand(block, transaction.savepoint_rollback)

    def _savepoint_open(self, block: Block) -> None:
        self._by_hand(block, lambda sid: None)

    def _by_hand(self, block: Block, end: Callable[[Any], None]) -> None:
        sid = bare_savepoint() if not connection.get_autocommit() else None
        self._steps(block)
        if sid:
            end(sid)

    @contextmanager
    def _in_batch(self) -> Iterator[None]:
        is_outermost = not self.batches
        self.batches += 1
        try:
            with webhooks.batch():
                self.notes.mark("batch" if is_outermost else "nested")
                yield
            self.notes.mark("end batch" if is_outermost else "end nested")
        finally:
            self.batches -= 1

    def _batch(self, block: Block) -> None:
        with self._in_batch():
            self._steps(block)

    def _batch_raise(self, block: Block) -> None:
        with _expecting_rollback(), self._in_batch():
            self._steps(block)
            raise Rollback

    def _actor(self, block: Block) -> None:
        before, self.notes.user = self.notes.user, block.name
        try:
            with webhooks.actor(block.name):
                self._steps(block)
        finally:
            self.notes.user = before

    def _request(self, block: Block) -> None:
        """Within a request, whose user may have a name that is no text."""
        before, name = self.notes.user, LOGINS[block.name]
        request: Any = HttpRequest()
        request.user = SimpleNamespace(is_authenticated=True, get_username=lambda: name)
        self.notes.user = "" if name is None else str(name)
        try:
            WebhooksMiddleware(lambda _: self._steps(block))(request)
        finally:
            self.notes.user = before

    def _catch(self, block: Block) -> None:
        try:
            self._steps(block)
        except Exception as error:
            self.transcript.append(("caught", what_failed(error)[0]))

    def _manual(self, block: Block) -> None:
        self._managed_by_hand(block, transaction.commit)

    def _manual_rollback(self, block: Block) -> None:
        self._managed_by_hand(block, transaction.rollback)

    def _managed_by_hand(self, block: Block, end: Callable[[], None]) -> None:
        transaction.set_autocommit(False)
        try:
            self._steps(block)
            end()
        except Exception:
            transaction.rollback()
            raise
        finally:
            transaction.set_autocommit(True)

    # Receivers

    def receive(self, on: On, instance: Any, **kwargs: Any) -> None:
        """Run a receiver, but not within itself."""
        if on not in self.receivers or on in self._active or len(self._active) > 2 or kwargs.get("raw"):
            return
        self._active.add(on)
        try:
            RECEIVERS[on.act](self, on, instance, kwargs)
        finally:
            self._active.discard(on)


class Rollback(Exception):
    pass


@contextmanager
def _expecting_rollback() -> Iterator[None]:
    with suppress(Rollback):
        yield


def _plain(value: Any) -> Any:
    """What an operation returned, so that two runs can be compared."""
    if isinstance(value, models.Model):
        return type(value).__name__, str(value.pk)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        # With any receiver of deletions, Django leaves out the models of which it deleted nothing.
        return {key: count for key, count in value.items() if count}
    return value


NATURAL_KEYS: dict[str, Callable[[int], Any]] = {
    "Country": lambda number: list(Code)[number].value,
    "Seat": lambda number: (1, number),
    "Overview": lambda number: number + 1,
    "Session": lambda number: f"{MARK}{number}",
    "Visit": lambda number: f"{MARK}{number}",
    "Ticket": lambda number: (f"{MARK}{number}", number),
}


def hide(instance: Any, other: int) -> None:
    """Give an object other secrets. The card is one at first and each second time."""
    for name in ("ssn", "password", "pin", "card"):
        if hasattr(instance, name):
            is_secret = name != "card" or MARK not in instance.card
            setattr(instance, name, f"{MARK if is_secret else ''}{name}-{other}")


# Operations: each takes the stage, the kind and its model, and the numbers of two slots.

Operation = Callable[[Stage, str, Any, int, int], Any]
OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    OPERATIONS[function.__name__] = function
    return function


def build(stage: Stage, kind: str, key: Any, other: int) -> Any:
    """A new instance, with its parent in the slot ``other``. None without this parent."""
    model, values = KINDS[kind], dict[str, Any]()
    if key is not None:
        parts = key if isinstance(key, tuple) else [key]
        values = {one.attname: part for one, part in zip(model._meta.pk_fields, parts, strict=True)}
    if kind == "Country" and not other:
        values["code"] = Code(key)
    names = {one.name for one in model._meta.concrete_fields}
    if "box" in names:
        values["box"] = stage.fresh(model._meta.get_field("box").related_model.__name__, other)
    if "label" in names:
        values["label"] = stage.fresh("Label", other)
    if kind == "Visit":
        values["session"] = stage.fresh("Session", list(map(NATURAL_KEYS[kind], range(4))).index(key))
    if None in (values.get("box", ""), values.get("label", ""), values.get("session", "")):
        return None
    if kind == "Badge":
        values |= {"session": stage.fresh("Session", other), "visit": stage.fresh("Visit", other)}
    if kind == "Person":
        values["boss"] = stage.fresh(kind, other)
    if kind == "Note":
        values["about"] = stage.fresh("Box", other)
    if "name" in names:
        values["name"] = f"{kind} {other}"
    instance = model(**values)
    hide(instance, other)
    return instance


@operation
def create(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    key = NATURAL_KEYS[kind](slot) if kind in NATURAL_KEYS else None
    if kind == "Gizmo":
        key = next_uuid() if other == 2 else None
    instance = build(stage, kind, key, other)
    if instance is None:
        return None
    instance.save()
    return stage.keep(kind, slot, instance)


@operation
def create_again(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    """Under the key that the object had, or still has."""
    key = stage.slot(kind, slot).key
    if key is None or _is_orphan(stage, kind, slot):
        return None
    instance = build(stage, kind, key, other)
    if instance is None:
        return None
    instance.save()
    return stage.keep(kind, slot, instance)


def _is_orphan(stage: Stage, kind: str, slot: int) -> bool:
    """Whether a parent row is left of a child: Django does not signal that it is not new, see docs/capture.md."""
    key = stage.slot(kind, slot).key
    is_child = kind.startswith("Truck")
    return is_child and stage.fresh(kind, slot) is None and KINDS["Vehicle"].objects.filter(pk=key).exists()


@operation
def save(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    if instance := stage.fresh(kind, slot):
        instance.n, instance.custom = other + 10, {"flag": FLAGS[other]}
        hide(instance, other)
        instance.save()
        stage.keep(kind, slot, instance)
    return instance


@operation
def save_name(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    instance = stage.fresh(kind, slot)
    if instance and hasattr(instance, "name"):
        instance.name, instance.n = f"name {other}", 99
        instance.save(update_fields=["name"])
    return instance


@operation
def save_kept(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    """The instance may be stale, and its row deleted."""
    instance = stage.slot(kind, slot).instance
    if instance is None or _is_orphan(stage, kind, slot):
        return None
    instance.n = other + 20
    instance.save()
    return instance


@operation
def save_async(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    if instance := stage.fresh(kind, slot):
        instance.n = other + 30
        async_to_sync(instance.asave)()
    return instance


@operation
def delete(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    instance = stage.fresh(kind, slot)
    return instance and instance.delete()


@operation
def delete_kept(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    """Its row may be deleted already."""
    instance = stage.slot(kind, slot).instance
    return instance and instance.pk and instance.delete()


@operation
def delete_by_key(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    """Also if there is no such row."""
    key = stage.slot(kind, slot).key
    instance = build(stage, kind, key, other) if key else None
    return instance and instance.delete()


@operation
def delete_async(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    instance = stage.fresh(kind, slot)
    return instance and async_to_sync(instance.adelete)()


@operation
def delete_child(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    instance = stage.fresh(kind, slot)
    return instance and instance.delete(keep_parents=True)


@operation
def like(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    """Set the keys that a deletion of the other object sets to null or to the default."""
    instance = stage.fresh(kind, slot)
    if instance and hasattr(instance, "liked_id"):
        liked = stage.fresh(model._meta.get_field("liked").related_model.__name__, other)
        instance.liked = liked
        if kind == "Item":
            instance.spare, instance.next = liked, stage.fresh(kind, other)
        instance.save()
    return instance


# Bulk operations


@operation
def update(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    with stage.unsignalled(model):
        return model.objects.filter(n__gte=0).update(n=F("n") + 1)


@operation
def update_one(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    with stage.unsignalled(model):
        return model.objects.filter(pk=stage.slot(kind, slot).key).update(n=other + 40)


@operation
def update_highest(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    """The filter depends on the column that changes."""
    of_all = model.objects.order_by().annotate(one=models.Value(1)).values("one")
    highest = Subquery(of_all.annotate(highest=Max("n")).values("highest"))
    with stage.unsignalled(model):
        return model.objects.filter(n=highest).update(n=highest + 1 if other else -5)


@operation
def update_random(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    """A condition that holds, or not, each time that the database is asked."""
    from django.db.models.functions import Random

    with stage.unsignalled(model):
        count = model.objects.annotate(chance=Random()).filter(chance__lt=0.5).update(n=F("n") + 1)
    return count * 0


@operation
def bulk_create(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    keys = NATURAL_KEYS.get(kind, lambda number: None)
    new = [build(stage, kind, keys(number), other) for number in (slot, slot + 1)]
    if None in new:
        return None
    with stage.unsignalled(model):
        model.objects.bulk_create(new)
    for number, one in enumerate(new):
        stage.keep(kind, slot + number, one)
    return new


@operation
def bulk_upsert(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    if kind != "Country":  # with Django's manager, no signal says that it creates a deleted row again
        return None
    new = [build(stage, kind, stage.slot(kind, number).key or None, other) for number in (slot, slot + 1)]
    if None in [one.pk for one in new]:
        return None
    with stage.unsignalled(model):
        model.objects.bulk_create(
            new, update_conflicts=True, unique_fields=[model._meta.pk.name], update_fields=["name", "n"]
        )
    return new


@operation
def bulk_update(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    known = list(model.objects.order_by("pk"))
    for one in known:
        one.n = other + 60
    with stage.unsignalled(model):
        return model.objects.bulk_update(known, ["n"], batch_size=2)


@operation
def bulk_delete(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    return model.objects.filter(n__gte=other).delete()


@operation
def update_or_create(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    key = stage.slot(kind, slot).key
    if key is None or kind in ("Membership", "Seat") or _is_orphan(stage, kind, slot):
        return None
    return model.objects.update_or_create(pk=key, defaults={"name": f"or {other}", "n": other})


# What Django does not signal


@operation
def raw_sql(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    """No manager captures it."""
    table = TABLES[kind.removesuffix("Proxy")] if not issubclass(model, KINDS["Vehicle"]) else "hosts_vehicle"
    for label in dict.fromkeys((model._meta.label_lower, "hosts.vehicle")):
        stage.notes.mark("quiet", label)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET n = n + 3")
    stage.notes.mark("end")


@operation
def save_raw(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    """As ``loaddata`` does, but the host keeps the instance, and edits its relation."""
    if instance := stage.fresh(kind, slot):
        instance.n = other + 70
        instance.save_base(raw=True)
        stage.keep(kind, slot, instance)
        label = stage.fresh("Label", other)
        if label is not None and (members := _members(instance)):
            (members.remove if members.contains(label) else members.add)(label)
    return instance


@operation
def send(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    """The host sends a signal itself, and leaves out what its own receivers do not need."""
    if instance := stage.fresh(kind, slot):
        signals.post_save.send(sender=model, instance=instance)
    return instance


# Relations


def _holder(stage: Stage, kind: str, slot: int) -> Any:
    """The instance in memory of the slots 1 and 2, a new one of slot 0."""
    kept = stage.slot(kind, slot).instance
    return kept if slot and kept is not None and kept.pk else stage.fresh(kind, slot)


def _relation(stage: Stage, kind: str, slot: int, other: int) -> tuple[Any, Any]:
    """A relation from one of its sides, and a member; None if an object is missing."""
    holder, label = _holder(stage, kind, slot), stage.fresh("Label", other)
    return (_members(holder), label) if holder is not None and label is not None else (None, None)


def _members(holder: Any) -> Any:
    """The relation of an object; None without one."""
    return getattr(holder, "labels", None) or getattr(holder, "members", None)


@operation
def add(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    relation, label = _relation(stage, kind, slot, other)
    return relation and relation.add(label)


@operation
def remove(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    relation, label = _relation(stage, kind, slot, other)
    return relation and relation.remove(label)


@operation
def set_members(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    relation, label = _relation(stage, kind, slot, other)
    return relation and relation.set([label])


@operation
def clear(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    relation, _ = _relation(stage, kind, slot, other)
    return relation and relation.clear()


REVERSE = {"Box": "boxes", "Crate": "crates", "Vehicle": "vehicles", "Club": "clubs"}


def _reverse(stage: Stage, kind: str, slot: int, other: int) -> tuple[Any, Any]:
    holder, label = _holder(stage, kind, slot), stage.fresh("Label", other)
    if holder is None or label is None or kind not in REVERSE:
        return None, None
    return getattr(label, REVERSE[kind]), holder


@operation
def add_reverse(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    relation, holder = _reverse(stage, kind, slot, other)
    return relation and relation.add(holder)


@operation
def remove_reverse(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    relation, holder = _reverse(stage, kind, slot, other)
    return relation and relation.remove(holder)


@operation
def clear_reverse(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    relation, _ = _reverse(stage, kind, slot, other)
    return relation and relation.clear()


@operation
def befriend(stage: Stage, kind: str, model: Any, slot: int, other: int) -> Any:
    one, friend = _holder(stage, "Box", slot), stage.fresh("Box", other)
    if one is not None and friend is not None:
        one.friends.remove(friend) if one.friends.exists() else one.friends.add(friend)


# Receivers: each takes the stage, the receiver, the instance, and the other arguments of the signal.

Receiver = Callable[[Stage, On, Any, dict[str, Any]], None]
RECEIVERS: dict[str, Receiver] = {}


def receiver(function: Receiver) -> Receiver:
    RECEIVERS[function.__name__.strip("_")] = function
    return function


def _parent(instance: Any) -> Any:
    try:
        return getattr(instance, "box", None)
    except ObjectDoesNotExist:
        return None


def _step(on: On) -> int:
    return -1 if on.signal.endswith("delete") else 1


@receiver
def count_by_save(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    parent = _parent(instance)
    if parent is not None and parent.pk:
        parent.n += _step(on)
        parent.save()


@receiver
def count_by_update(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    if getattr(instance, "box_id", None):
        model = type(instance)._meta.get_field("box").related_model
        with stage.unsignalled(model):
            model.objects.filter(pk=instance.box_id).update(n=F("n") + _step(on))


@receiver
def number_by_save(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("created"):
        instance.n = 77
        instance.save()


@receiver
def number_by_update(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("created"):
        model = type(instance)
        with stage.unsignalled(model):
            model._default_manager.filter(pk=instance.pk).update(n=78)


@receiver
def save_again(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    if instance.pk and on.signal != "pre_save" and on.signal != "post_delete":
        instance.n += 100
        instance.save()


def _copy(instance: Any) -> Any:
    return type(instance)._base_manager.filter(pk=instance.pk).first() if instance.pk else None


@receiver
def save_copy(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    if copy := _copy(instance):
        copy.n += 200
        copy.save()


@receiver
def clear_members(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    for name in ("labels", "members", "friends"):
        if instance.pk and _copy(instance) is not None and hasattr(instance, name):
            getattr(instance, name).clear()


@receiver
def create_child(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    child = {"Box": "Item", "Crate": "Piece"}.get(type(instance).__name__)
    if child and on.signal == "post_save":
        KINDS[child](box=instance, name="child").save()


@receiver
def delete_sibling(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    parent = getattr(instance, "box_id", None)
    rows = type(instance)._base_manager.exclude(pk=instance.pk) if instance.pk else type(instance)._base_manager.all()
    if parent:
        rows = rows.filter(box_id=parent)
    if sibling := rows.order_by("pk").first():
        sibling.delete()


@receiver
def delete_itself(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    if on.signal == "post_save" and instance.pk:
        instance.delete()


@receiver
def delete_copy(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    if copy := _copy(instance):
        copy.delete()


@receiver
def fail(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    raise HostError(f"{on.signal} of {on.kind}")


@receiver
def fail_at_odd(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    if getattr(instance, "n", 0) % 2:
        raise HostError(f"{on.signal} of {on.kind}")


@receiver
def read(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {instance._meta.db_table}")
        stage.transcript.append(("read", cursor.fetchone()[0]))


@receiver
def roll_back_block(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    if copy := _copy(instance):
        with _expecting_rollback(), transaction.atomic():
            copy.n += 300
            copy.save()
            raise Rollback


@receiver
def roll_back_savepoint(stage: Stage, on: On, instance: Any, kwargs: dict[str, Any]) -> None:
    copy = _copy(instance)
    if copy and not connection.get_autocommit():
        sid = bare_savepoint()
        copy.delete()
        transaction.savepoint_rollback(sid)
