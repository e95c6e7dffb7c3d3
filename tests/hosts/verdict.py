"""Compare the Events of a transaction with what happened to the rows.

The rules, for each object and transaction:

- It owes an Event if a signalled change reached the app's receivers, or its manager, while the row was there. An edit
  of a relation that changed no member may be an Event or not.
- The action follows from whether the row was there before and after the transaction. If its creation was not signalled,
  "created" and "updated" are both right. There is no Event of a row that was neither there before nor after.
- The columns in its data are those of its last signalled change or later ones of the transaction; in a batch, those at
  the end of the batch or later. A deleted object has the columns of its last save or later; edits of its relations
  between ``pre_delete`` and the deletion do not count.
- The state before is the one before the transaction. If the host changed the row in a way that it does not signal, it
  may be a later one. It may be unknown if something wrote the row before its first signalled change was seen, and if
  the object was deleted meanwhile.
- A webhook gets it if it wants the action and does not ignore the user of at least one signalled change. The Event
  names the user of a change whom no webhook that gets it ignores. A webhook that waits for another value of a key in
  JSON gets an update if the database has another value, and no update that shows the same before and after.

No Event has the mark of a secret in any column, whatever the serializer of the host calls, nests or masks. A webhook
that a user defines gets no Event of an object that this user may not view. A user who may view all may define it.

In autocommit, and if the host commits by hand, there are several Events, of which each fits the ones before.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.hosts.models import MARK
from tests.hosts.programs import VIEWERS, WEBHOOKS
from tests.hosts.truth import EARLY, LABELS, History, Key, Row, Touch
from webhooks.models import Event

ACTIONS = {"c": "created", "u": "updated", "d": "deleted"}


class Wrong(AssertionError):
    """The host or its Events differ from what they must be. A program is shrunk as long as it fails by one subclass."""


class LostEvent(Wrong):
    pass


class InventedEvent(Wrong):
    pass


class WrongAction(Wrong):
    pass


class WrongData(Wrong):
    pass


class WrongBefore(Wrong):
    pass


class UnknownBefore(Wrong):
    pass


class WrongUser(Wrong):
    pass


class WrongWebhooks(Wrong):
    pass


class FailedEvent(Wrong):
    pass


class WrongOrder(Wrong):
    pass


class TwoLanes(Wrong):
    pass


class LoggedError(Wrong):
    pass


class Revealed(Wrong):
    pass


class Refused(Wrong):
    pass


class HostDiffers(Wrong):
    pass


_LOOKUPS: dict[str, Callable[[Row, Any], bool]] = {
    "name__endswith": lambda row, value: row["name"].endswith(value),
    "n__lt": lambda row, value: row["n"] < value,
}


@dataclass(frozen=True)
class Hook:
    """A webhook of the program."""

    pk: int
    name: str
    viewer: str = ""
    """The user who defined it, for desks alone."""

    def wants(self, label: str) -> bool:
        return not self.viewer or label == LABELS["Desk"]

    def may_show(self, row: Row) -> bool:
        """Whether its user may view an object with this row."""
        allowed = VIEWERS[self.viewer]
        return allowed is not None and all(_LOOKUPS[lookup](row, value) for lookup, value in allowed.items())

    @property
    def actions(self) -> set[str]:
        return {ACTIONS[letter] for letter in WEBHOOKS[self.name][0]}

    def ignores(self, user: str) -> bool:
        return user in WEBHOOKS[self.name][1].get("excluded_usernames", ())

    @property
    def is_filtered(self) -> bool:
        return "changed_fields" in WEBHOOKS[self.name][1]


def key_of_event(event: Event) -> Key:
    if event.object_type == LABELS["Seat"]:
        return event.object_type, ",".join(re.findall(r"\d+", event.object_id))
    if event.object_type == LABELS["Gizmo"]:
        return event.object_type, event.object_id.replace("-", "")
    if event.object_type == LABELS["Country"]:  # "Code.A": another lane, which ``Judge`` finds
        return event.object_type, re.sub(r"Code\.([A-E])", lambda found: found[1].lower() * 2, event.object_id)
    return event.object_type, event.object_id


class Judge:
    """Compares transaction by transaction. ``by_transaction``: each object has one Event in it. ``by_hand``: the host
    commits by hand, so a deletion within the deletion of the same object is another Event."""

    def __init__(self, hooks: list[Hook]) -> None:
        self.hooks = hooks
        self._lanes: dict[Key, set[str]] = defaultdict(set)
        self._last_ids: dict[Key, int] = {}

    def judge(self, histories: dict[Key, History], events: list[Event], by_transaction: bool, by_hand: bool) -> None:
        found: dict[Key, list[Event]] = defaultdict(list)
        for event in events:
            # Request bodies, previews and skips are made of these columns alone.
            columns = {one.attname: str(getattr(event, one.attname)) for one in Event._meta.concrete_fields}
            if revealed := {name: value for name, value in columns.items() if MARK in value}:
                raise Revealed(f"{event.object_type} {event.action}: {revealed}")
            if event.error:
                raise FailedEvent(f"{event.object_type} {event.object_id}: {event.error[-600:]}")
            key = key_of_event(event)
            found[key].append(event)
            self._lanes[key].add(event.object_id)
            if len(self._lanes[key]) > 1:
                raise TwoLanes(f"{key}: {self._lanes[key]}")
            if event.pk <= self._last_ids.get(key, 0):
                raise WrongOrder(f"{key}: {event.pk} after {self._last_ids[key]}")
        for key, several in found.items():
            self._last_ids[key] = several[-1].pk
        for key in dict.fromkeys([*histories, *found]):
            history = histories.get(key)
            if history is None:
                raise InventedEvent(f"{key} {_described(found[key])}, but nothing happened to it")
            one = _Object(key, history, found[key], self.hooks)
            one.check_viewers()
            one.in_transaction() if by_transaction else one.one_by_one(by_hand)


def _described(events: list[Event]) -> str:
    return ", ".join(f"{event.action} by {event.username!r} {event.data}" for event in events) or "no Event"


class _Object:
    def __init__(self, key: Key, history: History, events: list[Event], hooks: list[Hook]) -> None:
        self.key, self.history, self.events = key, history, events
        self.hooks = [hook for hook in hooks if hook.wants(key[0])]
        self.touches = [one for one in history.touches if self._is_there(one) and not self._came_through(one)]
        self.musts = [one for one in self.touches if one.kind not in ("may", *EARLY)]
        self.existed, self.exists = history.before is not None, history.after is not None
        was_signalled = any(one.kind in ("created", "early created", "bulk") for one in history.touches)
        self.is_quietly_new = not self.existed and not was_signalled
        self.where = f"{key}: {_described(events)}; {self._story()}"

    def _story(self) -> str:
        steps: list[tuple[int, str]] = [(seq, str(row)) for seq, row, _ in self.history.versions]
        steps += [(one.seq, f"{one.kind} by {one.who!r}") for one in self.history.touches]
        return "; ".join(text for _, text in sorted(steps, key=lambda step: step[0]))

    def _is_there(self, touch: Touch) -> bool:
        """A deletion or a save of a row that is not there changes nothing."""
        return self.history.at(touch.seq) is not None

    def _came_through(self, touch: Touch) -> bool:
        """Whether it is the beginning of a save that reached the app's place, too."""
        later = [one for one in self.history.touches if one.seq > touch.seq and one.kind in ("created", "saved")]
        return touch.kind in EARLY and bool(later)

    def check_viewers(self) -> None:
        """A user may get an Event if the object had a row that this user may view, at any time of the transaction."""
        rows = [row for _, row, _ in self.history.versions if row is not None]
        for hook in self.hooks:
            gets = any(hook.pk in event.webhook_ids for event in self.events)
            if hook.viewer and gets and not any(map(hook.may_show, rows)):
                raise Revealed(f"{hook.viewer} gets {self.where}")

    # One Event for a transaction

    def in_transaction(self) -> None:
        wanted = self._actions()
        if len(self.events) > 1:
            raise InventedEvent(f"several Events in one transaction: {self.where}")
        event = self.events[0] if self.events else None
        for hook in self.hooks:
            gets = event is not None and hook.pk in event.webhook_ids
            users = [one.who for one in self.musts if not hook.ignores(one.who)]
            owed = bool(users) and bool(wanted) and wanted <= hook.actions and (self.existed or self.exists)
            owed = owed and self._passes(hook)
            may = any(not hook.ignores(one.who) for one in self.touches) and bool(wanted & hook.actions)
            if gets and not (owed or may):
                kind = WrongWebhooks if wanted and self.touches else InventedEvent
                raise kind(f"{hook.name} must not get {self.where}")
            if owed and not gets:
                kind = WrongAction if event and event.action not in wanted else WrongWebhooks if event else LostEvent
                raise kind(f"{hook.name} must get {wanted}: {self.where}")
        if event is not None:
            if event.action not in wanted:
                raise WrongAction(f"must be {wanted}: {self.where}")
            self._check_filters(event)
            self._check_user(event)
            self._check_states(event, is_last=True, in_transaction=True)

    def _actions(self) -> set[str]:
        """The right actions; several if the app cannot know better."""
        if not self.exists:
            if self.is_quietly_new:
                return {"deleted"} if any(one.kind == "deleting" for one in self.musts) else set()
            return {"deleted"} if self.existed else set()
        if self.existed:
            return {"updated"}
        return {"created", "updated"} if self.is_quietly_new else {"created"}

    # Filters

    def _flags(self) -> list[str]:
        """The values of the key that "flags" waits for, as JSON, in all versions."""
        return [json.dumps(row["custom"]["flag"]) for _, row, _ in self.history.versions if row and "custom" in row]

    def _passes(self, hook: Hook) -> bool:
        """Whether an update surely passes the filters of a webhook: from the first change on, the value is another."""
        before, *later = self._flags() or [""]
        return not hook.is_filtered or (before not in later and bool(later) and not self._is_quiet())

    def _check_filters(self, event: Event) -> None:
        is_known = json.loads(event.snapshots)["prechange"] is not None
        for hook in self.hooks:
            if hook.is_filtered and hook.pk in event.webhook_ids and is_known and len(set(self._flags())) < 2:
                raise WrongWebhooks(f"{hook.name} waits for another change than {self.where}")

    def _is_quiet(self) -> bool:
        """Whether the host wrote the row in a way that it does not signal."""
        return self.history.is_raw or any(quiet for _, _, quiet in self.history.versions) or self.is_quietly_new

    def _check_user(self, event: Event) -> None:
        getting = [hook for hook in self.hooks if hook.pk in event.webhook_ids]
        if event.username not in {one.who for one in self.touches}:
            raise WrongUser(f"{event.username!r} changed nothing: {self.where}")
        if any(hook.ignores(event.username) for hook in getting):
            raise WrongUser(f"a webhook ignores {event.username!r}: {self.where}")

    # Columns

    def _check_states(self, event: Event, is_last: bool, in_transaction: bool) -> None:
        data, snapshots = json.loads(event.data), json.loads(event.snapshots)
        allowed = self._allowed(event, in_transaction) if is_last else [row for _, row, _ in self.history.versions]
        rows = [row for row in allowed if row is not None]
        if not any(_shows(data, row) for row in rows):
            raise WrongData(f"{event.action} has {data}, not one of {rows}: {self.where}")
        side = snapshots["prechange" if event.action == "deleted" else "postchange"]
        if not any(_shows(side, row) for row in rows):
            raise WrongData(f"the snapshot of {event.action} has {side}, not one of {rows}: {self.where}")
        if event.action == "updated" and any(hook.name == "before" for hook in self.hooks):
            self._check_before(event, snapshots["prechange"], in_transaction)
        if event.action == "created" and snapshots["prechange"] is not None:
            raise WrongBefore(f"{event.action} has a state before, {snapshots['prechange']}: {self.where}")

    def _allowed(self, event: Event, in_transaction: bool) -> list[Row | None]:
        history, touches = self.history, self.touches
        if event.action == "deleted":
            removed = [seq for seq, row, _ in history.versions[1:] if row is None][-1:]
            if not removed:
                return []
            began = [one.seq for one in touches if one.kind == "deleting" and one.seq < removed[0]]
            ignored = began[0] if began else removed[0]
            counted = [
                one for one in touches
                if one.seq < removed[0] and (one.kind not in ("members", "may") or one.seq < ignored)
            ]  # fmt: skip
            since = counted[-1].seq if counted else 0
            return [history.at(since), *(row for seq, row, _ in history.versions if since < seq < removed[0])]
        since = touches[-1].data_from if touches else 0
        since = min([since, *(one.data_from for one in self.musts[-1:])])
        if not in_transaction and self.musts and self.musts[-1].kind in ("created", "saved"):
            # Receivers may change the row before the app's, but the save is committed already.
            since = min([since, *[one.seq for one in history.touches if one.kind in EARLY][-1:]])
        return [history.at(since), *(row for seq, row, _ in history.versions if seq > since)]

    def _check_before(self, event: Event, before: Row | None, in_transaction: bool) -> None:
        versions = self.history.versions
        first = self.touches[0].seq
        is_quiet = self._is_quiet()
        if before is None:
            columns = [_columns(row) for seq, row, _ in versions if seq <= first]
            written_before = sum(1 for one, other in pairwise(columns) if one != other)
            was_deleted = any(row is None for _, row, _ in versions)
            if in_transaction and not is_quiet and not was_deleted and written_before <= 1:
                raise UnknownBefore(f"the state before is unknown: {self.where}")
            return
        allowed = [row for _, row, _ in versions] if is_quiet or not in_transaction else [versions[0][1]]
        if not any(row is not None and _shows(before, _columns(row) or {}) for row in allowed):
            raise WrongBefore(f"{before}, not one of {allowed}: {self.where}")

    # Several Events

    def one_by_one(self, by_hand: bool) -> None:
        if len(self.events) > len(self.history.touches):
            raise InventedEvent(f"more Events than changes: {self.where}")
        # The last change has an Event if a webhook wants each change by every user.
        has_last = any(
            len(hook.actions) == 3 and not any(hook.ignores(one.who) for one in self.touches) for hook in self.hooks
        )
        # Unless a batch created the object and deleted it again.
        rows = [row for _, row, _ in self.history.versions]
        removals = sum(before is not None and after is None for before, after in pairwise(rows))
        has_last = has_last and removals <= sum(event.action == "deleted" for event in self.events)
        for number, event in enumerate(self.events, 1):
            self._check_user(event)
            self._check_filters(event)
            self._check_states(event, is_last=has_last and number == len(self.events), in_transaction=False)
        for hook in self.hooks:
            self._check_chain(hook, by_hand)

    def _check_chain(self, hook: Hook, by_hand: bool) -> None:
        got = [str(event.action) for event in self.events if hook.pk in event.webhook_ids]
        if set(got) - hook.actions:
            raise WrongWebhooks(f"{hook.name} must not get {self.where}")
        if any(hook.ignores(one.who) for one in self.touches) or not self.musts or self.is_quietly_new:
            return
        if len(hook.actions) == 1:
            [action] = hook.actions
            sure = {"created": not self.existed and self.exists, "deleted": self.existed and not self.exists}
            was_updated = self.existed and self.exists and self._was_only_updated() and self._passes(hook)
            if not got and sure.get(action, was_updated):
                raise LostEvent(f"{hook.name} must get {action}: {self.where}")
            return
        is_there = self.existed
        for action in got:
            if by_hand and action == "deleted" and self._deletions() > 1:
                is_there = True
            if (action == "created") == is_there:
                raise WrongAction(f"{action} does not follow in {got}: {self.where}")
            is_there = action != "deleted"
        if not got and (self.existed or self.exists):
            raise LostEvent(f"{hook.name} gets nothing: {self.where}")
        if is_there != self.exists:
            raise WrongAction(f"{got} ends as if the row were {'there' if is_there else 'gone'}: {self.where}")

    def _deletions(self) -> int:
        return sum(one.kind == "deleting" for one in self.touches)

    def _was_only_updated(self) -> bool:
        return all(row is not None for _, row, _ in self.history.versions)


def _columns(row: Row | None) -> Row | None:
    """Without the relation: the state before has the members of today, if the host did not edit them."""
    return {name: value for name, value in row.items() if not isinstance(value, list)} if row else row


def _shows(shown: Any, row: Row) -> bool:
    """Whether data or a snapshot have the columns of this row."""
    return shown is not None and all(
        _text(shown[name]) == _text(value)
        for column, value in row.items()
        for name in (column, column.removesuffix("_id"))
        if name in shown and MARK not in str(value) and not str(shown[name]).startswith("****")
    )


def _text(value: Any) -> str:
    text = str(sorted(value) if isinstance(value, list) else value)
    return text.replace("-", "") if len(text) == 36 else text
