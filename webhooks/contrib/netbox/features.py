"""What NetBox expects of its models, for the models of this app, which have none of NetBox's mixins.

NetBox asks of a model

- for ``get_absolute_url()``, wherever it links to an object;
- for its features, by a test of the class for each: NetBox's mixins. The tests below also know models of this app;
- for the relations that the mixins add. A deleted webhook takes its journal and its bookmarks with it.

Export templates and custom links are left out: their authors would see URLs and headers that only users with permission
to change the webhook may see.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from django.contrib.contenttypes.fields import GenericRelation
from django.db.models import Model
from netbox.registry import registry
from utilities.views import get_action_url

from webhooks.models import Delivery, Event, Run, Webhook

Test = Callable[[type[Model]], bool]

WITH_PAGES: tuple[Any, ...] = (Webhook, Delivery, Event, Run)

FEATURES: dict[str, Collection[type[Model]]] = {
    "bookmarks": (Webhook,),
    "change_logging": (Webhook,),
    "journaling": (Webhook,),
}


def install() -> None:
    """Call it once, before NetBox registers the models."""
    for model in WITH_PAGES:
        model.get_absolute_url = _absolute_url
    for name, models in FEATURES.items():
        registry["model_features"][name] = _or_one_of(models, registry["model_features"][name])
    for name, relation in _relations().items():
        relation.contribute_to_class(Webhook, name)


def _absolute_url(row: Any) -> str:
    return str(get_action_url(row, kwargs={"pk": row.pk}))


def _or_one_of(models: Collection[type[Model]], test: Test) -> Test:
    return lambda model: model in models or test(model)


def _relations() -> dict[str, GenericRelation]:
    """As ``JournalingMixin`` and ``BookmarksMixin`` declare them."""
    return {
        "journal_entries": GenericRelation("extras.JournalEntry", "assigned_object_id", "assigned_object_type"),
        "bookmarks": GenericRelation("extras.Bookmark", "object_id", "object_type"),
    }
