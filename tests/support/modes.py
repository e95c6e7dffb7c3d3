"""The ways to make a change: by itself, in a transaction, in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from webhooks import batch


def autocommit(change: Callable[[], Any]) -> None:
    change()


def in_transaction(change: Callable[[], Any]) -> None:
    with transaction.atomic():
        change()


def in_batch(change: Callable[[], Any]) -> None:
    with batch():
        change()


MODES = pytest.mark.parametrize("mode", [autocommit, in_transaction, in_batch])
