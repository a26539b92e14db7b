"""Operations side by side: one that hangs keeps no other from its turn, and can be cancelled."""

import asyncio

from attrs import evolve

from fleetcore.model.operation import OperationState


async def test_an_operation_that_hangs_holds_up_no_other_and_can_be_cancelled(fleet):
    turns = []

    async def hangs(_operation, _items):
        await asyncio.Event().wait()

    async def goes_on(operation, _items):
        turns.append(operation.id)
        return evolve(operation, state=OperationState.SUCCEEDED) if len(turns) == 3 else None

    fleet.operations.drive("hangs", hangs)
    fleet.operations.drive("goes on", goes_on)
    stuck = await fleet.operations.start("hangs", ["x"])
    free = await fleet.operations.start("goes on", ["x"])
    for _ in range(3):
        await fleet.operations.tick()
    ended = await fleet.operations.get(free.id)
    cancelled = await fleet.operations.cancel(stuck.id)
    await fleet.operations.tick()

    assert ended.state is OperationState.SUCCEEDED
    assert cancelled.state is OperationState.CANCELLED


async def test_what_a_turn_raises_is_told_after_the_others_had_theirs(fleet):
    turns = []

    async def fails(_operation, _items):
        raise ValueError("a bug")

    async def goes_on(operation, _items):
        turns.append(operation.id)

    fleet.operations.drive("fails", fails)
    fleet.operations.drive("goes on", goes_on)
    for kind in ("fails", "goes on"):
        await fleet.operations.start(kind, ["x"])
    raised = ""
    try:
        await fleet.operations.tick()
    except ValueError as error:
        raised = str(error)

    assert (raised, len(turns)) == ("a bug", 1)
