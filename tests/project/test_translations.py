"""The catalogues of translations: current and compiled, and what never follows the reader's language."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polib
import pytest
from django.contrib.admin.models import LogEntry
from django.utils import translation

from dcim.models import Site
from tests.support.inbox import ROOT
from tests.support.makers import make_site_deliveries, make_webhook
from users.models import User
from webhooks.insight.wording import count_of, number
from webhooks.models import Delivery
from webhooks.operations import kinds, runs

LANGUAGES = sorted(path.name for path in (ROOT / "webhooks/locale").iterdir())
PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|\{\w+\}")


def catalogue(language: str, suffix: str = "po", app: Path = ROOT / "webhooks") -> polib.POFile | polib.MOFile:
    path = app / "locale" / language / "LC_MESSAGES" / f"django.{suffix}"
    return polib.pofile(str(path)) if suffix == "po" else polib.mofile(str(path))


def texts(entries: polib.POFile | polib.MOFile) -> dict[tuple[str | None, str], object]:
    return {(one.msgctxt, one.msgid): one.msgstr or dict(one.msgstr_plural) for one in entries}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalogue_keeps_the_placeholders_and_guesses_nothing(language: str) -> None:
    """A new text may lack a translation until the release: ``.ci/run`` lists it."""
    entries = catalogue(language)
    assert isinstance(entries, polib.POFile)
    assert not [one.msgid for one in entries.fuzzy_entries()]
    for one in entries.translated_entries():
        forms = [set(PLACEHOLDER.findall(text)) for text in (one.msgid, one.msgid_plural) if text]
        for text in [one.msgstr] if one.msgstr else one.msgstr_plural.values():
            found = set(PLACEHOLDER.findall(text))
            assert set.intersection(*forms) <= found <= set.union(*forms), text


def test_the_catalogues_have_every_text_of_the_app_and_no_other(tmp_path: Path) -> None:
    assert shutil.which("xgettext"), "install gettext (Debian: apt-get install gettext)"
    app = tmp_path / "webhooks"
    shutil.copytree(ROOT / "webhooks", app, ignore=shutil.ignore_patterns("__pycache__", "locale"))
    (app / "locale").mkdir()
    command = ["-m", "django", "makemessages", "--locale", "xx", "--verbosity", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    subprocess.run([sys.executable, *command], cwd=app, env=environment, check=True, timeout=120)
    extracted = set(texts(catalogue("xx", app=app)))
    for language in LANGUAGES:
        known = set(texts(catalogue(language)))
        assert not extracted - known, "run scripts/messages"
        assert not known - extracted, "run scripts/messages"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_compiled_catalogue_is_the_same(language: str) -> None:
    assert texts(catalogue(language, "mo")) == texts(catalogue(language))


def test_numbers_and_plurals_follow_the_language() -> None:
    assert [count_of(1, "delivery"), count_of(12_345, "delivery", cap=10_000)] == ["1 delivery", "10,000+ deliveries"]
    with translation.override("de"):
        assert [count_of(1, "delivery"), count_of(2, "delivery")] == ["1 Zustellung", "2 Zustellungen"]
        assert number(1_234_567) == "1.234.567"


def test_the_history_is_english_whoever_acts(db: None, redis: object) -> None:
    webhook, user = make_webhook(Site, name="CMDB"), User.objects.create_superuser("admin")
    make_site_deliveries(webhook, 1)
    with translation.override("de"):
        kinds.RETRY.perform(Delivery.objects.all(), user)
        run = runs.start("retry", {"webhook": webhook.pk}, user)
    assert [(entry.object_repr, entry.get_change_message()) for entry in LogEntry.objects.order_by("pk")] == [
        (str(Delivery.objects.for_list().get()), "Retried."),
        ("retry of deliveries of CMDB", f"Started run {run.pk}."),
    ]
