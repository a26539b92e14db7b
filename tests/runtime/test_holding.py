"""A holder keeps messages instead of the data path, and submits them later as if they had come then."""

import asyncio

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import StorageError
from fleetcore.interfaces.ingest import Holder
from fleetcore.model.credential import LocalCredential
from fleetcore.model.device import Lifecycle
from fleetcore.model.message import Accepted, Inbound, Rejected
from fleetcore.runtime.config import Config, Instance
from fleetcore.runtime.replay import resubmit
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire.messages import EVENTS, TELEMETRY, TWIN_REPORT


class Keeps(Holder):
    def __init__(self):
        self.holds, self.waits, self.kept, self.fails = True, False, [], None

    types = frozenset({TELEMETRY, EVENTS})
    holds = waits = True

    async def hold(self, messages):
        if self.fails is not None:
            raise self.fails
        self.kept += messages


QUIET = Instance(name="quiet", kind="silence", table={"after_s": 60.0}, named=True)


@pytest.fixture
async def held():
    """A fleet in memory with a device, its holder, and a way to send."""
    clock, holder = MovableClock(), Keeps()
    async with IoTFleetManager(config=Config(detectors=(QUIET,)), clock=clock) as manager:
        fleet = await manager.open()
        fleet.hold(holder)
        await manager.create_device("pump-1")
        session = await fleet.plane.authenticate(LocalCredential("pump-1"), protocol="test")

        async def send(payload, type=TELEMETRY, subject="pump-1"):
            return await fleet.ingest.submit(session, Inbound(type=type, subject=subject, payload=payload))

        yield fleet, clock, holder, send
        session.close()


async def stored(fleet):
    found = await fleet.telemetry.query("pump-1", "temperature")
    return list(zip(found.time.tolist(), found.value.tolist(), strict=True))


async def test_held_readings_are_acknowledged_and_submitted_later_with_the_time_at_which_they_came(held):
    fleet, clock, holder, send = held
    came = clock.now_ms()
    outcome = await send(b'{"temperature": 1}')
    await send(b'{"values": {"temperature": 2}, "age_ms": 500}')
    clock.jump(60_000)

    assert isinstance(outcome, Accepted)
    assert [each.received_ms for each in holder.kept] == [came, came]
    assert len(await fleet.storage.series_of("pump-1")) == 0

    session = await fleet.plane.authenticate(LocalCredential("pump-1"), protocol="library")
    for each in holder.kept:
        await resubmit(fleet, session, each.message, received_ms=each.received_ms)
    session.close()

    assert await stored(fleet) == [(came - 500, 2.0), (came, 1.0)]


async def test_messages_of_other_types_pass(held):
    fleet, _, holder, send = held

    outcome = await send(b'{"level": 3}', TWIN_REPORT)

    assert isinstance(outcome, Accepted)
    assert holder.kept == []
    assert (await fleet.twins.get("pump-1")).reported.document == {"level": 3}


async def test_all_pass_once_it_holds_no_longer(held):
    fleet, _, holder, send = held
    holder.holds = False

    await send(b'{"temperature": 1}')

    assert holder.kept == []
    assert [value for _, value in await stored(fleet)] == [1.0]


async def test_what_is_not_admitted_is_refused_at_once(held):
    fleet, _, holder, send = held
    await fleet.devices.register("other", "pump")
    foreign = await send(b'{"temperature": 1}', subject="other")
    await fleet.lifecycles.move("pump-1", Lifecycle.SUSPENDED)
    silenced = await send(b'{"temperature": 1}')

    assert (foreign.code, silenced.code) == ("not_your_device", "device_suspended")
    assert holder.kept == []


@pytest.mark.parametrize(
    ("error", "code"), [(StorageError("full"), "storage_failed"), (ValueError("a fault"), "internal")]
)
async def test_what_cannot_be_held_is_not_acknowledged(held, error, code):
    _, _, holder, send = held
    holder.fails = error

    outcome = await send(b'{"temperature": 1}')

    assert isinstance(outcome, Rejected)
    assert outcome.code == code


async def test_a_fleet_that_closes_answers_what_it_holds(held):
    fleet, _, holder, send = held

    await send(b'{"temperature": 1}')
    await fleet.ingest.drain()

    assert len(holder.kept) == 1


async def test_no_series_is_silent_whose_readings_are_still_to_come(held):
    fleet, clock, holder, send = held
    holder.holds = False
    await send(b'{"temperature": 1}')
    await fleet.wait_idle()

    holder.holds = True
    await clock.advance(600)
    await send(b'{"temperature": 2}')
    assert await fleet.anomalies.list() == []

    holder.holds, holder.waits = False, True
    await send(b'{"humidity": 1}')
    await fleet.wait_idle()
    for _ in range(30):
        await clock.advance(1)
        await asyncio.sleep(0.01)
    assert await fleet.anomalies.list() == []

    holder.waits = False
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await fleet.anomalies.list()):
            await clock.advance(1)
            await asyncio.sleep(0.01)  # the detector has a thread of its own
    assert [each.metric for each in found] == ["temperature"]
