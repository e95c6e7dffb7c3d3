"""Random transactions of random hosts: their rows decide which Events there must be, and the host does not notice.

A failing example is printed as a program: paste it into ``test_known_programs``.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.hosts.programs import Program, programs
from tests.hosts.theatre import Theatre
from tests.support.figures import Figures

pytestmark = pytest.mark.slow

TRANSACTIONS = 20_000  # with --long; each is run with webhooks, and without
EXAMPLES, SHORT = 1000, 100  # programs


def test_any_program_of_a_host_has_the_events_that_its_rows_owe(
    theatre: Theatre, database: str, is_long: bool, figures: Figures
) -> None:
    count = 0

    @settings(
        max_examples=EXAMPLES if is_long else SHORT,
        derandomize=not is_long,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(programs())
    def check(program: Program) -> None:
        nonlocal count
        count += 1
        try:
            theatre.check(program)
        except AssertionError as error:
            error.add_note(str(program))
            raise

    check()
    while is_long and theatre.transactions < 2 * TRANSACTIONS:
        check()
    figures(f"{count} programs of hosts with {theatre.transactions // 2} transactions on {database}")
