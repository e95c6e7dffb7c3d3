"""A system check: whether e-mails about problems have an address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning

from webhooks.ground.conf import conf

EMAILS = "webhooks.contrib.alerts.emails.Emails"


def check_addresses(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if EMAILS in conf.hooks and not (conf.notify or settings.ADMINS):
        yield Warning(
            f'WEBHOOKS["HOOKS"] names {EMAILS}, and there is no address to send e-mails to.',
            hint='Set WEBHOOKS["NOTIFY"] to a list of addresses, or Django\'s ADMINS.',
            id="webhooks.W017",
        )
