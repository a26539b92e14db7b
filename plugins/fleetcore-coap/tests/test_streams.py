"""CoAP on TCP with TLS (RFC 8323): the promises of a protocol, libcoap's client as a peer, and broken streams."""

import asyncio
from random import Random

import pytest
from fleetcore_coap.codec import Kind, Malformed, Method, Option, Packet, options
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.frames import ABORT, CSM, PING, PONG, RELEASE, Frames, TooLong, capabilities, frame
from fleetcore_coap.plugin import open_client, open_coap

from fleetcore.errors import Unavailable
from fleetcore.listening.limits import ListenerLimits
from fleetcore.testing import context
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.protocol_contract import ProtocolContract
from fleetcore.wire import messages

PUT_READING = [(Option.URI_PATH, b"d"), (Option.URI_PATH, b"t"), (Option.CONTENT_FORMAT, b"\x32")]


class TestStreams(ProtocolContract):
    @pytest.fixture
    def open_adapter(self, authority):
        return lambda plane: open_coap(
            CoapConfig(listen="coaps+tcp://127.0.0.1:0"),
            context("coap", tls=authority, limits=plane.limits),
            plane,
            plane,
        )

    @pytest.fixture
    def client(self, authority):
        return lambda endpoint, device: open_client(endpoint, authority.secrets(device))


@pytest.mark.parametrize("length", [0, 1, 11, 12, 13, 255, 256, 268, 269, 270, 65_535, 65_804, 65_805, 70_000])
def test_a_message_of_any_length_comes_back_however_it_is_cut(length):
    packet = Packet(kind=Kind.CON, code=Method.POST, token=b"abc", options=options(PUT_READING), payload=b"x" * length)
    data, random = frame(packet) * 2, Random(length)
    frames, found = Frames(1 << 20), []
    while data:
        size = random.randint(1, 1 + length // 3)
        found += frames.take(data[:size])
        data = data[size:]

    assert found == [packet, packet]
    assert not frames.begun


def test_a_message_that_says_it_is_too_long_is_refused_at_its_first_bytes():
    with pytest.raises(TooLong):
        Frames(1000).take(frame(Packet(kind=Kind.CON, code=2, payload=b"x" * 2000))[:4])


def test_any_bytes_are_messages_or_refused():
    random = Random(51)
    good = frame(Packet(kind=Kind.CON, code=2, token=b"abcd", options=options(PUT_READING), payload=b"{}"))
    for _ in range(10_000):
        mutated = bytearray(good * 2)
        for _ in range(random.randint(1, 6)):
            mutated[random.randrange(len(mutated))] = random.randrange(256)
        try:
            Frames(1000).take(bytes(mutated))
        except (Malformed, TooLong):
            continue


@pytest.fixture
async def listening(authority, plane):
    lent = context("coap", tls=authority, limits=plane.limits, listeners=ListenerLimits(head_s=5.0, body_s=5.0))
    async with open_coap(CoapConfig(listen="coaps+tcp://127.0.0.1:0"), lent, plane, plane) as adapter:
        adapter.clock = lent.clock
        yield adapter


class Raw:
    """A device's TLS connection, spoken on by hand."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.frames, self.heard = reader, writer, Frames(1 << 20), []

    def send(self, data):
        self.writer.write(data)

    async def next(self):
        """The next message; None where the server has closed."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.heard:
                data = await self.reader.read(4096)
                if not data:
                    return None
                self.heard += self.frames.take(data)
        return self.heard.pop(0)

    async def rest(self):
        """The codes of what comes until the server closes."""
        codes = []
        while (packet := await self.next()) is not None:
            codes.append(packet.code)
        return codes


@pytest.fixture
async def raw(listening, authority):
    writers = []

    async def connect(device="dev1"):
        port = int(listening.endpoints[0].rpartition(":")[2])
        tls = authority.secrets(device).tls()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        writers.append(writer)
        return Raw(reader, writer)

    yield connect
    for writer in writers:
        writer.close()


async def test_both_say_first_what_they_can_and_a_ping_is_answered_with_its_token(raw):
    peer = await raw()
    peer.send(capabilities(2000) + frame(Packet(kind=Kind.CON, code=PING, token=b"ping")))
    first, second = await peer.next(), await peer.next()

    assert first.code == CSM
    assert first.uint(2) >= 256 * 1024
    assert (second.code, second.token) == (PONG, b"ping")


BROKEN = {
    "a request before the first word": frame(Packet(kind=Kind.CON, code=1, options=options(PUT_READING))),
    "a token of nine bytes": capabilities(2000) + b"\x09\x01" + bytes(9),
    "four gigabytes": capabilities(2000) + b"\xf0\xff\xff\xff\xff\x01",
    "another option that is critical": frame(Packet(kind=Kind.CON, code=CSM, options=((3, b""),))),
    "a truncated option": capabilities(2000) + b"\x10\x01\xbd",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
async def test_a_broken_stream_is_aborted_and_the_others_go_on(listening, raw, plane, authority, data):
    async with open_client(listening.endpoints[0], authority.secrets("dev2")) as other:
        peer = await raw()
        peer.send(data)
        codes = await peer.rest()
        reply = await other.send(messages.TELEMETRY, {"t": 1})

    assert codes == [CSM, ABORT]
    assert reply.error is None


@pytest.mark.parametrize(
    "said", [b"", capabilities(2000) + frame(Packet(kind=Kind.CON, code=2, payload=b"x" * 99))[:50]]
)
async def test_a_peer_that_says_nothing_or_half_of_it_is_cut_off_at_its_deadline(listening, raw, until, said):
    peer = await raw()
    await peer.next()
    peer.send(said)
    await peer.writer.drain()
    await asyncio.sleep(0.05)
    for _ in range(8):
        await listening.clock.advance(1.1)

    assert (await peer.rest())[-1] in {ABORT, RELEASE}


async def test_a_device_that_connects_again_takes_over(listening, authority, plane):
    url = listening.endpoints[0]
    async with (
        open_client(url, authority.secrets("dev1")) as first,
        open_client(url, authority.secrets("dev1")) as second,
    ):
        assert (await second.send(messages.TELEMETRY, {"t": 1})).error is None
        with pytest.raises(Unavailable):
            await first.send(messages.TELEMETRY, {"t": 2})

    assert plane.bodies == [b'{"t":1}']


async def test_requests_go_beside_each_other_and_reading_stops_at_the_bound(listening, raw, plane, until):
    plane.hold()
    peer = await raw()
    request = [frame(Packet(kind=Kind.CON, code=2, token=bytes([n]), options=options(PUT_READING), payload=b'{"t":1}'))
               for n in range(100)]  # fmt: skip
    peer.send(capabilities(2000) + b"".join(request))
    await until(lambda: len(plane.waiting) == 32)
    await asyncio.sleep(0.05)
    held = len(plane.waiting)
    plane.commit()
    await peer.next()
    tokens = {(await peer.next()).token for _ in range(100)}

    assert held == 32
    assert tokens == {bytes([n]) for n in range(100)}


@pytest.mark.peer("coap-client-openssl")
async def test_libcoap_sends_a_reading_a_long_one_and_observes(listening, coap_client, plane, until, tmp_path):
    url = listening.endpoints[0].replace("127.0.0.1", "localhost")
    said = await coap_client(f"{url}/d/t", "-m", "post", "-t", "50", "-e", '{"t": 21.5}')
    (tmp_path / "long").write_bytes(b'{"t": 1' + b" " * 5000 + b"}")
    await coap_client(f"{url}/d/t", "-m", "post", "-t", "50", "-f", str(tmp_path / "long"))
    asking = asyncio.ensure_future(coap_client(f"{url}/d/c", "-m", "get", "-s", "2"))
    await until(lambda: plane.listening)
    plane.command("dev1", {"id": "c-77", "name": "reboot", "args": {}, "sequence": 7})
    observed = await asking

    assert "2.04" in said.text
    assert [len(body) for body in plane.bodies] == [11, 5008]
    assert '"id":"c-77"' in observed.text
