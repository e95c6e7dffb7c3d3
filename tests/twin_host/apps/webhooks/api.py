from rest_framework import serializers

from tests.twin_host.apps.webhooks.models import Webhook


class WebhookSerializer(serializers.ModelSerializer):
    class Meta:
        model = Webhook
        fields = "__all__"
