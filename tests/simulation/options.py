"""Run stories, and print the shortest form of those that break a promise.

scripts/simulate                          100 new seeds on SQLite
scripts/simulate --database postgresql    the same on PostgreSQL
scripts/simulate --minutes 1.5            new seeds for so long
scripts/simulate --seed 4711 --trace      one seed, step by step
scripts/simulate --planted                defects that are planted in the code, and the seeds that find them
"""

from __future__ import annotations

import argparse


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=100, help="how many stories to run")
    parser.add_argument("--first", type=int, help="the first seed; default: a new one")
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--minutes", type=float, help="run new seeds for so long")
    parser.add_argument("--known", action="store_true", help="first run the seeds that once failed")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--trace", action="store_true", help="print each step of --seed")
    parser.add_argument("--plant", help="plant this defect first")
    parser.add_argument("--planted", action="store_true", help="plant each defect, and say how many seeds found it")
    parser.add_argument("--brief", action="store_true", help="print one line in all")
    parser.add_argument("--all", action="store_true", help="go on after a seed that fails, and shorten no story")
    return parser.parse_args()
