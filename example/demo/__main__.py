"""``scripts/demo``: see ``--help``."""

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from demo import signals
from demo.round_trip import check_round_trip
from demo.showcase import follow, print_addresses, show_a_change
from demo.startup import running_demo
from demo.supervisord import DemoError, log

TAIL_LINES = 40


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Start the example site with Valkey, a webhook worker and a receiver. Change an object, "
        "show its webhook, and run until Ctrl-C. PORT=9000 in the environment chooses the site's port.",
    )
    once = "check create, update, delete and a receiver that fails twice, then exit with 0 or, on an error, 1"
    parser.add_argument("--once", action="store_true", help=once)
    parser.add_argument("--full", action="store_true", help="print the whole payload of the first request")
    arguments = parser.parse_args()
    signals.listen()
    directory = Path(tempfile.mkdtemp(prefix="webhooks-demo-"))
    failed = False
    try:
        run(directory, arguments.once, arguments.full)
    except DemoError as error:
        failed = True
        explain(error, directory)
    except BrokenPipeError:  # for example in: scripts/demo | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python prints an error at exit
        return 1
    finally:
        if not failed:
            shutil.rmtree(directory, ignore_errors=True)
            signals.say_stopped()
    return int(failed)


def run(directory: Path, once: bool, full: bool) -> None:
    with running_demo(directory) as demo:
        if once:
            check_round_trip(demo)
            print("The round trip works.", flush=True)
            return
        show_a_change(demo, full)
        print_addresses(demo)
        with suppress(SystemExit):  # raised after Ctrl-C
            follow(demo)


def explain(error: DemoError, directory: Path) -> None:
    message, program = error.args
    print(f"\nThe demo failed: {message}\n", file=sys.stderr)
    file = log(directory, program)
    if file.exists():
        lines = file.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        print(f"The last lines of {file}:\n", *lines, "", sep="\n", file=sys.stderr)
    print(f"All logs are in {file.parent}.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
