"""``scripts/messages``: extract the texts of the app, and compile their translations."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import polib
from django.core.management import call_command

APP = Path(__file__).resolve().parent.parent / "webhooks"
LOCALE = APP / "locale"


def main(languages: list[str]) -> int:
    languages = languages or sorted(path.name for path in LOCALE.iterdir())
    os.chdir(APP)  # makemessages looks for texts below the current directory
    # Lines change with each commit, so the catalogue names files only.
    call_command("makemessages", locale=languages, add_location="file", no_obsolete=True, no_wrap=True, verbosity=0)
    untranslated = 0
    for language in languages:
        path = LOCALE / language / "LC_MESSAGES" / "django.po"
        catalogue = polib.pofile(path, wrapwidth=0)
        for entry in catalogue.fuzzy_entries():  # a guess of gettext, from a similar text
            entry.msgstr, entry.msgstr_plural = "", dict.fromkeys(entry.msgstr_plural, "")
            entry.previous_msgid = entry.previous_msgid_plural = None
            entry.flags.remove("fuzzy")
        catalogue.metadata.pop("POT-Creation-Date", None)  # else each run changes the file
        catalogue.save(path)
        catalogue.save_as_mofile(path.with_suffix(".mo"))
        for entry in catalogue.untranslated_entries():
            untranslated += 1
            print(f"{language}: {entry.msgid}")
        print(f"{language}: {len(catalogue)} texts, {catalogue.percent_translated()} % translated")
    return 1 if untranslated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
