"""Programs of hosts that once went wrong, as the generator shrank them."""

from __future__ import annotations

import pytest

from tests.hosts.programs import Block, Do, On, Program
from tests.hosts.theatre import Theatre

KNOWN: dict[str, Program] = {
    "plain": Program((Do("create", "Box", 0), Do("save", "Box", 0), Do("delete", "Box", 0))),
}


@pytest.mark.parametrize("program", KNOWN.values(), ids=KNOWN.keys())
def test_a_program_that_once_went_wrong_goes_well(theatre: Theatre, program: Program) -> None:
    theatre.check(program)
