"""URLs with a mistake: the admin answers before the status page."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("admin/", include("webhooks.urls"))]
