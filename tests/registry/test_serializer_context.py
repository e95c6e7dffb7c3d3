"""Serializers of every kind, and the request in their context."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import Client
from rest_framework import serializers, versioning
from rest_framework.reverse import reverse
from rest_framework.settings import api_settings

import webhooks
from core.api.fields import related_count
from dcim.models import Rack, Site
from tenancy.models import Tenant
from tests.support.makers import events, last_data, make_webhook
from webhooks.ground.conf import conf
from webhooks.ground.registry.registration import serializer_context

BASE = "https://netbox.example.org"

pytestmark = [pytest.mark.one_database, pytest.mark.usefixtures("own_registrations")]


def sent(serializer: type[serializers.BaseSerializer], **options: Any) -> Any:
    """A new site, and its data from this serializer."""
    webhooks.register(Site, serializer=serializer, **options)
    make_webhook(Site)
    site = Site.objects.create(name="Berlin", slug="berlin", tenant=Tenant.objects.create(name="IT", slug="it"))
    [event] = events()
    assert not event.error, event.error
    return site, json.loads(event.data)


class Hyperlinked(serializers.HyperlinkedModelSerializer):
    class Meta:
        model = Site
        fields = ("url", "name", "tenant")
        extra_kwargs = {
            "url": {"view_name": "dcim-api:site-detail"},
            "tenant": {"view_name": "tenancy-api:tenant-detail"},
        }


class Nested(serializers.ModelSerializer):
    """Writes its tenant as well."""

    class TenantSerializer(serializers.ModelSerializer):
        class Meta:
            model = Tenant
            fields = ("id", "name", "slug")

    tenant = TenantSerializer()

    class Meta:
        model = Site
        fields = ("id", "name", "tenant")

    def create(self, validated_data: Any) -> Site:
        return Site.objects.create(**validated_data | {"tenant": Tenant.objects.create(**validated_data["tenant"])})


class Plain(serializers.Serializer):
    """Of no model."""

    title = serializers.CharField(source="name")
    page = serializers.SerializerMethodField()

    def get_page(self, site: Site) -> str:
        return self.context["request"].build_absolute_uri(f"/sites/{site.slug}")


class Text(serializers.BaseSerializer):
    def to_representation(self, instance: Site) -> str:
        return f"{instance.name} is {instance.status}"


class Listed(serializers.BaseSerializer):
    """Has a plain list as ``fields``, unlike the serializers of REST framework."""

    fields = ("name", "status")

    def to_representation(self, instance: Site) -> dict[str, Any]:
        return {name: getattr(instance, name) for name in self.fields}


class Written(serializers.Serializer):
    """Declares no fields."""

    def to_representation(self, instance: Site) -> dict[str, Any]:
        return {"name": instance.name, "status": instance.status}


class Numbered(serializers.BaseSerializer):
    def to_representation(self, instance: Site) -> dict[Any, Any]:
        return {1: instance.name, "ports": {2: "up"}, "token": "t0ken"}


class Counted(serializers.ModelSerializer):
    rack_count = serializers.IntegerField(read_only=True)

    class Meta:
        model = Site
        fields = ("name", "rack_count")


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("base", ["", BASE, f"{BASE}/", "http://10.0.0.1:8000"])
def test_hyperlinks_are_absolute_with_base_url_and_paths_without(base: str, webhooks_settings: Any) -> None:
    webhooks_settings(BASE_URL=base)
    site, data = sent(Hyperlinked)
    root = base.rstrip("/")
    assert data == {
        "url": f"{root}/api/dcim/sites/{site.pk}/",
        "name": "Berlin",
        "tenant": f"{root}/api/tenancy/tenants/{site.tenant_id}/",
    }


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("base", ["", BASE])
def test_the_urls_of_nested_objects_use_base_url(base: str, webhooks_settings: Any) -> None:
    webhooks_settings(BASE_URL=base)
    make_webhook(Site)
    tenant = Tenant.objects.create(name="IT", slug="it")
    site = Site.objects.create(name="Berlin", slug="berlin", tenant=tenant)
    assert last_data()["url"] == f"{base}/api/dcim/sites/{site.pk}/"
    assert last_data()["display_url"] == f"{base}/admin/dcim/site/{site.pk}/change/"
    assert last_data()["tenant"]["url"] == f"{base}/api/tenancy/tenants/{tenant.pk}/"


@pytest.mark.usefixtures("database")
def test_a_nested_writable_serializer_is_sent_nested() -> None:
    site, data = sent(Nested)
    assert data == {"id": site.pk, "name": "Berlin", "tenant": {"id": site.tenant_id, "name": "IT", "slug": "it"}}
    writing = Nested(data={"name": "Oslo", "tenant": {"name": "HR", "slug": "hr"}})
    writing.is_valid(raise_exception=True)
    writing.save()
    assert last_data()["tenant"]["name"] == "HR"


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("base", ["", BASE])
def test_a_serializer_without_a_model_can_build_urls(base: str, webhooks_settings: Any) -> None:
    webhooks_settings(BASE_URL=base)
    _, data = sent(Plain)
    assert data == {"title": "Berlin", "page": f"{base}/sites/berlin"}


@pytest.mark.usefixtures("database")
def test_data_that_are_no_object_have_no_snapshots() -> None:
    _, data = sent(Text)
    assert data == "Berlin is active"
    assert json.loads(events()[0].snapshots)["postchange"] == {}


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("serializer", [Listed, Written])
def test_a_free_serializer_is_compared_by_its_output(serializer: type[Any]) -> None:
    site, data = sent(serializer)
    assert data == {"name": "Berlin", "status": "active"}
    webhook = make_webhook(Site, changed_fields=["status"])
    webhook.full_clean()
    site.status = "retired"
    site.save()
    assert json.loads(events()[-1].changed) == ["status"]


@pytest.mark.usefixtures("database")
def test_numeric_keys_are_sent_as_text() -> None:
    _, data = sent(Numbered)
    assert data == {"1": "Berlin", "ports": {"2": "up"}}


@pytest.mark.usefixtures("database")
def test_annotated_counts_are_current() -> None:
    webhooks.register(
        Site, serializer=Counted, queryset=lambda: Site.objects.annotate(rack_count=related_count(Site, "racks"))
    )
    make_webhook(Site)
    site = Site.objects.create(name="Berlin", slug="berlin")
    Rack.objects.bulk_create([Rack(name=f"R{number}", site=site) for number in range(3)])
    site.save()
    assert [json.loads(event.data)["rack_count"] for event in events()] == [0, 3]


class Curious(serializers.Serializer):
    """Shows everything that it finds in the request."""

    def to_representation(self, instance: Any) -> dict[str, Any]:
        request = self.context["request"]
        return {
            "user": [request.user.is_authenticated, request.user.username, request._request.user.is_authenticated],
            "auth": request.auth,
            "cookies": dict(request.COOKIES),
            "headers": dict(request.headers),
            "meta": dict(request.META),
            "session": hasattr(request, "session"),
            "query": [dict(request.query_params), dict(request.GET)],
            "data": dict(request.data),
            "secure": request.is_secure(),
            "host": request.get_host(),
            "here": request.build_absolute_uri(),
        }


@pytest.mark.usefixtures("database")
def test_the_context_has_nothing_of_the_users_request(admin_user: Any, webhooks_settings: Any) -> None:
    webhooks_settings(BASE_URL=BASE)
    webhooks.register(Site, serializer=Curious)
    make_webhook(Site)
    client = Client(headers={"authorization": "Token s3cret"})
    client.force_login(admin_user)
    answer = client.post("/admin/dcim/site/add/?a=b", {"name": "Berlin", "slug": "berlin", "status": "active",
                                                       "custom_field_data": "{}"})  # fmt: skip
    assert answer.status_code == 302
    assert events()[0].username == admin_user.email, "the Event itself has the user"
    assert last_data() == {
        "user": [False, "", False], "auth": None, "cookies": {}, "headers": {}, "meta": {}, "session": False,
        "query": [{}, {}], "data": {}, "secure": True, "host": "netbox.example.org", "here": f"{BASE}/",
    }  # fmt: skip


class ByQuery(versioning.QueryParameterVersioning):
    default_version = "2.0"


def test_urls_have_the_sites_api_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_settings, "DEFAULT_VERSIONING_CLASS", ByQuery)
    monkeypatch.setattr(api_settings, "DEFAULT_VERSION", "2.0")
    request = serializer_context()["request"]
    assert reverse("api-root", request=request) == "/api/?version=2.0"


@pytest.mark.one_database
@pytest.mark.usefixtures("database")  # Django 6.1 asks it whether it has JSON
@pytest.mark.parametrize(
    "value",
    [
        "netbox.example.org", "ftp://netbox.example.org", "https://", "https://netbox.example.org/netbox",
        "https://user:s3cret@netbox.example.org", "https://netbox.example.org?a=b", "https://a b", "https://[::1", None,
        "https://a:0", 5,
    ],
)  # fmt: skip
def test_an_invalid_base_url_is_refused_and_paths_are_sent(value: Any, webhooks_settings: Any) -> None:
    webhooks_settings(BASE_URL=value)
    assert [key for key, _ in conf.invalid_values()] == ["BASE_URL"]
    assert serializer_context()["request"].build_absolute_uri("/a/") == "/a/"
    with pytest.raises(SystemCheckError, match="BASE_URL"):
        call_command("check")
