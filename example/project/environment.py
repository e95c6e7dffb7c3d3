"""Reading settings from environment variables."""

import os


def env_bool(name: str, default: bool) -> bool:
    """Return True for ``1``, ``true``, ``yes`` and ``on`` in any case, else False."""
    value = os.environ.get(name)
    return default if value is None else value.strip().lower() in {"1", "true", "yes", "on"}


def env_list(name: str, default: list[str]) -> list[str]:
    """Split on commas and drop empty parts."""
    value = os.environ.get(name)
    return default if value is None else [part.strip() for part in value.split(",") if part.strip()]
