"""The load: a process of its own that opens connections, says so, and on a word sends as fast as it is answered.

``python -m benchmarks.load`` reads its task as one JSON line and prints one when it is ready and one at the end. The
packets are made beforehand and all of one length, so that sending is a slice: what is measured is the server.
"""

import asyncio
import json
import ssl
import struct
import sys
import time
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks.loops import run_on

_START_MS = 1_767_225_600_000
#: TLS handshakes under way at once.
_HANDSHAKES = 16


def envelope(number: int) -> bytes:
    """A message of three readings, one second after the one before; always of one length."""
    values = f'{{"m0":2{number % 10}.25,"m1":1{number % 7}.50,"m2":3{number % 3}.75}}'
    return f'{{"time":{_START_MS + number * 1000},"values":{values}}}'.encode()


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">H", len(raw)) + raw


def _packet(first: int, body: bytes) -> bytes:
    size, head = len(body), bytearray((first,))
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + body


def connect_packet(device: str, token: str | None, keep_alive_s: int = 600) -> bytes:
    """An MQTT 5 CONNECT with a clean start."""
    flags = 0x02 if token is None else 0xC2
    body = b"\0\4MQTT\5" + bytes((flags,)) + struct.pack(">H", keep_alive_s) + b"\0" + _text(device)
    return _packet(0x10, body if token is None else body + _text(device) + _text(token))


class _Sender(asyncio.Protocol, ABC):
    """Keeps ``window`` messages outstanding until ``count`` are answered."""

    def __init__(self, device: str, token: str, first: int, count: int, window: int) -> None:
        self.device, self.token, self._window = device, token, window
        pieces = [self.message(number) for number in range(first, first + count)]
        self._size = len(pieces[0])
        assert all(len(one) == self._size for one in pieces)
        self._data = memoryview(b"".join(pieces))
        self._sent = self._answered = self._goal = 0
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.transport: Any = None

    @abstractmethod
    def message(self, number: int) -> bytes:
        """The bytes of one message."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in (self.opened, self.done):
            if not waiting.done():
                waiting.set_exception(ConnectionError(f"{self.device} was cut off: {exc}"))

    def send(self, count: int) -> "asyncio.Future[None]":
        """Sends ``count`` more; the future is done when all are answered."""
        self._goal += count
        self.done = asyncio.get_running_loop().create_future()
        self._fill()
        return self.done

    def answered(self, count: int) -> None:
        """That many are answered: as many may follow."""
        self._answered += count
        if self._sent < self._goal:
            self._fill()
        elif self._answered == self._goal:
            self.done.set_result(None)

    def _fill(self) -> None:
        upto = min(self._goal, self._answered + self._window)
        if upto > self._sent:
            self.transport.write(bytes(self._data[self._sent * self._size : upto * self._size]))
            self._sent = upto


class MqttSender(_Sender):
    """QoS 1 over MQTT 5; a PUBACK without a reason is four bytes, and any other answer ends the run."""

    def message(self, number: int) -> bytes:
        packet_id = struct.pack(">H", number % 65_535 + 1)
        topic = _text(f"fleet/v1/{self.device}/telemetry")
        return _packet(0x32, topic + packet_id + b"\0" + envelope(number))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(connect_packet(self.device, self.token))

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            assert data[0] == 0x20, data
            assert data[3] == 0, f"CONNACK {data[3]:#x}"
            self.opened.set_result(None)
            data = data[2 + data[1] :]
        if data:
            assert len(data) % 4 == 0, data
            assert data[0::4].count(0x40) * 4 == len(data), data
            self.answered(len(data) // 4)


class HttpSender(_Sender):
    """Keep-alive POSTs, one after the other; the answer is 204, which has no body."""

    def message(self, number: int) -> bytes:
        body = envelope(number)
        head = (
            f"POST /device/v1/telemetry HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.opened.set_result(None)

    def data_received(self, data: bytes) -> None:
        assert data.startswith(b"HTTP/1.1 204"), data
        assert data.endswith(b"\r\n\r\n"), data
        self.answered(data.count(b"HTTP/1.1 204"))


async def _word() -> bool:
    """The next line of the one who started us; False at the end."""
    return bool(await asyncio.to_thread(sys.stdin.readline))


def _say(**members: object) -> None:
    print(json.dumps(members), flush=True)


def _itself(protocol: _Sender) -> _Sender:
    return protocol


async def _send(task: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    kind = {"mqtt": MqttSender, "http": HttpSender}[task["kind"]]
    warm, count = task["warm"], task["count"]
    senders = [kind(device, token, task["first"], warm + count, task["window"]) for device, token in task["devices"]]
    for sender in senders:
        await loop.create_connection(partial(_itself, sender), task["host"], task["port"])
        await sender.opened
    await asyncio.gather(*(sender.send(warm) for sender in senders))
    _say(ready=True)
    await _word()
    begun = time.perf_counter()
    await asyncio.gather(*(sender.send(count) for sender in senders))
    _say(seconds=time.perf_counter() - begun, messages=count * len(senders))
    await _word()


class _Commanded(asyncio.Protocol):
    """A device that does what it is told: for each new command it says accepted and succeeded, then has done it."""

    def __init__(self, device: str, token: str) -> None:
        self._device, self._token = device, token
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._known: set[str] = set()
        self._packet_id = 0
        self._unanswered = self._goal = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def expect(self, count: int) -> "asyncio.Future[None]":
        """So many more commands; the future is done when the server has acknowledged all that was said of them."""
        self._goal += count
        self.done = asyncio.get_running_loop().create_future()
        self._look()
        return self.done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(connect_packet(self._device, self._token))

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in (self.opened, self.done):
            if not waiting.done():
                waiting.set_exception(ConnectionError(f"{self._device} was cut off: {exc}"))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        at, out = 0, list[bytes]()
        while (found := _cut(buffer, at)) is not None:
            start, end = found
            self._packet(buffer[at] & 0xF0, buffer[start:end], out)
            at = end
        self._buffer = buffer[at:]
        if out:
            self.transport.write(b"".join(out))
        self._look()

    def _look(self) -> None:
        if len(self._known) >= self._goal and not self._unanswered and not self.done.done():
            self.done.set_result(None)

    def _packet(self, kind: int, body: bytes, out: list[bytes]) -> None:
        if kind == 0x20:
            assert body[1] == 0, f"CONNACK {body[1]:#x}"
            topic = _text(f"fleet/v1/{self._device}/commands") + b"\1"
            out.append(_packet(0x82, b"\0\1\0" + topic))
        elif kind == 0x90:
            assert body[-1] == 1, f"SUBACK {body[-1]:#x}"
            self.opened.set_result(None)
        elif kind == 0x40:
            assert len(body) == 2 or body[2] < 0x80, f"PUBACK {body[2]:#x}"
            self._unanswered -= 1
        elif kind == 0x30:
            length = int.from_bytes(body[:2], "big")
            at = 2 + length
            out.append(_packet(0x40, body[at : at + 2]))
            command = json.loads(body[at + 3 + body[at + 2] :])["id"]  # fewer than 128 bytes of properties
            if command not in self._known:
                self._known.add(command)
                out += [self._says(command, status) for status in ("accepted", "succeeded")]

    def _says(self, command: str, status: str) -> bytes:
        self._unanswered += 1
        self._packet_id = self._packet_id % 65_535 + 1
        topic = _text(f"fleet/v1/{self._device}/commands/{command}/result")
        body = topic + struct.pack(">H", self._packet_id) + b"\0" + b'{"status":"%b"}' % status.encode()
        return _packet(0x32, body)


def _cut(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at ``at`` begins and ends, or None where it is not all there."""
    length = shift = 0
    for place in range(at + 1, min(at + 5, len(buffer))):
        length |= (buffer[place] & 127) << shift
        shift += 7
        if buffer[place] < 128:
            return (place + 1, place + 1 + length) if place + 1 + length <= len(buffer) else None
    return None


async def _obey(task: dict[str, Any]) -> None:
    """Devices that obey; each line says how many commands each of them is to expect, and is answered at the end."""
    loop = asyncio.get_running_loop()
    devices = [_Commanded(device, token) for device, token in task["devices"]]
    for at in range(0, len(devices), _HANDSHAKES):
        some = devices[at : at + _HANDSHAKES]
        for device in some:
            await loop.create_connection(partial(_as_protocol, device), task["host"], task["port"])
        await asyncio.gather(*(device.opened for device in some))
    _say(ready=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        begun = time.perf_counter()
        await asyncio.gather(*(device.expect(int(line)) for device in devices))
        _say(seconds=time.perf_counter() - begun)


def _as_protocol(protocol: asyncio.Protocol) -> asyncio.Protocol:
    return protocol


class _Idle(asyncio.Protocol):
    def __init__(self, device: str) -> None:
        self._device = device
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(connect_packet(self._device, None))  # type: ignore[attr-defined]  # a stream's transport

    def data_received(self, data: bytes) -> None:
        assert data[0] == 0x20, data
        assert data[3] == 0, f"CONNACK {data[3]:#x}"
        self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"{self._device} was cut off: {exc}"))


async def _hold(task: dict[str, Any]) -> None:
    loop, slots = asyncio.get_running_loop(), asyncio.Semaphore(_HANDSHAKES)
    held = []

    async def one(device: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(task["ca"])
        context.load_cert_chain(Path(task["folder"]) / f"{device}.pem")
        async with slots:
            _, idle = await loop.create_connection(
                lambda: _Idle(device), task["host"], task["port"], ssl=context, server_hostname="localhost"
            )
            await idle.opened
        held.append(idle)

    begun = time.perf_counter()
    await asyncio.gather(*(one(device) for device in task["devices"]))
    _say(ready=True, seconds=time.perf_counter() - begun, connections=len(held))
    await _word()


def main() -> None:
    task = json.loads(sys.stdin.readline())
    work = {"idle": _hold, "commands": _obey}.get(task["kind"], _send)
    run_on(task.get("loop", "uvloop"), work(task))


if __name__ == "__main__":
    main()
