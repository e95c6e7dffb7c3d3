"""Receivers of the host, connected before the app's as in a module of models, or after them as in another app."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import models
from django.db.models.signals import ModelSignal, post_delete, post_save, pre_delete, pre_save

from webhooks.capture.signals import _watch_class

OURS = {
    pre_save: ("on_saving",),
    post_save: ("on_saved", "after_saved"),
    pre_delete: ("on_deleting",),
    post_delete: ("on_deleted",),
}

Receiver = Callable[..., None]


@contextmanager
def host_receiver(
    signal: ModelSignal, sender: type[models.Model], receiver: Receiver, before: bool = True
) -> Iterator[None]:
    """Connect a receiver of the host for this block. ``before``: the app connects its own after it, as in ``ready()``
    for a receiver in a module of models."""
    if before:
        _disconnect_ours(sender)
    signal.connect(receiver, sender=sender)
    if before:
        _watch_class(sender)
    try:
        yield
    finally:
        assert signal.disconnect(receiver, sender=sender)


def _disconnect_ours(sender: Any) -> None:
    for signal, names in OURS.items():
        for name in names:
            assert signal.disconnect(sender=sender, dispatch_uid=f"webhooks.{name}")
