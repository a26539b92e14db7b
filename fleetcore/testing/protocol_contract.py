"""The contract of :class:`~fleetcore.interfaces.protocol.ProtocolAdapter`: only the wire, and all of it.

The adapter uses a :class:`~fleetcore.testing.recording_plane.RecordingPlane`, and the protocol's own device client
connects to it. So both sides are tested together; whether the bytes between them are right is for the plugin's own
tests, with a client by another author.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import pytest

from fleetcore.errors import FleetError, NotAuthenticated, NotAuthorised, Refused, Unavailable
from fleetcore.interfaces.protocol import DeviceClient, DevicePlane, ProtocolAdapter
from fleetcore.model.credential import CertificateCredential, KeyCredential, TokenCredential
from fleetcore.model.message import Accepted, Direction, Downlink, MessageType, PointRefusal, Rejected, Reply
from fleetcore.testing.contract import Contract, missing
from fleetcore.testing.recorded import Received
from fleetcore.testing.recording_plane import NOW_MS, RecordingPlane
from fleetcore.testing.time_limit import waiting_for
from fleetcore.wire import messages
from fleetcore.wire.strict_json import dumps

OpenAdapter = Callable[[DevicePlane], AbstractAsyncContextManager[ProtocolAdapter]]
MakeClient = Callable[[str, str], DeviceClient]

#: For events that must not happen: long enough for an early answer to arrive over loopback.
QUIET_S = 0.2
#: Messages that an adapter may still submit after it was asked to stop: those read together with the first.
READ_TOGETHER = 8

#: Messages that a device sends to be committed, and its calls beside enrolling and downloading.
UPLINKS = tuple(row for row in messages.ALL if row.direction is Direction.UP and not row.later)
CALLS = tuple(
    row for row in messages.ALL if row.direction is Direction.CALL and row not in (messages.ENROLL, messages.ARTIFACT)
)

#: Bytes that an adapter would change if it parsed or rewrote bodies.
PAYLOADS: Sequence[bytes] = (
    b'{"temperature": 25.5}',
    b' {"b":1.0 , "a" : 1e2}\n',
    '{"name": "Å\\u00c5 温度"}'.encode(),
    b'[{"n":"t","v":1}]',
    b"\xa1\x61t\xf9\x4e\x40",
    b"not JSON \x00\xff",
)

#: Every member of wire.md §9.
COMMAND = {
    "id": "c-0001",
    "name": "set-interval",
    "args": {"interval": 60, "deep": {"list": [1, 2.5, None, True, "é"]}},
    "sequence": 7,
    "lane": "default",
    "respond": "result",
    "issued_at": "2026-01-01T00:00:00.000Z",
    "expires_at": "2026-01-01T01:00:00.000Z",
    "expires_in_ms": 3_600_000,
    "result_by": "2026-01-01T02:00:00.000Z",
    "attempt": 1,
    "supersedes": ["c-0000"],
    "signed": {"payload": "e30=", "payloadType": "application/vnd.fleetcore.command+json", "signatures": []},
}
OFFER = {
    "offer": {
        "execution": "e-1",
        "campaign": "spring",
        "attempt": 1,
        "version": "2.0.0",
        "component": "main",
        "size": 5,
        "sha256": "0" * 64,
        "path": f"/device/v1/artifacts/{'0' * 64}",
        "install": "now",
        "manifest": None,
    }
}


@pytest.mark.asyncio
class ProtocolContract(Contract):
    """Override ``open_adapter`` and ``client``."""

    @pytest.fixture
    def plane(self) -> RecordingPlane:
        """Has ``dev1`` with its leaf ``leaf1`` and ``dev2`` with ``leaf2``, by certificate and by token."""
        return RecordingPlane()

    @pytest.fixture
    def open_adapter(self) -> OpenAdapter:
        """Opens the adapter over a plane: ``lambda plane: open_mine(MyConfig(listen=…), context(), plane, plane)``."""
        raise missing(self, "open_adapter")

    @pytest.fixture
    def client(self) -> MakeClient:
        """Makes a device's client, not entered, from endpoint and device id; also for an unknown id.

        A device uses a certificate whose SAN names it, or ``RecordingPlane.token(device)``.
        """
        raise missing(self, "client")

    # endpoints

    async def test_its_endpoints_are_where_it_really_listens(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with open_adapter(plane) as adapter:
            assert adapter.endpoints, "an open adapter must have an endpoint"
            for endpoint in adapter.endpoints:
                assert "://" in endpoint, f"{endpoint} is not a URL"
                assert not endpoint.endswith(":0"), f"{endpoint}: port 0 is not resolved"
                async with client(endpoint, "dev1") as device:
                    _assert_done(await device.send(messages.TELEMETRY, PAYLOADS[0]))

    # uplinks

    @pytest.mark.parametrize("payload", PAYLOADS)
    async def test_readings_arrive_as_the_bytes_that_were_sent(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane, payload: bytes
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            _assert_done(await device.send(messages.TELEMETRY, payload))

        assert [item.message.payload for item in plane.received] == [payload]

    @pytest.mark.parametrize("subject", [None, "dev1", "leaf1"])
    async def test_identity_and_subject_are_told_apart(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane, subject: str | None
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            _assert_done(await device.send(messages.TELEMETRY, PAYLOADS[0], subject=subject))

        assert [(item.identity, item.message.subject) for item in plane.received] == [("dev1", subject or "dev1")]

    @pytest.mark.parametrize("row", UPLINKS, ids=str)
    async def test_every_uplink_arrives_as_what_it_is(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane, row: MessageType
    ) -> None:
        target, payload = _target(row), dumps(row.example)

        async with _connected(open_adapter, client, plane) as (_, device):
            _assert_done(await device.send(row, payload, target=target))
            received = [(item.message.type, item.message.target, item.message.payload) for item in plane.received]

        assert received == [(row, target, payload)]

    @pytest.mark.parametrize("row", CALLS, ids=str)
    async def test_every_call_is_answered(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane, row: MessageType
    ) -> None:
        plane.desire("dev1", 3, {"interval": 60})

        async with _connected(open_adapter, client, plane) as (_, device):
            reply = await device.request(row, row.example)

        assert (reply.error, bool(reply.body)) == (None, True), f"{row} was answered with {reply}"

    async def test_the_message_id_arrives_beside_the_payload(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            _assert_done(await device.send(messages.TELEMETRY, PAYLOADS[0], id="boot-7/0001"))

        assert [item.message.id for item in plane.received] == ["boot-7/0001"]

    async def test_messages_that_overlap_all_arrive_once_and_in_order(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        payloads = [b'{"n": %d}' % number for number in range(40)]

        async with _connected(open_adapter, client, plane) as (_, device):
            for reply in await asyncio.gather(*(device.send(messages.TELEMETRY, payload) for payload in payloads)):
                _assert_done(reply)

        assert [item.message.payload for item in plane.received] == payloads

    # acknowledgement

    @pytest.mark.parametrize("row", UPLINKS, ids=str)
    async def test_nothing_is_acknowledged_before_its_commit(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane, row: MessageType
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            plane.hold()
            sending = asyncio.ensure_future(device.send(row, dumps(row.example), target=_target(row)))
            await _until(lambda: plane.waiting, lambda: f"a message; the plane got {plane.arrived}")
            early, _ = await asyncio.wait({sending}, timeout=QUIET_S)
            plane.commit()
            reply = await sending

        assert not early, f"{row} was acknowledged before its commit, with {reply}"
        _assert_done(reply)

    @pytest.mark.parametrize("code", ["payload_unreadable", "unit_mismatch", "limit_exceeded", "device_suspended"])
    async def test_a_permanent_refusal_comes_back_with_its_code_and_the_next_message_passes(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane, code: str
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            plane.outcome = Rejected(code=code, reason="requested by the test")
            refused = await device.send(messages.TELEMETRY, b'{"a": 1}')
            plane.outcome = None
            passed = await device.send(messages.TELEMETRY, b'{"a": 2}')

        assert refused.error is not None, "a refused message was acknowledged as a success"
        assert refused.error["code"] == code
        _assert_done(passed)
        assert [item.message.payload for item in plane.received] == [b'{"a": 2}']

    @pytest.mark.parametrize("code", ["overloaded", "rate_limited", "storage_full"])
    async def test_a_temporary_refusal_is_no_success_and_sending_again_is(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane, code: str
    ) -> None:
        plane.outcome = Rejected(code=code, reason="requested by the test", retry_after_s=1.0)
        async with open_adapter(plane) as adapter:
            async with client(adapter.endpoints[0], "dev1") as device:
                sending = asyncio.ensure_future(device.send(messages.TELEMETRY, b'{"a": 1}'))
                await asyncio.wait({sending}, timeout=QUIET_S)
                early = sending.done()
            ended = (await asyncio.gather(sending, return_exceptions=True))[0]
            plane.outcome = None
            async with client(adapter.endpoints[0], "dev1") as device:
                _assert_done(await device.send(messages.TELEMETRY, b'{"a": 1}'))

        assert not early or _failed(sending), f"a temporary refusal with {code} was acknowledged with {ended}"

    async def test_reading_stops_under_back_pressure_and_goes_on(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        payloads = [b'{"n": %d}' % number for number in range(5 * READ_TOGETHER)]

        async with _connected(open_adapter, client, plane) as (_, device):
            plane.hold()
            plane.fill()
            sending = [asyncio.ensure_future(device.send(messages.TELEMETRY, payload)) for payload in payloads]
            await _until(lambda: plane.arrived, lambda: "a message; the plane got none")
            await asyncio.sleep(QUIET_S)
            read = len(plane.arrived)
            plane.make_room()
            plane.commit()
            for reply in await asyncio.gather(*sending):
                _assert_done(reply)

        assert read <= READ_TOGETHER, f"{read} messages were read after the first one was answered with: stop reading"
        assert plane.bodies == payloads

    async def test_an_over_long_message_is_refused_with_limit_and_unit_and_the_next_passes(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        limit = plane.limits.message_bytes
        async with open_adapter(plane) as adapter:
            async with client(adapter.endpoints[0], "dev1") as device:
                fits = await device.send(messages.TELEMETRY, b'{"a": 1}'.ljust(limit))
                refused = await device.send(messages.TELEMETRY, b'{"a": 2}'.ljust(limit + 1))
            # Another connection: a protocol may end the one with the over-long message.
            async with client(adapter.endpoints[0], "dev1") as device:
                _assert_done(await device.send(messages.TELEMETRY, b'{"a": 3}'))

        _assert_done(fits)
        assert [len(body) for body in plane.bodies] == [limit, 8]
        assert refused.error is not None, "an over-long message was acknowledged as a success"
        assert refused.error["code"] == "limit_exceeded"
        # The plane refuses with both; an adapter reports its own refusals with both.
        told = [(refusal.rejected.code, refusal.rejected.limit, refusal.rejected.unit) for refusal in plane.refusals]
        assert told == [("limit_exceeded", limit, "bytes")] * (len(plane.arrived) == len(plane.received))

    async def test_a_partly_refused_message_is_no_error(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        plane.outcome = Accepted(stored=1, refused=(PointRefusal(1, "t", "time_in_future"),))

        async with _connected(open_adapter, client, plane) as (_, device):
            _assert_done(await device.send(messages.TELEMETRY, PAYLOADS[0]))

    # who may

    @pytest.mark.parametrize("subject", ["leaf2", "dev2", "nobody"])
    async def test_a_foreign_subject_is_refused(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane, subject: str
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            reply = await device.send(messages.TELEMETRY, PAYLOADS[0], subject=subject)

        assert reply.error is not None
        assert reply.error["code"] == "not_your_device"
        assert plane.received == []

    async def test_a_foreign_twin_is_not_told(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            reply = await device.request(messages.TWIN_GET, subject="dev2")

        assert reply.error is not None
        assert reply.error["code"] == "not_your_device"

    async def test_an_unknown_device_is_not_let_in(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with open_adapter(plane) as adapter:
            with pytest.raises(Refused):
                await _served(client(adapter.endpoints[0], "stranger"))

        assert plane.received == []

    async def test_the_plane_judges_what_the_device_has_shown(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            _assert_done(await device.send(messages.TELEMETRY, PAYLOADS[0]))

        assert plane.authentications, "the plane got no credential"
        for shown in plane.authentications:
            credential = shown.credential
            assert isinstance(credential, TokenCredential | KeyCredential | CertificateCredential), (
                f"the plane got {credential}, which names a device and proves nothing"
            )
            if isinstance(credential, TokenCredential):
                assert credential.token == plane.token("dev1"), "the plane got another token than the device's"

    async def test_a_revoked_device_is_cut_off_and_not_let_in_again(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with _connected(open_adapter, client, plane) as (adapter, device):
            _assert_done(await device.send(messages.TELEMETRY, PAYLOADS[0]))
            downlinks = asyncio.ensure_future(_drain(device.downlinks()))
            plane.revoke("dev1")

            with waiting_for(lambda: "the end of the downlinks of a revoked device; they continue"):
                await downlinks
            await _until(lambda: adapter.connections == 0, lambda: f"no connection; there are {adapter.connections}")
            assert await _refuses(device), "a revoked device was served on its old connection"
            # A key without a token proves nothing, so the device is unknown.
            with pytest.raises((NotAuthenticated, NotAuthorised)):
                async with client(adapter.endpoints[0], "dev1"):
                    pass

        assert plane.bodies == [PAYLOADS[0]]

    async def test_a_device_that_leaves_leaves_nothing_open(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with open_adapter(plane) as adapter:
            async with client(adapter.endpoints[0], "dev1") as device:
                _assert_done(await device.send(messages.TELEMETRY, PAYLOADS[0]))

            await _all_closed(adapter, plane)

    async def test_closing_ends_every_connection_and_session(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with open_adapter(plane) as adapter:
            device = client(adapter.endpoints[0], "dev1")
            await device.__aenter__()
        try:
            await _until(
                lambda: not plane.sessions,
                lambda: f"no session; there are sessions of {[session.identity for session in plane.sessions]}",
            )
            assert await _refuses(device), "a closed adapter answered"
        finally:
            await device.__aexit__(None, None, None)

    # downlinks

    async def test_what_waits_comes_when_a_device_connects(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        desired = plane.desire("dev1", 12, {"interval": 60})
        plane.command("dev1", COMMAND)
        plane.offer("dev1", OFFER)

        async with _connected(open_adapter, client, plane) as (_, device):
            came = await _take(device, 3)

        assert {item.type: dict(item.body) for item in came} == {
            messages.TWIN_DESIRED: desired,
            messages.COMMAND: COMMAND,
            messages.FIRMWARE: OFFER,
        }
        assert {item.subject for item in came} == {"dev1"}

    async def test_what_happens_later_comes_then(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            downlinks = device.downlinks()
            coming = asyncio.ensure_future(anext(downlinks))
            await asyncio.wait({coming}, timeout=QUIET_S)
            plane.command("dev1", COMMAND)
            with waiting_for(lambda: "a downlink command; none arrived"):
                command = await coming
            desired_body = plane.desire("dev1", 1, {"interval": 5})
            desired = await _next(downlinks, messages.TWIN_DESIRED)
            plane.offer("dev1", OFFER)
            offer = await _next(downlinks, messages.FIRMWARE)
            plane.cancel("dev1", "c-0001")
            cancel = await _next(downlinks, messages.COMMAND_CANCEL)

        assert (command.type, dict(command.body)) == (messages.COMMAND, COMMAND)
        assert (desired.type, dict(desired.body)) == (messages.TWIN_DESIRED, desired_body)
        assert (offer.type, dict(offer.body)) == (messages.FIRMWARE, OFFER)
        assert (cancel.type, cancel.target) == (messages.COMMAND_CANCEL, "c-0001")

    async def test_nothing_of_another_device_comes(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            plane.command("dev2", COMMAND | {"id": "c-foreign"})
            plane.command("leaf2", COMMAND | {"id": "c-foreign-leaf"})
            plane.command("dev1", COMMAND)
            came = await _take(device, 1)

        assert [item.body["id"] for item in came] == ["c-0001"]

    # requests

    async def test_the_twin_is_read(self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane) -> None:
        plane.desire("dev1", 12, {"interval": 60})

        async with _connected(open_adapter, client, plane) as (_, device):
            own = await device.request(messages.TWIN_GET)
            leaf = await device.request(messages.TWIN_GET, subject="leaf1")

        assert own.error is None
        assert own.body == {
            "desired": {"interval": 60},
            "desired_version": 12,
            "reported": {"subject": "dev1"},
            "reported_version": 40,
        }
        assert (own.etag or "").strip('"') == "d12.r40"
        assert leaf.body is not None
        assert leaf.body["reported"] == {"subject": "leaf1"}

    async def test_the_time_is_told(self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            reply = await device.request(messages.TIME, {"client": 123})

        assert reply.body == {"client": 123, "received_ms": NOW_MS, "sent_ms": NOW_MS}

    async def test_a_leaf_is_registered(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with _connected(open_adapter, client, plane) as (_, device):
            reply = await device.request(messages.LEAF_REGISTER, {"device": "leaf9"})
            _assert_done(await device.send(messages.TELEMETRY, PAYLOADS[0], subject="leaf9"))
            listed = await device.request(messages.LEAF_LIST, {})

        assert listed.body is not None
        assert "leaf9" in [leaf["device"] for leaf in cast("Sequence[Mapping[str, str]]", listed.body["leaves"])]
        assert (reply.status, reply.body) == (201, {"device": "leaf9", "gateway": "dev1"})
        assert [item.message.subject for item in plane.received] == ["leaf9"]

    async def test_an_artifact_is_downloaded_from_any_byte(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        content = bytes(range(256)) * 20
        digest = plane.put_artifact(content)

        async with _connected(open_adapter, client, plane) as (_, device):
            try:
                whole = b"".join([piece async for piece in device.artifact(digest)])
            except Refused:
                pytest.skip("this protocol cannot transfer artifacts")
            rest = b"".join([piece async for piece in device.artifact(digest, 2000)])

            leafs = b"".join([piece async for piece in device.artifact(digest, subject="leaf1")])

        assert whole == content
        assert rest == content[2000:]
        assert leafs == content
        assert {subject for subject, _ in plane.downloads} == {"dev1", "leaf1"}

    # the end

    async def test_drain_returns_once_what_was_read_is_answered(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with _connected(open_adapter, client, plane) as (adapter, device):
            plane.hold()
            sending = asyncio.ensure_future(device.send(messages.TELEMETRY, PAYLOADS[0]))
            await _until(lambda: plane.waiting, lambda: f"a message; the plane got {plane.arrived}")
            draining = asyncio.ensure_future(adapter.drain())
            early, _ = await asyncio.wait({draining}, timeout=QUIET_S)
            plane.commit()
            await draining
            reply = await sending

        assert not early, "drain returned before a message was answered"
        _assert_done(reply)

    async def test_a_drained_adapter_takes_nobody(
        self, open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
    ) -> None:
        async with open_adapter(plane) as adapter:
            await adapter.drain()

            with pytest.raises(Unavailable):
                await _served(client(adapter.endpoints[0], "dev1"))

        assert plane.received == []


def _target(row: MessageType) -> str | None:
    return "c-0001" if any("{target}" in topic for topic in row.mqtt) else None


@asynccontextmanager
async def _connected(
    open_adapter: OpenAdapter, client: MakeClient, plane: RecordingPlane
) -> AsyncIterator[tuple[ProtocolAdapter, DeviceClient]]:
    """The open adapter, and a connected ``dev1``."""
    async with open_adapter(plane) as adapter, client(adapter.endpoints[0], "dev1") as device:
        yield adapter, device


async def _until(condition: Callable[[], object], tell: Callable[[], str]) -> None:
    """Waits for an effect of another task or thread; the test's time limit applies, and its message has ``tell()``."""
    with waiting_for(tell):
        while not condition():  # noqa: ASYNC110 - what is waited for may happen on a thread that knows no event
            await asyncio.sleep(0.005)


async def _all_closed(adapter: ProtocolAdapter, plane: RecordingPlane) -> None:
    """Waits until the adapter counts no connection, and the plane no session."""
    await _until(
        lambda: adapter.connections == 0 and not plane.sessions,
        lambda: (
            f"no connection and no session; there are {adapter.connections} connections"
            f" and sessions of {[session.identity for session in plane.sessions]}"
        ),
    )


async def _take(device: DeviceClient, count: int) -> list[Downlink]:
    came: list[Downlink] = []
    with waiting_for(lambda: f"{count} downlinks; {[str(item.type) for item in came]} came"):
        async for downlink in device.downlinks():
            came.append(downlink)
            if len(came) == count:
                break
    return came


async def _next(downlinks: AsyncIterator[Downlink], type: MessageType) -> Downlink:
    with waiting_for(lambda: f"a downlink {type}; none arrived"):
        return await anext(downlinks)


async def _drain(downlinks: AsyncIterator[Downlink]) -> None:
    """Returns when there are no more, or the connection is lost: either tells the device about the end."""
    try:
        async for _ in downlinks:
            pass
    except FleetError:
        return


async def _refuses(device: DeviceClient) -> bool:
    """Whether a message on a connection that should have ended is refused or fails."""
    try:
        return (await device.send(messages.TELEMETRY, PAYLOADS[0])).error is not None
    except FleetError:
        return True


async def _served(client: DeviceClient) -> None:
    """Fails with the answer that a device got although it should get none."""
    async with client as device:
        reply = await device.send(messages.TELEMETRY, PAYLOADS[0])
    pytest.fail(f"it was admitted, and answered with {reply}")


def _failed(sending: "asyncio.Future[Reply]") -> bool:
    error = sending.exception()
    if error is not None:
        assert isinstance(error, Unavailable), error
        return True
    return sending.result().error is not None


def _assert_done(reply: Reply) -> None:
    assert reply.error is None, f"refused: {reply.error}"
    assert reply.status < 300, reply


__all__ = ["COMMAND", "OFFER", "MakeClient", "OpenAdapter", "ProtocolContract", "Received", "RecordingPlane"]
