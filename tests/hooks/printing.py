"""Hooks for other processes: they print what they get."""

from __future__ import annotations

import threading

from webhooks.hooks import FinishedAttempt, Hooks, RecordedEvent


class Printing(Hooks):
    def event_recorded(self, event: RecordedEvent) -> None:
        print("recorded", event.object_name, flush=True)

    def attempt_finished(self, attempt: FinishedAttempt) -> None:
        print("attempt", attempt.number, flush=True)


class Hanging(Hooks):
    def attempt_finished(self, attempt: FinishedAttempt) -> None:
        print("hangs in attempt", attempt.number, flush=True)
        threading.Event().wait(600)
