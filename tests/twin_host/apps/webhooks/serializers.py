from rest_framework import serializers

from tests.twin_host.apps.webhooks.models import KINDS, Draft, Webhook

FIRST_KINDS = tuple(KINDS)  # as of the import, like the choices of a field


class WebhookSerializer(serializers.ModelSerializer):
    kinds = serializers.SerializerMethodField()

    class Meta:
        model = Webhook
        fields = ("id", "name", "kinds")

    def get_kinds(self, webhook):
        return FIRST_KINDS


class DraftSerializer(serializers.ModelSerializer):
    class Meta:
        model = Draft
        fields = "__all__"
