"""``manage.py check`` in NetBox: silent after the installation, and in the words of NetBox's configuration."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django_rq.workers import get_worker_class
from utilities.rqworker import NetBoxRQWorker

from webhooks.contrib.netbox import worker
from webhooks.workers import WebhookWorker


def messages(**given: Any) -> dict[str, Any]:
    """The messages of the app by their ids."""
    return {str(one.id): one for one in run_checks(**given) if str(one.id).startswith("webhooks.")}


@pytest.fixture
def configured(monkeypatch):
    """Set keys in ``PLUGINS_CONFIG``."""

    def configure(**given: Any) -> None:
        for key, value in given.items():
            monkeypatch.setitem(settings.PLUGINS_CONFIG["rq_webhooks"], key, value)

    return configure


def test_a_default_installation_has_nothing_to_correct() -> None:
    assert messages() == {}
    assert messages(include_deployment_checks=True) == {}


@pytest.mark.django_db
def test_a_migrated_database_has_nothing_to_correct_either() -> None:
    assert messages(include_deployment_checks=True, databases=["default"]) == {}


def test_messages_name_the_setting_of_netbox(configured) -> None:
    configured(MODELS=["dcim.nothing"], TIMEOUT=0, QUEUES="default")
    found = messages()
    assert {"webhooks.E002", "webhooks.E003", "webhooks.E007"} == found.keys()
    assert 'PLUGINS_CONFIG["rq_webhooks"]["MODELS"] lists' in found["webhooks.E003"].msg
    assert 'The setting PLUGINS_CONFIG["rq_webhooks"]["TIMEOUT"] must be' in found["webhooks.E007"].msg
    assert found["webhooks.E002"].msg == 'The setting PLUGINS_CONFIG["rq_webhooks"] has unknown keys: QUEUES.'
    assert all(" WEBHOOKS" not in f"{one.msg} {one.hint}" for one in found.values())


def test_an_unknown_queue_is_answered_with_the_queues_of_netbox(configured) -> None:
    configured(QUEUE="webhooks")
    found = messages()
    assert found.keys() == {"webhooks.E001"}
    assert found["webhooks.E001"].hint.startswith("NetBox has the queues high, default, low.")


def test_a_queue_that_netboxs_usual_worker_does_not_serve_is_reported(configured, monkeypatch) -> None:
    monkeypatch.setitem(settings.RQ_QUEUES, "webhooks", settings.RQ_QUEUES["default"])
    configured(QUEUE="webhooks")
    found = messages()
    assert found.keys() == {"webhooks.W016"}
    assert "rqworker high default low webhooks" in found["webhooks.W016"].hint


def test_rqworker_uses_a_class_that_is_both_netboxs_and_ours() -> None:
    found = get_worker_class()
    assert issubclass(found, NetBoxRQWorker)
    assert issubclass(found, WebhookWorker)


def test_a_worker_class_of_the_site_stays_and_the_hint_keeps_netboxs_own_class(monkeypatch) -> None:
    monkeypatch.setitem(settings.RQ, "WORKER_CLASS", "rq.worker.Worker")
    worker.use()
    assert settings.RQ["WORKER_CLASS"] == "rq.worker.Worker"
    found = messages()
    assert found.keys() == {"webhooks.W012"}
    assert "inherits NetBox's own, utilities.rqworker.NetBoxRQWorker" in found["webhooks.W012"].hint
    assert "SILENCED" not in found["webhooks.W012"].hint
