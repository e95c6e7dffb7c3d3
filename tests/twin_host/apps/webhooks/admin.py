from django.contrib import admin

from tests.twin_host.apps.webhooks.models import Webhook

admin.site.register(Webhook)
