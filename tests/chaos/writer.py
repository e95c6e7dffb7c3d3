"""A process that changes labels: ``python -m tests.chaos.writer '{"name": "w1", "changes": 100, …}'``.

It prints a line before each transaction.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Plan:
    """What a writer does: ``changes`` in transactions over 1 to ``most`` of the labels with these ids, each after a
    pause of ``pause`` seconds on average. ``rollbacks`` is how many of the transactions come to nothing."""

    name: str
    changes: int
    labels: list[int]
    most: int = 8
    pause: float = 0.05
    rollbacks: float = 0.0
    is_deadlocking: bool = False
    seed: int = field(default_factory=lambda: random.randrange(1 << 30))

    def dump(self) -> str:
        return json.dumps(asdict(self))


if __name__ == "__main__":
    import django

    django.setup()
    from tests.chaos.transactions import Work

    PLAN = Plan(**json.loads(sys.argv[1]))
    work = Work(PLAN, announce=lambda text: print(text, flush=True))
    while work.done < PLAN.changes:
        work.transaction()
        time.sleep(work.chance.uniform(0, 2 * PLAN.pause))
