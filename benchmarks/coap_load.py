"""The load over CoAP: devices that send confirmable requests, at once or on time, hold associations, or shake hands.

``python -m benchmarks.coap_load`` reads its task as one JSON line, prints one when it is ready and one at the end.
Messages are built by hand, so that what is measured is the server.
"""

import asyncio
import json
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetcore_coap.association import Association, prepare
from fleetcore_coap.contexts import client_context
from OpenSSL import SSL

from benchmarks.herd import Herd, say, storm
from benchmarks.load import envelope
from benchmarks.loops import run_on

#: Without an answer for as long, what is outstanding is sent again: the loopback loses where a buffer is full.
_AGAIN_S = 1.0
#: A device of a storm begins anew without an answer for as long.
_GIVE_UP_S = 60.0
#: How often a device that reads nothing asks for its twin.
_ASKING_S = 0.05
#: Handshakes begun at once by :func:`_hold`.
_AT_ONCE = 16
_CHANGED, _CONTENT, _UNAUTHORIZED = 0x44, 0x45, 0x81
_ECHO = 252


def _path(*segments: bytes) -> bytes:
    first, *others = segments
    return bytes((0xB0 | len(first),)) + first + b"".join(bytes((len(other),)) + other for other in others)


def post(number: int, mid: int) -> bytes:
    """A confirmable POST of three readings."""
    head = b"\x44\x02" + mid.to_bytes(2, "big") + number.to_bytes(4, "big")
    return head + _path(b"device", b"v1", b"telemetry") + b"\x11\x32\xff" + envelope(number)


def get(number: int, mid: int, echo: bytes = b"") -> bytes:
    """A confirmable GET of ``/device/v1/``."""
    made = b"\x44\x01" + mid.to_bytes(2, "big") + number.to_bytes(4, "big") + _path(b"device", b"v1", b"")
    return made + (bytes((0xD0 | len(echo), _ECHO - 11 - 13)) + echo if echo else b"")


def twin(number: int, mid: int) -> bytes:
    """A confirmable GET of the desired state, to be observed, in blocks of 1,024 bytes."""
    head = b"\x44\x01" + mid.to_bytes(2, "big") + number.to_bytes(4, "big")
    # Observe 0 (6), four times Uri-Path (11), Block2 0/0/1024 (23)
    path = b"\x56device\x02v1\x04twin\x07desired"
    return head + b"\x60" + path + b"\xc1\x06"


class _Device:
    """One socket, with DTLS on it where it has a context."""

    def __init__(self, port: int, context: SSL.Context | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(("127.0.0.1", port))
        self._loop.add_reader(self._socket, self._read)
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.heard: Callable[[bytes], None] = lambda _message: None
        self.association: Association | None = None
        if context is not None:
            connection = SSL.Connection(context, None)
            connection.set_connect_state()
            prepare(connection)
            self.association = Association(connection, self._write)

    def _write(self, datagram: bytes) -> None:
        self._socket.send(datagram)

    def open(self) -> None:
        if self.association is None:
            self.opened.set_result(None)
        else:
            self.association.begin()

    def send(self, message: bytes) -> None:
        if self.association is None:
            self._socket.send(message)
        else:
            self.association.send(message)

    def stop_reading(self) -> None:
        """Hears nothing from now on, so it acknowledges nothing either."""
        self._loop.remove_reader(self._socket)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        if self.association is not None:
            self.association.close()
        self._socket.close()

    def _read(self) -> None:
        while True:
            try:
                datagram = self._socket.recv(2048)
            except OSError:
                return
            if self.association is None:
                self.heard(datagram)
                continue
            messages = self.association.receive(datagram)
            assert self.association.ended is None, self.association.ended
            if self.association.established and not self.opened.done():
                self.opened.set_result(None)
            for message in messages:
                self.heard(message)


class _Sender:
    """Keeps ``window`` requests of a device outstanding until so many are answered."""

    def __init__(self, device: _Device, make: Callable[[int, int], bytes], expected: int, window: int) -> None:
        self._device, self._make, self._expected, self._window = device, make, expected, window
        self._outstanding: dict[int, bytes] = {}
        self._next = self._goal = 0
        self.echo = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        device.heard = self._heard

    async def send(self, count: int) -> None:
        self._goal += count
        self.done = asyncio.get_running_loop().create_future()
        self._fill()
        while not self.done.done():
            before = self._next
            await asyncio.wait([self.done], timeout=_AGAIN_S)
            if self._next == before:
                for message in self._outstanding.values():
                    self._device.send(message)

    def _fill(self) -> None:
        while self._next < self._goal and len(self._outstanding) < self._window:
            self._next += 1
            mid = self._next & 0xFFFF
            made = get(self._next, mid, self.echo) if self._expected == _CONTENT else self._make(self._next, mid)
            self._outstanding[mid] = made
            self._device.send(made)

    def _heard(self, message: bytes) -> None:
        code, number = message[1], int.from_bytes(message[4:8], "big") & 0xFFFF
        if code == _UNAUTHORIZED and self._expected == _CONTENT:
            if not self.echo:  # the first of those that were outstanding: begin anew with what it asks for
                self.echo = message[-6:]  # the option is the last of an answer without a body
                self._outstanding.clear()
                self._next = 0
                self._fill()
            return
        if message[0] >> 4 & 3 == 0:
            self._device.send(b"\x60\x00" + message[2:4])
        if code == 0 or self._outstanding.pop(number, None) is None:
            return
        assert code == self._expected, f"{code >> 5}.{code & 31:02}"
        self._fill()
        if not self._outstanding and self._next == self._goal and not self.done.done():
            self.done.set_result(None)


def _context(task: dict[str, Any], device: str) -> SSL.Context:
    identity = (Path(task["folder"]) / f"{device}.pem").read_bytes()
    return client_context(Path(task["ca"]).read_bytes(), identity, identity)


async def _word() -> None:
    await asyncio.to_thread(sys.stdin.readline)


async def _messages(task: dict[str, Any]) -> None:
    expected = _CHANGED if task["what"] == "post" else _CONTENT
    senders = []
    for name in task["devices"]:
        device = _Device(task["port"], _context(task, name) if task["dtls"] else None)
        device.open()
        await device.opened
        senders.append(_Sender(device, post, expected, task["window"]))
    await asyncio.gather(*(sender.send(task["warm"]) for sender in senders))
    say(ready=True)
    await _word()
    begun = time.perf_counter()
    await asyncio.gather(*(sender.send(task["count"]) for sender in senders))
    say(seconds=time.perf_counter() - begun, messages=task["count"] * len(senders))
    await _word()


async def _hold(task: dict[str, Any]) -> None:
    """Associations of devices that have sent one message each."""
    slots, held = asyncio.Semaphore(_AT_ONCE), []

    async def one(name: str) -> None:
        async with slots:
            device = _Device(task["port"], _context(task, name))
            device.open()
            await device.opened
            await _Sender(device, post, _CHANGED, 1).send(1)
            held.append(device)

    await asyncio.gather(*map(one, task["devices"]))
    say(ready=True, associations=len(held))
    await _word()


async def _handshakes(task: dict[str, Any]) -> None:
    """So many handshakes a second, each begun when it is its time; how long each took."""
    contexts = [_context(task, name) for name in task["devices"]]
    took: list[float] = []
    say(ready=True)
    await _word()
    begun = time.perf_counter()

    async def one(number: int) -> None:
        await asyncio.sleep(max(0.0, begun + number / task["rate"] - time.perf_counter()))
        device = _Device(task["port"], contexts[number % len(contexts)])
        started = time.perf_counter()
        device.open()
        await device.opened
        took.append(time.perf_counter() - started)
        device.close()

    await asyncio.gather(*map(one, range(task["count"])))
    took.sort()
    say(
        seconds=time.perf_counter() - begun,
        median_ms=statistics.median(took) * 1e3,
        p99_ms=took[int(len(took) * 0.99)] * 1e3,
    )
    await _word()


async def _latency(task: dict[str, Any]) -> None:
    """One message each ``every_s`` from each device but the last, ``alone`` or beside that: ``slow`` reads nothing.

    The slow device observes its twin, asks for it again and again, and acknowledges nothing.
    """
    loop, every_s = asyncio.get_running_loop(), task["every_s"]
    *names, slow = task["devices"]
    turns = int(task["seconds"] / every_s)
    senders = []
    for name in names:
        device = _Device(task["port"], _context(task, name))
        device.open()
        await device.opened
        senders.append(_Sender(device, post, _CHANGED, 1))
        await senders[-1].send(1)
    say(ready=True)
    took: list[float] = []

    async def on_time(number: int, sender: _Sender) -> None:
        begun = loop.time() + every_s * number / len(senders)
        for turn in range(turns):
            await asyncio.sleep(max(0.0, begun + turn * every_s - loop.time()))
            started = time.perf_counter()
            await sender.send(1)
            took.append(time.perf_counter() - started)

    async def asking() -> None:
        device = _Device(task["port"], _context(task, slow))
        device.open()
        await device.opened
        device.stop_reading()
        try:
            for number in range(1 << 16):
                device.send(twin(number, number & 0xFFFF))
                await asyncio.sleep(_ASKING_S)
        finally:
            device.close()

    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        hungry = asyncio.ensure_future(asking()) if word == "slow" else None
        if hungry is not None:
            await asyncio.sleep(0.5)
        took.clear()
        await asyncio.gather(*(on_time(number, sender) for number, sender in enumerate(senders)))
        if hungry is not None:
            assert not hungry.done(), "the slow device has ended"
            hungry.cancel()
        took.sort()
        say(p50_ms=took[len(took) // 2] * 1e3, p99_ms=took[len(took) * 99 // 100] * 1e3, count=len(took))


class _Herd(Herd[SSL.Context]):
    """Devices that connect over DTLS: each shakes hands, repeats what is lost, and sends one message."""

    def __init__(self, task: dict[str, Any]) -> None:
        super().__init__([_context(task, name) for name in task["devices"]])
        self._port = task["port"]
        self._held: list[_Device] = []

    async def connect(self, device: SSL.Context) -> None:
        while True:
            made = _Device(self._port, device)
            made.open()
            repeating = asyncio.ensure_future(_repeat(made))
            try:
                async with asyncio.timeout(_GIVE_UP_S):
                    await made.opened
                    await _Sender(made, post, _CHANGED, 1).send(1)
            except TimeoutError:
                self.cut_off += 1
                made.close()
            else:
                self._held.append(made)
                return
            finally:
                repeating.cancel()

    def leave(self) -> None:
        for made in self._held:
            made.close()
        self._held.clear()


async def _repeat(device: _Device) -> None:
    """OpenSSL's timer, while the handshake lasts."""
    association = device.association
    assert association is not None
    while not device.opened.done():
        wait_s = association.timeout_s
        await asyncio.sleep(0.05 if wait_s is None else wait_s + 0.001)
        if association.timeout_s is not None and not device.opened.done():
            association.retransmit()


async def _storm(task: dict[str, Any]) -> None:
    await storm(_Herd(task))


def main() -> None:
    task = json.loads(sys.stdin.readline())
    work = {"messages": _messages, "hold": _hold, "handshakes": _handshakes, "storm": _storm, "latency": _latency}[
        task["kind"]
    ]
    run_on(task.get("loop", "uvloop"), work(task))


if __name__ == "__main__":
    main()
