"""What one address, one device or a full queue may not do to the others: every bound, counted where it is reached."""

import asyncio
import socket
from contextlib import ExitStack

import pytest
from attrs import define
from fleetcore_coap import server
from fleetcore_coap.association import Association, prepare
from fleetcore_coap.contexts import client_context
from fleetcore_coap.crowd import STALLED_S, Crowd, Pending
from fleetcore_coap.exchanges import MAX_UNDER_WAY
from fleetcore_coap.hellos import MAX_BYTES, Hellos
from fleetcore_coap.plugin import open_client
from fleetcore_coap.problems import members
from OpenSSL import SSL

from fleetcore.interfaces.provider import Limits, TlsMaterial
from fleetcore.listening.limits import ListenerLimits
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages


@define(eq=False)
class Peer:
    network: str = "10.0.0.1"


def test_a_handshake_of_an_address_that_has_its_part_waits_for_another_one_of_it():
    pending = Pending(8, 3)
    pending.enter(Peer("10.0.0.2"), 0.0)
    own = [Peer() for _ in range(3)]
    for guest in own:
        assert pending.full("10.0.0.1", 0.0) == ""
        assert pending.enter(guest, 0.0) is None

    assert pending.full("10.0.0.1", 0.0) == "per_address"
    assert pending.full("10.0.0.2", 0.0) == ""
    pending.leave(own[1])
    assert pending.full("10.0.0.1", 0.0) == ""


def test_where_all_handshakes_are_taken_the_address_with_the_most_gives_up_one_that_has_stalled():
    pending = Pending(4, 4)
    pending.enter(Peer("10.0.0.2"), 0.0)
    crowd = [Peer() for _ in range(3)]
    for guest in crowd:
        pending.enter(guest, 0.0)

    assert pending.full("10.0.0.3", STALLED_S - 0.1) == "handshakes", (
        "none has stalled, so a herd ends nothing of its own"
    )
    assert pending.closed(STALLED_S - 0.1)
    assert not pending.closed(STALLED_S)
    assert pending.full("10.0.0.1", STALLED_S) == "handshakes"
    assert pending.full("10.0.0.3", STALLED_S) == ""
    assert pending.enter(Peer("10.0.0.3"), STALLED_S) is crowd[0]
    pending.leave(crowd[0])
    assert pending.enter(Peer("10.0.0.4"), STALLED_S) is crowd[1]
    pending.leave(crowd[1])
    assert pending.full("10.0.0.5", STALLED_S) == "handshakes", "each address has one by now"


def test_strangers_go_before_devices_and_the_most_silent_one_before_the_others():
    crowd = Crowd(3, 3, 9)
    device, *strangers = [Peer(str(number)) for number in range(3)]
    for guest in (device, *strangers):
        crowd.enter(guest)
    crowd.identified(device, "dev1")
    crowd.heard(strangers[0])

    assert crowd.enter(Peer("3")) == ("associations", strangers[1])


def test_where_there_are_devices_alone_the_most_silent_one_goes():
    crowd = Crowd(2, 2, 9)
    first, second = Peer("1"), Peer("2")
    for number, guest in enumerate((first, second)):
        crowd.enter(guest)
        crowd.identified(guest, f"dev{number}")
    crowd.heard(first)

    assert crowd.enter(Peer("3")) == ("associations", second)


def test_an_address_with_too_many_loses_its_own():
    crowd = Crowd(100, 2, 9)
    other, *own = Peer("other"), Peer(), Peer()
    for guest in (other, *own):
        crowd.enter(guest)
    crowd.heard(own[0])

    assert crowd.enter(Peer()) == ("per_address", own[1])


def test_what_has_left_counts_no_more():
    crowd, pending = Crowd(1, 1, 1), Pending(1, 1)
    for _ in range(3):
        guest = Peer()
        assert crowd.enter(guest) is None
        assert crowd.identified(guest, "dev1") is None
        assert pending.enter(guest, 0.0) is None
        for _ in range(2):
            crowd.leave(guest)
            pending.leave(guest)
    assert crowd.identified(guest, "dev1") is None


def anywhere(_network):
    return True


def test_hellos_that_wait_begin_in_their_order_and_networks_take_turns():
    hellos = Hellos(8, 8, 30.0)
    for number in range(3):
        assert hellos.wait("a", ("a", number), b"%d" % number, 0.0)
    assert hellos.wait("b", ("b", 0), b"b", 0.0)

    taken = [hellos.next(anywhere, 1.0) for _ in range(5)]

    assert taken == [(("a", 0), b"0"), (("b", 0), b"b"), (("a", 1), b"1"), (("a", 2), b"2"), None]
    assert len(hellos) == 0


def test_a_hello_that_is_repeated_while_it_waits_keeps_its_place():
    hellos = Hellos(8, 8, 30.0)
    hellos.wait("a", ("a", 0), b"first", 0.0)
    hellos.wait("a", ("a", 1), b"other", 0.0)
    hellos.wait("a", ("a", 0), b"again", 20.0)

    assert len(hellos) == 2
    assert hellos.next(anywhere, 45.0) == (("a", 0), b"again")
    assert hellos.next(anywhere, 45.0) is None, "what was not repeated for 30 s has gone"
    assert not hellos.has("a")


def test_hellos_that_wait_are_bounded_and_those_of_a_network_without_room_go_on_waiting():
    hellos = Hellos(3, 2, 30.0)
    assert hellos.wait("a", 1, b"x", 0.0)
    assert hellos.wait("a", 2, b"x", 0.0)
    assert not hellos.wait("a", 3, b"x", 0.0), "the network has its part"
    assert not hellos.wait("b", 4, bytes(MAX_BYTES + 1), 0.0)
    assert not hellos.wait("a", 1, bytes(MAX_BYTES + 1), 0.0), "nor in the place of a short one"
    assert hellos.wait("b", 4, b"x", 0.0)
    assert not hellos.wait("c", 5, b"x", 0.0), "all are taken"

    assert hellos.next(lambda network: network == "b", 0.0) == (4, b"x")
    assert hellos.next(lambda network: network == "b", 0.0) is None
    assert len(hellos) == 2


class Stalling:
    """A client on an address of its own that brings its cookie back, and then says no more."""

    def __init__(self, served, authority, host):
        own = authority.device("dev2")
        connection = SSL.Connection(client_context(authority.pem, own.certificate, own.key), None)
        connection.set_connect_state()
        prepare(connection)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.connect(("127.0.0.1", served.port))
        self.socket.setblocking(False)
        self.sent = []
        self.association = Association(connection, self._send)

    def _send(self, datagram):
        self.sent.append(datagram)
        self.socket.send(datagram)

    async def read(self):
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.get_running_loop().sock_recv(self.socket, 2048)

    async def introduce(self):
        self.association.begin()
        self.association.receive(await self.read())


async def test_handshakes_that_one_address_begins_by_the_hundred_let_another_one_through(serve, authority, plane):
    served = await serve(listeners=ListenerLimits(per_address=16))
    with ExitStack() as opened:
        for _ in range(100):
            stalling = Stalling(served, authority, "127.0.0.2")
            opened.callback(stalling.socket.close)
            await stalling.introduce()
        held = len(served.adapter._places.pending)
        async with open_client(served.url, authority.secrets("dev1")) as device:
            reply = await device.send(messages.TELEMETRY, {"t": 1})

    assert reply.error is None
    assert held <= 16
    assert served.reached["coap", "per_address"] >= 84


async def test_a_handshake_that_stalls_ends_at_its_deadline_and_is_counted(serve, authority, until):
    served = await serve(listeners=ListenerLimits(handshake_s=5.0))
    stalling = Stalling(served, authority, "127.0.0.1")
    await stalling.introduce()
    await until(lambda: served.adapter._places.pending)
    for _ in range(6):
        await served.clock.advance(1.1)
    await until(lambda: not served.adapter._places.pending)
    stalling.socket.close()

    assert served.reached["coap", "handshake_s"] == 1


async def test_a_hello_that_waits_begins_when_a_place_is_free_without_being_repeated(serve, authority, until):
    served = await serve(listeners=ListenerLimits(per_address=1, handshake_s=5.0))
    first, second = [Stalling(served, authority, "127.0.0.1") for _ in range(2)]
    with first.socket, second.socket:
        await first.introduce()
        await until(lambda: served.adapter._places.pending)
        await second.introduce()
        await until(lambda: len(served.adapter._hellos) == 1)
        first.association._connection = None  # it has gone, and holds its place until the deadline
        for _ in range(6):
            await served.clock.advance(1.1)

        flight = await second.read()

    assert flight[13] == 2, "it has a ServerHello"
    assert len(served.adapter._hellos) == 0


async def test_a_hello_that_comes_late_again_begins_no_handshake(served, authority, until):
    device = Stalling(served, authority, "127.0.0.1")
    with device.socket:
        await device.introduce()
        while not device.association.established:
            device.association.receive(await device.read())
        hello = device.sent[1]  # the one with the cookie
        device.socket.send(hello)
        device.association.send(b"\x40\x00\x12\x34")  # a ping, behind it
        heard = []
        while not heard:
            heard = device.association.receive(await device.read())

        assert heard == [b"\x70\x00\x12\x34"]
        assert not served.adapter._places.pending
        assert served.adapter.connections == 1


async def test_associations_of_one_address_end_each_other_and_no_device_elsewhere(serve, authority, plane):
    served = await serve(listeners=ListenerLimits(per_address=3))
    strangers = [open_client(served.url, authority.secrets("dev2")) for _ in range(6)]
    for each in strangers:
        await each.__aenter__()
    left = served.adapter.connections
    for each in strangers:
        await each.__aexit__(None, None, None)

    assert left == 3
    assert served.reached["coap", "per_address"] == 3


async def test_a_full_queue_is_answered_with_503_and_the_other_requests_are_served_on(serve, plane, authority, until):
    plane.limits = Limits(queue_messages=1)
    served = await serve()
    plane.hold()
    async with (
        open_client(served.url, authority.secrets("dev1")) as first,
        open_client(served.url, authority.secrets("dev2")) as second,
    ):
        sending = asyncio.ensure_future(first.send(messages.TELEMETRY, {"t": 1}))
        await until(lambda: plane.waiting)
        full = await second.send(messages.TELEMETRY, {"t": 2})
        read = await second.request(messages.TIME)
        plane.commit()
        taken = await sending
        again = await second.send(messages.TELEMETRY, {"t": 2})

    assert (full.error["code"], full.error["status"], full.error["retry_after_s"]) == ("overloaded", 503, 1)
    assert (read.error, taken.error, again.error) == (None, None, None)


@pytest.mark.parametrize("confirmable", [True, False])
async def test_a_request_beyond_those_under_way_is_answered_that_it_may_come_later(
    served, plane, authority, until, confirmable
):
    from fleetcore_coap.codec import UNAVAILABLE, Kind, Method, Option, Packet, decode, encode, options

    plane.hold()
    async with open_client(served.url, authority.secrets("dev1")) as device:
        heard = []
        device._channel._message, channel = heard.append, device._channel
        path = [(Option.URI_PATH, b"d"), (Option.URI_PATH, b"t"), (Option.CONTENT_FORMAT, b"\x32")]
        for number in range(MAX_UNDER_WAY + 1):
            packet = Packet(
                kind=Kind.CON if confirmable else Kind.NON,
                code=Method.POST,
                mid=number,
                token=bytes([number]),
                options=options(path),
                payload=b'{"t": 1}',
            )
            channel._association.send(encode(packet))
        await until(lambda: heard)
        plane.commit()
    answer = decode(heard[0])

    assert (answer.code, answer.token) == (UNAVAILABLE, bytes([MAX_UNDER_WAY]))
    assert members(answer.payload, UNAVAILABLE)["code"] == "overloaded"
    assert [refusal.rejected.code for refusal in plane.refusals] == ["overloaded"]


async def test_a_herd_that_comes_at_once_from_one_address_gets_through_without_ending_each_other(
    serve, authority, plane, monkeypatch
):
    monkeypatch.setattr(server, "_MAX_PENDING", 8)
    served = await serve()

    async def connect():
        async with open_client(served.url, authority.secrets("dev1")) as device:
            return (await device.send(messages.TELEMETRY, {"t": 1})).error

    refused = await asyncio.gather(*(connect() for _ in range(24)), return_exceptions=True)

    assert refused == [None] * 24
    assert served.reached["coap", "handshakes"] == 0


async def test_a_herd_behind_several_addresses_gets_through_without_ending_each_other(
    serve, authority, plane, monkeypatch
):
    monkeypatch.setattr(server, "_MAX_PENDING", 8)
    served = await serve()
    hosts = ["127.0.0.2"] * 24 + [f"127.0.0.{number}" for number in range(3, 19)]
    herd = [Stalling(served, authority, host) for host in hosts]

    async def shake_hands(client):
        client.association.begin()
        while not client.association.established:
            try:
                async with asyncio.timeout(client.association.timeout_s or 0.1):
                    datagram = await asyncio.get_running_loop().sock_recv(client.socket, 2048)
            except TimeoutError:
                client.association.retransmit()
                continue
            await asyncio.sleep(0.02)  # a network's delay: many handshakes are under way at once
            client.association.receive(datagram)
            assert client.association.ended is None

    with ExitStack() as opened:
        for client in herd:
            opened.enter_context(client.socket)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*map(shake_hands, herd))
        assert not served.adapter._hellos


async def test_a_certificate_that_is_half_written_ends_neither_deadlines_nor_handshakes(
    serve, authority, until, monkeypatch
):
    served = await serve(listeners=ListenerLimits(handshake_s=5.0))
    whole = authority.material(enrolling=True)
    torn = TlsMaterial(chain=whole.chain, key=authority.device("dev2").key, trusted=whole.trusted)
    monkeypatch.setattr(authority, "material", lambda *, enrolling=False: torn)
    await served.clock.advance(1.1)
    stalling = Stalling(served, authority, "127.0.0.1")
    await stalling.introduce()
    await until(lambda: served.adapter._places.pending)
    for _ in range(6):
        await served.clock.advance(1.1)
    await until(lambda: not served.adapter._places.pending)
    stalling.socket.close()
    async with open_client(served.url, authority.secrets("dev1")) as device:
        reply = await device.send(messages.TELEMETRY, {"t": 1})

    assert reply.error is None
    assert served.reached["coap", "handshake_s"] == 1
