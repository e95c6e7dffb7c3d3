from django.contrib import admin

from core.admin import InventoryAdmin
from ipam.models import VLAN, VRF, Aggregate, IPAddress, Prefix, Service, VLANGroup


@admin.register(VRF)
class VRFAdmin(InventoryAdmin):
    list_display = ("name", "rd", "tenant", "enforce_unique", "description")
    list_filter = ("enforce_unique", "tenant", "tags")
    search_fields = ("name", "rd", "description")


@admin.register(Aggregate)
class AggregateAdmin(InventoryAdmin):
    list_display = ("prefix", "rir", "tenant", "date_added", "description")
    list_filter = ("rir", "date_added", "tags")
    search_fields = ("prefix", "description")


@admin.register(Prefix)
class PrefixAdmin(InventoryAdmin):
    list_display = ("prefix", "status", "vrf", "site", "vlan", "role", "tenant")
    list_filter = ("status", "role", "site", "vrf", "tags")
    search_fields = ("prefix", "description")


@admin.register(IPAddress)
class IPAddressAdmin(InventoryAdmin):
    list_display = ("address", "status", "vrf", "role", "dns_name", "tenant")
    list_filter = ("status", "role", "vrf", "tags")
    search_fields = ("address", "dns_name", "description")


@admin.register(VLANGroup)
class VLANGroupAdmin(InventoryAdmin):
    list_display = ("name", "site", "min_vid", "max_vid", "description")
    list_filter = ("site", "tags")
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}


@admin.register(VLAN)
class VLANAdmin(InventoryAdmin):
    list_display = ("vid", "name", "status", "site", "group", "role", "tenant")
    list_display_links = ("vid", "name")
    list_filter = ("status", "role", "site", "group", "tags")
    search_fields = ("name", "vid", "description")


@admin.register(Service)
class ServiceAdmin(InventoryAdmin):
    list_display = ("name", "protocol", "ports", "device", "virtual_machine")
    list_filter = ("protocol", "tags")
    search_fields = ("name", "device__name", "virtual_machine__name")
