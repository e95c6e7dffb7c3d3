from django.apps import AppConfig


class BareHostConfig(AppConfig):
    name = "tests.bare_host"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        import webhooks

        webhooks.register("bare_host.Note", serializer="tests.bare_host.api.NoteSerializer")
