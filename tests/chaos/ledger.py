"""The committed changes, from a witness that knows nothing about webhooks, compared with the requests.

Writers note every change in a plain table in the transaction of the change itself, while they hold the object's
lock: its rows were committed, and for each object in this order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tests.support.inbox import Received
from tests.testapp.models import Label, Unregistered

Change = tuple[int, str]


def note(changes: Iterable[Change]) -> None:
    """Call it in the transaction that set these labels (by id) to these names."""
    Unregistered.objects.bulk_create([Unregistered(name=f"{pk}={value}") for pk, value in changes])


def committed() -> list[Change]:
    """All that was noted, in order."""
    names = Unregistered.objects.order_by("pk").values_list("name", flat=True)
    return [(int(pk), value) for pk, _, value in (name.partition("=") for name in names)]


def count(writer: str = "") -> int:
    """How many changes were committed, in all or by one writer."""
    return Unregistered.objects.filter(name__contains=f"={writer}").count()


@dataclass(frozen=True)
class Account:
    """How the requests differ from the committed changes. ``repeated`` counts the surplus requests of each id."""

    committed: int
    arrived: int
    lost: list[Change]
    invented: list[Change]
    out_of_order: list[Change]
    repeated: Counter[str]
    doubled: list[Change]

    def __str__(self) -> str:
        return (
            f"{self.committed} changes committed, {self.arrived} requests: {len(self.lost)} lost, "
            f"{len(self.invented)} invented, {len(self.out_of_order)} out of order, {len(self.doubled)} under two ids, "
            f"{sum(self.repeated.values())} repeats of {len(self.repeated)} deliveries"
        )

    def check(self) -> None:
        """Repeats are for the test to judge."""
        problems = (self.lost, self.invented, self.out_of_order, self.doubled)
        assert not any(problems), f"{self}; the first ones: {[problem[:5] for problem in problems]}"


def settle(received: list[Received]) -> Account:
    """Compare the requests of one webhook, in order of arrival, with the ledger."""
    ledger = committed()
    assert len(set(ledger)) == len(ledger), "a writer used a value twice"
    firsts: dict[str, Received] = {}
    for one in received:
        firsts.setdefault(one.headers["webhook-id"], one)
    changes = [_change(one) for one in firsts.values()]
    times = Counter(one.headers["webhook-id"] for one in received)
    return Account(
        committed=len(ledger),
        arrived=len(received),
        lost=sorted(set(ledger) - set(changes)),
        invented=sorted(set(changes) - set(ledger)),
        out_of_order=[*_misplaced(ledger, changes), *_shrinking_sequences(list(firsts.values()))],
        repeated=Counter({pk: times[pk] - 1 for pk in times if times[pk] > 1}),
        doubled=[change for change, often in Counter(changes).items() if often > 1],
    )


def _change(one: Received) -> Change:
    data = one.json["data"]
    return data["id"], data["name"]


def _misplaced(ledger: list[Change], arrived: list[Change]) -> list[Change]:
    """The changes that arrived out of order for their object."""
    known = set(ledger) & set(arrived)
    made, came = _by_object(c for c in ledger if c in known), _by_object(c for c in arrived if c in known)
    return [(pk, value) for pk in made for value, other in zip(made[pk], came[pk], strict=False) if value != other]


def _by_object(changes: Iterable[Change]) -> dict[int, list[str]]:
    grouped: dict[int, list[str]] = defaultdict(list)
    for pk, value in changes:
        grouped[pk].append(value)
    return grouped


def _shrinking_sequences(firsts: list[Received]) -> list[Change]:
    last: dict[int, int] = {}
    shrinking = []
    for one in firsts:
        pk, sequence = one.json["data"]["id"], one.json["sequence"]
        if sequence <= last.get(pk, 0):
            shrinking.append(_change(one))
        last[pk] = sequence
    return shrinking


def check_rows() -> None:
    """The ledger agrees with the rows themselves: each object has the last value that was committed for it."""
    last = dict(committed())
    rows = dict(Label.objects.filter(pk__in=last).values_list("pk", "name"))
    assert rows == last, "the ledger is no witness: it does not agree with the objects' rows"
