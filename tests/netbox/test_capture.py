"""Changes in NetBox are recorded as NetBox's own event rule sees them, and where that misses some, too."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from extras.webhooks import register_webhook_callback
from netbox.registry import registry
from packaging.version import Version

from circuits.models import Provider
from dcim.models import Cable, Device, DeviceRole, DeviceType, Interface, Manufacturer, Platform, Region, Site
from ipam.models import ASN, RIR
from tenancy.models import Tenant
from tests.support.netbox import IS_OLDER, NETBOX, OwnRule, admin, api_client, as_sent, watch
from users.models import ObjectPermission, User
from webhooks.models import Event
from webhooks.models.permissions import visible_events
from webhooks.testing import capture_webhooks

pytestmark = pytest.mark.django_db

# The app has "level" under the name of the serializer.
PLACE_IN_TREE = ("tree_id", "level") if IS_OLDER else ("path", "sort_path")

PRIVATE_OF_SNAPSHOTS = {"last_updated"}


@pytest.fixture
def api() -> Any:
    return api_client(admin())


@pytest.fixture
def device() -> Device:
    site = Site.objects.create(name="Ulm", slug="ulm")
    kind = DeviceType.objects.create(
        manufacturer=Manufacturer.objects.create(name="Acme", slug="acme"), model="A1", slug="a1"
    )
    role = DeviceRole.objects.create(name="Leaf", slug="leaf")
    return Device.objects.create(name="ulm-1", site=site, device_type=kind, role=role)


def assert_same(events: list[Any], rule: OwnRule, *stale: str) -> None:
    """The app sends what NetBox sends, and each public key of it has the same value.

    NetBox sends ``stale`` keys of its instance in memory, and the app those of the row.
    """
    ours, theirs = as_sent(events), rule.sent()
    assert theirs, "NetBox sent nothing"
    assert ours.keys() == theirs.keys()
    for key, own in theirs.items():
        assert differences(ours[key]["data"], own["data"]).keys() <= {*stale}, key
        for side, snapshot in own["snapshots"].items():
            if snapshot is not None:
                public = {name: one for name, one in snapshot.items() if not name.startswith("_")}
                public = {name: one for name, one in public.items() if name not in PRIVATE_OF_SNAPSHOTS}
                found = differences(ours[key]["snapshots"][side] or {}, public)
                assert {name: one for name, one in found.items() if name not in stale} == {}, (key, side)


def differences(ours: dict[str, Any], own: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs. NetBox cuts the times in its snapshots to milliseconds."""
    found = {name: (ours.get(name, "missing"), one) for name, one in own.items() if ours.get(name, "missing") != one}
    return {name: (our, one) for name, (our, one) in found.items() if name != "created" or our[:23] != one[:23]}


def test_a_site_is_sent_as_netbox_sends_it(api, monkeypatch) -> None:
    rule = OwnRule(monkeypatch, "dcim.site")
    watch("dcim.site", prechange=True)
    site = Site.objects.create(name="Ulm", slug="ulm", tenant=Tenant.objects.create(name="Acme", slug="acme"))
    with capture_webhooks(subscribe=[]) as events:
        answer = api.patch(f"/api/dcim/sites/{site.pk}/", {"status": "retired", "description": "x"}, format="json")
    assert answer.status_code == 200
    assert_same(events, rule)


def test_counts_are_those_of_the_rest_api(api, device) -> None:
    watch("dcim.site", "circuits.provider")
    provider = Provider.objects.create(name="Telco", slug="telco")
    with capture_webhooks(subscribe=[]) as events:
        api.patch(f"/api/dcim/sites/{device.site_id}/", {"description": "x"}, format="json")
        api.patch(f"/api/circuits/providers/{provider.pk}/", {"description": "x"}, format="json")
    shown = {event.object_type: event.data for event in events}
    counts = [name for name in shown["dcim.site"] if name.endswith("_count")]
    assert {"device_count", "rack_count", "prefix_count"} <= {*counts}
    assert (shown["dcim.site"]["device_count"], shown["dcim.site"]["rack_count"]) == (1, 0)
    assert shown["circuits.provider"]["circuit_count"] == 0


def test_a_deletion_has_counts_too(api) -> None:
    watch("dcim.site")
    site = Site.objects.create(name="Ulm", slug="ulm")
    with capture_webhooks(subscribe=[]) as events:
        assert api.delete(f"/api/dcim/sites/{site.pk}/").status_code == 204
    [event] = events
    assert (event.action, event.data["device_count"]) == ("deleted", 0)


def test_a_region_has_its_place_and_owner_in_snapshots(api, monkeypatch) -> None:
    rule = OwnRule(monkeypatch, "dcim.region")
    watch("dcim.region", prechange=True)
    south, north = (Region.objects.create(name=name, slug=name) for name in ("south", "north"))
    town = Region.objects.create(name="town", slug="town", parent=south)
    with capture_webhooks(subscribe=[]) as events:
        answer = api.patch(f"/api/dcim/regions/{town.pk}/", {"parent": north.pk}, format="json")
        assert answer.status_code == 200, answer.content
    assert_same(events, rule, *PLACE_IN_TREE)
    [event] = events
    before, after = event.snapshots["prechange"], event.snapshots["postchange"]
    assert {"owner", PLACE_IN_TREE[0]} <= after.keys()
    assert "parent" in event.changed
    if not IS_OLDER:  # the numbers of trees may stay the same
        assert before["path"] != after["path"]
        assert "path" in event.changed


def test_a_cable_is_sent_with_its_terminations_before_and_after(api, device, monkeypatch) -> None:
    ports = [Interface.objects.create(device=device, name=f"e{n}", type="1000base-t") for n in range(3)]
    rule = OwnRule(monkeypatch, "dcim.cable")
    watch("dcim.cable", prechange=True)

    def ends(*chosen: Interface) -> list[dict[str, Any]]:
        return [{"object_type": "dcim.interface", "object_id": one.pk} for one in chosen]

    with capture_webhooks(subscribe=[]) as created:
        given = {"a_terminations": ends(ports[0]), "b_terminations": ends(ports[1])}
        answer = api.post("/api/dcim/cables/", given, format="json")
        assert answer.status_code == 201, answer.content
    assert_same(created, rule, "a_terminations", "b_terminations")
    rule.jobs.clear()
    cable = Cable.objects.get()
    with capture_webhooks(subscribe=[]) as moved:
        answer = api.patch(f"/api/dcim/cables/{cable.pk}/", {"b_terminations": ends(ports[2])}, format="json")
        assert answer.status_code == 200, answer.content
    [event] = moved
    before, after = event.snapshots["prechange"], event.snapshots["postchange"]
    assert (before["a_terminations"], len(before["b_terminations"])) == (after["a_terminations"], 1)
    assert before["b_terminations"] != after["b_terminations"]
    assert event.changed == ["b_terminations"]
    assert [one["object_id"] for one in event.data["b_terminations"]] == [ports[2].pk]
    assert_same(moved, rule, "a_terminations", "b_terminations")
    rule.jobs.clear()
    with capture_webhooks(subscribe=[]) as deleted:
        assert api.delete(f"/api/dcim/cables/{cable.pk}/").status_code == 204
    assert_same(deleted, rule, "a_terminations", "b_terminations")


def test_the_interfaces_of_a_cable_are_sent_with_it(api, device, monkeypatch) -> None:
    ports = [Interface.objects.create(device=device, name=f"e{n}", type="1000base-t") for n in range(2)]
    rule = OwnRule(monkeypatch, "dcim.cable", "dcim.interface")
    watch("dcim.cable", "dcim.interface", prechange=True)
    cable = Cable(a_terminations=[ports[0]], b_terminations=[ports[1]])
    cable.save()
    with capture_webhooks(subscribe=[]) as events:
        assert api.delete(f"/api/dcim/cables/{cable.pk}/").status_code == 204
    ours = as_sent(events)
    assert rule.sent().keys() <= ours.keys()
    if Version("4.7.2") > NETBOX:  # which clears the cable of interfaces without a signal
        assert ours.keys() == {("deleted", "dcim.cable", cable.pk)}
        return
    for port in ports:
        sent = ours[("updated", "dcim.interface", port.pk)]
        assert (sent["snapshots"]["prechange"]["cable"], sent["data"]["cable"]) == (cable.pk, None)


def test_objects_that_a_deletion_sets_to_null_are_sent_with_their_state_before(api, device, monkeypatch) -> None:
    platform = Platform.objects.create(name="OS", slug="os")
    Device.objects.update(platform=platform)
    rule = OwnRule(monkeypatch, "dcim.platform", "dcim.device")
    watch("dcim.platform", "dcim.device", prechange=True)
    with capture_webhooks(subscribe=[]) as events:
        assert api.delete(f"/api/dcim/platforms/{platform.pk}/").status_code == 204
    ours = as_sent(events)
    assert ours.keys() == rule.sent().keys()
    sent = ours[("updated", "dcim.device", device.pk)]
    assert (sent["snapshots"]["prechange"]["platform"], sent["snapshots"]["postchange"]["platform"]) == (
        platform.pk,
        None,
    )


def test_counters_that_change_a_device_while_it_is_deleted_send_one_deletion(api, device, monkeypatch) -> None:
    for number in range(3):
        Interface.objects.create(device=device, name=f"e{number}", type="1000base-t")
    rule = OwnRule(monkeypatch, "dcim.device", "dcim.interface")
    watch("dcim.device", "dcim.interface")
    with capture_webhooks(subscribe=[]) as events:
        assert api.delete(f"/api/dcim/devices/{device.pk}/").status_code == 204
    assert as_sent(events).keys() == rule.sent().keys()
    assert [event.action for event in events if event.object_type == "dcim.device"] == ["deleted"]


def test_members_of_a_many_to_many_relation_are_sent_as_netbox_sends_them(api, monkeypatch) -> None:
    site = Site.objects.create(name="Ulm", slug="ulm")
    asn = ASN.objects.create(asn=65000, rir=RIR.objects.create(name="RIPE", slug="ripe"))
    rule = OwnRule(monkeypatch, "dcim.site")
    watch("dcim.site", prechange=True)
    with capture_webhooks(subscribe=[]) as events:
        assert api.patch(f"/api/dcim/sites/{site.pk}/", {"asns": [asn.pk]}, format="json").status_code == 200
    assert_same(events, rule)


def test_a_user_with_constraints_views_the_events_of_these_objects_alone() -> None:
    watch("dcim.site")
    user = User.objects.create_user(username="narrow")
    for model, constraints in ((Site, {"name": "Ulm"}), (Event, None)):
        permission = ObjectPermission.objects.create(name=model.__name__, actions=["view"], constraints=constraints)
        permission.object_types.add(ContentType.objects.get_for_model(model))
        permission.users.add(user)
    with capture_webhooks(subscribe=[]):
        for name in ("Ulm", "Bonn"):
            Site.objects.create(name=name, slug=name.lower())
    user = User.objects.get(pk=user.pk)  # without cached permissions
    assert [event.object_repr for event in visible_events(user)] == ["Ulm"]


def test_a_model_that_all_may_view_needs_no_permission(settings) -> None:
    watch("dcim.site")
    user = User.objects.create_user(username="guest")
    permission = ObjectPermission.objects.create(name="events", actions=["view"])
    permission.object_types.add(ContentType.objects.get_for_model(Event))
    permission.users.add(user)
    with capture_webhooks(subscribe=[]):
        Site.objects.create(name="Ulm", slug="ulm")
    assert not visible_events(User.objects.get(pk=user.pk))
    settings.EXEMPT_VIEW_PERMISSIONS = ["dcim.site"]
    assert [event.object_repr for event in visible_events(User.objects.get(pk=user.pk))] == ["Ulm"]


def test_the_payload_has_the_context_of_netboxs_webhook_callbacks(api) -> None:
    seen = []

    def tell(object_type, event_type, data, request):
        seen.append((".".join(object_type.natural_key()), event_type, data["name"], request.user.username))
        return {"rack_power": 7}

    def fail(object_type, event_type, data, request):
        Site.objects.raw("SELECT broken")[0]

    register_webhook_callback(tell)
    register_webhook_callback(fail)
    try:
        watch("dcim.site")
        with capture_webhooks(subscribe=[]) as events:
            assert api.post("/api/dcim/sites/", {"name": "Ulm", "slug": "ulm"}, format="json").status_code == 201
        assert len(events) == 1
        assert seen == [("dcim.site", "object_created", "Ulm", "admin")]
        assert Event.objects.get().context == '{"rack_power":7}'
    finally:
        registry["webhook_callbacks"].remove(tell)
        registry["webhook_callbacks"].remove(fail)
