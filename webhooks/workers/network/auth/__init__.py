"""How a webhook authenticates at its receiver: one strategy after the other in ``STRATEGIES``.

A strategy is shaped like ``auth_flow`` of httpx. It yields the request with its credentials. If it goes on after that,
it gets the answer, and may yield the request again, once. A new strategy is a module with a subclass of ``Strategy``,
and a row in ``STRATEGIES``.

All requests of an attempt go to one URL, and share its timeout and its limit of bytes. NTLM authenticates a connection,
so the next request takes the same one, and no other attempt does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import datetime

from webhooks.ground.outcome import Outcome
from webhooks.workers.network.answer import Answer
from webhooks.workers.network.attempt import Refused, Request
from webhooks.workers.network.auth.strategies import (
    Conversation,
    Credentials,
    NotAnswered,
    ProjectCode,
    SecretHeaders,
    Strategy,
)
from webhooks.workers.network.transport import outcome_of, utc_now

__all__ = ["STRATEGIES", "Credentials", "authenticate", "exchange", "waits"]

STRATEGIES: dict[str, Strategy] = {one.name: one for one in (SecretHeaders(), ProjectCode())}
"""By their names, in the order in which they add to a request. The last one that wants to see the answer sees it."""


def waits(credentials: Credentials) -> bool:
    """Whether a strategy of the webhook may wait for something."""
    return any(one.waits and one.applies(credentials) for one in STRATEGIES.values())


def authenticate(request: Request, credentials: Credentials) -> Request:
    """The request with the credentials of all strategies that the webhook uses. Raises Refused if one fails, and what
    ``reveal`` raises."""
    for strategy in STRATEGIES.values():
        if strategy.applies(credentials):
            request = strategy.add(request, credentials)
    return request


def exchange(request: Request, now: Callable[[], datetime] = utc_now) -> Outcome:
    """Send a request in this thread, and let the strategy that wants to see the answer send it again. The Outcome has
    the request of the answer that counts."""
    started_at = now()
    error: BaseException | None
    with closing(Conversation(request)) as conversation:
        try:
            converse = request.converse or (lambda request, conversation: conversation.send(request))
            sent, answer, error = converse(conversation.sent, conversation)
        except (NotAnswered, Refused) as raised:
            sent, answer, error = conversation.sent, Answer(0), raised.__cause__ or raised
    return outcome_of(sent, answer, error, started_at, now, conversation.limits)
