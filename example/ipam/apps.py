from django.apps import AppConfig


class IPAMConfig(AppConfig):
    name = "ipam"
    verbose_name = "IPAM"

    def ready(self) -> None:
        from ipam import signals  # noqa: F401 - importing it connects its receivers
