"""What the status page costs the site for a user with permissions for single objects of many models, as in NetBox.

All of these models have Events.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.db import connection, models
from django.test import Client, override_settings
from django.urls import reverse

from scripts.benchmark import sample_data
from scripts.benchmark.measure import Work, median_seconds
from scripts.benchmark.servers import UNREACHABLE, Bench
from scripts.benchmark.targets import Figure, Measurement, Measurements, NotMeasured, Workload, ratio_at_most
from webhooks.models.permissions.restriction import found_restrictions

MODELS, VISIBLE, WEBHOOKS, FAILED = 141, 20, 20, 2000
CONSTRAINED, UNCONSTRAINED = "constrained", "unconstrained"


def measure_rights(bench: Bench) -> Iterator[Measurements]:
    with restricted_models(bench.size(MODELS, 3)) as restricted:
        for model in restricted:
            model._default_manager.bulk_create(model(name="mine") for _ in range(VISIBLE))
        while True:
            bench.clear()
            users = get_user_model()._default_manager
            clients = {name: Client() for name in (CONSTRAINED, UNCONSTRAINED)}
            for name, client in clients.items():
                client.force_login(users.create_user(name, is_staff=True), BACKEND)
            for number in range(bench.size(WEBHOOKS, 2)):
                webhook = bench.webhook(UNREACHABLE, name=f"webhook {number}")
                sample_data.insert_failed(webhook, bench.size(FAILED, 20) // WEBHOOKS + 1, "http_401")
            for model in restricted:
                sample_data.insert_events(1, [], are_dispatched=True, object_type=f"'{model._meta.label_lower}'")
            sample_data.vacuum()
            parts = reverse("webhooks_backend_status_parts")
            works = [partial(_showing, clients[name], parts) for name in (CONSTRAINED, UNCONSTRAINED)]
            found = {}
            for name, clock in (("rights-status", time.process_time), ("rights-status-time", time.perf_counter)):
                constrained, unconstrained = median_seconds(bench.size(15, 1), *works, clock=clock)
                found[name] = Measurement(1000 * constrained, 1000 * unconstrained)
            yield found


@contextmanager
def _showing(client: Client, address: str) -> Iterator[Work]:
    def show() -> None:
        if (response := client.get(address)).status_code != 200:
            raise NotMeasured(f"{address} answers {response.status_code}")

    show()  # warm up
    yield show


@contextmanager
def restricted_models(count: int) -> Iterator[list[type[models.Model]]]:
    """Add models with ``restrict()``, and their tables. Every user has all permissions."""
    made = [_model(number) for number in range(count)]
    with connection.schema_editor() as editor:
        for model in made:
            editor.create_model(model)
    found_restrictions.cache_clear()
    try:
        with override_settings(AUTHENTICATION_BACKENDS=[BACKEND]):
            yield made
    finally:
        with connection.schema_editor() as editor:
            for model in made:
                editor.delete_model(model)
                del apps.all_models[model._meta.app_label][model._meta.model_name or ""]
        apps.clear_cache()
        found_restrictions.cache_clear()


def _model(number: int) -> type[models.Model]:
    options = {"app_label": "dcim", "default_permissions": ("view",)}
    columns = {"name": models.CharField(max_length=50), "objects": Restricted.as_manager()}
    meta = type("Meta", (), options)
    return type(f"Restricted{number}", (models.Model,), {"__module__": __name__, "Meta": meta, **columns})


class Restricted(models.QuerySet[Any]):
    def restrict(self, user: Any, action: str = "view") -> models.QuerySet[Any]:
        """As NetBox's. A permission of one user has a constraint."""
        is_constrained = user.get_username() == CONSTRAINED and self.model._meta.app_label == "dcim"
        wanted = models.Q(name="mine") if is_constrained else models.Q()
        return self.filter(pk__in=self.model._default_manager.filter(wanted))


class HasAllPermissions(ModelBackend):
    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        return True


BACKEND = f"{__name__}.HasAllPermissions"

RIGHTS = Workload(
    "rights",
    (
        Figure(
            "rights-status",
            f"processor time for the refreshed parts of the status page, a user with constraints for {MODELS} models",
            "ms",
            "without constraints",
            ratio_at_most(2),
        ),
        Figure(
            "rights-status-time",
            f"time for the refreshed parts of the status page, a user with constraints for {MODELS} models",
            "ms",
            "without constraints",
            ratio_at_most(2),
        ),
    ),
    measure_rights,
)
