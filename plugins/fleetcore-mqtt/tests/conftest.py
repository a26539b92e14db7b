"""The endpoint over a recording plane, and clients that speak MQTT byte by byte."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import mqtt5
import pytest
from fleetcore_mqtt.config import MqttConfig
from fleetcore_mqtt.plugin import open_mqtt

from fleetcore.model.message import Rejected
from fleetcore.testing import context as plugin_context
from fleetcore.testing import peers
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.testing.throwaway_ca import ThrowawayCa


def pytest_configure(config):
    config.addinivalue_line("markers", "peer(name): needs a real peer program")


pytest_runtest_setup = peers.require


def make_plane():
    """Nine devices and a leaf of the first; a payload that begins with ``!`` cannot be read."""
    plane = RecordingPlane((f"dev{number}" for number in range(1, 10)), {"leaf1": "dev1"})
    plane.judge = lambda _, message: (
        Rejected(code="payload_unreadable", reason="cannot be read") if message.payload.startswith(b"!") else None
    )
    return plane


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    return ThrowawayCa(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def plane():
    return make_plane()


@pytest.fixture(scope="session")
def plane_class():
    """For tests that make their own loop."""
    return make_plane


@pytest.fixture
async def clock():
    return MovableClock(time.time_ns() // 1_000_000)  # the certificates are of today


@pytest.fixture
async def context(pki, clock):
    return plugin_context("mqtt", clock=clock, tls=pki)


@pytest.fixture
def counts(context):
    return context.counted


@pytest.fixture
async def endpoint(plane, context):
    """Listens in plain text on a loopback address."""
    async with open_mqtt(MqttConfig(listen="mqtt://127.0.0.1:0"), context, plane, plane) as opened:
        yield opened


@pytest.fixture
async def tls_endpoint(plane, context):
    async with open_mqtt(MqttConfig(listen="mqtts://127.0.0.1:0"), context, plane, plane) as opened:
        yield opened


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return len(raw).to_bytes(2, "big") + raw


def packet(first, body=b""):
    length, out = len(body), bytearray([first])
    while True:
        length, low = divmod(length, 128)
        out.append(low | (0x80 if length else 0))
        if not length:
            return bytes(out) + body


class V4:
    """Writes 3.1.1."""

    version = 4

    @staticmethod
    def connect(client_id="dev1", *, token=None, user=None, clean=True, keep_alive=60, will=None, level=4):
        flags = 0x02 if clean else 0
        body = b""
        if will is not None:
            flags |= 0x0C
            body += text(will[0]) + text(will[1])
        if token is not None:
            flags |= 0xC0
            body += text(user or "") + text(token)
        head = text("MQTT") + bytes((level, flags)) + keep_alive.to_bytes(2, "big")
        return packet(0x10, head + text(client_id) + body)

    @staticmethod
    def publish(topic, payload=b"{}", packet_id=1, *, dup=False):
        if packet_id is None:
            return packet(0x30, text(topic) + payload)
        return packet(0x32 | (8 if dup else 0), text(topic) + packet_id.to_bytes(2, "big") + payload)

    @staticmethod
    def subscribe(packet_id, *filters):
        return packet(
            0x82, packet_id.to_bytes(2, "big") + b"".join(text(name) + bytes((qos,)) for name, qos in filters)
        )

    @staticmethod
    def unsubscribe(packet_id, *filters):
        return packet(0xA2, packet_id.to_bytes(2, "big") + b"".join(map(text, filters)))


class V5:
    """Writes version 5 through the library."""

    version = 5

    @staticmethod
    def connect(client_id="dev1", *, token=None, user=None, clean=True, keep_alive=60, will=None, **more):
        return mqtt5.ConnectPacket(
            client_id,
            username=user,
            password=None if token is None else token.encode(),
            clean_start=clean,
            keep_alive=keep_alive,
            will=will
            and mqtt5.Will(will[0], payload=will[1], qos=mqtt5.QoS.AT_LEAST_ONCE, **more.pop("will_more", {})),
            **more,
        ).write()

    @staticmethod
    def publish(topic, payload=b"{}", packet_id=1, *, dup=False, **more):
        qos = mqtt5.QoS.AT_MOST_ONCE if packet_id is None else mqtt5.QoS.AT_LEAST_ONCE
        return mqtt5.PublishPacket(topic, payload, qos=qos, packet_id=packet_id, duplicate=dup, **more).write()

    @staticmethod
    def subscribe(packet_id, *filters, properties=b""):
        # By hand: the library writes no filter that is malformed.
        wanted = b"".join(text(name) + bytes((qos,)) for name, qos in filters)
        return packet(0x82, packet_id.to_bytes(2, "big") + bytes((len(properties),)) + properties + wanted)

    @staticmethod
    def unsubscribe(packet_id, *filters):
        return mqtt5.UnsubscribePacket(packet_id, list(filters)).write()


class ClosedError(Exception):
    pass


class Wire:
    """One connection; ``answer()`` is the next packet as bytes, ``closed()`` waits for the end."""

    def __init__(self, reader, writer, codec):
        self.reader, self.writer, self.codec = reader, writer, codec

    async def send(self, *packets):
        self.writer.write(b"".join(packets))
        await self.writer.drain()

    async def answer(self, timeout_s=PATIENCE_S):
        async with asyncio.timeout(timeout_s):
            try:
                first = await self.reader.readexactly(1)
                length, shift = 0, 0
                head = b""
                while True:
                    byte = await self.reader.readexactly(1)
                    head += byte
                    length |= (byte[0] & 0x7F) << shift
                    shift += 7
                    if byte[0] < 0x80:
                        break
                return first + head + await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise ClosedError from error

    async def decoded(self):
        """The next packet, by the version 5 library."""
        return mqtt5.read(memoryview(await self.answer()))[0]

    async def silent(self, seconds=0.1):
        """Whether nothing comes for a moment."""
        try:
            await self.answer(seconds)
        except TimeoutError:
            return True
        return False

    async def closed(self, timeout_s=PATIENCE_S):
        """All packets up to the end of the connection."""
        out = []
        while True:
            try:
                out.append(await self.answer(timeout_s))
            except ClosedError:
                return out

    async def publication(self):
        """The next PUBLISH as (topic, body), acknowledged where it wants to be."""
        raw = await self.answer()
        assert raw[0] & 0xF0 == 0x30, raw
        if self.codec.version == 5:
            got = mqtt5.read(memoryview(raw))[0]
            if got.packet_id is not None:
                await self.send(mqtt5.PubAckPacket(got.packet_id).write())
            return got.topic, json.loads(got.payload)
        at = 2 if raw[1] < 0x80 else 3
        size = int.from_bytes(raw[at : at + 2], "big")
        topic, rest = raw[at + 2 : at + 2 + size].decode(), raw[at + 2 + size :]
        if raw[0] & 0x06:
            await self.send(b"\x40\x02" + rest[:2])
            rest = rest[2:]
        return topic, json.loads(rest)


class Dialler:
    """Opens connections to an endpoint and closes what a test leaves open."""

    def __init__(self, endpoint, plane):
        self.endpoint, self.plane = endpoint, plane
        self.writers = []

    async def wire(self, codec=V4):
        host, _, port = self.endpoint.endpoints[0].rpartition("/")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self.writers.append(writer)
        return Wire(reader, writer, codec)

    async def device(self, device="dev1", codec=V4, **more):
        """A connection of ``device`` that is accepted."""
        wire = await self.wire(codec)
        more.setdefault("client_id", device)
        await wire.send(codec.connect(token=self.plane.token(device), user=device, **more))
        answer = await wire.answer()
        assert answer[0] == 0x20, answer
        assert answer[3] == 0, answer
        return wire


@pytest.fixture
async def dial(endpoint, plane):
    dialler = Dialler(endpoint, plane)
    yield dialler
    for writer in dialler.writers:
        writer.close()


@pytest.fixture(params=[V4, V5], ids=["3.1.1", "5"])
def codec(request):
    return request.param


@pytest.fixture
def v4():
    return V4


@pytest.fixture
def v5():
    return V5


@pytest.fixture
def wire_packet():
    return packet


@pytest.fixture
def wire_text():
    return text


@asynccontextmanager
async def _program(*command):
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.communicate(), PATIENCE_S)


@pytest.fixture
def program():
    """Runs a program while the block lasts."""
    return _program


async def _until(condition, timeout_s=PATIENCE_S):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def until():
    """Waits for what another process or thread brings about."""
    return _until
