"""Operations side by side: one that hangs keeps no other from its turn, and can be cancelled."""

import asyncio

from attrs import evolve

from fleetcore import IoTFleetManager
from fleetcore.fleet.operations import Kind
from fleetcore.model.operation import OperationState
from fleetcore.model.store import Commit, Put


async def test_an_operation_that_hangs_holds_up_no_other_and_can_be_cancelled(fleet):
    turns = []

    async def hangs(_operation, _items):
        await asyncio.Event().wait()

    async def goes_on(operation, _items):
        turns.append(operation.id)
        return evolve(operation, state=OperationState.SUCCEEDED) if len(turns) == 3 else None

    fleet.operations.register("hangs", Kind(driver=hangs))
    fleet.operations.register("goes on", Kind(driver=goes_on))
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

    fleet.operations.register("fails", Kind(driver=fails))
    fleet.operations.register("goes on", Kind(driver=goes_on))
    for kind in ("fails", "goes on"):
        await fleet.operations.start(kind, ["x"])
    raised = ""
    try:
        await fleet.operations.tick()
    except ValueError as error:
        raised = str(error)

    assert (raised, len(turns)) == ("a bug", 1)


async def test_what_a_turn_gave_to_the_store_as_it_was_cancelled_is_taken_back_too(tmp_path):
    async with IoTFleetManager(tmp_path) as manager:
        fleet = await manager.open()

        async def notes():
            return [record.key for record in (await fleet.storage.find("note", limit=100_000)).items]

        async def begins_more(operation, _items):
            for number in range(1000):
                # Many, so that the store is at it for a while.
                keys = [f"{operation.id}/{number}/{place}" for place in range(300)]
                await fleet.storage.commit(Commit(puts=tuple(Put(kind="note", key=key, body={}) for key in keys)))

        async def taken_back(_operation, _actor, _reason):
            seen.append(await notes())

        seen, left = [], []
        fleet.operations.register("begins more", Kind(driver=begins_more, undo=taken_back))
        for _ in range(10):
            begun = await fleet.operations.start("begins more", ["x"])
            ticking = asyncio.create_task(fleet.operations.tick())
            await asyncio.sleep(0.02)
            await fleet.operations.cancel(begun.id)
            await ticking
            await fleet.storage.commit(Commit())
            left.append(await notes())

    assert seen == left
