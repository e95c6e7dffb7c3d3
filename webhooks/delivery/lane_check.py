"""The check of the sweep that each lane has a head."""

from __future__ import annotations

from webhooks.delivery.clock import elapsed
from webhooks.models import QueuedDelivery, Webhook, lanes
from webhooks.models.lanes import Place
from webhooks.models.sweep import SMALLEST_LANE, headless_lanes

# Lanes that one check looks at.
LANES = 1000

# Seconds that a check may take. A worker delivers nothing meanwhile.
SECONDS = 0.05


class LaneCheck:
    """Gives a head to lanes that have none, because code deleted its row. Each check goes on after the last.

    While another session keeps an old snapshot, each lane has a dead entry for each delivery since. So a check looks at
    as many lanes as it probably can in ``SECONDS``.
    """

    def __init__(self) -> None:
        self._after = (0, 0)
        """The webhook and the lane that were looked at last."""
        self._most = LANES

    def check(self) -> int:
        began = elapsed()
        promoted, count = self._check(self._most)
        if count:
            fitting = count * SECONDS / max(elapsed() - began, 0.001)
            self._most = min(LANES, max(1, int(fitting)))
        return promoted

    def _check(self, most: int) -> tuple[int, int]:
        """Returns how many lanes got a head, and how many it looked at."""
        using, left, promoted = QueuedDelivery.objects.db, most, 0
        webhook_id, lane = self._after
        for pk in Webhook.with_deleted.filter(pk__gte=webhook_id).order_by("pk").values_list("pk", flat=True):
            first = lane + 1 if pk == webhook_id else SMALLEST_LANE
            seen, headless = headless_lanes(using, pk, first, left)
            lanes.lock(using, headless)
            promoted += lanes.repair(using, [Place(pk, one, 0) for one in headless])
            left -= len(seen)
            if left <= 0:
                self._after = (pk, seen[-1])
                break
        else:
            self._after = (0, 0)
        return promoted, most - left
