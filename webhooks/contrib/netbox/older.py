"""What NetBox 4.6 lacks of NetBox 4.7, as far as the plugin uses it. It goes with the support of NetBox 4.6.

NetBox 4.6 also has no actions of plugins for event rules. NetBox itself does not load ``event_rules`` there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["BulkCreateModelMixin", "CountOnly"]

try:
    from netbox.models.deletion import CountOnly
except ImportError:

    class CountOnly:  # type: ignore[no-redef]
        """What the page before a deletion counts as deleted too, without the objects themselves."""

        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

        def __iter__(self) -> Iterator[Any]:
            return iter(())


try:
    from netbox.api.viewsets.mixins import BulkCreateModelMixin
except ImportError:
    from netbox.api.viewsets.mixins import SequentialBulkCreatesMixin

    class BulkCreateModelMixin:  # type: ignore[no-redef]
        """A POST with a list creates all of its objects or none."""

        bulk_create = SequentialBulkCreatesMixin.create
