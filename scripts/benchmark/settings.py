"""The settings of the example project. TEST_WEBHOOKS (JSON) overrides keys of its setting WEBHOOKS."""

from __future__ import annotations

import json
import os
import tempfile

os.environ.setdefault("EXAMPLE_DATA_DIR", os.path.join(tempfile.gettempdir(), "webhooks-bench"))

from project.settings import *  # noqa: F403
from project.settings import WEBHOOKS as EXAMPLE

WEBHOOKS = {**EXAMPLE, **json.loads(os.environ.get("TEST_WEBHOOKS", "{}"))}
ALLOWED_HOSTS = ["*"]
