"""Random transactions of random hosts: their rows decide which Events there must be, and the host does not notice.

A failing program is printed without what it does not need: paste it into ``test_known_programs``.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from random import SystemRandom

import pytest

from tests.hosts.programs import Program, program, shrunk
from tests.hosts.theatre import Theatre
from tests.support.figures import Figures

pytestmark = pytest.mark.slow

TRANSACTIONS = 20_000  # with --long; each is run with webhooks, and without
SHORT = 60  # programs


def test_any_program_of_a_host_has_the_events_that_its_rows_owe(
    theatre: Theatre, database: str, is_long: bool, figures: Figures
) -> None:
    first = SystemRandom().randrange(SHORT, 10**9) if is_long else 0
    for done in count():
        if theatre.transactions >= 2 * TRANSACTIONS if is_long else done == SHORT:
            break
        drawn = program(first + done)
        try:
            theatre.check(drawn)
        except AssertionError as error:
            error.add_note(f"program({first + done}), after {done} programs that went well, shrunk:")
            error.add_note(str(shrunk(drawn, partial(_fails, theatre, type(error)))))
            raise
    figures(f"{done} programs of hosts with {theatre.transactions // 2} transactions on {database}")


def _fails(theatre: Theatre, kind: type[AssertionError], program: Program) -> bool:
    """Whether it fails in the same way."""
    try:
        theatre.check(program)
    except kind:
        return True
    except AssertionError:
        return False
    return False
