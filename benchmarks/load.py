"""The load: a process of its own that opens connections, says so, and on a word sends as fast as it is answered.

``python -m benchmarks.load`` reads its task as one JSON line and prints one when it is ready and one at the end. The
packets are made beforehand and all of one length, so that sending is a slice: what is measured is the server.
"""

import asyncio
import contextlib
import json
import os
import ssl
import struct
import sys
import time
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks.herd import Herd, say, storm
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
        assert all(len(piece) == self._size for piece in pieces)
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


def upgrade_request(token: str | None) -> bytes:
    """The opening handshake of a WebSocket for devices."""
    lines = [
        "GET /device/v1/ws HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: fleetcore.v1", *([] if token is None else [f"Authorization: Bearer {token}"]),
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


def masked(payload: bytes) -> bytes:
    """A text frame of a client, below 64 KiB."""
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else struct.pack(">BBH", 0x81, 0xFE, size)
    key = b"\x5a\x01\xff\x33"
    whole = int.from_bytes(payload, "big") ^ int.from_bytes((key * (size // 4 + 1))[:size], "big")
    return head + key + whole.to_bytes(size, "big")


class Frames:
    """Counts the whole frames in what a server sends, and keeps the rest."""

    def __init__(self) -> None:
        self._buffer = b""

    def count(self, data: bytes) -> int:
        """How many frames are complete with ``data``."""
        buffer, at, found = self._buffer + data, 0, 0
        while len(buffer) - at >= 2:
            size, start = buffer[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(buffer[at + 2 : start], "big")
            if len(buffer) < start + size:
                break
            assert buffer[at] == 0x81, buffer[at : at + 100]
            at, found = start + size, found + 1
        self._buffer = buffer[at:]
        return found


class WebSocketSender(_Sender):
    """Text frames in JSON; every answer is a frame. A server that greets does so before anything is sent."""

    def __init__(self, device: str, token: str, first: int, count: int, window: int, *, greets: bool = True) -> None:
        super().__init__(device, token, first, count, window)
        self._frames, self._head, self._upgraded, self._greets = Frames(), b"", False, greets

    def message(self, number: int) -> bytes:
        return masked(b'{"op":"telemetry","id":%d,"body":%b}' % (1_000_000 + number, envelope(number)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(upgrade_request(self.token))

    def data_received(self, data: bytes) -> None:
        if not self._upgraded:
            self._head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                return
            assert self._head.startswith(b"HTTP/1.1 101"), self._head
            self._upgraded = True
        answered = self._frames.count(data)
        if not self.opened.done() and answered >= self._greets:
            answered -= self._greets
            self.opened.set_result(None)
        if answered:
            self.answered(answered)


async def _word() -> bool:
    """The next line of the one who started us; False at the end."""
    return bool(await asyncio.to_thread(sys.stdin.readline))


def _itself(protocol: _Sender) -> _Sender:
    return protocol


async def _send(task: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    kind: Any = {
        "mqtt": MqttSender,
        "http": HttpSender,
        "websocket": partial(WebSocketSender, greets=task.get("greets", True)),
    }[task["kind"]]
    warm, count = task["warm"], task["count"]
    senders = [kind(device, token, task["first"], warm + count, task["window"]) for device, token in task["devices"]]
    for sender in senders:
        await loop.create_connection(partial(_itself, sender), task["host"], task["port"])
        await sender.opened
    await asyncio.gather(*(sender.send(warm) for sender in senders))
    say(ready=True)
    await _word()
    begun = time.perf_counter()
    await asyncio.gather(*(sender.send(count) for sender in senders))
    say(seconds=time.perf_counter() - begun, messages=count * len(senders))
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
    say(ready=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        begun = time.perf_counter()
        await asyncio.gather(*(device.expect(int(line)) for device in devices))
        say(seconds=time.perf_counter() - begun)


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


class _IdleWebSocket(_Idle):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(upgrade_request(None))  # type: ignore[attr-defined]  # a stream's transport

    def data_received(self, data: bytes) -> None:
        assert data.startswith(b"HTTP/1.1 101") or self.opened.done(), data
        if not self.opened.done():
            self.opened.set_result(None)


class _IdleHttp(_Idle):
    """Sends one reading, and stays."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        body = envelope(1)
        head = f"POST /device/v1/telemetry HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        sent = f"{head}Content-Type: application/json\r\n\r\n".encode() + body
        transport.write(sent)  # type: ignore[attr-defined]  # a stream's transport

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            assert data.startswith(b"HTTP/1.1 20"), data
            self.opened.set_result(None)


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
    say(ready=True, seconds=time.perf_counter() - begun, connections=len(held))
    await _word()


class _Herd(Herd[tuple[str, ssl.SSLContext]]):
    """Devices that connect over TLS, each with its certificate, again at once where they are cut off."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._host, self._port, self._ca, self._folder = task["host"], task["port"], task["ca"], Path(task["folder"])
        super().__init__([(name, self._context(name)) for name in task["devices"]])
        self._idle = {"websocket": _IdleWebSocket, "http": _IdleHttp}.get(task.get("protocol", ""), _Idle)
        self._held: list[_Idle] = []

    def _context(self, device: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self._ca)
        context.load_cert_chain(self._folder / f"{device}.pem")
        return context

    async def connect(self, device: tuple[str, ssl.SSLContext]) -> None:
        name, context = device
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, idle = await loop.create_connection(
                    lambda: self._idle(name), self._host, self._port, ssl=context, server_hostname="localhost",
                    ssl_handshake_timeout=600,
                )  # fmt: skip
                await idle.opened
            except OSError:
                self.cut_off += 1
            else:
                self._held.append(idle)
                return

    def leave(self) -> None:
        for idle in self._held:
            cast("asyncio.Transport", idle.transport).abort()
        self._held.clear()


async def _storm(task: dict[str, Any]) -> None:
    await storm(_Herd(task))


class _Timed(WebSocketSender):
    """Sends one message at a time and says how long each took."""

    async def took_s(self) -> float:
        """Sends one more."""
        begun = time.perf_counter()
        await self.send(1)
        return time.perf_counter() - begun


class _SlowReader(asyncio.Protocol):
    """Asks for its twin again and again and reads one byte a second of the answers."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._told = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(upgrade_request(self._token))

    def data_received(self, data: bytes) -> None:
        if not self._told:
            ask = b"".join(masked(b'{"op":"twin.get","id":%d}' % number) for number in range(1000))
            self.transport.write(ask)
        self._told += len(data)
        self.transport.pause_reading()

    async def read_slowly(self) -> None:
        """Runs until cancelled."""
        peer = self.transport.get_extra_info("socket")
        while True:
            await asyncio.sleep(1)
            with contextlib.suppress(BlockingIOError):
                self._told += len(os.read(peer.fileno(), 1))


async def _latency(task: dict[str, Any]) -> None:
    """``seconds`` of one message a second on each connection; answers with percentiles, a line a run."""
    loop, every_s = asyncio.get_running_loop(), task["every_s"]
    runs = task["runs"]
    each = int(task["seconds"] / every_s)
    devices = [_Timed(name, token, 0, runs * each, 1) for name, token in task["devices"]]
    for device in devices:
        await loop.create_connection(partial(_itself, device), task["host"], task["port"])
        await device.opened
    say(ready=True)
    found: list[float] = []

    async def live(number: int, device: _Timed) -> None:
        begun = loop.time() + every_s * number / len(devices)
        for turn in range(each):
            await asyncio.sleep(max(0.0, begun + turn * every_s - loop.time()))
            found.append(await device.took_s())

    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        slow = None
        if word == "slow":
            slow = _SlowReader(task["slow"][1])
            await loop.create_connection(partial(_as_protocol, slow), task["host"], task["port"])
            reading = loop.create_task(slow.read_slowly())
            await asyncio.sleep(0.5)
        found.clear()
        await asyncio.gather(*(live(number, device) for number, device in enumerate(devices)))
        found.sort()
        say(p50_ms=found[len(found) // 2] * 1e3, p99_ms=found[len(found) * 99 // 100] * 1e3, count=len(found))
        if slow is not None:
            reading.cancel()
            slow.transport.abort()


def main() -> None:
    task = json.loads(sys.stdin.readline())
    work = {"idle": _hold, "commands": _obey, "storm": _storm, "latency": _latency}.get(task["kind"], _send)
    run_on(task.get("loop", "uvloop"), work(task))


if __name__ == "__main__":
    main()
