"""Thousands of mutated datagrams at each door: nothing falls over, little is kept, little is sent back."""

import asyncio
import socket
from random import Random

import pytest
from fleetcore_coap.association import Association, prepare
from fleetcore_coap.codec import Block, Kind, Method, Option, Packet, encode, options
from fleetcore_coap.contexts import client_context, key_client_context
from fleetcore_coap.plugin import open_client
from fleetcore_coap.records import whole_records
from fleetcore_coap.sockets import Datagrams
from OpenSSL import SSL

from fleetcore.listening.limits import ListenerLimits
from fleetcore.testing.heap import grown_bytes
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages
from fleetcore.wire.shared_keys import shared_key

MANY = 4_000
#: What the server may hold more of afterwards, on Python's heap: a stranger's peer or handshake, and no more.
FLAT_BYTES = 800_000

REQUESTS = [
    encode(
        Packet(kind=Kind.CON, code=code, mid=1, token=b"abcd", options=options(given), payload=payload)
    )
    for code, given, payload in [
        (Method.GET, [(Option.URI_PATH, b"device"), (Option.URI_PATH, b"v1"), (Option.URI_PATH, b"ca")], b""),
        (Method.GET, [(Option.URI_PATH, b".well-known"), (Option.URI_PATH, b"core"), (Option.BLOCK2, b"\x06")], b""),
        (
            Method.POST,
            [
                (Option.URI_PATH, b"d"),
                (Option.URI_PATH, b"t"),
                (Option.CONTENT_FORMAT, b"\x32"),
                (Option.BLOCK1, Block(0, True, 0).encode()),
            ],
            b'{"t":1.0000000}',
        ),
        (Method.GET, [(Option.OBSERVE, b""), (Option.URI_PATH, b"d"), (Option.URI_PATH, b"c")], b""),
    ]
]  # fmt: skip


def mutated(random, datagram):
    found = bytearray(datagram)
    for _ in range(random.randint(1, 6)):
        what = random.random()
        at = random.randrange(len(found)) if found else 0
        if what < 0.7 and found:
            found[at] = random.randrange(256)
        elif what < 0.85:
            found[at:at] = random.randbytes(random.randint(1, 20))
        else:
            del found[at : at + random.randint(1, 20)]
    return bytes(found) or b"\0"  # OpenSSL writes no empty record


class Stranger:
    """A socket before the listener that counts what goes and comes."""

    def __init__(self, port):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect(("127.0.0.1", port))
        self.sent = self.received = 0

    def send(self, datagram):
        self.sent += len(datagram)
        self.socket.send(datagram)

    async def take(self):
        """What has come by now; the listener has its turns of the loop meanwhile."""
        for _ in range(3):
            await asyncio.sleep(0)
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096))
            except BlockingIOError:
                self.received += sum(map(len, found))
                return found

    async def answer(self):
        async with asyncio.timeout(PATIENCE_S):
            datagram = await asyncio.get_running_loop().sock_recv(self.socket, 4096)
        self.received += len(datagram)
        return datagram


@pytest.fixture
def stranger():
    opened = []

    def make(served):
        opened.append(Stranger(served.port))
        return opened[-1]

    yield make
    for each in opened:
        each.socket.close()


async def flat(work):
    """Does the work twice, half of it each time; what the second half leaves on the heap."""
    return await grown_bytes(lambda: work(MANY // 2))


async def good(served, authority):
    """A device is served as ever."""
    async with open_client(served.url, authority.secrets("dev1")) as device:
        reply = await device.send(messages.TELEMETRY, {"t": 1})
    return reply.error is None


def hellos(authority):
    """A client's first flight, and its association for what follows."""
    own = authority.device("dev2")
    return _begun(client_context(authority.pem, own.certificate, own.key))


def hellos_by_key(plane):
    """The same of a client that proves the key of its token."""
    shared = shared_key("dev2", plane.token("dev2"))
    return _begun(key_client_context(shared.token, shared.key))


def _begun(context):
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    prepare(connection)
    out = []
    association = Association(connection, out.append)
    association.begin()
    return association, out


@pytest.mark.parametrize("psk", [False, True], ids=["by certificate", "by key"])
async def test_mutated_datagrams_before_the_address_is_known_get_at_most_what_they_brought(
    serve, plane, authority, stranger, psk
):
    served = await serve(psk=psk)
    random, peer = Random(41), stranger(served)
    _, (hello,) = hellos_by_key(plane) if psk else hellos(authority)

    async def work(times):
        for number in range(times):
            peer.send(mutated(random, hello if number % 4 else REQUESTS[number % len(REQUESTS)]))
            if number % 32 == 0:
                for answer in await peer.take():
                    assert len(answer) <= len(hello)

    grown = await flat(work)
    await peer.take()

    assert peer.received <= peer.sent
    assert len(served.adapter._places.pending) <= 1
    assert grown < FLAT_BYTES
    assert await good(served, authority)


async def test_mutated_datagrams_in_mid_handshake_end_at_most_that_handshake(served, plane, authority, stranger):
    random = Random(42)

    async def work(times):
        done = 0
        while done < times:
            peer = stranger(served)
            association, out = hellos(authority)
            peer.send(out.pop())
            association.receive(await peer.answer())
            flight = out.pop()
            peer.send(flight)
            association.receive(await peer.answer())
            flights = [flight, *out, b"\x14\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x09\x00\x01\x01"]
            for number in range(100):
                peer.send(mutated(random, flights[number % len(flights)]))
                done += 1
                if number % 32 == 0:
                    await peer.take()
            peer.socket.close()

    grown = await flat(work)
    for _ in range(40):
        await served.clock.advance(1.1)
    left = len(served.adapter._places.pending)

    assert left == 0
    assert grown < 64 * FLAT_BYTES  # of handshakes that wait for their deadline
    assert await good(served, authority)


async def test_mutated_proofs_of_a_key_end_at_most_their_handshake(serve, plane, authority, stranger):
    served, random = await serve(psk=True, listeners=ListenerLimits(handshake_s=5.0)), Random(45)

    async def work(times):
        done = 0
        while done < times:
            peer = stranger(served)
            association, out = hellos_by_key(plane)
            for _ in range(2):
                peer.send(out.pop())
                association.receive(await peer.answer())
            (flight,) = out  # ClientKeyExchange, ChangeCipherSpec, Finished
            records = list(whole_records(flight))
            for number in range(10):
                # Each mutation goes to a handshake that may have its key by now, or ended.
                peer.send(mutated(random, records[0] if number % 2 else flight))
                done += 1
            await peer.take()
            peer.socket.close()
            if done % 200 == 0:
                await past_the_deadline()

    async def past_the_deadline():
        for _ in range(6):
            await served.clock.advance(1.1)

    grown = await flat(work)
    await past_the_deadline()
    left, tasks = len(served.adapter._places.pending), len(served.adapter._state.tasks)
    async with open_client(served.url, authority.secrets("dev1", token=plane.token("dev1"))) as device:
        by_key = await device.send(messages.TELEMETRY, {"t": 1})

    assert (left, tasks) == (0, 0)
    assert len(plane.denials) > 100  # most mutations come as far as the search for a key, or its proof
    shown = {shown.credential.token_id for shown in plane.authentications}
    assert shown <= {shared_key(device, plane.token(device)).token for device in ("dev1", "dev2")}
    assert grown < FLAT_BYTES
    assert by_key.error is None
    assert await good(served, authority)


async def test_mutated_messages_inside_an_association_leave_it_alive(served, plane, authority):
    random = Random(43)
    async with open_client(served.url, authority.secrets("dev1")) as device:
        association = device._channel._association

        async def work(times):
            for number in range(times):
                association.send(mutated(random, REQUESTS[number % len(REQUESTS)]))
                if number % 32 == 0:
                    await asyncio.sleep(0)
            for _ in range(4):
                await served.clock.advance(100.0)

        grown = await flat(work)
        reply = await device.send(messages.TELEMETRY, {"t": 1}, id="after")

    assert reply.error is None
    assert "after" in {message.id for message in plane.messages}
    assert grown < 4 * FLAT_BYTES  # the recording plane keeps what it was given


async def test_mutated_datagrams_on_plain_coap_get_at_most_three_times_what_they_brought(
    serve, plane, authority, stranger
):
    served = await serve(tls=False)
    random, peer = Random(44), stranger(served)

    async def work(times):
        for number in range(times):
            peer.send(mutated(random, REQUESTS[number % len(REQUESTS)]))
            if number % 32 == 0:
                await peer.take()

    grown = await flat(work)
    await peer.take()

    assert peer.received <= 3 * peer.sent
    assert grown < FLAT_BYTES
    async with open_client(served.url, authority.secrets("dev1")) as device:
        assert (await device.request(messages.CA_GET)).error is None


@pytest.mark.parametrize("request_", REQUESTS, ids=["ca", "core", "post", "observe"])
async def test_a_forged_source_over_plain_coap_is_sent_no_more_than_three_times_the_request(
    serve, authority, stranger, request_
):
    served = await serve(tls=False)
    peer = stranger(served)
    peer.send(request_)
    answer = await peer.answer()

    assert len(answer) <= 3 * len(request_)
    assert answer[1] == 0x81  # 4.01, with an Echo option


async def test_a_shortest_request_from_a_forged_source_is_answered_with_three_times_as_much_at_most(serve, stranger):
    served = await serve(tls=False)
    peer = stranger(served)
    for code in range(1, 8):
        peer.send(encode(Packet(kind=Kind.CON, code=code, mid=code)))

        assert len(await peer.answer()) <= 12


async def test_an_address_that_has_sent_its_echo_back_gets_the_whole_answer(serve, stranger, authority):
    from fleetcore_coap.codec import decode

    served = await serve(tls=False)
    first, other = stranger(served), stranger(served)
    asked = [(Option.URI_PATH, segment) for segment in (b"device", b"v1", b"ca")]
    first.send(encode(Packet(kind=Kind.CON, code=Method.GET, mid=1, options=options(asked))))
    echo = decode(await first.answer()).get(Option.ECHO)
    again = encode(Packet(kind=Kind.CON, code=Method.GET, mid=2, options=options([*asked, (Option.ECHO, echo)])))
    first.send(again)
    other.send(again)

    assert b"BEGIN CERTIFICATE" in await first.answer()
    assert decode(await other.answer()).get(Option.ECHO) not in {None, echo}


async def test_a_multicast_reaches_no_listener_also_where_another_program_has_joined_the_group():
    heard, group = [], "224.0.1.187"  # All CoAP Nodes (RFC 7252 §12.8)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("", 0))
        other.bind((group, listening.getsockname()[1]))
        other.setblocking(False)
        datagrams = Datagrams([listening], lambda _address, datagram: heard.append(datagram))
        try:
            membership = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
            other.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            sender.sendto(REQUESTS[0], (group, listening.getsockname()[1]))
        except OSError as error:
            pytest.skip(f"this machine has no multicast on the loopback: {error}")
        async with asyncio.timeout(PATIENCE_S):
            arrived = await asyncio.get_running_loop().sock_recv(other, 2048)
            sender.sendto(b"to us", ("127.0.0.1", listening.getsockname()[1]))
            while b"to us" not in heard:
                await asyncio.sleep(0.005)
        datagrams.close()

    assert arrived == REQUESTS[0]
    assert heard == [b"to us"]
