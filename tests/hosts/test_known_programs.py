"""Programs of hosts that once went wrong, as the generator shrank them."""

from __future__ import annotations

from tests.hosts.programs import Block, Define, Do, Guise, On, Program
from tests.hosts.theatre import Theatre


def atomic(*steps: Do | Block) -> Block:
    return Block("atomic", steps)


BOX, ITEM = Do("create", "Box"), Do("create", "Item")
CRATE, PIECE = Do("create", "Crate"), Do("create", "Piece")
COUNTS = On("post_delete", "Item", "count_by_save")
PERSON, BADGE = Do("create", "Person"), Do("create", "Badge")

KNOWN: dict[str, Program] = {
    "a counter in a parent that is deleted": Program((BOX, ITEM, Do("delete", "Box")), (COUNTS,)),
    "a counter in a parent that a transaction deletes": Program((BOX, ITEM, atomic(Do("delete", "Box"))), (COUNTS,)),
    "a counter in a parent that a batch deletes": Program(
        (BOX, ITEM, Block("batch", (Do("delete", "Box"),))), (COUNTS,)
    ),
    "a counter in a parent that the manager deletes": Program(
        (CRATE, PIECE, Do("bulk_delete", "Crate")), (On("post_delete", "Piece", "count_by_save"),)
    ),
    "labels that are cleared before a deletion": Program(
        (Do("create", "Label"), BOX, Do("add", "Box"), atomic(Do("delete", "Box"))),
        (On("pre_delete", "Box", "clear_members"),),
    ),
    "labels that are cleared before a deletion in a batch": Program(
        (Do("create", "Label"), BOX, Do("add", "Box"), Block("batch", (Do("delete", "Box"),))),
        (On("pre_delete", "Box", "clear_members"),),
    ),
    "labels that are cleared before a deletion by the manager": Program(
        (Do("create", "Label"), CRATE, Do("add", "Crate"), Do("bulk_delete", "Crate")),
        (On("pre_delete", "Crate", "clear_members"),),
    ),
    "a deletion after the cascade in a batch": Program(
        (BOX, ITEM, Block("batch", (Do("delete", "Box"), Do("delete_kept", "Item"))))
    ),
    "saved again by an earlier receiver": Program((atomic(BOX),), (On("post_save", "Box", "save_again", "before"),)),
    "saved again by an earlier receiver in autocommit": Program(
        (BOX,), (On("post_save", "Box", "save_again", "before"),)
    ),
    "saved again by an earlier receiver, and deleted": Program(
        (atomic(BOX, Do("delete", "Box")),), (On("post_save", "Box", "save_again", "before"),)
    ),
    "created after a deletion of nothing": Program(
        (BOX, Do("delete", "Box"), atomic(Do("delete_by_key", "Box"), Do("create_again", "Box")))
    ),
    "created after a deletion of nothing under its own key": Program(
        (atomic(Do("delete_by_key", "Country"), Do("create", "Country")),)
    ),
    "a random condition": Program(
        (*(Do("create", "Crate", slot) for slot in range(3)), Do("update_random", "Crate")) * 3
    ),
    "a subquery on the updated column": Program(
        (*(Do("create", "Crate", slot) for slot in range(3)), Do("update_highest", "Crate", 0, 1))
    ),
    "an ignored user updates what another created": Program(
        (atomic(Block("actor", (BOX,), "alice"), Block("actor", (Do("save", "Box"),), "robot")),), webhooks=("quiet",)
    ),
    "a user within a batch": Program((Block("batch", (Block("actor", (BOX,), "alice"),)),)),
    "saved after its key was set to null": Program(
        (
            BOX, Do("create", "Box", 1), ITEM, Do("like", "Item", 0, 1),
            atomic(Do("delete", "Box", 1), Do("save", "Item")),
        ),
        webhooks=("before",),
    ),
    "a composite key updated in bulk": Program((Do("create", "Seat"), Do("update", "Seat"))),
    "composite keys updated by bulk_update": Program((Do("create", "Seat"), Do("bulk_update", "Seat"))),
    "a key that is an enum": Program((Do("create", "Country"), Do("save", "Country"))),
    "a view with DISTINCT": Program((Do("create", "Overview"), Do("save", "Overview"), Do("delete", "Overview"))),
    "labels after a raw save": Program(
        (Do("create", "Label"), Do("create", "Box", 1), Do("save_raw", "Box", 1), Do("add", "Box", 1))
    ),
    "users whose names are no texts": Program(
        tuple(Block("request", (BOX,), name) for name in ("number", "uuid", "none"))
    ),
    "a signal that the host sends": Program((BOX, Do("send", "Box"))),
    "an object without a name": Program((BOX,)),
    "a number in JSON that becomes false": Program((BOX, Do("save", "Box")), webhooks=("flags",)),
    "secrets under other names": Program(
        (PERSON, Do("create", "Person", 1), Do("save", "Person"), BADGE),
        guises=(
            Guise("Person", "ssn", "renamed"), Guise("Person", "password", "slug", "staff"),
            Guise("Badge", "pin", "nested_twice", "box"),
        ),
    ),
    "a changed key in an envelope": Program(
        (Do("create", "Person", 1), Do("save", "Person", 1)), webhooks=("flags",),
        guises=(Guise("Person", "ssn", "in_envelope", "boss"),),
    ),
    "columns of a parent that an untracked manager updates": Program(
        (Do("create", "Truck"), Block("batch", (Do("update", "Truck", 0, 2), Do("save", "Truck")))),
        webhooks=("before",),
    ),
    "a bulk_create that fails in a transaction": Program(
        (atomic(Do("update_or_create", "Session", 0, 2), Do("bulk_create", "Session", 0, 1)),), webhooks=("quiet",)
    ),
    "labels that a receiver of the deletion clears": Program(
        (Do("create", "Label"), BOX, Do("add", "Box"), Do("delete", "Box")),
        (On("pre_delete", "Box", "clear_members", "before"),),
        webhooks=("before",),
    ),
    "created and deleted, and once more in a batch": Program(
        (
            Do("create", "Desk"),
            Block("savepoint", (Do("create_again", "Desk"), Block("batch", (Do("create_again", "Desk", 0, 2),)))),
        ),
        (On("post_save", "Desk", "delete_copy"),), webhooks=("changes",),
    ),
    "a batch in a transaction that can only be rolled back": Program(
        (
            Do("create", "Person"),
            Block("durable", (
                Block("catch", (Do("delete_by_key", "Person", 0, 2),)), Block("batch", (Do("delete", "Person", 0, 1),)),
            )),
        ),
        (On("pre_delete", "Person", "fail"),), webhooks=("quiet",),
    ),
    "a masked secret": Program(
        (PERSON, Do("save", "Person"), Do("save", "Person")), webhooks=("before",),
        guises=(Guise("Person", "card", "masked_by_method"),),
    ),
    "a secret that becomes public": Program(
        (PERSON, atomic(Do("save", "Person"))), webhooks=("before",),
        guises=(Guise("Person", "card", "masked_by_field"),),
    ),
    "secret keys": Program(
        (Do("create", "Session"), Do("create", "Visit"), Do("create", "Ticket"), PERSON, BADGE),
        guises=(Guise("Badge", "session_key", "key", "session"),),
    ),
    "a webhook of a user who may view some objects": Program(
        (Define("sees some"), Define("sees all"), Do("create", "Desk"), Do("create", "Desk", 1, 1))
    ),
    "labels that are cleared within the creation": Program(
        (BOX,), (On("post_save", "Box", "clear_members", "before"),)
    ),
    "deleted within its creation": Program(
        (atomic(BOX),), (On("post_save", "Box", "delete_copy", "before"),)
    ),
    "deleted within its creation in autocommit": Program((BOX,), (On("post_save", "Box", "delete_copy", "before"),)),
    "friends that a receiver clears while they are added": Program(
        (Do("bulk_create", "Box"), Do("befriend", "Box", 1, 0), Do("befriend", "Box")),
        (On("m2m_changed", "Box", "clear_members", "before"),),
    ),
    "deleted by one user, and in vain by another": Program(
        (BOX, Block("batch", (Block("actor", (Do("delete_kept", "Box"),), "alice"), Do("delete_by_key", "Box"))))
    ),
    "a row that a receiver of its deletion creates again": Program(
        (BOX, atomic(Do("delete_by_key", "Box"), Do("delete_by_key", "Box"))),
        (On("pre_delete", "Box", "save_again", "before"),),
    ),
    "an object with two keys that deletes itself within its save": Program(
        (Do("bulk_create", "Seat"), atomic(Do("save", "Seat"))), (On("post_save", "Seat", "delete_itself", "before"),)
    ),
    "a transaction that goes on after a bulk_create failed": Program(
        (Do("bulk_create", "Seat"), atomic(Block("catch", (Do("bulk_create", "Seat"),)), Do("update_one", "Account")))
    ),
    "a transaction that goes on after a bulk_create of others failed": Program(
        (Do("bulk_create", "Country"), atomic(Block("catch", (Do("bulk_create", "Country"),)), Do("save", "Country")))
    ),
    "a child that is created again under its key": Program(
        (
            Do("create", "Truck"),
            atomic(Do("create_again", "Truck"), Do("save", "Truck"), Do("save", "Truck")),
        ),
        webhooks=("before",),
    ),
}  # fmt: skip


def test_each_program_that_once_went_wrong_goes_well(theatre: Theatre) -> None:
    """One after another in the same theatre: to open one takes as long as to check many programs."""
    wrong = {}
    for name, program in KNOWN.items():
        try:
            theatre.check(program)
        except AssertionError as error:
            wrong[name] = f"{type(error).__name__}: {error}"
    assert not wrong, "\n".join(f"{name}: {problem}" for name, problem in wrong.items())
