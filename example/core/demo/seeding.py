from typing import Any, TypeVar

from django.db import models

from core.models import Tag

M = TypeVar("M", bound=models.Model)


class Seeder:
    """Finds objects by their identity and creates the missing ones."""

    def __init__(self) -> None:
        self.created = 0

    def get(self, model: type[M], tags: tuple[str, ...] = (), defaults: Any = None, **identity: Any) -> M:
        """Find an object by `identity`. Only a new object gets `defaults` and `tags` (slugs)."""
        instance, created = model._default_manager.get_or_create(**identity, defaults=defaults or {})
        if created:
            self.created += 1
            if tags:
                instance.tags.add(*Tag.objects.filter(slug__in=tags))
        return instance
