"""The settings: the keys of ``settings.WEBHOOKS`` in small letters, each with its default and what it must be.

``docs/settings.md`` describes them for operators.
"""

from __future__ import annotations

from webhooks.conf import rules
from webhooks.conf.reading import Guard, Keys, Setting

# Standard Webhooks, "Retry schedule": seconds from one failed attempt to the next.
STANDARD_RETRY_SCHEDULE = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)

# Doubling from a minute to an hour, so that a receiver that is back is not kept waiting for longer.
STANDARD_PROBE_SCHEDULE = (60, 120, 240, 480, 960, 1920, 3600)

STANDARD_RETENTION = {"succeeded": 30, "failed": 90, "discarded": 30}


class Settings(Keys):
    """``conf.timeout`` is ``settings.WEBHOOKS["TIMEOUT"]``."""

    enabled = Setting(False, rules.FLAG)

    models = Setting((), rules.LABELS)
    """Labels of models to register: ``"dcim.site"``, or ``"dcim.*"`` for all that have a serializer."""

    base_url = Setting("", rules.BASE_URL, complete=lambda url: url.rstrip("/"))
    """Where the site is, such as ``"https://netbox.example.org"``; empty where payloads have paths instead."""

    queue = Setting("webhooks", rules.TEXT)
    """The name in ``RQ_QUEUES`` of the queue that wake-ups go to."""

    # Recording

    batch_requests = Setting(False, rules.FLAG)
    """Whether the changes of a request are recorded together at its end."""

    # Sending

    timeout = Setting(10, rules.TIMEOUT)
    """Seconds that one attempt may take in all, for webhooks that do not say."""

    retry_schedule = Setting(STANDARD_RETRY_SCHEDULE, rules.RETRIES)
    """Seconds to wait after the first, second, … failed attempt; after the last one the delivery fails."""

    retry_jitter = Setting(0.2, rules.FRACTION)
    """How far a wait may be stretched or shortened at random, as a fraction of it."""

    lane_wait = Setting(3600, rules.POSITIVE)
    """Seconds that a failing head may keep the deliveries behind it waiting."""

    payload_bytes = Setting(1_000_000, rules.NATURAL)
    """How many bytes a payload may have."""

    response_bytes = Setting(8192, rules.NATURAL)
    """How many bytes of a response body are kept."""

    user_agent = Setting("django-rq-webhooks", rules.TEXT)

    # Destinations

    allow_networks = Guard((), rules.NETWORKS)
    """Networks and addresses to send to although they are blocked by themselves, or private."""

    deny_networks = Guard((), rules.NETWORKS)

    deny_private = Guard(False, rules.FLAG)

    allow_hosts = Guard(("*",), rules.HOSTS)
    """Patterns; a host of a URL must match one of them."""

    deny_hosts = Guard((), rules.HOSTS)

    allow_ports = Guard(("1-65535",), rules.PORTS)
    """Ports and ranges of them, such as "8000-8999"."""

    deny_ports = Guard((), rules.PORTS)

    allow_schemes = Guard(("https", "http"), rules.SCHEMES)

    proxy = Guard("", rules.PROXY, is_secret=True)
    """The URL of the HTTP proxy to send through, with its user and password if it wants them; empty for none."""

    # Secrets

    encryption_keys = Setting((), rules.KEYS, is_secret=True)
    """Fernet keys, the newest first: it encrypts, all decrypt. Without any, ``SECRET_KEY`` does.

    Where the value cannot be used, nothing may be encrypted with another key instead.
    """

    secret_overlap = Setting(86400, rules.SECONDS)
    """Seconds for which a secret that was replaced goes on signing beside the new one."""

    # Conditions

    conditions_timeout = Setting(0.2, rules.POSITIVE)
    """Seconds of processor time that the conditions of all webhooks may take for one change."""

    # Rights and loops

    may_view = Setting("webhooks.permissions.by_restriction", rules.CALLABLE)
    """The path of a callable: a user and Events in, those out that the user may view."""

    max_depth = Setting(3, rules.NATURAL)
    """How many changes a chain may have of which each was caused by a webhook that told of the one before."""

    # Pause and disable

    pause_after = Setting(10, rules.NATURAL)
    """How many failed attempts in a row pause a webhook."""

    probe_schedule = Setting(STANDARD_PROBE_SCHEDULE, rules.PROBES)
    """Seconds from the pause to the first probe, from that to the second, …; the last one repeats."""

    disable_after = Setting(5 * 86400, rules.POSITIVE)
    """Seconds of nothing but failures after which a webhook is disabled."""

    notify = Setting((), rules.ADDRESSES)
    """E-mail addresses that hear when a webhook was disabled; without any, Django's ``ADMINS`` do."""

    # Workers

    senders = Setting(32, rules.NATURAL)
    """How many requests one worker may have under way at once."""

    batch = Setting(250, rules.NATURAL)
    """How many rows one statement of a worker takes at the most."""

    slice = Setting(3, rules.POSITIVE)
    """Seconds that a worker delivers before it looks after its other duties."""

    lease = Setting(15, rules.POSITIVE)
    """Seconds after which a claim that nobody renews is taken back."""

    idle_poll = Setting(1, rules.POSITIVE)
    """Seconds between two looks of an idle worker of the shipped class at the database."""

    sweep_interval = Setting(2, rules.POSITIVE)
    """Seconds between two sweeps."""

    # Redis

    redis_timeout = Setting(0.1, rules.POSITIVE)
    """Seconds that a save may lose to a Redis that does not answer, once in each ``REDIS_PAUSE`` of a process."""

    redis_pause = Setting(5, rules.POSITIVE)
    """Seconds for which Redis is left alone after it failed."""

    # Retention

    retention_days = Setting(STANDARD_RETENTION, rules.RETENTION, complete=lambda days: {**STANDARD_RETENTION, **days})
    """Days for which a delivery stays on file, by the state it ended in."""


conf = Settings()
