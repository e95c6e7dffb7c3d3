from __future__ import annotations

from datetime import timedelta

from django.db import models, transaction
from django.utils import timezone

from webhooks.sql.dialect import relax


class Sweep(models.Model):
    """When somebody last swept: one row, by which workers agree who sweeps next."""

    swept_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"swept at {self.swept_at}"

    @classmethod
    def last(cls) -> Sweep | None:
        return cls.objects.filter(pk=1).first()

    @classmethod
    def begin(cls, interval: float) -> bool:
        """Whether it is this caller's turn: nobody has swept for ``interval`` seconds."""
        now = timezone.now()
        with transaction.atomic(cls.objects.db):
            relax(cls.objects.db)
            if cls.objects.filter(pk=1, swept_at__lt=now - timedelta(seconds=interval)).update(swept_at=now):
                return True
        return cls.objects.get_or_create(pk=1, defaults={"swept_at": now})[1]
