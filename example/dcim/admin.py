from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from core.admin import InventoryAdmin
from dcim import audits
from dcim.models import Cable, Device, Interface, Rack, RackGroup, Site


@admin.register(Site)
class SiteAdmin(InventoryAdmin):
    list_display = ("name", "status", "facility", "tenant", "time_zone", "description")
    list_filter = ("status", "tenant", "tags")
    search_fields = ("name", "slug", "facility", "description")
    prepopulated_fields = {"slug": ("name",)}


@admin.register(RackGroup)
class RackGroupAdmin(InventoryAdmin):
    list_display = ("name", "site", "description")
    list_filter = ("site", "tags")
    search_fields = ("name", "slug", "site__name")
    prepopulated_fields = {"slug": ("name",)}


@admin.register(Rack)
class RackAdmin(InventoryAdmin):
    list_display = ("name", "site", "group", "status", "role", "tenant", "u_height")
    list_filter = ("status", "role", "site", "tags")
    search_fields = ("name", "facility_id", "serial", "asset_tag", "site__name")
    actions = ("audit",)

    @admin.action(description="Audit the selected racks", permissions=["change"])
    def audit(self, request: HttpRequest, racks: QuerySet[Rack]) -> None:
        for rack in racks.select_related("site"):
            audits.audit(rack, f"by {request.user} in the admin")
        messages.success(request, "The audit was sent to its webhooks.")


@admin.register(Device)
class DeviceAdmin(InventoryAdmin):
    list_display = ("name", "status", "role", "device_type", "site", "rack", "tenant", "primary_ip4")
    list_filter = ("status", "role", "site", "tags")
    search_fields = ("name", "serial", "asset_tag", "device_type")


@admin.register(Interface)
class InterfaceAdmin(InventoryAdmin):
    list_display = ("name", "device", "type", "enabled", "mode", "mac_address")
    list_filter = ("enabled", "type", "mode", "tags")
    search_fields = ("name", "label", "mac_address", "device__name")


@admin.register(Cable)
class CableAdmin(InventoryAdmin):
    list_display = ("__str__", "type", "status", "tenant", "description")
    list_filter = ("type", "status", "tags")
    search_fields = ("label", "description")
