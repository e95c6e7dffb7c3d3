from django.contrib import admin

from circuits.models import Circuit, Provider
from core.admin import InventoryAdmin


@admin.register(Provider)
class ProviderAdmin(InventoryAdmin):
    list_display = ("name", "slug", "asn", "account")
    list_filter = ("tags",)
    search_fields = ("name", "slug", "account")
    prepopulated_fields = {"slug": ("name",)}


@admin.register(Circuit)
class CircuitAdmin(InventoryAdmin):
    list_display = ("cid", "provider", "type", "status", "tenant", "termination_a", "termination_z")
    list_filter = ("status", "type", "provider", "tags")
    search_fields = ("cid", "provider__name", "description")
    date_hierarchy = "install_date"
