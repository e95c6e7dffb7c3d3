"""The inventory of the example has what hosts have: receivers of signals, masked fields, a versioned API. A user who
changes it gets exactly the right Events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, models, transaction
from django.urls import reverse
from rest_framework.test import APIClient

from circuits.models import Provider
from dcim.models import Cable, Device, Interface, RackGroup, Site
from ipam.models import VLAN, IPAddress, VLANGroup
from tests.support.makers import actions, changed, events, last_data, make_webhook, recorded, sides
from tests.support.users import api_client
from users.models import User
from virtualization.models import Cluster
from webhooks import batch

pytestmark = pytest.mark.usefixtures("database")

# A user deletes an object, and has the Events by then.
Delete = Callable[[models.Model], None]


@pytest.fixture
def api(database: str) -> APIClient:
    """The REST API as a superuser, with real commits."""
    return api_client(User.objects.create_superuser("alice@example.org"))


@pytest.fixture
def site() -> Site:
    return Site.objects.create(name="AMS1", slug="ams1")


@pytest.fixture
def router(site: Site) -> Device:
    """A router with an interface. Its primary address is there."""
    made = Device.objects.create(name="ams1-rt-01", device_type="Juniper MX204", role="router", site=site)
    interface = Interface.objects.create(device=made, name="et-0/0/0", type="100gbase-x-qsfp28")
    made.primary_ip4 = IPAddress.objects.create(address="192.0.2.1/24", assigned_object=interface)
    made.save()
    return made


@pytest.fixture
def batched(webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Set ``BATCH_REQUESTS``."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    return lambda is_on: webhooks_settings(BATCH_REQUESTS=is_on)


@pytest.fixture(params=["instance", "queryset", "batch", "request", "batched request"])
def delete(request: pytest.FixtureRequest, api: APIClient, batched: Callable[[bool], None]) -> Delete:
    way = request.param
    batched(way == "batched request")

    def run(row: models.Model) -> None:
        label = row._meta
        if way == "instance":
            row.delete()
        elif way == "queryset":
            type(row)._default_manager.filter(pk=row.pk).delete()
        elif way == "batch":
            with batch():
                row.delete()
        else:
            address = reverse(f"{label.app_label}-api:{label.model_name}-detail", args=[row.pk])
            assert api.delete(address).status_code == 204

    return run


def names() -> list[tuple[str, str]]:
    """The actions and the names of all objects that have an Event, sorted."""
    return sorted((event.action, event.object_repr) for event in events())


# Counters


def test_a_new_rack_group_is_a_change_of_its_site(site: Site) -> None:
    make_webhook(Site, RackGroup, prechange=True)
    RackGroup.objects.create(name="Row A", slug="row-a", site=site)
    assert names() == [("created", "Row A"), ("updated", "AMS1")]
    assert changed(events(Site)[0]) == ["rackgroup_count"]
    assert last_data(Site)["rackgroup_count"] == 1


@pytest.mark.parametrize("is_on", [False, True])
def test_a_new_vlan_group_is_counted_without_an_event_of_its_site(
    site: Site, api: APIClient, batched: Callable[[bool], None], is_on: bool
) -> None:
    make_webhook(Site, VLANGroup)
    batched(is_on)
    campus = {"name": "Campus", "slug": "campus", "site": site.pk}
    assert api.post("/api/ipam/vlan-groups/", campus, format="json").status_code == 201
    assert names() == [("created", "Campus")]
    assert events()[0].username == "alice@example.org"
    site.refresh_from_db()
    site.save()
    assert last_data(Site)["vlangroup_count"] == 1


def test_a_site_that_a_device_needs_is_not_deleted(router: Device, api: APIClient) -> None:
    make_webhook(Site, Device, RackGroup)
    answer = api.delete(f"/api/dcim/sites/{router.site_id}/")
    assert answer.status_code == 409, answer.content
    assert recorded() == []


# Relations that a deletion clears


def test_a_deleted_device_goes_with_its_interfaces_and_addresses(router: Device, delete: Delete) -> None:
    make_webhook(Device, Interface, IPAddress, prechange=True)
    delete(Device.objects.get())
    assert names() == [("deleted", "192.0.2.1/24"), ("deleted", "ams1-rt-01"), ("deleted", "et-0/0/0")]


def test_a_deleted_address_is_a_change_of_its_device(router: Device, delete: Delete) -> None:
    address = IPAddress.objects.get()
    make_webhook(Device, IPAddress, prechange=True)
    delete(IPAddress.objects.get())
    assert names() == [("deleted", "192.0.2.1/24"), ("updated", "ams1-rt-01")]
    [event] = events(Device)
    before, after = sides(event)
    assert (before["primary_ip4"], after["primary_ip4"], changed(event)) == (address.pk, None, ["primary_ip4"])


def test_a_deleted_vlan_is_a_change_of_the_interfaces_that_had_it(router: Device, delete: Delete) -> None:
    interface, vlan = Interface.objects.get(), VLAN.objects.create(vid=200, name="servers")
    interface.tagged_vlans.add(vlan)
    make_webhook(Interface, VLAN, prechange=True)
    delete(VLAN.objects.get())
    assert names() == [("deleted", "servers (200)"), ("updated", "et-0/0/0")]
    [event] = events(Interface)
    assert (sides(event)[0]["tagged_vlans"], sides(event)[1]["tagged_vlans"]) == ([vlan.pk], [])


@pytest.fixture
def cable(router: Device) -> Cable:
    """A cable between two interfaces of a router."""
    made = Cable.objects.create(label="to itself")
    ends = (Interface.objects.get(), Interface(device=router, name="et-0/0/1", type="100gbase-x-qsfp28"))
    for interface, end in zip(ends, "AB", strict=True):
        interface.cable, interface.cable_end = made, end
        interface.save()
    return Cable.objects.get()


def test_a_deleted_cable_is_a_change_of_both_interfaces(cable: Cable, delete: Delete) -> None:
    make_webhook(Cable, Interface)
    delete(cable)
    assert names() == [("deleted", "to itself"), ("updated", "et-0/0/0"), ("updated", "et-0/0/1")]
    assert [last_data(Interface)[name] for name in ("cable", "cable_end")] == [None, None]


# The REST API


def test_a_masked_field_is_masked_in_the_data() -> None:
    make_webhook(Provider)
    Provider.objects.create(name="EuroFibre", slug="eurofibre", account="EF-20417")
    assert last_data()["account"] == "*****417"


@pytest.mark.parametrize("page", ["webhooks", "deliveries", "events", "runs", "status", "statistics"])
def test_the_api_of_webhooks_has_the_version_and_the_renderers_of_the_host(api: APIClient, page: str) -> None:
    def status(accept: str) -> Any:
        return api.get(f"/api/webhooks/{page}/", HTTP_ACCEPT=accept).status_code

    assert [status(accept) for accept in ("text/html", "application/json; version=1.0")] == [200, 200]
    assert status("application/json; version=9.9") == 406


# Receivers that save an object again, or while it is deleted


@pytest.fixture(params=["transaction", "batch", "request", "batched request"])
def create_cable(request: pytest.FixtureRequest, api: APIClient, batched: Callable[[bool], None]) -> Callable[[], None]:
    """A user creates a cable without a label."""
    way = request.param
    batched(way == "batched request")

    def run() -> None:
        if way in ("transaction", "batch"):
            with batch() if way == "batch" else transaction.atomic():
                Cable.objects.create(type="cat6")
        else:
            assert api.post("/api/dcim/cables/", {"type": "cat6"}, format="json").status_code == 201

    return run


@pytest.mark.parametrize("prechange", [False, True])
def test_a_new_cable_is_created_with_its_number(create_cable: Callable[[], None], prechange: bool) -> None:
    make_webhook(Cable, prechange=prechange)
    create_cable()
    label = f"C{Cable.objects.get().pk:05}"
    assert names() == [("created", label)]
    assert last_data()["label"] == label
    assert sides()[0] is None


def test_without_a_transaction_a_new_cable_is_created_before_it_is_updated() -> None:
    make_webhook(Cable)
    Cable.objects.create(type="cat6")
    assert actions(Cable) in (["created"], ["created", "updated"])


@pytest.mark.parametrize("prechange", [False, True])
def test_a_deleted_site_goes_with_its_groups(site: Site, delete: Delete, prechange: bool) -> None:
    for name in ("Row A", "Row B"):
        RackGroup.objects.create(name=name, slug=name[-1], site=site)
    VLANGroup.objects.create(name="Campus", slug="campus", site=site)
    make_webhook(Site, RackGroup, VLANGroup, prechange=prechange)
    delete(Site.objects.get())
    assert names() == [("deleted", "AMS1"), ("deleted", "Campus"), ("deleted", "Row A"), ("deleted", "Row B")]


def test_a_webhook_for_updates_gets_nothing_of_a_deleted_site(site: Site, delete: Delete) -> None:
    RackGroup.objects.create(name="Row A", slug="row-a", site=site)
    make_webhook(Site, on="u")
    delete(Site.objects.get())
    assert names() == []


def test_an_interface_had_the_cable_before_its_deletion(cable: Cable, delete: Delete) -> None:
    key = cable.pk
    make_webhook(Interface, prechange=True)
    delete(cable)
    found = {event.object_repr: (sides(event), changed(event)) for event in events(Interface)}
    for name, end in {"et-0/0/0": "A", "et-0/0/1": "B"}.items():
        (before, after), fields = found[name]
        assert [(side["cable"], side["cable_end"]) for side in (before, after)] == [(key, end), (None, "")]
        assert fields == ["cable", "cable_end"]


# Masked and renamed fields


def test_a_masked_field_is_masked_in_the_snapshots() -> None:
    make_webhook(Provider, prechange=True)
    provider = Provider.objects.create(name="EuroFibre", slug="eurofibre", account="EF-20417")
    provider.account = "EF-20418"
    provider.save()
    provider.delete()
    assert [event.action for event in events()] == ["created", "updated", "deleted"]
    assert [event.action for event in events() if "EF-2041" in event.data + event.snapshots] == []


def test_a_secret_with_another_name_in_the_serializer_is_not_sent() -> None:
    make_webhook(Cluster, prechange=True)
    cluster = Cluster.objects.create(name="kvm-1", type="kvm", api_token="a7d1-first")
    cluster.api_token = "a7d1-second"
    cluster.save()
    cluster.delete()
    assert [event.action for event in events()] == ["created", "updated", "deleted"]
    assert [event.action for event in events() if "a7d1" in event.data + event.snapshots] == []
