"""NetBox knows the app as a plugin."""

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.urls import reverse

from webhooks.ground.conf import conf
from webhooks.ground.registry import registered_models


def test_checks_find_nothing_to_correct() -> None:
    call_command("check", fail_level="ERROR")


def test_settings_come_from_plugins_config() -> None:
    assert conf.enabled
    assert settings.WEBHOOKS is settings.PLUGINS_CONFIG["rq_webhooks"]


def test_every_model_with_a_serializer_may_have_webhooks() -> None:
    assert {"dcim.site", "ipam.ipaddress", "extras.tag"} <= registered_models().keys()


@pytest.mark.django_db
def test_the_list_of_plugins_names_it(admin_client) -> None:
    answer = admin_client.get(reverse("plugins-api:plugins-list"), headers={"accept": "application/json"})
    assert apps.get_app_config("rq_webhooks").version in answer.text
