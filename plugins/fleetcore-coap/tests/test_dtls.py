"""DTLS: cookies before state, one association an address, certificates, and records that fit (RFC 6347)."""

from random import Random

import pytest
from fleetcore_coap.association import Association, prepare
from fleetcore_coap.contexts import client_context, names, server_context
from fleetcore_coap.listening import Door, Places
from fleetcore_coap.records import Content, look, pack
from OpenSSL import SSL

HERE, THERE = (0, ("127.0.0.1", 1)), (0, ("127.0.0.1", 2))


@pytest.fixture
def door(authority):
    material = authority.material()
    return Door(server_context(material.chain, material.key, material.trusted))


class Client:
    """A client whose datagrams wait to be carried."""

    def __init__(self, authority, device="dev1", ca=None, resuming=None):
        own = authority.device(device) if device else None
        context = client_context(ca or authority.pem, own and own.certificate, own and own.key)
        if resuming is not None:
            context = resuming.get_context()
        connection = SSL.Connection(context, None)
        connection.set_connect_state()
        if resuming is not None:
            connection.set_session(resuming.get_session())
        prepare(connection)
        self.out = []
        self.association = Association(connection, self.out.append)
        self.association.begin()

    def take(self):
        out = self.out[:]
        self.out.clear()  # the same list: the association appends to it
        return out


def introduce(door, client, address=HERE):
    """The cookie round; returns the server's association and what it sends."""
    (hello,) = client.take()
    answers = []
    assert door.hello(address, hello, answers.append) is None
    (answer,) = answers
    assert len(answer) < len(hello)
    client.association.receive(answer)
    (hello,) = client.take()
    connection = door.hello(address, hello, answers.append)
    assert connection is not None
    sent = []
    return Association(connection, sent.append), sent


def shake_hands(door, client):
    server, sent = introduce(door, client)
    server.begin()
    for _ in range(10):
        for datagram in sent[:]:
            sent.remove(datagram)
            client.association.receive(datagram)
        for datagram in client.take():
            server.receive(datagram)
        if not sent and not client.out:
            break
    return server, sent


def test_a_device_shakes_hands_and_is_known_by_its_certificate(door, authority):
    client = Client(authority)
    server, sent = shake_hands(door, client)
    client.association.send(b"hello")
    received = [message for datagram in client.take() for message in server.receive(datagram)]

    assert server.established
    assert server.certificate == authority.device("dev1").der
    assert received == [b"hello"]
    assert sent == []


def test_a_peer_without_a_certificate_is_known_by_none(door, authority):
    client = Client(authority, device=None)
    server, _ = shake_hands(door, client)

    assert server.established
    assert server.certificate is None


def test_a_certificate_of_a_foreign_ca_ends_the_handshake(door, authority, tmp_path):
    from fleetcore.testing.throwaway_ca import ThrowawayCa

    client = Client(ThrowawayCa(tmp_path), ca=authority.pem)
    server, _ = shake_hands(door, client)

    assert not server.established
    assert server.ended is not None
    assert client.association.ended is not None


def test_a_cookie_is_good_for_its_address_alone(door, authority):
    client = Client(authority)
    (hello,) = client.take()
    answers = []
    door.hello(HERE, hello, answers.append)
    client.association.receive(answers[0])
    (hello,) = client.take()

    assert door.hello(THERE, hello, answers.append) is None
    assert door.hello(HERE, hello, answers.append) is not None


def test_hellos_without_a_cookie_leave_nothing_behind(door, authority):
    waiting = door._waiting
    for number in range(100):
        (hello,) = Client(authority).take()
        assert door.hello((0, ("10.0.0.1", number)), hello, lambda _answer: None) is None

    assert door._waiting is waiting
    assert shake_hands(door, Client(authority))[0].established


def test_mutated_hellos_get_no_more_than_they_bring_and_the_next_device_is_let_in(door, authority):
    random = Random(6)
    (hello,) = Client(authority).take()
    for _ in range(2_000):
        mutated = bytearray(hello)
        for _ in range(random.randint(1, 8)):
            mutated[random.randrange(len(mutated))] = random.randrange(256)
        answers = []
        shown = look(bytes(mutated))
        if shown is not None and shown.is_hello:
            assert door.hello(HERE, bytes(mutated), answers.append) is None
        assert sum(map(len, answers)) <= len(mutated)

    assert shake_hands(door, Client(authority))[0].established


def test_flights_and_messages_fit_into_small_packets(door, authority):
    client = Client(authority)
    server, sent = introduce(door, client)
    lengths = []
    server.begin()
    for _ in range(10):
        lengths += map(len, sent)
        for datagram in sent[:]:
            sent.remove(datagram)
            client.association.receive(datagram)
        lengths += map(len, client.out)
        for datagram in client.take():
            server.receive(datagram)
    for length in (1, 1024, 1150):
        server.send(b"x" * length)
    lengths += map(len, sent)

    assert server.established
    assert max(lengths) <= 1280 - 40 - 8  # with the headers of IPv6 and UDP


def test_bytes_that_belong_to_another_association_are_dropped(door, authority):
    client, other = Client(authority), Client(authority)
    server, _ = shake_hands(door, client)
    shake_hands(door, other)
    other.association.send(b"not yours")
    foreign = other.take()[0]
    client.association.send(b"mine")
    mine = client.take()[0]

    assert server.receive(foreign) == []
    assert server.ended is None
    assert server.receive(mine) == [b"mine"]


def test_a_repeated_record_is_dropped(door, authority):
    client = Client(authority)
    server, _ = shake_hands(door, client)
    client.association.send(b"once")
    (datagram,) = client.take()

    assert server.receive(datagram) == [b"once"]
    assert server.receive(datagram) == []


def test_a_goodbye_ends_the_association(door, authority):
    client = Client(authority)
    server, _ = shake_hands(door, client)
    client.association.close()
    for datagram in client.take():
        server.receive(datagram)

    assert server.ended == "closed"


def test_a_flight_that_is_lost_has_a_timer(door, authority):
    client = Client(authority)
    server, sent = introduce(door, client)
    server.begin()

    assert sent
    assert server.timeout_s is not None
    assert 0 < server.timeout_s <= 1.0


@pytest.mark.parametrize(
    "bad", [b"", b"\x16", b"\x16\xfe\xfd" + bytes(10), b"\x40\x01\x00\x05", b"\x16\x03\x03" + bytes(60)]
)
def test_what_is_no_series_of_whole_records_is_not_looked_at(bad):
    shown = look(bad)

    assert shown is None or not shown.is_hello


def test_records_are_packed_whole_and_in_their_order():
    # 613 and 613 fit together, 1213 and 18 do too, and 1213 beside 613 does not.
    records = [b"\x17\xfe\xfd" + bytes(8) + length.to_bytes(2, "big") + bytes(length) for length in (600, 600, 1200, 5)]
    datagrams = pack(b"".join(records))

    assert b"".join(datagrams) == b"".join(records)
    assert [len(each) for each in datagrams] == [613 * 2, 1213 + 18]
    assert max(map(len, datagrams)) <= 1232
    assert [len(each) for each in pack(records[0] + records[2])] == [613, 1213]
    assert [len(each) for each in pack(records[0] + records[0] + records[3])] == [613 * 2, 18]


def test_a_new_hello_takes_nothing_from_an_association_until_its_handshake_is_complete():
    places = Places()
    places.begin(HERE, b"r1", "old")
    places.complete(HERE)
    places.begin(HERE, b"r2", "new")
    data, flight = _look(Content.DATA, 1), _look(Content.HANDSHAKE, 1)

    assert places.whose(HERE, data) == "old"
    assert places.whose(HERE, flight) == "new"
    assert places.complete(HERE) == "old"
    assert places.whose(HERE, data) == "new"


def test_a_record_of_an_address_that_is_not_known_is_for_nobody():
    places = Places()

    assert places.whose(HERE, _look(Content.DATA, 1)) is None


def _look(content, epoch):
    return look(bytes([content]) + b"\xfe\xfd" + epoch.to_bytes(2, "big") + bytes(6) + b"\x00\x01x")


@pytest.mark.parametrize(
    ("host", "good"),
    [("127.0.0.1", True), ("localhost", True), ("LOCALHOST", True), ("127.0.0.2", False), ("other", False)],
)
def test_the_name_in_the_servers_certificate_is_checked(authority, host, good):
    assert names(authority.server_identity().der, host) is good


def test_a_session_that_is_offered_again_is_not_resumed_so_the_certificate_is_shown_again(door, authority):
    first = Client(authority)
    shake_hands(door, first)
    second = Client(authority, resuming=first.association._connection)
    server, _ = shake_hands(door, second)

    assert server.established
    assert server.certificate == authority.device("dev1").der
    assert second.association._connection.master_key() != first.association._connection.master_key()


def test_why_a_certificate_ends_a_handshake_is_told(authority, tmp_path):
    from fleetcore.testing.throwaway_ca import ThrowawayCa

    told, material = [], authority.material()
    door = Door(server_context(material.chain, material.key, material.trusted, told.append))
    shake_hands(door, Client(ThrowawayCa(tmp_path), ca=authority.pem))

    assert told == ["unable to get local issuer certificate"]
