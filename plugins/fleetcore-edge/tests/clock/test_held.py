"""Messages that wait for the time: each acknowledged one arrives with its true time, over kills and boots."""

import asyncio
import itertools
import logging
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from fleetcore_edge.clock import journal as journals
from fleetcore_edge.clock.gateway_clock import GatewayClock
from fleetcore_edge.clock.held import HeldMessages
from fleetcore_edge.clock.journal import ALERTS, READINGS
from fleetcore_edge.uplink.room import Room
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetcore.errors import NotAuthorised, StorageError
from fleetcore.interfaces.ingest import HeldMessage
from fleetcore.interfaces.protocol import CloseOnce, Session
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.message import Accepted, Inbound, Rejected
from fleetcore.wire.messages import EVENTS, TELEMETRY

MINUTE, DAY = 60_000, 86_400_000


class _Session(CloseOnce, Session):
    def __init__(self, identity):
        super().__init__()
        self.name = identity

    @property
    def identity(self):
        return self.name


class Fleet:
    """The parts of a fleet that held messages meet; its store outlives processes. A killed one takes nothing more."""

    def __init__(self, stored, receipts):
        self.receipts = receipts
        self.plane = self.ingest = self.dead_letters = self.storage = self
        self.device_sessions = SimpleNamespace(last_seen={})
        self.stored, self.letters, self.lost, self.takes = stored, [], 0, None
        self.go_on = asyncio.Event()
        self.answers = iter(())
        self.unknown = set()

    async def authenticate(self, credential, *, protocol):
        if credential.device in self.unknown:
            raise NotAuthorised("unknown", code="device_unknown")
        return _Session(credential.device)

    async def submit(self, session, message, *, received_ms):
        await asyncio.sleep(0)
        if self.takes is not None:
            if not self.takes:
                await self.go_on.wait()  # or the process is about to be killed
            else:
                self.takes -= 1
        outcome = next(self.answers, Accepted())
        if not isinstance(outcome, Rejected) and message.receipt not in self.receipts:
            # As the store: a reading without a time is another one each time, unless its message has an id.
            self.receipts.add(message.receipt)
            self.stored.append((session.identity, message.payload, received_ms))
        return outcome

    def add(self, identity, message, rejected):
        self.letters.append((identity, message.payload, rejected.code))

    async def flush(self):
        pass

    async def counters(self, _space):
        return {"lost": self.lost} if self.lost else {}

    async def commit(self, commit):
        self.lost += sum(commit.add.values())


class Process:
    """A process of the agent."""

    def __init__(self, folder, machine, stored, receipts, *, floor_ms, limit_bytes=10**9):
        self.machine, self.fleet = machine, Fleet(stored, receipts)
        self.clock = GatewayClock(folder, machine, floor_ms=floor_ms)
        self.held = HeldMessages(self.fleet, self.clock, folder, limit_bytes=limit_bytes)
        self.task = asyncio.create_task(self.held.run())

    async def arrives(self, *payloads, device="pump-1", type=TELEMETRY):
        """Messages arrive; those that are acknowledged are held, or stored."""
        batch = [
            HeldMessage(device, Inbound(type=type, subject=device, payload=each), self.clock.now_ms())
            for each in payloads
        ]
        if self.held.holds:
            await self.held.hold(batch)
        else:
            self.fleet.stored += [(each.identity, each.message.payload, each.received_ms) for each in batch]

    async def drained(self):
        async with asyncio.timeout(10):
            while self.held.waiting():
                await asyncio.sleep(0)

    async def killed(self):
        await end_tasks(self.task)


@pytest.fixture
async def start(tmp_path, machine):
    """Starts processes of the agent."""
    running, stored, receipts, floor = [], [], set(), machine.true_ms - DAY

    def started(**options):
        running.append(Process(tmp_path, machine, stored, receipts, floor_ms=floor, **options))
        return running[-1]

    yield started
    for process in running:
        await process.killed()


async def test_they_wait_until_the_time_is_known_and_then_have_their_true_times(start, machine):
    machine.set(MINUTE)
    process = start()
    came = []
    for number in range(3):
        came.append(machine.true_ms)
        await process.arrives(b"%d" % number)
        machine.pass_(1_000)
    assert process.fleet.stored == []

    process.clock.told(machine.true_ms, half_ms=10)
    await process.drained()

    assert process.fleet.stored == [("pump-1", b"%d" % number, at) for number, at in enumerate(came)]
    assert process.held.counts["submitted"] == 3
    assert process.held.counts["estimated"] == 0


async def test_a_killed_process_loses_none_and_the_next_one_dates_them(start, machine):
    machine.set(MINUTE)
    process = start()
    came = machine.true_ms
    await process.arrives(b"1")
    await process.killed()
    machine.pass_(MINUTE)
    process = start()

    process.clock.told(machine.true_ms, half_ms=10)
    await process.drained()

    assert process.fleet.stored == [("pump-1", b"1", came)]


async def test_those_of_a_boot_without_a_known_time_are_counted_as_estimated_with_their_bounds(start, machine, caplog):
    machine.set(MINUTE)
    process = start()
    came = machine.true_ms
    await process.arrives(b"1")
    await process.killed()
    machine.boot(10 * MINUTE, wall_ms=MINUTE)
    process = start()

    process.clock.told(machine.true_ms, half_ms=10)
    await process.drained()

    ((_, _, dated),) = process.fleet.stored
    assert came <= dated <= machine.booted_ms
    assert process.held.counts["estimated"] == 1
    assert "are not older than" in caplog.text


async def test_what_is_held_while_the_others_are_submitted_is_submitted_too(start, machine):
    machine.set(MINUTE)
    process = start()
    await process.arrives(*(b"%03d" % number for number in range(600)))
    late = HeldMessage("pump-1", Inbound(type=TELEMETRY, subject="pump-1", payload=b"600"), process.clock.now_ms())
    process.fleet.takes = 300
    process.clock.told(machine.true_ms, half_ms=10)
    while process.fleet.takes:
        await asyncio.sleep(0)

    await process.held.hold([late])  # it had arrived before the time was known
    process.fleet.takes = None
    process.fleet.go_on.set()
    await process.drained()

    assert [payload for _, payload, _ in process.fleet.stored] == [b"%03d" % number for number in range(601)]
    assert process.held.counts["submitted"] == 601


async def test_a_refusal_for_now_keeps_the_message_until_it_is_taken(start, machine):
    machine.set(MINUTE)
    process = start()
    await process.arrives(b"1", b"2")
    process.fleet.answers = iter([Rejected(code="overloaded", reason="full"), Accepted()])
    process.clock.sleep = lambda _: asyncio.sleep(0)

    process.clock.told(machine.true_ms, half_ms=10)
    await process.drained()

    assert sorted(payload for _, payload, _ in process.fleet.stored) == [b"1", b"2"]


async def test_a_device_that_may_not_send_any_more_has_dead_letters(start, machine):
    machine.set(MINUTE)
    process = start()
    await process.arrives(b"1", device="gone")
    await process.arrives(b"2")
    process.fleet.unknown.add("gone")

    process.clock.told(machine.true_ms, half_ms=10)
    await process.drained()

    assert process.fleet.letters == [("gone", b"1", "device_unknown")]
    assert [payload for _, payload, _ in process.fleet.stored] == [b"2"]


async def test_past_the_bound_the_oldest_readings_go_and_are_counted_and_alerts_stay(
    start, machine, monkeypatch, caplog
):
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 1_000)
    machine.set(MINUTE)
    process = start(limit_bytes=20_000)
    await process.arrives(*(b"a%04d" % number for number in range(50)), type=EVENTS)
    for number in range(1000):
        await process.arrives(b"%04d" % number)

    waiting = process.held.journal.waiting()
    assert process.held.journal.size <= 20_000
    assert waiting[ALERTS] == 50
    assert process.held.counts["lost"] == process.fleet.lost == 1000 - waiting[READINGS]
    assert "for want of room" in caplog.text

    process.clock.told(machine.true_ms, half_ms=10)
    await process.drained()

    readings = [payload for _, payload, _ in process.fleet.stored if not payload.startswith(b"a")]
    assert readings == [b"%04d" % number for number in range(1000 - len(readings), 1000)], "the newest are there"


async def test_a_journal_that_cannot_be_written_refuses_for_now(start, machine, monkeypatch):
    machine.set(MINUTE)
    process = start()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(process.held.journal, "append", full)
    with pytest.raises(StorageError, match="No space"):
        await process.arrives(b"1")


async def test_a_batch_of_which_readings_cannot_be_written_leaves_none_of_them(start, machine, monkeypatch):
    machine.set(MINUTE)
    process = start()
    append = process.held.journal.append

    def full(lane, entries):
        if lane == READINGS:
            raise OSError(28, "No space left on device")
        append(lane, entries)

    monkeypatch.setattr(process.held.journal, "append", full)
    batch = [
        HeldMessage("p", Inbound(type=each, subject="p", payload=b"1"), process.clock.now_ms())
        for each in (TELEMETRY, EVENTS)
    ]
    with pytest.raises(StorageError):
        await process.held.hold(batch)

    assert process.held.journal.waiting() == {READINGS: 0, ALERTS: 1}, "an alert that comes again changes nothing"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 4)),
        st.tuples(st.just("pass"), st.integers(1, 10 * MINUTE)),
        st.tuples(st.just("kill"), st.integers(0, 5)),
        st.tuples(st.just("boot"), st.sampled_from([0, MINUTE, "right", "ahead"])),
        st.tuples(st.just("set"), st.sampled_from([MINUTE, "right", "ahead"])),
        st.tuples(st.just("core"), st.just(0)),
    ),
    min_size=3,
    max_size=25,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_each_acknowledged_reading_arrives_with_its_true_time_and_no_stored_time_changes(machines, steps):
    """For any boots, steps of the clock, kills and arrivals.

    A reading's time is true unless the clock was wrong and plausible, ahead here, when it came or when its boot was
    dated; or the boot ended before its time was known.
    """
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(_lived(Path(folder), machines(wall_ms=MINUTE), steps))
    finally:
        logging.disable(logging.NOTSET)


async def _lived(folder, machine, steps):
    stored, receipts, numbers, floor = [], set(), itertools.count(), machine.true_ms - DAY
    sent: dict[bytes, tuple[str | None, int, int]] = {}
    dated, true_start = {}, {}
    ahead = {"right": 0, "ahead": 30 * DAY}
    process = Process(folder, machine, stored, receipts, floor_ms=floor)

    for step, value in [*steps, ("pass", MINUTE), ("core", 0)]:
        true_start[machine.boot_id()] = machine.booted_ms
        if step == "arrive":
            for _ in range(value):
                payload, clock = b"%d" % next(numbers), process.clock
                held = machine.boot_id() if process.held.holds else None
                sent[payload] = held, machine.true_ms, clock.now_ms()
                await process.arrives(payload)
        elif step == "pass":
            machine.pass_(value)
        elif step == "set":
            machine.set(machine.true_ms + ahead[value] if value in ahead else value)
        elif step == "core":
            process.clock.told(machine.true_ms, half_ms=10)
        else:
            process.fleet.takes = value if step == "kill" else 0
            for _ in range(20):
                await asyncio.sleep(0)
            await process.killed()
            if step == "boot":
                machine.boot(wall_ms=machine.true_ms + MINUTE + ahead[value] if value in ahead else value)
            process = Process(folder, machine, stored, receipts, floor_ms=floor)
        process.clock.look()
        assert process.clock.now_ms() >= floor
        for boot in true_start:
            found = process.clock.dated(boot)
            if found is not None:
                assert dated.setdefault(boot, found.offset_ms) == found.offset_ms, "a decision never changes"
    await process.drained()
    await process.killed()

    times = {payload: at for _, payload, at in stored}
    assert len(times) == len(stored), "none is doubled"
    assert times.keys() == sent.keys(), "none is lost, and none is made up"
    for payload, (held, true_ms, told_ms) in sent.items():
        if held is None:
            assert times[payload] == told_ms
        else:
            # By the decision for its boot, which is exact where the time was known.
            assert times[payload] - true_ms == dated[held] - true_start[held]


async def test_a_decision_by_a_right_clock_or_the_core_is_exact(start, machine):
    for tells in (lambda clock: clock.told(machine.true_ms, half_ms=10), lambda clock: clock.look()):
        machine.boot(wall_ms=MINUTE)
        process = start()
        machine.pass_(MINUTE)
        machine.set(machine.true_ms)
        tells(process.clock)

        assert process.clock.dated(process.clock.boot).offset_ms == machine.booted_ms
        await process.killed()


class Full(Room):
    """A folder that is near its bound, with nothing in the store that could go."""

    looks = 0

    async def _near(self):
        self.looks += 1
        return self.looks <= 3

    async def _give_up_feed(self):
        pass

    async def _drop(self):
        return False


async def test_where_the_store_has_nothing_that_may_go_readings_that_wait_go(start, machine, monkeypatch):
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 1)
    machine.set(MINUTE)
    process = start()
    for number in range(5):
        await process.arrives(b"%d" % number)
    await process.arrives(b"alert", type=EVENTS)

    await Full(process.fleet, process.clock, None, 16, held=process.held.make_room).look()

    assert process.held.journal.waiting() == {READINGS: 3, ALERTS: 1}
    assert process.held.counts["lost"] == 2
    assert [entry.payload for entry in process.held.journal.read(process.held.journal.first(READINGS))] == [b"2"]
