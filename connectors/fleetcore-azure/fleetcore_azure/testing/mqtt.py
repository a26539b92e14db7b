"""The simulated hub's endpoint for devices: MQTT 3.1.1 over TLS, limited to IoT Hub's features.

A device has one connection: a new one ends the old one. A client that uses an unsupported feature is disconnected, as
by the service. Facts: https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub
"""

import asyncio
import json
import re
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from attrs import field, mutable

from fleetcore.interfaces.waits import end_tasks
from fleetcore_azure.testing.faults import Faults
from fleetcore_azure.testing.hub import Hub
from fleetcore_azure.testing.operations import HOST
from fleetcore_azure.testing.rules import RefusedByAzure

#: Packet types (MQTT 3.1.1, table 2.1).
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBACK, _UNSUBACK, _PINGRESP = 1, 2, 3, 4, 9, 11, 13
_MAX_SIZE = 270_000
_FILTERS = ("$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#")
_USER = re.compile(re.escape(HOST) + r"/([^/]+)/\?api-version=2021-04-12")
_ASKED = re.compile(r"\$iothub/twin/(GET|PATCH/properties/reported)/\?\$rid=([^&]+)")
_NOT_LET_IN = 5


class _Cut(Exception):
    """The connection ends here."""


@mutable(eq=False)
class Devices:
    """The connections of devices.

    Attributes:
        admits: whether a password authenticates a device now.
        open: connections by device.
        most: the maximum number that were open together.
        opened: how often each device was admitted.
        asked: the topics to which each device has published.
    """

    hub: Hub
    faults: Faults
    calls: dict[str, int]
    admits: Callable[[str, str], bool]
    open: dict[str, "_Connection"] = field(factory=dict)
    most: int = 0
    opened: Counter[str] = field(factory=Counter)
    asked: list[tuple[str, str]] = field(factory=list)
    endpoint: str = ""

    def drop(self, name: str) -> None:
        """Ends the connection of a device, as the hub may at any time."""
        if name in self.open:
            self.open[name].writer.transport.abort()
            self._left(self.open[name])

    def _left(self, connection: "_Connection") -> None:
        if self.open.get(connection.name) is connection:
            del self.open[connection.name]
            self.hub.connected.discard(connection.name)

    def count(self, action: str) -> None:
        """Counts a call by the connector's classes."""
        self.calls[action] = self.calls.get(action, 0) + 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection, from its first byte to its last."""
        connection = _Connection(devices=self, reader=reader, writer=writer)
        try:
            await connection.run()
        except (_Cut, OSError, asyncio.IncompleteReadError, ValueError, IndexError, struct.error, RefusedByAzure):
            pass
        finally:
            self._left(connection)
            writer.transport.abort()

    def let_in(self, connection: "_Connection") -> None:
        """Makes it the device's only connection."""
        self.drop(connection.name)
        self.open[connection.name] = connection
        self.most = max(self.most, len(self.open))
        self.opened[connection.name] += 1
        self.hub.connected.add(connection.name)


@mutable(eq=False, kw_only=True)
class _Connection:
    devices: Devices
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    name: str = ""
    password: str = ""
    hears: bool = False

    async def run(self) -> None:
        kind, _, body = await self._packet()
        if kind != _CONNECT:
            raise _Cut
        await self._connect(body)
        while True:
            kind, flags, body = await self._packet()
            if not self.devices.admits(self.name, self.password):
                raise _Cut  # its token has expired
            match kind:
                case 3:  # PUBLISH
                    await self._publish(flags, body)
                case 8:  # SUBSCRIBE
                    filters = _texts(body[2:], 1)
                    codes = bytes(min(qos[0], 1) if self._may_hear(each) else 0x80 for each, qos in filters)
                    self.hears = self.hears or any(each == _FILTERS[0] for each, _ in filters)
                    await self._send(_SUBACK << 4, body[:2] + codes)
                case 10:  # UNSUBSCRIBE
                    await self._send(_UNSUBACK << 4, body[:2])
                case 12:  # PINGREQ
                    await self._send(_PINGRESP << 4, b"")
                case _:
                    raise _Cut

    def _may_hear(self, filter_: str) -> bool:
        return filter_ in _FILTERS or filter_ == f"devices/{self.name}/messages/devicebound/#"

    async def _packet(self) -> tuple[int, int, bytes]:
        first = (await self.reader.readexactly(1))[0]
        length = shift = 0
        while True:
            byte = (await self.reader.readexactly(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if length > _MAX_SIZE or self.devices.faults.down:
            raise _Cut
        return first >> 4, first & 15, await self.reader.readexactly(length)

    async def _send(self, first: int, body: bytes) -> None:
        length, head = len(body), bytearray([first])
        while True:
            length, low = divmod(length, 128)
            head.append(low | 0x80 if length else low)
            if not length:
                break
        self.writer.write(bytes(head) + body)
        await self.writer.drain()

    async def _connect(self, body: bytes) -> None:
        devices, faults = self.devices, self.devices.faults
        devices.count("links/open")
        if body[:7] != b"\x00\x04MQTT\x04":
            raise _Cut
        flags = body[7]
        given = [each for each, _ in _texts(body[10:], 0)]
        if flags & 0x04 or flags & 0xC0 != 0xC0 or len(given) != 3:
            raise _Cut
        client, user, self.password = given
        named = _USER.fullmatch(user)
        self.name = client
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        if faults.refused or named is None or named[1] != client or not devices.admits(client, self.password):
            await self._send(_CONNACK << 4, bytes([0, _NOT_LET_IN]))
            raise _Cut
        if faults.counted("throttled", "links/open") or faults.counted("errors", "links/open"):
            await self._send(_CONNACK << 4, bytes([0, 3]))
            raise _Cut
        devices.let_in(self)
        await self._send(_CONNACK << 4, bytes([0, 0]))

    async def _publish(self, flags: int, body: bytes) -> None:
        qos, size = (flags >> 1) & 3, int.from_bytes(body[:2], "big")
        topic, rest = body[2 : 2 + size].decode(), body[2 + size :]
        if qos == 2:
            raise _Cut
        if qos == 1:
            await self._send(_PUBACK << 4, rest[:2])
            rest = rest[2:]
        self.devices.asked.append((self.name, topic))
        asked = _ASKED.fullmatch(topic)
        if asked is None:
            raise _Cut
        reads = asked[1] == "GET"
        action = "twins/read" if reads else "twins/write"
        self.devices.count(action)
        faults = self.devices.faults
        if faults.counted("dropped", action):
            raise _Cut
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        status, version, answer = self._done(action, rest)
        match faults.fate_of(action):
            case "none":
                return
            case "half":
                raise _Cut
        if self.hears:
            at = f"$iothub/twin/res/{status}/?$rid={asked[2]}" + (f"&$version={version}" if version else "")
            await self._send(_PUBLISH << 4, struct.pack(">H", len(at)) + at.encode() + answer)

    def _done(self, action: str, body: bytes) -> tuple[int, int | None, bytes]:
        hub, faults = self.devices.hub, self.devices.faults
        try:
            if faults.counted("throttled", action):
                raise RefusedByAzure("ThrottlingException", "Too many requests", 429)
            if faults.counted("errors", action):
                raise RefusedByAzure("ServerError", "An internal error occurred", 500)
            if action == "twins/read":
                properties: Mapping[str, object] = hub.twin(hub.device(self.name))["properties"]
                return 200, None, json.dumps(properties).encode()
            return 204, hub.report(self.name, json.loads(body)), b""
        except RefusedByAzure as refused:
            return refused.status, None, refused.answer().body
        except ValueError:
            return 400, None, b""


def _texts(data: bytes, beside: int) -> list[tuple[str, bytes]]:
    """Texts with a length prefix, each followed by this many bytes."""
    found = []
    while data:
        end = 2 + int.from_bytes(data[:2], "big")
        found.append((data[2:end].decode(), data[end : end + beside]))
        data = data[end + beside :]
    return found


@asynccontextmanager
async def serving_devices(devices: Devices, port: int, tls: ssl.SSLContext) -> AsyncIterator[None]:
    """Listens on the loopback within the context."""
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(devices.serve(reader, writer), name="counterpart mqtt")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls)
    devices.endpoint = f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield
    finally:
        server.close()
        await end_tasks(*tasks)
        await server.wait_closed()
