"""The text of a file of webhooks: YAML, or JSON, which is YAML too."""

from __future__ import annotations

import json
from typing import Any

from webhooks.operations.manifest import InvalidFile

try:
    import yaml
except ImportError:  # optional
    yaml = None  # type: ignore[assignment]

HAS_YAML = yaml is not None

NEEDS_YAML = 'To read and write YAML, install "django-rq-webhooks[yaml]". JSON works without it.'


def parse(text: str) -> Any:
    """The content of a file. Raises InvalidFile if it is neither YAML nor JSON."""
    try:
        return yaml.safe_load(text) if HAS_YAML else json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "" if HAS_YAML else f" {NEEDS_YAML}"
        raise InvalidFile([f"It is no JSON: {error}.{hint}"]) from None
    except yaml.YAMLError as error:
        raise InvalidFile([f"It is no YAML: {error}"]) from None


def dump(document: Any, as_json: bool = False) -> str:
    """The text of a file. Texts of several lines are blocks in YAML. Raises InvalidFile if it takes a library that is
    not installed."""
    if as_json:
        return json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    if not HAS_YAML:
        raise InvalidFile([NEEDS_YAML])

    class Dumper(yaml.SafeDumper):
        pass

    def represent(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, represent)
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120))
