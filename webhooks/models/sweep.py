from __future__ import annotations

from django.db import models, transaction
from django.db.models import Q

from webhooks.db import DatabaseNow, async_commit
from webhooks.models.querysets import AtHome


class Sweep(models.Model):
    """When somebody last swept: one row, by which workers agree who sweeps next."""

    swept_at = models.DateTimeField()

    objects = AtHome()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"swept at {self.swept_at}"

    @classmethod
    def begin(cls, interval: float) -> bool:
        """Whether it is this caller's turn: nobody has swept for ``interval`` seconds. A time that is further ahead
        than that is nobody's: the clock was set back since."""
        long_ago, ahead = Q(swept_at__lt=DatabaseNow(-interval)), Q(swept_at__gt=DatabaseNow(interval))
        with transaction.atomic(cls.objects.db):
            async_commit(cls.objects.db)
            if cls.objects.filter(long_ago | ahead, pk=1).update(swept_at=DatabaseNow()):
                return True
        return cls.objects.get_or_create(pk=1, defaults={"swept_at": DatabaseNow()})[1]
