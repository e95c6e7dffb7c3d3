"""Which fields are left out of the data, and what reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rest_framework import serializers

from dcim.models import Site
from webhooks.ground.registry.registration import Registration
from webhooks.management.left_out import left_out, read_by_conditions, read_by_template

pytestmark = pytest.mark.django_db

PATHS = [("auth_key",), ("custom_fields", "api_key"), ("config", "vpn", "psk")]
KEY, FIELD, PSK = PATHS


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("plain text with auth_key and data", []),
        ('{"data": {"name": {{ data.name | tojson }}, "event": "{{ event }}"}}', []),
        ("{{ data['name'] }}{{ data.custom_fields.cost }}{{ data.custom_fields['cost'] }}", []),
        ("{{ data.auth_keys }}{{ data.my_auth_key }}", []),
        ("{{ data.auth_key }}", [KEY]),
        ("{% if data['auth_key'] %}x{% endif %}", [KEY]),
        ("{{ snapshots.prechange.get('auth_key') }}", PATHS),
        ("{{ data.config.vpn.psk }}", [PSK]),
        ("{{ data.config.vpn | tojson }}", [PSK]),
        ("{{ data.config | tojson }}", [PSK]),
        ("{{ data.custom_fields.items() }}", [FIELD]),
        ("{{ data | tojson }}", PATHS),
        ("{% for key in data %}{{ data[key] }}{% endfor %}", PATHS),
        ("{{ data['auth' ~ '_key'] }}", PATHS),
        ("{% set all = data %}", PATHS),
        ("{{ snapshots.postchange | tojson }}", PATHS),
    ],
)
def test_a_template_that_may_read_a_field_is_found(source: str, read: list[Any]) -> None:
    assert read_by_template(PATHS, source) == read


@pytest.mark.parametrize(
    ("conditions", "read"),
    [
        (None, []),
        ({"attr": "name", "value": "auth_key"}, []),
        ({"attr": "custom_fields.cost", "value": 1}, []),
        ({"and": [{"attr": "name", "value": 1}, {"or": [{"attr": "custom_fields.api_key", "value": 1}]}]}, [FIELD]),
        ({"attr": "config.vpn", "op": "contains", "value": "x"}, [PSK]),
        ({"attr": "snapshots.prechange.auth_key", "value": "x"}, [KEY]),
        ({"attr": "snapshots.prechange", "value": {}}, PATHS),
    ],
)
def test_conditions_that_judge_a_field_are_found(conditions: Any, read: list[Any]) -> None:
    assert read_by_conditions(PATHS, conditions) == read


class SiteSerializer(serializers.ModelSerializer[Site]):
    password = serializers.CharField(source="name")
    code = serializers.CharField(write_only=True)
    passcode = serializers.CharField(write_only=True)
    profile = serializers.SerializerMethodField()

    class Meta:
        model = Site
        fields = ("id", "name", "password", "code", "passcode", "profile", "tenant", "comments", "custom_field_data")

    def get_profile(self, site: Site) -> None:
        return None


def test_the_fields_that_are_left_out_of_a_model_are_found() -> None:
    Site.objects.create(name="Delft", slug="delft", custom_field_data={"snmp": [{"token": 1}], "tokens": 2, "a": 3})
    registration = Registration(Site, SiteSerializer, exclude=frozenset({"comments"}))
    expected = [("comments",), ("custom_field_data", "snmp", "token"), ("custom_field_data", "tokens"), ("password",)]
    assert left_out(registration) == expected
    included = replace(registration, include_sensitive=frozenset({"password", "token", "tokens"}))
    assert left_out(included) == [("comments",)]
