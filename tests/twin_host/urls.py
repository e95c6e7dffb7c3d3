from django.apps import apps
from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls)]
if apps.is_installed("webhooks"):
    urlpatterns.insert(0, path("admin/", include("webhooks.urls")))
