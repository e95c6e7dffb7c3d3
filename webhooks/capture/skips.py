"""Store which webhooks did not want a change, and why: one skip for each webhook, object and transaction.

Skips are stored in the transaction of the change, after its Event. If that fails, the error is logged, and the change
and its Event stay.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from functools import partial

from webhooks.capture.context import Actor
from webhooks.capture.transaction import Change, TransactionState
from webhooks.ground.conf import conf
from webhooks.ground.db.django_internals import savepoint
from webhooks.ground.errors import log_errors
from webhooks.ground.text import clean
from webhooks.models.columns import REQUEST_ID_LENGTH, USERNAME_LENGTH
from webhooks.models.event import Action, Event
from webhooks.models.ids import new_id
from webhooks.models.skip import Refusal, Skip
from webhooks.models.statistic import StatisticDelta, minute_of


class Skips:
    """The skips of one change or of a batch, to be stored together. Of a batch, each webhook keeps as many as it may
    have at all. The statistics count the others, too."""

    def __init__(self, state: TransactionState, skips: Iterable[Skip] = ()) -> None:
        self._state = state
        self._new: dict[int, deque[Skip]] = defaultdict(partial(deque, maxlen=conf.skips_per_webhook))
        self._outdated: list[uuid.UUID] = []
        self._dropped: Counter[tuple[int, int]] = Counter()
        for skip in skips:
            self.add(skip)

    def add(self, skip: Skip) -> None:
        kept = self._new[skip.webhook_id]
        if len(kept) == kept.maxlen:
            self._dropped[minute_of(kept[0].timestamp), skip.webhook_id] += 1
        kept.append(skip)

    def replace(self, change: Change, action: Action, actor: Actor, name: str, refusals: Mapping[int, Refusal]) -> None:
        """Add the skips of an object, in place of the skips of its earlier changes in the transaction."""
        ids = self._state.begin_history(change).skip_ids
        self._outdated += [ids[webhook_id] for webhook_id in ids.keys() - refusals.keys()]
        if refusals:
            label, pk = change.key
            pattern = Event(action=action, object_type=label, object_id=pk, object_repr=name)
            for skip in skips_of(pattern, actor, refusals):
                skip.pk = ids.setdefault(skip.webhook_id, skip.pk)
                self.add(skip)

    def store(self) -> None:
        """Insert, replace and delete rows, in one statement if no earlier change left skips that are outdated."""
        using = self._state.using
        with log_errors(using, "The changes that webhooks skip cannot be recorded"):
            if self._outdated:
                Skip.delete_all(self._outdated, using)
            Skip.store_all([skip for skips in self._new.values() for skip in skips], using)
            if self._dropped:
                with savepoint(using):
                    StatisticDelta.objects.bulk_create(StatisticDelta.of_skips(self._dropped))


def skips_of(event: Event, actor: Actor, refusals: Mapping[int, Refusal]) -> list[Skip]:
    """The skips of an Event of this actor that these webhooks do not want."""
    same = {name: getattr(event, name) for name in ("timestamp", "action", "object_type", "object_id", "object_repr")}
    same["username"] = clean(actor.username, USERNAME_LENGTH)
    same["request_id"] = clean(actor.request_id, REQUEST_ID_LENGTH)
    return [
        Skip(id=new_id(), webhook_id=pk, rule=refusal.rule, detail=refusal.detail, **same)
        for pk, refusal in refusals.items()
    ]
