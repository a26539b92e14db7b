"""The recording plane decides as the real one does: one set of behaviours, tried on both, so that the fake cannot drift."""

import asyncio
import re

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import NotAuthorised, NotFound
from fleetcore.interfaces.provider import Limits
from fleetcore.model.credential import LocalCredential
from fleetcore.model.device import Lifecycle
from fleetcore.model.message import Accepted, Inbound, Rejected
from fleetcore.runtime.config import Config
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S, until
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.wire import messages

LIMITS = Limits(message_bytes=1000, queue_messages=8)


class Recording:
    """``dev1`` with its leaf ``leaf1``, and ``dev2`` with ``leaf2``."""

    def __init__(self):
        self.plane = self.ingest = RecordingPlane(limits=LIMITS)
        self._version = 0

    async def retire(self, device):
        self.plane.revoke(device, "device_retired")

    async def suspend(self, device):
        self.plane.suspend(device)

    async def desire(self, device, patch):
        self._version += 1
        self.plane.desire(device, self._version, patch)

    async def command(self, device, name):
        self.plane.command(device, {"id": name, "name": name})

    def hold(self):
        self.plane.hold()

    def commit(self):
        self.plane.commit()


class Real:
    """The same devices in a fleet in memory."""

    def __init__(self, fleet):
        self.fleet, self.plane, self.ingest = fleet, fleet.plane, fleet.ingest
        self._open = asyncio.Event()
        self._open.set()
        real = fleet.storage.commit

        async def commit(change):
            await self._open.wait()
            return await real(change)

        fleet.storage.commit = commit

    async def fill(self):
        for gateway, leaf in (("dev1", "leaf1"), ("dev2", "leaf2")):
            await self.fleet.devices.register(gateway, "sensor")
            await self.fleet.devices.register(leaf, "sensor", gateway=gateway)

    async def retire(self, device):
        await self.fleet.lifecycles.move(device, Lifecycle.RETIRED)

    async def suspend(self, device):
        session = await self.plane.authenticate(LocalCredential(device), protocol="test")
        await self.ingest.submit(session, telemetry(device))
        await self.fleet.wait_idle()
        await self.fleet.lifecycles.move(device, Lifecycle.SUSPENDED)

    async def desire(self, device, patch):
        await self.fleet.twins.desire(device, patch)

    async def command(self, device, name):
        await self.fleet.commands.send(device, name)

    def hold(self):
        self._open.clear()

    def commit(self):
        self._open.set()


@pytest.fixture(params=["recording", "real"])
async def world(request):
    if request.param == "recording":
        yield Recording()
        return
    async with IoTFleetManager(config=Config(limits=LIMITS), clock=MovableClock()) as manager:
        real = Real(await manager.open())
        await real.fill()
        yield real
        real.commit()


@pytest.fixture
async def plane(world):
    return world.plane


@pytest.fixture
async def ingest(world):
    return world.ingest


@pytest.fixture
async def session(plane):
    return await plane.authenticate(LocalCredential("dev1"), protocol="test")


def telemetry(subject="dev1", payload=b'{"heat": 1}', **more):
    return Inbound(type=messages.TELEMETRY, subject=subject, payload=payload, **more)


def asked(operation, subject="dev1", payload=b"", **more):
    return Inbound(type=operation, subject=subject, payload=payload, **more)


# --- who ---


async def test_a_registered_device_has_a_session_in_its_name(session):
    assert (session.identity, session.ended) == ("dev1", None)


async def test_an_unknown_device_has_none(plane):
    with pytest.raises(NotAuthorised) as refused:
        await plane.authenticate(LocalCredential("nobody"), protocol="test")

    assert refused.value.code == "device_unknown"


async def test_a_device_that_loses_its_rights_is_ended_once_and_not_let_in_again(world, plane, session, ingest):
    ends = []
    session.on_end(ends.append)
    await world.retire("dev1")
    session.close()

    with pytest.raises(NotAuthorised) as refused:
        await plane.authenticate(LocalCredential("dev1"), protocol="test")

    assert (ends, session.ended, refused.value.code) == (["device_retired"], "device_retired", "device_retired")
    assert await ingest.submit(session, telemetry()) == Rejected(code="device_retired", reason="The session has ended")


async def test_a_callback_on_a_session_that_has_ended_is_called_at_once(session):
    session.close()
    ends = []
    session.on_end(ends.append)

    assert ends == ["closed"]


async def test_a_suspended_device_keeps_its_session_and_is_refused_in_all_it_says(world, plane, session, ingest):
    await world.suspend("dev1")

    outcome = await ingest.submit(session, telemetry())
    reply = await plane.call(session, asked(messages.TWIN_GET))
    with pytest.raises(NotAuthorised) as refused:
        await plane.wait(session, "dev1", messages.INBOX)

    assert session.ended is None
    assert outcome.code == reply.error["code"] == refused.value.code == "device_suspended"


# --- messages ---


async def test_the_outcome_comes_later_and_once(plane, session, ingest):
    outcomes = []

    assert ingest.deliver(session, telemetry(), outcomes.append) is True
    early = list(outcomes)
    await until(lambda: outcomes)
    await asyncio.sleep(0)

    assert early == []
    assert outcomes == [Accepted(stored=1)]


@pytest.mark.parametrize("subject", ["dev1", "leaf1"])
async def test_a_device_speaks_for_itself_and_its_leaves(plane, session, subject, ingest):
    assert await ingest.submit(session, telemetry(subject)) == Accepted(stored=1)


@pytest.mark.parametrize("subject", ["dev2", "leaf2", "nobody"])
async def test_a_foreign_subject_is_refused_in_every_way(plane, session, subject, ingest):
    outcome = await ingest.submit(session, telemetry(subject))
    reply = await plane.call(session, asked(messages.TWIN_GET, subject))
    with pytest.raises(NotAuthorised) as waited:
        await plane.wait(session, subject, messages.INBOX)
    with pytest.raises(NotAuthorised) as opened:
        await plane.open_artifact(session, subject, "0" * 64)

    codes = {outcome.code, reply.error["code"], waited.value.code, opened.value.code}
    assert (codes, reply.status) == ({"not_your_device"}, 403)
    assert await plane.pending(session, subject) == {}


async def test_an_over_long_message_is_refused_with_limit_unit_and_scope(plane, session, ingest):
    fits, beyond = [
        await ingest.submit(session, telemetry(payload=b'{"heat": 1}'.ljust(LIMITS.message_bytes + more)))
        for more in (0, 1)
    ]

    assert isinstance(fits, Accepted)
    assert (beyond.code, beyond.limit, beyond.unit, beyond.scope) == ("limit_exceeded", 1000, "bytes", "message")


async def test_a_full_queue_presses_back_and_then_refuses(world, plane, session, ingest):
    world.hold()
    first = []
    ingest.deliver(session, telemetry(), first.append)
    for _ in range(20):
        await asyncio.sleep(0)  # the real one has taken the first from its queue now, and waits for its commit

    outcomes = []
    went_on = [ingest.deliver(session, telemetry(), outcomes.append) for _ in range(2 * LIMITS.queue_messages)]
    reading = asyncio.ensure_future(ingest.ready())
    done, _ = await asyncio.wait({reading}, timeout=0.05)
    overloaded = list(outcomes)
    world.commit()
    await reading
    await until(lambda: len(outcomes) == len(went_on))

    assert went_on[:3] == [True] * 3
    assert went_on[5:] == [False] * (len(went_on) - 5)
    assert not done
    assert {outcome.code for outcome in overloaded} == {"overloaded"}
    assert LIMITS.queue_messages - 1 <= len(overloaded) <= LIMITS.queue_messages + 1
    assert outcomes.count(Accepted(stored=1)) == len(went_on) - len(overloaded)


async def test_room_is_there_before_anything_came(plane, ingest):
    await asyncio.wait_for(ingest.ready(), PATIENCE_S)


# --- calls ---


async def test_an_uplink_is_answered_as_a_call_too(plane, session):
    replies = [
        await plane.call(session, asked(operation, payload=payload))
        for operation, payload in ((messages.TELEMETRY, b'{"heat": 1}'), (messages.STATUS, b'{"state": "online"}'))
    ]

    assert [(reply.status, reply.error, reply.version) for reply in replies] == [(204, None, None)] * 2


async def test_the_twin_is_told_with_both_versions_in_its_tag(world, plane, session):
    await world.desire("dev1", {"interval": 60})

    reply = await plane.call(session, asked(messages.TWIN_GET))

    assert reply.body["desired"]["interval"] == 60
    assert reply.etag == f"d{reply.body['desired_version']}.r{reply.body['reported_version']}"
    assert reply.version == reply.body["reported_version"]


async def test_a_report_raises_the_version_and_another_expectation_is_refused(plane, session):
    before = (await plane.call(session, asked(messages.TWIN_GET))).version

    good = await plane.call(session, asked(messages.TWIN_REPORT, payload=b'{"a": 1}', if_version=before))
    stale = await plane.call(session, asked(messages.TWIN_REPORT, payload=b'{"a": 2}', if_version=before))
    reported = (await plane.call(session, asked(messages.TWIN_GET))).body["reported"]

    assert (good.status, good.version) == (204, before + 1)
    assert (stale.status, stale.error["code"], stale.version) == (412, "version_conflict", before + 1)
    assert reported["a"] == 1


@pytest.mark.parametrize(
    ("payload", "status", "code"), [(b"{", 400, "payload_unreadable"), (b"[]", 422, "schema_invalid")]
)
async def test_a_report_that_is_not_an_object_is_refused(plane, session, payload, status, code):
    reply = await plane.call(session, asked(messages.TWIN_REPORT, payload=payload))

    assert (reply.status, reply.error["code"]) == (status, code)


async def test_the_time_is_told_with_the_clients_own(plane, session):
    reply = await plane.call(session, asked(messages.TIME, payload=b'{"client": 5}'))

    assert reply.body["client"] == 5
    assert {"received_ms", "sent_ms"} <= set(reply.body)


async def test_an_empty_inbox_is_204(plane, session):
    assert (await plane.call(session, asked(messages.INBOX))).status == 204


async def test_a_call_on_a_session_that_has_ended_is_refused(plane, session):
    session.close()

    reply = await plane.call(session, asked(messages.TWIN_GET))

    assert (reply.status, reply.error["code"]) == (401, "not_authenticated")


async def test_a_leaf_without_a_name_is_refused_with_its_place(plane, session):
    reply = await plane.call(session, asked(messages.LEAF_REGISTER, payload=b"{}"))

    assert (reply.status, reply.error["code"]) == (422, "schema_invalid")
    assert reply.error["errors"] == [{"pointer": "/device", "code": "schema_invalid"}]


# --- downlinks ---


async def test_what_is_unfinished_comes_at_once_and_the_rest_when_it_happens(world, plane, session):
    await world.desire("dev1", {"x": 1})
    await world.command("leaf1", "blink")
    came = []

    plane.listen(session, came.append)
    await until(lambda: len(came) == 2)
    await world.command("dev1", "reboot")
    await until(lambda: len(came) == 3)

    assert [(one.type, one.subject, one.gateway) for one in came] == [
        (messages.TWIN_DESIRED, "dev1", None),
        (messages.COMMAND, "leaf1", "dev1"),
        (messages.COMMAND, "dev1", None),
    ]
    assert came[2].body["name"] == "reboot"


async def test_a_command_that_a_sink_could_not_pass_on_comes_when_the_session_listens_anew(world, plane, session):
    """A device may subscribe to its commands after it has subscribed to something else."""
    refused, came = [], []

    def cannot(downlink):
        refused.append(downlink.type)
        return False

    plane.listen(session, cannot)
    await world.command("dev1", "reboot")
    await until(lambda: refused)
    plane.listen(session, came.append)
    async with asyncio.timeout(10):  # long before it would be sent again by itself
        await until(lambda: came)

    assert [(one.type, one.body["name"]) for one in came] == [(messages.COMMAND, "reboot")]


async def test_a_leaf_that_listens_itself_gets_its_own(world, plane, session):
    leaf = await plane.authenticate(LocalCredential("leaf1"), protocol="test")
    of_gateway, of_leaf = [], []
    plane.listen(session, of_gateway.append)
    plane.listen(leaf, of_leaf.append)

    await world.command("leaf1", "blink")
    await until(lambda: of_leaf)

    assert of_gateway == []


async def test_a_carrier_gets_what_nobody_listens_for_until_it_is_ended(world, plane, session):
    carried, came = [], []
    end = plane.add_broker_sink(carried.append)
    plane.listen(session, came.append)
    await world.command("dev1", "reboot")
    await until(lambda: came)
    await world.command("leaf2", "blink")
    await until(lambda: carried)
    end()
    end()
    await world.command("dev2", "reboot")
    await asyncio.sleep(0.01)

    assert [(one.subject, one.gateway) for one in carried] == [("leaf2", "dev2")]


async def test_a_session_that_has_ended_gets_nothing(world, plane, session):
    came = []
    plane.listen(session, came.append)
    await asyncio.sleep(0.01)
    session.close()
    plane.listen(session, came.append)

    await world.command("dev1", "reboot")
    await asyncio.sleep(0.01)

    assert came == []


async def test_a_suspended_device_is_handed_nothing(world, plane):
    await world.suspend("dev1")
    session = await plane.authenticate(LocalCredential("dev1"), protocol="test")
    came = []
    plane.listen(session, came.append)

    await world.desire("dev1", {"x": 1})
    await asyncio.sleep(0.01)

    assert came == []


# --- waiting ---


async def test_what_waits_is_told_at_once_or_as_soon_as_it_comes(world, plane, session):
    assert await plane.wait(session, "dev1", messages.INBOX) is None
    coming = asyncio.ensure_future(plane.wait(session, "dev1", messages.COMMAND, timeout_s=PATIENCE_S))
    await asyncio.sleep(0)
    await world.command("dev1", "reboot")
    came = await coming

    assert ([one["name"] for one in came["commands"]], came["more"]) == (["reboot"], False)
    assert set(await plane.wait(session, "dev1", messages.INBOX)) == {"commands"}


async def test_waiting_in_vain_ends_at_the_time_out(plane, session):
    assert await plane.wait(session, "dev1", messages.FIRMWARE, timeout_s=0.01) is None


async def test_desired_state_is_told_to_those_who_have_an_older_one(world, plane, session):
    await world.desire("dev1", {"x": 1})

    told = await plane.wait(session, "dev1", messages.TWIN_DESIRED, after=0)

    assert {"version", "since", "patch"} <= set(told)
    assert await plane.wait(session, "dev1", messages.TWIN_DESIRED, after=told["version"]) is None


async def test_what_waits_is_counted(world, plane, session):
    nothing = await plane.pending(session, "dev1")
    await world.command("dev1", "reboot")
    await world.desire("dev1", {"x": 1})

    assert (nothing, await plane.pending(session, "dev1")) == ({}, {"commands": 1, "desired": 1})


async def test_an_artifact_that_nobody_offered_is_not_found(plane, session):
    with pytest.raises(NotFound) as refused:
        await plane.open_artifact(session, "dev1", "0" * 64)

    assert refused.value.code == "artifact_unknown"


# --- claims, revocations ---


async def test_a_certificate_that_is_no_claim_is_none(plane):
    assert await plane.claim(b"not a certificate", protocol="test") is None


async def test_a_watch_of_revocations_is_ended_by_what_it_returns(plane):
    plane.watch_revocations(lambda devices: None)()


def test_the_tag_of_a_twin_is_as_the_wire_has_it():
    assert re.fullmatch(r"d\d+\.r\d+", RecordingPlane()._twin("dev1").etag)
