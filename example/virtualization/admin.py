from django.contrib import admin

from core.admin import InventoryAdmin
from virtualization.models import Cluster, ClusterGroup, VirtualMachine


@admin.register(ClusterGroup)
class ClusterGroupAdmin(InventoryAdmin):
    list_display = ("name", "slug", "description")
    list_filter = ("tags",)
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}


@admin.register(Cluster)
class ClusterAdmin(InventoryAdmin):
    list_display = ("name", "type", "status", "group", "site", "tenant")
    list_filter = ("status", "type", "group", "site", "tags")
    search_fields = ("name", "description")


@admin.register(VirtualMachine)
class VirtualMachineAdmin(InventoryAdmin):
    list_display = ("name", "status", "role", "cluster", "site", "tenant", "primary_ip4")
    list_filter = ("status", "role", "cluster", "site", "tags")
    search_fields = ("name", "serial", "description")
