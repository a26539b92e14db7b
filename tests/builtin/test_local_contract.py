"""The in-process protocol passes the contract, and broken protocols do not."""

import asyncio
import inspect
import json
from contextlib import asynccontextmanager
from typing import ClassVar

import msgspec
import pytest

from fleetcore.builtin.local_protocol import LocalConfig, open_local, open_local_client
from fleetcore.errors import Unavailable
from fleetcore.interfaces import DeviceSecrets, Session
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Reply
from fleetcore.testing import context
from fleetcore.testing.protocol_contract import ProtocolContract
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.testing.time_limit import TimeLimitExceeded, time_limit
from fleetcore.wire import messages


def opened(plane):
    return open_local(LocalConfig(), context("local"), plane, plane)


def make_client(endpoint, device):
    return open_local_client(endpoint, DeviceSecrets(device=device, token=RecordingPlane.token(device)))


class TestLocal(ProtocolContract):
    gaps: ClassVar = {
        "test_reading_stops_under_back_pressure_and_goes_on": (
            "it reads from no connection: each caller in this process waits for its own outcome"
        )
    }

    @pytest.fixture
    def open_adapter(self):
        return opened

    @pytest.fixture
    def client(self):
        return make_client


class Between:
    """Stands between the adapter and its plane; a subclass does one thing wrong."""

    def __init__(self, plane):
        self._plane = plane

    def __getattr__(self, name):
        return getattr(self._plane, name)


class AcknowledgesAtOnce(Between):
    async def call(self, session, message):
        if message.type not in {messages.TELEMETRY, messages.STATUS}:
            return await self._plane.call(session, message)
        self._later = asyncio.ensure_future(self._plane.call(session, message))
        return Reply(status=204)


class RewritesBodies(Between):
    async def call(self, session, message):
        try:
            payload = json.dumps(json.loads(message.payload)).encode()
        except ValueError:
            payload = message.payload
        return await self._plane.call(session, msgspec.structs.replace(message, payload=payload))


class SpeaksForItselfAlone(Between):
    async def call(self, session, message):
        return await self._plane.call(session, msgspec.structs.replace(message, subject=session.identity))


class LosesTheId(Between):
    async def call(self, session, message):
        return await self._plane.call(session, msgspec.structs.replace(message, id=None))


class LosesTheTarget(Between):
    async def call(self, session, message):
        return await self._plane.call(session, msgspec.structs.replace(message, target=None))


class HidesRefusals(Between):
    async def call(self, session, message):
        reply = await self._plane.call(session, message)
        return Reply(status=204) if reply.error is not None else reply


class MakesAnErrorOfAPart(Between):
    async def call(self, session, message):
        reply = await self._plane.call(session, message)
        return Reply(status=422, error={"code": "schema_invalid"}) if reply.body else reply


class SendsTwice(Between):
    async def call(self, session, message):
        await self._plane.call(session, message)
        return await self._plane.call(session, message)


class LastFirst(Between):
    async def call(self, session, message):
        await asyncio.sleep(0.02 if message.payload == b'{"n": 0}' else 0)
        return await self._plane.call(session, message)


class CutsLongMessages(Between):
    async def call(self, session, message):
        payload = message.payload[: self._plane.limits.message_bytes]
        return await self._plane.call(session, msgspec.structs.replace(message, payload=payload))


class RefusesInSilence(Between):
    async def call(self, session, message):
        if len(message.payload) > self._plane.limits.message_bytes:
            return Reply(status=413, error={"code": "limit_exceeded"})
        return await self._plane.call(session, message)


class ListensForAll(Between):
    def listen(self, session, sink):
        self._plane.listen(session, sink)
        self._plane.add_broker_sink(sink)


class ForgetsWhatWaits(Between):
    def listen(self, session, sink):
        self._plane.listen(session, lambda downlink: sink(downlink) if self._listening else None)
        self._listening = True

    _listening = False


class LosesDownlinks(Between):
    def listen(self, session, sink):
        self._plane.listen(session, lambda downlink: None if downlink.type is messages.FIRMWARE else sink(downlink))


class Undying(Session):
    def __init__(self, real):
        self._real = real

    @property
    def identity(self):
        return self._real.identity

    @property
    def ended(self):
        return None

    def on_end(self, callback):
        pass

    def close(self):
        pass


class KeepsSessions(Between):
    async def authenticate(self, credential, **more):
        return Undying(await self._plane.authenticate(credential, **more))

    def listen(self, session, sink):
        self._plane.listen(session._real, sink)

    async def call(self, session, message):
        return await self._plane.call(session._real, message)


class LetsEverybodyIn(Between):
    async def authenticate(self, credential, **more):
        self._plane.devices.add(credential.device)
        return await self._plane.authenticate(credential, **more)


class VouchesForDevices(Between):
    """Takes the device's name from its token, and never shows the plane the token."""

    async def authenticate(self, credential, **more):
        return await self._plane.authenticate(LocalCredential(credential.token.split("_")[2]), **more)


class TellsTheOwnTwin(Between):
    async def call(self, session, message):
        if message.type is messages.TWIN_GET:
            message = msgspec.structs.replace(message, subject=session.identity)
        return await self._plane.call(session, message)


class WrongClock(Between):
    async def call(self, session, message):
        reply = await self._plane.call(session, message)
        return Reply(body={**reply.body, "received_ms": 0}) if message.type is messages.TIME else reply


class StartsOver(Between):
    async def open_artifact(self, session, subject, sha256):
        reader = await self._plane.open_artifact(session, subject, sha256)
        read = reader.read
        reader.read = lambda start=0, end=None: read(0, end)
        return reader


@asynccontextmanager
async def on_port_0(plane):
    async with opened(plane) as adapter:
        yield type("OnPort0", (), {"endpoints": ["local://127.0.0.1:0"], "connections": 0})
        del adapter


def draining(**methods):
    """An adapter whose methods are these."""

    @asynccontextmanager
    async def open_it(plane):
        async with opened(plane) as adapter:
            for name, method in methods.items():
                setattr(adapter, name, method)
            yield adapter

    return open_it


async def _at_once():
    pass


def _refusing(endpoint, device):
    raise Unavailable("nothing is open")


BROKEN = [
    (AcknowledgesAtOnce, "test_nothing_is_acknowledged_before_its_commit", {"row": messages.TELEMETRY}),
    (RewritesBodies, "test_readings_arrive_as_the_bytes_that_were_sent", {"payload": b' {"b":1.0 , "a" : 1e2}\n'}),
    (SpeaksForItselfAlone, "test_identity_and_subject_are_told_apart", {"subject": "leaf1"}),
    (SpeaksForItselfAlone, "test_a_foreign_subject_is_refused", {"subject": "dev2"}),
    (LosesTheId, "test_the_message_id_arrives_beside_the_payload", {}),
    (LosesTheTarget, "test_every_uplink_arrives_as_what_it_is", {"row": messages.COMMAND_RESULT}),
    (SendsTwice, "test_every_uplink_arrives_as_what_it_is", {"row": messages.STATUS}),
    (SendsTwice, "test_messages_that_overlap_all_arrive_once_and_in_order", {}),
    (LastFirst, "test_messages_that_overlap_all_arrive_once_and_in_order", {}),
    (
        HidesRefusals,
        "test_a_permanent_refusal_comes_back_with_its_code_and_the_next_message_passes",
        {"code": "limit_exceeded"},
    ),
    (HidesRefusals, "test_a_temporary_refusal_is_no_success_and_sending_again_is", {"code": "overloaded"}),
    (HidesRefusals, "test_a_foreign_twin_is_not_told", {}),
    (MakesAnErrorOfAPart, "test_a_partly_refused_message_is_no_error", {}),
    (CutsLongMessages, "test_an_over_long_message_is_refused_with_limit_and_unit_and_the_next_passes", {}),
    (RefusesInSilence, "test_an_over_long_message_is_refused_with_limit_and_unit_and_the_next_passes", {}),
    (Between, "test_reading_stops_under_back_pressure_and_goes_on", {}),
    (LetsEverybodyIn, "test_an_unknown_device_is_not_let_in", {}),
    (VouchesForDevices, "test_the_plane_judges_what_the_device_has_shown", {}),
    (KeepsSessions, "test_a_revoked_device_is_cut_off_and_not_let_in_again", {}),
    (KeepsSessions, "test_a_device_that_leaves_leaves_nothing_open", {}),
    (ListensForAll, "test_nothing_of_another_device_comes", {}),
    (ForgetsWhatWaits, "test_what_waits_comes_when_a_device_connects", {}),
    (LosesDownlinks, "test_what_happens_later_comes_then", {}),
    (TellsTheOwnTwin, "test_the_twin_is_read", {}),
    (WrongClock, "test_the_time_is_told", {}),
    (StartsOver, "test_an_artifact_is_downloaded_from_any_byte", {}),
    (on_port_0, "test_its_endpoints_are_where_it_really_listens", {}),
    (draining(drain=_at_once), "test_drain_returns_once_what_was_read_is_answered", {}),
    (draining(drain=_at_once), "test_a_drained_adapter_takes_nobody", {}),
    (draining(close=lambda: None), "test_closing_ends_every_connection_and_session", {}),
]


def run(test, opener, given, limit_s=ProtocolContract.time_limit_s):
    """Runs a test of the contract, with a bound: a broken protocol may well hang it."""
    method = getattr(ProtocolContract(), test)
    every = {"open_adapter": opener, "client": make_client, "plane": RecordingPlane(), **given}
    wanted = {name: every[name] for name in inspect.signature(method).parameters}
    with time_limit(limit_s, test):
        asyncio.run(method(**wanted))


@pytest.mark.parametrize(("broken", "test", "given"), BROKEN, ids=[f"{one[0].__name__}-{one[1]}" for one in BROKEN])
def test_a_protocol_that_breaks_a_promise_fails_its_test(broken, test, given):
    is_plane = isinstance(broken, type) and issubclass(broken, Between)
    if broken is not Between:
        run(test, opened, given)

    with pytest.raises(BaseException) as failure:
        run(test, (lambda plane: opened(broken(plane))) if is_plane else broken, given, 1.0)

    assert isinstance(failure.value, (AssertionError, pytest.fail.Exception, TimeLimitExceeded)), failure.value
    assert str(failure.value).strip(), "a bare failure shows nothing"


@pytest.mark.parametrize(
    ("broken", "test", "given", "words"),
    [
        (
            AcknowledgesAtOnce,
            "test_nothing_is_acknowledged_before_its_commit",
            {"row": messages.TELEMETRY},
            r"acknowledged before its commit, with Reply\(status=204",
        ),
        (
            HidesRefusals,
            "test_a_temporary_refusal_is_no_success_and_sending_again_is",
            {"code": "overloaded"},
            r"a temporary refusal with overloaded was acknowledged with Reply\(status=204",
        ),
        (
            LosesDownlinks,
            "test_what_happens_later_comes_then",
            {},
            "It waited for a downlink .*firmware.*; none arrived",
        ),
        (
            ForgetsWhatWaits,
            "test_what_waits_comes_when_a_device_connects",
            {},
            r"It waited for 3 downlinks; \[\] came",
        ),
        (
            KeepsSessions,
            "test_a_device_that_leaves_leaves_nothing_open",
            {},
            r"It waited for no connection and no session; there are 1 connections and sessions of \['dev1'\]",
        ),
        (
            LetsEverybodyIn,
            "test_an_unknown_device_is_not_let_in",
            {},
            r"it was admitted, and answered with Reply\(status=204",
        ),
    ],
    ids=lambda given: given.__name__ if isinstance(given, type) else None,
)
def test_a_failure_shows_what_came_in_place_of_what_was_wanted(broken, test, given, words):
    with pytest.raises(BaseException, match=words):
        run(test, lambda plane: opened(broken(plane)), given, 1.0)
