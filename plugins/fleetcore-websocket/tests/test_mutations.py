"""Ten thousand mutations and more of good bytes at each stage of a connection: the server is alive, serves on, and stays as large."""

import asyncio
import gc
import json
import random
import struct
import tracemalloc
from contextlib import suppress

import cbor2
import pytest

from fleetcore.interfaces.provider import Limits

# Opcodes (RFC 6455 §11.8).
BINARY, CLOSE, PING, PONG, TEXT = 2, 8, 9, 10, 1

#: Of each variant of a stage; every stage has two variants or four.
MUTATIONS, WARM = 5_000, 500
#: What may be left of them: caches of the interpreter, not one kept frame of each.
LEFT_BYTES = 600_000
REQUESTS = (
    {"op": "telemetry", "id": 1, "body": {"t": 1}},
    {"op": "twin.get", "id": "a"},
    {"op": "twin.report", "id": 2, "if_version": 1, "body": {"a": [1, None]}},
    {"op": "command.result", "id": 3, "target": "c-1", "body": {"status": "succeeded"}},
    {
        "op": "telemetry",
        "id": 4,
        "device": "leaf1",
        "content_type": "application/senml+json",
        "body": [{"n": "t", "v": 1}],
    },
)
FORMS = {
    "fleetcore.v1": (TEXT, lambda members: json.dumps(members).encode()),
    "fleetcore.v1.cbor": (BINARY, cbor2.dumps),
}


def mutate(chance, good, least=0, most=256):
    """A few bytes are others, are left out, or stand twice."""
    mutated = bytearray(good)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(mutated))
        match chance.randrange(4):
            case 0:
                del mutated[at : at + chance.randrange(1, 4)]
            case 1:
                mutated[at:at] = mutated[at : at + chance.randrange(1, 8)]
            case _:
                mutated[at] = chance.randrange(least, most)
        if not mutated:
            return b" "
    return bytes(mutated)


def forget(plane):
    """The recording plane keeps all it is handed; what the endpoint keeps is to be seen."""
    for kept in (*vars(plane).values(),):
        if isinstance(kept, list) and kept is not plane.sessions:
            kept.clear()


class Flat:
    """Says how much memory a stretch of the test has left behind."""

    def __init__(self, plane):
        self._plane = plane

    def __enter__(self):
        forget(self._plane)
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *_):
        forget(self._plane)
        gc.collect()
        self.left_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()


@pytest.fixture
def flat(plane, caplog):
    yield Flat(plane)
    assert [record.getMessage() for record in caplog.get_records("call") if record.exc_info] == []


async def serves_on(served, connect, plane, until, flat):
    await until(lambda: served.adapter.connections == 0 and not plane.sessions)
    assert flat.left_bytes < LEFT_BYTES
    raw = await connect(served, "dev2")
    await raw.opened(f"Authorization: Bearer {plane.token('dev2')}")
    raw.say(op="telemetry", id=1, body={"t": 1})
    assert (await raw.json())["ok"]


@pytest.mark.parametrize(("tls", "frames"), [(False, 10), (True, 50)], ids=["plain", "tls"])
@pytest.mark.parametrize("form", FORMS)
async def test_frames_after_the_handshake(serve, connect, plane, until, frame, flat, form, tls, frames):
    """Most have a mutated message in a good frame, so that all of a connection's are read; its last is mutated whole."""
    served = await serve(tls=tls, limits=Limits(message_bytes=4096))
    chance = random.Random(f"{form} {tls}")
    opcode, write = FORMS[form]
    text = (32, 127) if opcode == TEXT else ()
    good = [write(members) for members in REQUESTS]
    whole = [frame(opcode, message) for message in good]
    whole += [
        frame(PING, b"x"),
        frame(PONG),
        frame(opcode, good[0][:9], fin=False) + frame(0, good[0][9:]),
        frame(CLOSE, struct.pack("!H", 1000)),
    ]
    judged = 0

    async def run(mutations):
        nonlocal judged
        for _ in range(mutations // frames):
            raw = await connect(served, "dev1")
            assert (await raw.ask(f"Authorization: Bearer {plane.token('dev1')}", protocols=form)).status == 101
            raw.write(*(frame(opcode, mutate(chance, chance.choice(good), *text)) for _ in range(frames - 1)))
            raw.write(mutate(chance, chance.choice(whole)))
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(0.01):  # not aborted before it is read, which would throw it away
                    await raw.reader.read()
            raw.writer.transport.abort()
        await until(lambda: served.adapter.connections == 0)
        judged += len(plane.refusals) + len(plane.arrived) + len(plane.calls)
        forget(plane)

    await run(WARM)
    with flat:
        await run(MUTATIONS - WARM)

    assert judged > MUTATIONS * 0.8
    await serves_on(served, connect, plane, until, flat)


@pytest.mark.parametrize(
    "credential", ["Authorization: Bearer {token}", "Sec-WebSocket-Protocol: fleetcore.token.{token}"]
)
async def test_requests_of_the_handshake_and_frames_behind_them(serve, plane, until, frame, connect, flat, credential):
    served = await serve(tls=False, limits=Limits(message_bytes=4096))
    chance = random.Random(credential)
    lines = [
        "GET /device/v1/ws HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: fleetcore.v1", credential.format(token=plane.token("dev1")), "", "",
    ]  # fmt: skip
    good = "\r\n".join(lines).encode()
    behind = frame(TEXT, json.dumps(REQUESTS[0]).encode())

    async def say():
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(mutate(chance, good) + mutate(chance, behind))
        with suppress(ConnectionError):
            await writer.drain()
        writer.transport.abort()

    async def run(times):
        for _ in range(times // 20):
            await asyncio.gather(*(say() for _ in range(20)))
            forget(plane)
        await until(lambda: served.adapter.connections == 0)

    await run(WARM)
    with flat:
        await run(MUTATIONS - WARM)

    await serves_on(served, connect, plane, until, flat)


async def test_what_is_no_handshake_of_tls(served, plane, until, connect, flat):
    """The first flight of a real client, mutated: it comes to the listener and no further."""
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello, chance = outgoing.read(), random.Random(5)

    async def say():
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(mutate(chance, hello))
        with suppress(ConnectionError):
            await writer.drain()
        writer.transport.abort()

    async def run(times):
        for _ in range(times // 20):
            await asyncio.gather(*(say() for _ in range(20)))

    await run(WARM)
    with flat:
        await run(1000)

    await serves_on(served, connect, plane, until, flat)


@pytest.mark.parametrize("offer", [
    "permessage-deflate", "permessage-deflate; client_max_window_bits", "x-webkit-deflate-frame",
    "permessage-deflate; server_no_context_takeover; server_max_window_bits=15, permessage-bzip2",
])  # fmt: skip
async def test_no_compression_is_agreed_to_so_a_compressed_frame_is_against_the_rules(served, connect, offer):
    raw = await connect(served)
    answer = await raw.ask(f"Sec-WebSocket-Extensions: {offer}")
    bomb = raw.encoded(TEXT, b"\xaa" * 100, rsv=4)
    assert (await raw.json())["op"] == "hello"
    raw.write(bomb)

    assert (answer.status, "sec-websocket-extensions" in answer.headers) == (101, False)
    assert (await raw.closed())[0] == 1002
