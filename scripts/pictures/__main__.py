"""``scripts/screenshots``: see ``--help``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from demo import signals
from demo.startup import running_demo

DOCS = Path(__file__).resolve().parents[2] / "docs" / "images"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/screenshots",
        description="Start a demo, cause every kind of trouble in it, and take a picture of each admin page: light, "
        "dark, and 375 px wide. Without a folder, renew only the pictures of the docs.",
    )
    parser.add_argument("folder", nargs="?", type=Path, help="where to write the pictures, as PNG")
    parser.add_argument("--only", default="", metavar="TEXT", help="only pictures with this text in their name")
    parser.add_argument("--language", default="en", help="the language of the pages, such as de")
    options = parser.parse_args()
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if not chromium:
        parser.error("there is no Chromium: install it, or set CHROMIUM to its path")
    os.environ.setdefault("PORT", "0")
    signals.listen()
    directory = Path(tempfile.mkdtemp(prefix="webhooks-pictures-"))
    try:
        with running_demo(directory) as demo:
            from scripts.pictures import camera, trouble  # after the demo has set up Django

            trouble.cause(demo)
            with camera.Camera(chromium, demo.site.url, options.language) as taking:
                if options.folder:
                    taking.all_pages(options.folder.resolve(), options.only)
                else:
                    taking.for_docs(DOCS, options.only)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
