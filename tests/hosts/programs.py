"""Programs of hosts: what receivers do, and the transactions. They are printed as the code that builds them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal


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
    """Steps within a context. ``way`` says which, and ``name`` is the user of "actor"."""

    way: str
    steps: tuple[Step, ...] = ()
    name: str = ""


Step = Do | Block

# The ways of blocks. "at_top" must be outside of transactions, the others may be anywhere.
AT_TOP = ("durable", "manual", "manual_rollback")
ANYWHERE = (
    "atomic", "atomic_raise", "savepoint", "savepoint_rollback", "savepoint_open", "batch", "batch_raise", "actor",
    "catch",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class On(Node):
    """A receiver of the host. ``where`` it is connected: before or after the app's receivers."""

    signal: Literal["pre_save", "post_save", "pre_delete", "post_delete", "m2m_changed"]
    kind: str
    act: str
    where: Literal["before", "after"] = "after"


@dataclass(frozen=True, repr=False)
class Program(Node):
    steps: tuple[Step, ...]
    receivers: tuple[On, ...] = ()
    webhooks: tuple[str, ...] = ("plain",)

    def __str__(self) -> str:
        steps = "".join(f"        {step!r},\n" for step in self.steps)
        rest = f", receivers={self.receivers!r}" if self.receivers else ""
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

# Of each webhook: its actions, and its other fields.
WEBHOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("cud", {}),
    "before": ("cud", {"prechange": True}),
    "quiet": ("cud", {"excluded_usernames": ["robot"]}),
    "starts": ("c", {}),
    "changes": ("u", {}),
    "ends": ("d", {}),
}
