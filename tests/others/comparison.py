"""What differs between the results of a suite without the app and with it, and why."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

# The messages of ``assertNumQueries``, and of pytest-django's fixtures.
_COUNTS_QUERIES = re.compile(
    r"(AssertionError: )?\d+ != \d+ : \d+ queries executed, \d+ expected"
    r"|Failed: Expected to perform \d+ queries (or less )?but \d+ (was|were) done"
)

Results = Mapping[str, Mapping[str, Any]]
"""By the id of a test: its ``outcome``, and the ``messages`` of its failures."""


@dataclass
class Comparison:
    """``counting`` are tests that fail with the app, with no message but about the number of queries. The failures of
    ``consequences`` begin with such a message: a subtest may fail because an earlier one ended too soon."""

    same: int = 0
    passed: int = 0
    counting: list[str] = field(default_factory=list)
    consequences: list[str] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)
    unexplained: dict[str, str] = field(default_factory=dict)

    def accept(self, hidden: Comparison) -> None:
        """Judge the ``consequences``: they count queries if they are the same without the app's own queries."""
        for test in self.consequences:
            if test in hidden.unexplained or test in hidden.counting or test in hidden.consequences:
                self.unexplained[test] = "It fails without the app's own queries, too."
            else:
                self.counting.append(test)
        self.consequences.clear()

    def settle(self, without: Results, with_app: Results) -> dict[str, str]:
        """Count as the same what is the same in a second run: a test may depend on how busy the machine is. Returns
        these tests, and what differed in the first run."""
        steady = {test for test in self.unexplained if test in without and test in with_app}
        same = {test for test in steady if without[test]["outcome"] == with_app[test]["outcome"]}
        self.same += len(same)
        self.passed += sum(with_app[test]["outcome"] == "passed" for test in same)
        return {test: self.unexplained.pop(test) for test in sorted(same)}


def counts_queries(messages: Collection[str]) -> bool:
    """Whether each of these failures says that the number of queries is another one."""
    return bool(messages) and all(map(_COUNTS_QUERIES.match, messages))


def compare(without: Results, with_app: Results, explained: Collection[str] = ()) -> Comparison:
    """Compare each test of both runs. A test that only one run has differs, too."""
    found = Comparison()
    for test in sorted({*without, *with_app}):
        before, after = (one.get(test, {"outcome": "missing", "messages": []}) for one in (without, with_app))
        if before["outcome"] == after["outcome"]:
            found.same += 1
            found.passed += after["outcome"] == "passed"
        elif before["outcome"] == "passed" and after["outcome"] == "failed" and counts_queries(after["messages"][:1]):
            (found.counting if counts_queries(after["messages"]) else found.consequences).append(test)
        elif test in explained:
            found.explained.append(test)
        else:
            message = next(iter(after["messages"]), "")[:500]
            found.unexplained[test] = f"{before['outcome']} without the app, {after['outcome']} with it. {message}"
    return found


def add_up(parts: Collection[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """What all processes of a run have counted together."""
    total: dict[str, Counter[str]] = defaultdict(Counter)
    for part in parts:
        for name, counts in part.items():
            total[name].update(counts)
    return total
