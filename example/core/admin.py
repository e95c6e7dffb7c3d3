"""The admin page of tags, and the base class of all other admin pages."""

from collections.abc import Iterable

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AdminTextareaWidget
from django.db import models
from django.http import HttpRequest

from core.models import Tag


class LinesField(forms.CharField):
    """Several lines of text. Browsers send CRLF, but the text keeps its LF."""

    def to_python(self, value: str | None) -> str:
        return super().to_python(value).replace("\r\n", "\n")


class InventoryAdmin(admin.ModelAdmin):
    """Search fields for relations, read-only timestamps, and columns without extra queries."""

    readonly_fields = ("created", "last_updated")
    list_per_page = 50
    formfield_overrides = {models.TextField: {"form_class": LinesField, "widget": AdminTextareaWidget}}
    save_on_top = True

    def forward_relations(self) -> Iterable[models.Field]:
        meta = self.opts
        return (field for field in (*meta.fields, *meta.many_to_many) if field.remote_field)

    def get_autocomplete_fields(self, request: HttpRequest) -> list[str]:
        return [
            field.name
            for field in self.forward_relations()
            if self.admin_site.is_registered(field.related_model) and field.name not in self.raw_id_fields
        ]

    def get_list_select_related(self, request: HttpRequest) -> list[str]:
        columns = set(self.get_list_display(request))
        return [field.name for field in self.opts.fields if field.remote_field and field.name in columns]


@admin.register(Tag)
class TagAdmin(InventoryAdmin):
    list_display = ("name", "slug", "color", "description")
    search_fields = ("name", "slug", "description")
    prepopulated_fields = {"slug": ("name",)}
