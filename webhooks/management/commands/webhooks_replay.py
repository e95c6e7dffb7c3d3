from webhooks.management.base import RunCommand


class Command(RunCommand):
    kind = "replay"
