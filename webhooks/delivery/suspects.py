"""Deliveries that a worker may die of: a few at once, then alone, so that they take no others with them. Pure.

A lease that ends without a record may be the fault of its delivery, or of an operator who killed the worker. So the
first lost lease costs little: a worker holds only a few such deliveries at once. After the second one a delivery goes
alone. If the worker ends again, it is to blame.
"""

from __future__ import annotations

# Deliveries that lost one lease, in one worker at once, shared by their webhooks.
FEW = 10

# Lost leases after which a delivery goes alone.
ALONE_FROM = 2


class Solitude:
    """When a worker holds one delivery and nothing else. Afterwards the others get as much time as it took."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._is_taken = False
        self._rests_until = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether the worker may claim nothing else: it makes room for such a delivery, or holds it."""
        return self._began is not None

    def look(self, now: float, is_due: bool, are_others_due: bool, is_idle: bool) -> None:
        """Begin or end it. ``now`` is in seconds, ``is_due`` says whether such a delivery is due, ``is_idle`` whether
        the worker holds nothing."""
        if self._began is None:
            if is_due and (now >= self._rests_until or not are_others_due):
                self._began, self._is_taken = now, False
        elif self._is_taken and is_idle:
            self._rests_until = now + (now - self._began)
            self._began = None
        elif not self._is_taken and not is_due:  # another worker has it
            self._began = None

    def took(self) -> None:
        """The worker has claimed the delivery."""
        self._is_taken = True
