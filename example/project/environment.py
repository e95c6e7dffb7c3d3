"""Reading settings from environment variables."""

import os


def env_bool(name: str, default: bool) -> bool:
    """``1``, ``true``, ``yes`` and ``on`` are true in any case, any other text is false."""
    value = os.environ.get(name)
    return default if value is None else value.strip().lower() in {"1", "true", "yes", "on"}


def env_list(name: str, default: list[str]) -> list[str]:
    """Split on commas; empty parts are dropped."""
    value = os.environ.get(name)
    return default if value is None else [part.strip() for part in value.split(",") if part.strip()]
