from rest_framework import serializers

from circuits.models import Circuit, Provider
from core.api.fields import RelatedCountField
from core.api.serializers import BOOKKEEPING, IDENTITY, TaggedSerializer


class ProviderSerializer(TaggedSerializer):
    account = serializers.SerializerMethodField()
    circuit_count = RelatedCountField("circuits")

    class Meta:
        model = Provider
        fields = (
            *IDENTITY,
            "name",
            "slug",
            "asn",
            "account",
            "description",
            "comments",
            *BOOKKEEPING,
            "circuit_count",
        )
        brief_fields = ("name", "slug", "description")

    def get_account(self, provider: Provider) -> str:
        """The last three characters of the account number."""
        return "*" * len(provider.account[:-3]) + provider.account[-3:]


class CircuitSerializer(TaggedSerializer):
    class Meta:
        model = Circuit
        fields = (
            *IDENTITY,
            "cid",
            "provider",
            "type",
            "status",
            "tenant",
            "install_date",
            "termination_date",
            "commit_rate",
            "description",
            "distance",
            "distance_unit",
            "termination_a",
            "termination_z",
            "comments",
            *BOOKKEEPING,
        )
        brief_fields = ("cid", "provider", "description")
