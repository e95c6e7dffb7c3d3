from django.contrib import admin

from core.admin import InventoryAdmin
from tenancy.models import Tenant, TenantGroup


@admin.register(TenantGroup)
class TenantGroupAdmin(InventoryAdmin):
    list_display = ("name", "slug", "parent", "description")
    list_filter = ("tags",)
    search_fields = ("name", "slug", "description")
    prepopulated_fields = {"slug": ("name",)}


@admin.register(Tenant)
class TenantAdmin(InventoryAdmin):
    list_display = ("name", "slug", "group", "description")
    list_filter = ("group", "tags")
    search_fields = ("name", "slug", "description")
    prepopulated_fields = {"slug": ("name",)}
