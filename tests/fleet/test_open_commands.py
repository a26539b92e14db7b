"""What is kept in memory of commands is what the store holds, whatever happens in between."""

import asyncio
import random

import pytest
from attrs import evolve

from fleetcore.errors import FleetError, StorageError
from fleetcore.fleet.process_state.open_commands import OpenCommands
from fleetcore.fleet.process_state.turns import Turns
from fleetcore.model.command import FINISHED, Command, CommandState
from fleetcore.model.device import Lifecycle
from fleetcore.wire import messages

DEVICES = [f"d-{number}" for number in range(3)]
STATUSES = ["accepted", "running", "succeeded", "failed", "rejected", "cancelled"]


class Faults:
    """Makes some commits fail: before they happen, or after, when the caller cannot know."""

    def __init__(self, fleet, chance):
        self._real, self._chance, self.share = fleet.storage.commit, chance, 0.0
        fleet.storage.commit = self.commit

    async def commit(self, change):
        drawn = self._chance.random()
        if drawn < self.share / 2:
            raise StorageError("before")
        done = await self._real(change)
        if drawn < self.share:
            raise StorageError("after")
        return done


async def act(fleet, chance, clock, known):
    """One thing that happens to some device."""
    commands, device = fleet.commands, chance.choice(DEVICES)
    match chance.choice(
        ["send", "send", "send", "hand_out", "hand_out", "result", "result", "result", "cancel", "tick"]
    ):
        case "send":
            command = await commands.send(
                device,
                "do",
                {"n": chance.randint(0, 9)},
                lane=chance.choice("ab"),
                respond=chance.choice(["result", "result", "ack", "none"]),
                supersede=chance.choice([None, None, "k"]),
                deliver_within_s=chance.choice([20, 86_400]),
                result_within_s=chance.choice([60, 90_000]),
                bulk=chance.choice([None, "op-1", "op-2"]),
            )
            known.append(command.id)
        case "hand_out":
            given = await commands.hand_out(device, again=chance.random() < 0.3)
            assert len({command.lane for command in given}) == len(given)
        case "result" if known:
            of = (await commands.get(chance.choice(known[-8:]))).id
            whose = (await commands.get(of)).device if chance.random() < 0.9 else device
            some = chance.sample(STATUSES, chance.randint(1, 2))
            await asyncio.gather(
                *(commands.result(whose, of, messages.CommandResult(status=status)) for status in some)
            )
        case "cancel" if known:
            await commands.cancel(chance.choice(known[-8:]))
        case "tick":
            await commands.tick()


async def step(fleet, chance, clock, known):
    """Several things at once; some of their callers go away in the middle."""
    tasks = [asyncio.ensure_future(act(fleet, chance, clock, known)) for _ in range(chance.randint(1, 4))]
    for _ in range(chance.randint(0, 12)):
        await asyncio.sleep(0)
    for task in tasks:
        if chance.random() < 0.3:
            task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, FleetError | asyncio.CancelledError):
            raise outcome
    while fleet.commands._shield._tasks:
        await asyncio.gather(*fleet.commands._shield._tasks, return_exceptions=True)


async def check(fleet):
    for device in DEVICES:
        stored = await fleet.commands.list(device, unfinished=True)
        held = fleet.commands._open.held(device)
        assert held is None or held == stored
        assert list(await fleet.commands.snapshot(device)) == heads(stored, fleet.clock.now_ms())


def heads(stored, now):
    """What may be handed out, from the store's commands: the oldest of each lane that is not past its time."""
    found = {}
    for command in stored:
        waits = command.state in (CommandState.QUEUED, CommandState.SENT)
        if not (waits and min(command.deliver_by, command.expires_at) <= now):
            found.setdefault(command.lane, command)
    return list(found.values())


async def counts(fleet):
    """The counters by the records and as stored, at one position: commands expire in the background."""
    while True:
        position = await fleet.storage.position()
        counted = await fleet.commands.records.recount()
        counters = {space: await fleet.storage.counters(space) for space in ("bulk/op-1", "bulk/op-2")}
        if await fleet.storage.position() == position:
            return counted, counters


@pytest.mark.parametrize("seed", range(30))
async def test_memory_and_store_agree_after_every_step(fleet, clock, seed):
    chance, known = random.Random(seed), []
    for device in DEVICES:
        await fleet.devices.register(device, "sensor")
    faults = Faults(fleet, chance)
    compared = 0
    for number in range(60):
        faults.share = chance.choice([0.0, 0.0, 0.3])
        await step(fleet, chance, clock, known)
        faults.share = 0.0
        await check(fleet)
        compared += sum(bool(fleet.commands._open.held(device)) for device in DEVICES)
        if chance.random() < 0.2:
            await clock.advance(chance.choice([1, 31, 90]))
        if number == 50:
            await fleet.lifecycles.move(DEVICES[0], Lifecycle.RETIRED)
            assert await fleet.commands.list(DEVICES[0], unfinished=True) == []
            with pytest.raises(FleetError):
                await fleet.commands.send(DEVICES[0], "do")
        await check(fleet)

    assert compared > 20
    counted, counters = await counts(fleet)
    for operation in ("op-1", "op-2"):
        space = f"bulk/{operation}"
        wanted = {name: count for (its, name), count in counted.items() if its == space}
        assert counters[space] == wanted
    assert len(fleet.commands.records._turns) == 0
    assert not fleet.commands._joint


async def test_an_erased_device_and_a_new_one_of_its_name_share_nothing(fleet):
    await fleet.devices.register("d-0", "sensor")
    await fleet.commands.send("d-0", "do", idempotency_key="once")
    assert len(await fleet.commands.hand_out("d-0")) == 1

    await fleet.erasing.erase("d-0")
    await fleet.devices.register("d-0", "sensor")
    assert list(await fleet.commands.snapshot("d-0")) == []
    again = await fleet.commands.send("d-0", "do", idempotency_key="once")

    assert [(one.id, one.sequence) for one in await fleet.commands.hand_out("d-0")] == [(again.id, 2)]


async def test_a_caller_that_goes_away_does_not_take_a_command_back(fleet):
    await fleet.devices.register("d-0", "sensor")
    woken = []
    fleet.commands.on_queued(woken.append)
    await fleet.commands.hand_out("d-0")
    sending = asyncio.ensure_future(fleet.commands.send("d-0", "do"))
    while not fleet.commands._shield._tasks:
        await asyncio.sleep(0)
    sending.cancel()
    await asyncio.gather(sending, *fleet.commands._shield._tasks, return_exceptions=True)

    assert sending.cancelled()
    assert woken == ["d-0"]
    assert len(await fleet.commands.hand_out("d-0")) == 1


async def test_a_device_in_use_costs_no_reads(fleet):
    await fleet.devices.register("d-0", "sensor")
    await fleet.commands.send("d-0", "warm", respond="none")
    await fleet.commands.hand_out("d-0")
    reads = []
    for name in ("get", "find", "floor", "find_unique"):
        real = getattr(fleet.storage, name)

        def reading(*args, name=name, real=real, **options):
            if args[0] != "audit":
                reads.append((name, args))
            return real(*args, **options)

        setattr(fleet.storage, name, reading)
    command = await fleet.commands.send("d-0", "do")
    await fleet.commands.hand_out("d-0")
    for status in ("accepted", "succeeded"):
        await fleet.commands.result("d-0", command.id, messages.CommandResult(status=status))

    assert reads == []


async def test_what_a_device_says_at_once_of_a_command_is_one_commit(fleet):
    await fleet.devices.register("d-0", "sensor")
    command = await fleet.commands.send("d-0", "do")
    await fleet.commands.hand_out("d-0")
    before = await fleet.storage.position()

    said = ("accepted", "succeeded", "failed")
    outcomes = await asyncio.gather(
        *(fleet.commands.result("d-0", command.id, messages.CommandResult(status=one)) for one in said)
    )

    entries = [entry for entry in await fleet.storage.feed(before) if entry.events]
    assert [[event.type for event in entry.events] for entry in entries] == [["command.delivered", "command.succeeded"]]
    assert [getattr(outcome, "code", None) for outcome in outcomes] == [None, None, "command_finished"]


def made(device, number, size=0):
    return Command(
        id=f"{device}-{number}", device=device, name="do", args={"a": "x" * size}, sequence=number, version=1
    )


async def test_memory_is_bounded_and_those_used_last_stay():
    store = {device: [made(device, number, 1000) for number in range(10)] for device in "abcd"}
    loads = []

    async def load(device):
        loads.append(device)
        return store[device]

    kept = OpenCommands(load, limit_bytes=80_000)
    for device in "abcad":
        assert list(await kept.of(device)) == store[device]

    assert kept.size_bytes <= 80_000
    assert loads == ["a", "b", "c", "d"]
    assert [device for device in "abcd" if kept.held(device) is not None] == ["a", "c", "d"]


async def test_what_is_committed_while_a_device_is_read_is_not_lost():
    seen, go = asyncio.Event(), asyncio.Event()
    old, new = made("d", 1), made("d", 2)

    async def load(_device):
        seen.set()
        await go.wait()
        return [old]  # as it was before either was changed

    kept = OpenCommands(load)
    reading = asyncio.ensure_future(kept.of("d"))
    await seen.wait()
    ended = Command(id=old.id, device="d", name="do", sequence=1, state=CommandState.SUCCEEDED, version=2)
    assert ended.state in FINISHED
    kept.note(ended)
    kept.note(new)
    go.set()

    assert list(await reading) == [new]
    assert kept.held("d") == [new]


async def test_a_read_that_was_overtaken_is_done_again():
    answers = [[made("d", 1)], []]
    go = asyncio.Event()

    async def load(_device):
        found = answers.pop(0)
        await go.wait()
        return found

    kept = OpenCommands(load)
    reading = asyncio.ensure_future(kept.of("d"))
    await asyncio.sleep(0)
    kept.forget("d")
    go.set()

    assert list(await reading) == []


async def test_turns_go_in_order_and_a_caller_that_leaves_keeps_nobody_off():
    turns, order = Turns(), []
    await turns.take("k")

    async def one(name):
        async with turns.of("k"):
            order.append(name)

    tasks = [asyncio.ensure_future(one(name)) for name in "abcd"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    turns.give("k")
    tasks[0].cancel()  # its turn has come, and it does not know yet
    await asyncio.gather(*tasks, return_exceptions=True)

    assert order == ["c", "d"]
    assert len(turns) == 0


async def test_an_older_word_on_a_command_says_nothing():
    new = evolve(made("d", 1), state=CommandState.SENT, version=2)

    async def load(_device):
        return [new]

    kept = OpenCommands(load)
    await kept.of("d")
    kept.note(made("d", 1))

    assert kept.held("d") == [new]
