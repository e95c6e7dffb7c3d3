from django.apps import AppConfig


class DCIMConfig(AppConfig):
    name = "dcim"
    verbose_name = "DCIM"

    def ready(self) -> None:
        import webhooks

        from dcim import signals  # noqa: F401 - importing it connects its receivers
        from dcim.audits import RACK_AUDITED
        from dcim.querysets import sites

        brief_site = "dcim.api.serializers.BriefSiteSerializer"
        webhooks.register("dcim.Site", queryset=sites, serializers={"brief": brief_site})
        webhooks.register("dcim.Device", serializers={"brief": "dcim.api.serializers.BriefDeviceSerializer"})
        webhooks.register_event(RACK_AUDITED, label="Rack audited")
