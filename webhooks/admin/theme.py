"""The look of the admin: django-unfold's lists and forms where it is installed, else Django's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps
from django.contrib import admin

if TYPE_CHECKING or not apps.is_installed("unfold"):
    ModelAdmin = admin.ModelAdmin
else:
    from unfold.admin import ModelAdmin

__all__ = ["ModelAdmin"]
