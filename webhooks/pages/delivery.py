"""What the page of a delivery shows: its state, timeline and lane, and one attempt, also as a command of curl."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.ground import payloads
from webhooks.ground.db.session import index_plans
from webhooks.ground.text.redaction import REDACTED
from webhooks.insight.bodies import sent_bodies
from webhooks.insight.counts import EACH_CAP, capped
from webhooks.insight.wording import number
from webhooks.models import Attempt, BodyKind, Delivery, Event, permissions
from webhooks.models.event import LARGE_FIELDS
from webhooks.models.permissions.redaction import WHO_SEES_ALL, Redaction, explain
from webhooks.models.queue import HEAD_STATES, OPEN_STATES, State
from webhooks.pages.event import Change
from webhooks.pages.links import acts_on

# The timeline shows this many attempts, the newest.
MAX_ATTEMPTS = 50

# To find the delivery before and after, the page reads this many events of the object each way.
NEIGHBOURS = 100

# Characters of an answer next to the remedy.
ANSWER_SHOWN = 300

# The lane names this many deliveries that wait behind.
NAMED_BEHIND = 5

# An attempt that is due in this time is waited for.
IMMINENT = timedelta(seconds=10)

# Until the attempt has ended, the page refreshes itself after so many seconds, at least and at most.
REFRESH_AFTER = 2, 60

# A body with more characters is folded.
LONG_BODY = 5000

# Linux takes no longer argument than 128 KiB.
MAX_ARGUMENT = 100_000

# The command reads a body from this file if it is too long, or if the user may not see it.
BODY_FILE = "body.json"

# curl sets these headers itself.
SET_BY_CURL = {"content-length", "host", "connection", "transfer-encoding"}


class DeliveryPage:
    """A delivery as one user may see it, with the attempt of this number, or else with the last one."""

    who_sees_all: ClassVar = WHO_SEES_ALL

    def __init__(self, delivery: Delivery, user: Any, attempt: int = 0) -> None:
        webhook, event, redacted = delivery.webhook, delivery.event, Redaction(user)
        visible, newest_first = permissions.visible_deliveries(user), delivery.attempts.order_by("-number")
        attempts = list(newest_first.defer("response_body", "packed_response_headers")[: MAX_ATTEMPTS + 1])
        chosen = None
        if attempts:
            asked = newest_first.filter(number=attempt).first() if attempt else None
            chosen = asked or newest_first.first()
        self.delivery = delivery
        self.sees_all = redacted.may_change(webhook.pk)
        """Whether the user sees full URLs, details of errors, headers and answers."""
        self.sees_payload = permissions.may_view_payloads(user, event)
        self.may_see_webhook = permissions.may_view_webhooks(user)
        self.may_see_event = permissions.may(user, "view", event)
        self.acts = acts_on(delivery, user)
        """The buttons."""
        self.change = Change(event, user, payloads.as_sent_to(event, webhook.pk), self.sees_payload)
        self.verdict = verdict_of(delivery, redacted.error(webhook.pk, delivery.reason, delivery.error_kind))
        self.explanation = explain(explained_kind(delivery), webhook.payload_url)
        """The cause and the remedy of the error that the delivery has now."""
        self.answer = _failed_answer(attempts) if self.sees_payload and self.sees_all else ""
        """The beginning of the answer to the last attempt, if that failed."""
        self.refresh_after = refresh_after(delivery)
        """The seconds until the page refreshes itself. None if no worker sends it now or in a few seconds."""
        self.timeline = list(_timeline(delivery, attempts[:MAX_ATTEMPTS], chosen))
        self.has_more_attempts = len(attempts) > MAX_ATTEMPTS
        self.attempt = AttemptShown(delivery, chosen, redacted, self.sees_payload) if chosen else None
        self.payload = _payload(delivery) if self.sees_payload and not chosen else ""
        """The payload before an attempt, as it would be sent or as the body template would get it."""
        self.lane = Lane(delivery, visible, redacted)
        self.previous, self.following = _neighbours(delivery, visible)
        """The deliveries of the events before and after, of the same object to the same webhook."""
        self.url = redacted.url(webhook.pk, webhook.payload_url)
        self.waits_for_webhook = delivery.state in OPEN_STATES and not webhook.is_sendable

    @property
    def payload_use(self) -> str:
        """What becomes of the payload, in a sentence about a delivery without an attempt."""
        match self.delivery.state == State.DISCARDED, bool(self.delivery.webhook.body_template):
            case True, True:
                return _("It was discarded before an attempt. The template would have made the body from this payload:")
            case True, False:
                return _("It was discarded before an attempt. This was not sent:")
            case _, True:
                return _("There was no attempt yet. The template will make the body from this payload:")
        return _("There was no attempt yet. This will be sent:")


def _neighbours(delivery: Delivery, visible: QuerySet[Delivery]) -> list[UUID | None]:
    event = delivery.event
    if not event.object_type:
        return [None, None]
    same = Event.objects.filter(object_type=event.object_type, object_id=event.object_id)
    earlier, later = same.filter(pk__lt=event.pk).order_by("-pk"), same.filter(pk__gt=event.pk).order_by("pk")
    found = list[UUID | None]()
    with index_plans(Event.objects.db):
        for events in (earlier, later):
            keys = list(events.values_list("pk", flat=True)[:NEIGHBOURS])
            rows = visible.filter(event__in=keys, webhook=delivery.webhook_id).order_by().values_list("event_id", "pk")
            found.append(min(rows, key=lambda row: abs(row[0] - event.pk), default=(None, None))[1])
    return found


# State and timeline


@dataclass(frozen=True)
class Verdict:
    """The state in one sentence. Either ``text`` or ``due_at`` says it."""

    text: str = ""
    due_at: datetime | None = None
    """When it is sent again."""
    reason: str = ""
    """Why the last attempt failed."""
    ended_at: datetime | None = None
    note: str = ""


def verdict_of(delivery: Delivery, reason: str) -> Verdict:
    """``reason`` is why the last attempt failed, as far as the user may see it."""
    webhook, ended, count = delivery.webhook, delivery.finished_at, delivery.attempt_count
    match delivery.state:
        case State.FAILED:
            text = ngettext("Failed after %(count)s attempt", "Failed after %(count)s attempts", count)
            warning = _("The receiver has a later state of this object. If you send this, it ends with an old one.")
            note = warning if delivery.superseded else ""
            return Verdict(f"{text % {'count': number(count)}}:", reason=reason, ended_at=ended, note=note)
        case State.SUCCEEDED:
            return Verdict(_("Succeeded at attempt %(count)s.") % {"count": number(count)}, ended_at=ended)
        case State.DISCARDED:
            return Verdict(_("Discarded. It will not be sent."), ended_at=ended)
        case State.SENDING:
            return Verdict(_("A worker is sending it."))
    text, due = "", delivery.next_attempt_at
    if not webhook.enabled:
        text = _("It waits because the webhook is disabled.")
    elif delivery.state == State.WAITING:
        text = _("It waits behind an earlier change of its object.")
    elif webhook.is_paused:
        text = _("It waits because the webhook is paused.")
    elif due is None or due <= timezone.now():
        text = _("It is due now.")
    note = ""
    if lost := delivery.lost_leases:
        note = ngettext(
            "%(count)s worker ended or stalled while sending it. After 3, the attempt counts as failed.",
            "%(count)s workers ended or stalled while sending it. After 3, the attempt counts as failed.",
            lost,
        ) % {"count": lost}
    return Verdict(text, due_at=None if text else due, reason=reason, note=note)


def _failed_answer(attempts: list[Attempt]) -> str:
    """The newest attempt is the first."""
    if not attempts or attempts[0].succeeded:
        return ""
    body = attempts[0].response_body  # deferred until here
    return Truncator(" ".join(body.split())).chars(ANSWER_SHOWN)


def refresh_after(delivery: Delivery) -> int | None:
    """The seconds after which a page of this delivery refreshes itself. None if no worker sends it now or in a few
    seconds."""
    due = delivery.next_attempt_at
    is_due = due is not None and due <= timezone.now() + IMMINENT and delivery.webhook.is_sendable
    if delivery.state != State.SENDING and not is_due:
        return None
    return seconds_to_refresh(delivery.due_at or delivery.created)


def seconds_to_refresh(since: datetime) -> int:
    """The seconds after which a page refreshes itself for work that is due since then. More if that is long ago, as
    without a worker."""
    shortest, longest = REFRESH_AFTER
    return min(max(int((timezone.now() - since).total_seconds()) // 10, shortest), longest)


@dataclass(frozen=True)
class Step:
    """One line of the timeline."""

    word: str
    kind: str
    """The state that has its colour, or "created"."""
    at: datetime | None = None
    number: int | None = None
    """The number of the attempt."""
    is_shown: bool = False
    """Whether the page shows this attempt."""
    by: str = ""
    """Who requested it."""


def _timeline(delivery: Delivery, attempts: list[Attempt], shown: Attempt | None) -> Iterator[Step]:
    """The steps of a delivery, the oldest first: the change, the attempts, and the end or the next attempt."""
    yield Step(_("changed"), "created", delivery.event.timestamp)
    for one in reversed(attempts):
        word, kind = str(one.status or _("no answer")), "succeeded" if one.succeeded else "failed"
        is_shown = shown is not None and one.pk == shown.pk
        yield Step(word, kind, one.started_at, one.number, is_shown, one.requested_by)
    match delivery.state:
        case State.FAILED:
            yield Step(_("given up"), "failed", delivery.finished_at)
        case State.DISCARDED:
            yield Step(_("discarded"), "discarded", delivery.discarded_at)
        case State.PENDING:
            word, at = next_attempt(delivery)
            yield Step(word, "pending", at)
        case State.WAITING:
            yield Step(_("waits for its turn"), "waiting")
        case State.SENDING:
            yield Step(_("being sent"), "sending")


def next_attempt(delivery: Delivery) -> tuple[str, datetime | None]:
    """When a pending delivery is sent: in words, and the time if it is to come. Empty if it is not pending."""
    due = delivery.next_attempt_at
    if due is None:
        return "", None
    if not delivery.webhook.enabled:
        return _("webhook is disabled"), None
    if delivery.webhook.is_paused:
        return _("webhook is paused"), None
    return (_("due now"), None) if due <= timezone.now() else (_("next"), due)


# Who waits behind whom


class Lane:
    """The place of a delivery in its lane. Counts are one more than ``EACH_CAP`` if there are more.

    The number of queries does not depend on the length of the lane.
    """

    def __init__(self, delivery: Delivery, deliveries: QuerySet[Delivery], redacted: Redaction) -> None:
        rows = deliveries.filter(queued__webhook=delivery.webhook_id, queued__lane=delivery.lane)
        rows = rows.select_related("event", "queued").defer(*(f"event__{name}" for name in LARGE_FIELDS))
        heads = rows.filter(queued__state__in=HEAD_STATES, queued__in_lane=True).exclude(pk=delivery.pk)
        waiting, is_waiting = rows.filter(queued__state=State.WAITING), delivery.state == State.WAITING
        ahead = waiting.filter(queued__event_id__lt=delivery.event_id).order_by()
        after = waiting.filter(queued__event_id__gt=delivery.event_id).order_by("queued__event_id")

        self.is_ordered = delivery.lane is not None and delivery.in_lane
        """Without an order, it has no lane."""
        self.is_open = self.is_ordered and delivery.state in OPEN_STATES
        """Whether the delivery has not ended."""
        self.head = head = heads.first() if self.is_ordered else None
        """The delivery that is sent first, if it is another one."""
        self.head_reason = redacted.error(head.webhook_id, head.reason, head.error_kind) if head else ""
        """Why its last attempt failed."""
        between = capped(ahead, EACH_CAP).count() if self.is_open and is_waiting else 0
        self.between, self.place = between, between + (2 if head else 1)
        """How many wait between the head and the delivery."""
        self.behind = list(after[:NAMED_BEHIND]) if self.is_open else []
        """The first ones that wait behind the delivery."""
        self.behind_count = capped(after.order_by(), EACH_CAP).count() if self.is_open else 0
        self.has_more_behind = self.behind_count > len(self.behind)


# One attempt


def _payload(delivery: Delivery) -> str:
    webhook, bodies = delivery.webhook, payloads.Bodies(payloads.as_sent_to(delivery.event, delivery.webhook_id))
    bodies = bodies.adding(webhook.static_data)
    return bodies.body(as_form=webhook.is_form and not webhook.body_template).decode()


class AttemptShown:
    """One attempt as a user may see it: the request as it was sent, and the response."""

    def __init__(self, delivery: Delivery, attempt: Attempt, redacted: Redaction, sees_payload: bool) -> None:
        webhook, sees_all = delivery.webhook, redacted.may_change(delivery.webhook_id)
        body = sent_bodies(delivery, [attempt]).get(attempt.body_sha256) if sees_payload else None
        numbers = delivery.attempts.order_by("number").values_list("number", flat=True)
        url = redacted.url(webhook.pk, attempt.url)
        is_explained = attempt.error_kind == explained_kind(delivery)
        self.attempt, self.url = attempt, url
        self.reason = redacted.error(webhook.pk, attempt.reason, attempt.error_kind)
        self.explanation = None if is_explained else explain(attempt.error_kind, url)
        """None if the page explains this error already."""
        self.request_headers = attempt.request_headers if sees_all else None
        """None if the user may not see them, as the others."""
        self.hides_body = not sees_payload or (attempt.body_kind == BodyKind.TEMPLATE and not sees_all)
        self.body = None if body is None or self.hides_body else body.decode(errors="replace")
        """None if the user may not see it, or if the stored event does not give the same bytes again."""
        self.is_long, self.body_size = len(self.body or "") > LONG_BODY, len(body or b"")
        """The size is in bytes."""
        self.changed = json.loads(payloads.as_sent_to(delivery.event, webhook.pk).changed or "[]")
        """The names of the changed fields."""
        self.response_headers = attempt.response_headers if sees_all else None
        self.response_body = attempt.response_body if sees_all and sees_payload else ""
        self.is_response_long = len(self.response_body) > LONG_BODY
        self.response_size = len(self.response_body.encode())
        self.curl = ""
        if sees_all and attempt.url:
            self.curl = curl(attempt.method, url, attempt.request_headers, self.body)
        self.older, self.newer = (
            numbers.filter(number__lt=attempt.number).last(),
            numbers.filter(number__gt=attempt.number).first(),
        )
        """The numbers of the attempts before and after."""


def explained_kind(delivery: Delivery) -> str:
    """The kind of the error that the page explains. Empty after a success or a discard."""
    return "" if delivery.state in (State.SUCCEEDED, State.DISCARDED) else delivery.error_kind


def curl(method: str, url: str, headers: Mapping[str, Any], body: str | None) -> str:
    """A stored request as a command of curl, for a shell, one option a line. ``body`` is None if it is unknown.

    A redacted value becomes a variable, such as ``${AUTHORIZATION}``: no secret is in the command.
    """
    parts = [f"curl --request {shlex.quote(method)}", f"--url {shlex.quote(url)}"]
    parts += ["--globoff"] if re.search(r"[][{}]", url) else []  # curl would take these for a range of URLs
    sent = {name: str(value) for name, value in headers.items() if name.lower() not in SET_BY_CURL}
    parts += [f"--header {_header(name, value)}" for name, value in sent.items()]
    is_inline = body is not None and len(body.encode()) <= MAX_ARGUMENT
    # Other options would take a body that begins with @ as the name of a file.
    parts.append(f"--data-raw {shlex.quote(body or '')}" if is_inline else f"--data-binary @{BODY_FILE}")
    return " \\\n  ".join(parts)


def _header(name: str, value: str) -> str:
    """A header as one word of the shell. Within double quotes, the shell replaces the variable."""
    before, redacted, after = value.partition(REDACTED)
    if not redacted:
        # curl leaves out a header without a value, unless a semicolon ends it.
        return shlex.quote(f"{name}: {value}" if value else f"{name};")
    variable = re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII).upper()  # no name begins with a digit
    return f'{shlex.quote(f"{name}: {before}")}"${{{variable}}}"{shlex.quote(after) if after else ""}'
