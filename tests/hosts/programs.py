"""Programs of hosts: what receivers do, and the transactions. They are printed as the code that builds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any, Literal
from uuid import UUID


class Node:
    """Printed without the fields that have their defaults."""

    def __repr__(self) -> str:
        shown = []
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if value != one.default:
                shown.append(f"{one.name}={value!r}" if one.kw_only else repr(value))
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class Do(Node):
    """One operation on the object of a slot. ``other`` is the slot of a second object, or a number."""

    act: str
    kind: str
    slot: int = 0
    other: int = 0

    def __repr__(self) -> str:
        return f"Do({self.act!r}, {self.kind!r}, {self.slot}, {self.other})"


@dataclass(frozen=True, repr=False)
class Block(Node):
    """Steps within a context. ``way`` says which, and ``name`` is the user of "actor" and "request"."""

    way: str
    steps: tuple[Step, ...] = ()
    name: str = ""

    def __repr__(self) -> str:
        return f"Block({self.way!r}, {self.steps!r}{f', {self.name!r}' if self.name else ''})"


@dataclass(frozen=True, repr=False)
class Define(Node):
    """A user with the permission to add webhooks tries to define one for desks, by the REST API."""

    viewer: str


Step = Do | Block | Define

# The ways of blocks. "at_top" must be outside of transactions, the others may be anywhere.
BY_HAND = ("manual", "manual_rollback")
AT_TOP = ("durable", *BY_HAND)
ANYWHERE = (
    "atomic", "atomic_raise", "savepoint", "savepoint_rollback", "savepoint_open", "batch", "batch_raise", "actor",
    "request", "catch",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class On(Node):
    """A receiver of the host. ``where`` it is connected: before or after the app's receivers."""

    signal: Literal["pre_save", "post_save", "pre_delete", "post_delete", "m2m_changed"]
    kind: str
    act: str
    where: Literal["before", "after"] = "after"


@dataclass(frozen=True, repr=False)
class Guise(Node):
    """One field of the serializer of a kind, which shows the secret ``column`` of the object at the end of ``path``, or
    a mask of it. ``way`` is one of ``serializers.WAYS``."""

    kind: str
    column: str
    way: str
    path: str = ""


@dataclass(frozen=True, repr=False)
class Program(Node):
    steps: tuple[Step, ...]
    receivers: tuple[On, ...] = ()
    webhooks: tuple[str, ...] = ("plain",)
    guises: tuple[Guise, ...] = ()

    def __str__(self) -> str:
        steps = "".join(f"        {step!r},\n" for step in self.steps)
        rest = f", receivers={self.receivers!r}" if self.receivers else ""
        rest += f", guises={self.guises!r}" if self.guises else ""
        return f"Program(\n    (\n{steps}    ){rest}, webhooks={self.webhooks!r}\n)"

    def walk(self) -> list[Step]:
        found: list[Step] = []
        todo: list[Any] = list(self.steps)
        while todo:
            step = todo.pop(0)
            found.append(step)
            todo += step.steps if isinstance(step, Block) else ()
        return found


USERS = ("alice", "bob", "robot")
LOGINS: dict[str, Any] = {"alice": "alice", "number": 7, "uuid": UUID(int=7), "none": None}
"""What ``get_username()`` of the user of a request returns, by the name of the block."""

# The desks that each user may view: what NetBox's restrict() filters by, or None for none.
VIEWERS: dict[str, dict[str, Any] | None] = {
    "sees all": {}, "sees some": {"name__endswith": "1"}, "sees new ones": {"n__lt": 1}, "sees none": None,
}  # fmt: skip

# Of each webhook: its actions, and its other fields.
WEBHOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("cud", {}),
    "before": ("cud", {"prechange": True}),
    "quiet": ("cud", {"excluded_usernames": ["robot"]}),
    "starts": ("c", {}),
    "changes": ("u", {}),
    "ends": ("d", {}),
    "flags": ("u", {"changed_fields": ["custom.flag"]}),
}


# Random programs


@dataclass(frozen=True)
class Cast:
    """Kinds that have to do with each other: a prelude that makes their objects, and what may happen to each, in
    groups that are equally likely.

    ``habits`` are receivers that many hosts have."""

    prelude: tuple[Do, ...]
    kinds: tuple[str, ...]
    acts: tuple[tuple[str, ...], ...]
    reactions: tuple[str, ...]
    habits: tuple[On, ...] = ()


_LIVES = ("create", "create_again", "save", "save_name", "save_kept", "send", "delete", "delete_kept", "delete_by_key")
_BULK = ("update", "update_one", "bulk_create", "bulk_update", "bulk_delete", "update_or_create")
_ODD = ("save_async", "delete_async", "save_raw", "raw_sql", "send")
_MEMBERS = ("add", "remove", "set_members", "clear", "add_reverse", "remove_reverse", "clear_reverse", "save_raw")
_REACTIONS = (
    "save_again", "save_copy", "number_by_save", "number_by_update", "delete_itself", "delete_copy", "fail",
    "fail_at_odd", "read", "roll_back_block", "roll_back_savepoint",
)  # fmt: skip
_FAMILY = ("count_by_save", "count_by_update", "clear_members", "create_child", "delete_sibling")


def _counters(kind: str, parent: str) -> tuple[On, ...]:
    """A counter in the parent, labels that are cleared before a deletion, and a number for what is new."""
    return (
        On("post_delete", kind, "count_by_save"),
        On("post_delete", kind, "count_by_update"),
        On("post_save", kind, "count_by_save"),
        On("pre_delete", parent, "clear_members"),
        On("post_save", parent, "number_by_save", "before"),
        On("post_save", parent, "create_child"),
    )


CASTS: dict[str, Cast] = {
    "boxes": Cast(
        (Do("create", "Label"), Do("create", "Box"), Do("create", "Box", 1), Do("create", "Item"), Do("add", "Box")),
        ("Box", "Item", "Label", "Note"),
        (_LIVES, _BULK, _ODD, _MEMBERS, ("like", "befriend")),
        (*_REACTIONS, *_FAMILY),
        _counters("Item", "Box"),
    ),
    "crates": Cast(
        (
            Do("create", "Label"), Do("create", "Crate"), Do("create", "Crate", 1), Do("create", "Piece"),
            Do("create", "Crate", 2),
        ),
        ("Crate", "Piece"),
        (_LIVES, _BULK, _ODD, _MEMBERS, ("like", "update_highest")),
        (*_REACTIONS, *_FAMILY),
        _counters("Piece", "Crate"),
    ),
    "vehicles": Cast(
        (Do("create", "Label"), Do("create", "Truck"), Do("create", "Vehicle", 1)),
        ("Vehicle", "Truck", "TruckProxy"),
        (_LIVES, ("update", "update_one", "bulk_delete", "update_or_create", "delete_child"), _ODD, _MEMBERS),
        (*_REACTIONS, "clear_members", "delete_sibling"),
    ),
    "clubs": Cast(
        (Do("create", "Label"), Do("create", "Club"), Do("create", "Membership"), Do("create", "Label", 1)),
        ("Club", "Membership", "Label"),
        (_LIVES, _ODD, _MEMBERS, ("bulk_delete", "update")),
        (*_REACTIONS, *_FAMILY),
        _counters("Membership", "Club"),
    ),
    "keys": Cast(
        (Do("create", "Country"), Do("create", "Seat"), Do("create", "Gizmo"), Do("create", "Account")),
        ("Country", "Seat", "Gizmo", "Account"),
        (_LIVES, (*_BULK, "bulk_upsert", "update_highest"), _ODD),
        _REACTIONS,
    ),
    "unmanaged": Cast(
        (Do("create", "Legacy"), Do("create", "Overview")),
        ("Legacy", "Overview"),
        (_LIVES, ("update", "bulk_delete"), _ODD),
        _REACTIONS,
    ),
    "secrets": Cast(
        (
            Do("create", "Session"), Do("create", "Person"), Do("create", "Person", 1), Do("create", "Visit"),
            Do("create", "Badge"), Do("create", "Ticket"), Do("save", "Person", 1),
        ),
        ("Person", "Person", "Person", "Badge", "Session", "Visit", "Ticket"),
        (_LIVES, _BULK, _ODD),
        _REACTIONS,
    ),
    "desks": Cast(
        (Do("create", "Desk"), Do("create", "Desk", 1, 1), Do("create", "Desk", 2, 2)),
        ("Desk",),
        (_LIVES, _BULK, _ODD),
        _REACTIONS,
    ),
}  # fmt: skip

# The secrets that a host may show whole: of a kind, by path. The exclusion of "ssn" is about persons alone.
_PERSONAL = ("ssn", "ssn", "password", "pin")
SECRETS: dict[tuple[str, str], tuple[str, ...]] = {
    ("Person", ""): _PERSONAL,
    ("Person", "boss"): _PERSONAL,
    ("Person", "boss.boss"): _PERSONAL,
    ("Person", "staff"): _PERSONAL,
    ("Badge", ""): ("session_id", "visit_id"),
    ("Badge", "box"): ("password", "pin"),
    ("Badge", "box.boss"): ("password", "pin"),
    ("Badge", "session"): ("session_key",),
    ("Badge", "visit"): ("session_id",),
}
MASKS = ("masked_by_method", "masked_by_field", "masked_by_property", "masked_by_serializer")
NESTED = ("same_name", "nested", "nested_without_model", "nested_twice", "by_method")
BY_SOURCE = ("renamed", "in_envelope", "in_envelope")  # these need one object
BY_RELATION = ("slug", "key")  # these need a path


CHOSEN_WEBHOOKS = (
    ("plain",), ("before",), ("plain", "quiet"), ("before", "quiet"), ("quiet",), ("ends",), ("starts", "changes"),
    ("quiet", "ends"), ("before", "starts"), ("before", "flags"), ("flags",),
)  # fmt: skip


# How many steps a block has, how deep it is, and which slot is meant: mostly one object, so that the acts meet.
_COUNTS, _SLOTS, _DEPTH = (1, 2, 3), (0, 0, 0, 1, 2), 3
_SIGNALS: tuple[Any, ...] = ("pre_save", "post_save", "pre_delete", "post_delete", "m2m_changed")
_PLACES: tuple[Any, ...] = ("after", "before")
_NAMES = {"actor": USERS, "request": tuple(LOGINS)}
_DO = ("",) * len(ANYWHERE)  # as often as a block
_BLOCKS = {True: (*_DO, *ANYWHERE, *AT_TOP), False: (*_DO, *ANYWHERE)}


def program(number: int) -> Program:
    """The program of this number: any one about one cast.

    The choices are independent. Hypothesis would vary the parts of a few examples, and leave out most casts."""
    choose = Random(number).choice
    cast = CASTS[choose((*CASTS, "secrets"))]  # serializers are the most varied
    prelude = cast.prelude[: choose((*range(len(cast.prelude)), *[len(cast.prelude)] * 8))]
    # A few of all acts and kinds.
    acts = ("save", "delete", *(choose(choose(cast.acts)) for _ in range(choose(_COUNTS))))
    kinds = [choose(cast.kinds) for _ in range(choose(_COUNTS))]

    def step(depth: int) -> Step:
        way = choose(_BLOCKS[depth == 0]) if depth < _DEPTH else ""
        if not way:
            return Do(choose(acts), choose(kinds), choose(_SLOTS), choose(_SLOTS))
        steps = tuple(step(depth + 1) for _ in range(choose(_COUNTS)))
        return Block(way, steps, choose(_NAMES[way]) if way in _NAMES else "")

    def receiver() -> On:
        if cast.habits and choose((True, False)):
            return choose(cast.habits)
        return On(choose(_SIGNALS), choose(kinds), choose(cast.reactions), choose(_PLACES))

    def guise() -> Guise:
        if choose((True, False, False)):
            return Guise("Person", "card", choose(MASKS))
        kind, path = choose(tuple(SECRETS))
        ways = (*NESTED, *(() if path == "staff" else BY_SOURCE), *(BY_RELATION if path else ()))
        return Guise(kind, choose(SECRETS[kind, path]), choose(ways), path)

    receivers = tuple(receiver() for _ in range(choose((0, 1, 1, 2))))
    steps = tuple(step(0) for _ in range(choose((1, 2, 3, 4, 4, 4))))
    definitions = [Define(choose(tuple(VIEWERS))) for _ in range(2)] if "Desk" in cast.kinds else []
    shown = tuple(guise() for _ in range(1 + choose(_COUNTS))) if "Person" in cast.kinds else ()
    return Program((*definitions, *prelude, *steps), receivers, choose(CHOSEN_WEBHOOKS), shown)


# Smaller programs


def shrunk(program: Program, fails: Callable[[Program], bool]) -> Program:
    """The program without the parts that it does not need to fail."""
    while (smaller := next(filter(fails, _smaller(program)), None)) is not None:
        program = smaller
    return program


def _smaller(program: Program) -> Iterator[Program]:
    for name in ("steps", "receivers", "guises", "webhooks"):
        parts = getattr(program, name)
        found = _fewer_steps(parts) if name == "steps" else _fewer(parts)
        yield from (replace(program, **{name: one}) for one in found if one or name != "webhooks")


def _fewer(parts: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for number in range(len(parts)):
        yield (*parts[:number], *parts[number + 1 :])


def _fewer_steps(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """Without a step, or with the steps of a block in its place, all of them or fewer."""
    yield from _fewer(steps)
    for number, one in enumerate(steps):
        if isinstance(one, Block):
            before, after = steps[:number], steps[number + 1 :]
            yield (*before, *one.steps, *after)
            yield from ((*before, replace(one, steps=fewer), *after) for fewer in _fewer_steps(one.steps) if fewer)
