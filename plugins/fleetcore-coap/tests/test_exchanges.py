"""The message layer: repeated, lost, reset and malformed messages (RFC 7252 §4)."""

from itertools import pairwise
from random import Random

import pytest
from fleetcore_coap.codec import (
    CHANGED,
    CONTENT,
    EMPTY,
    Kind,
    Malformed,
    Method,
    Option,
    Packet,
    decode,
    encode,
    options,
)
from fleetcore_coap.exchanges import MAX_RETRANSMIT, MAX_UNDER_WAY, Exchanges
from fleetcore_coap.repetitions import LIFETIME_S, MAX_BYTES


class Wire:
    """Exchanges whose datagrams are kept."""

    def __init__(self):
        self.sent = []
        self.exchanges = Exchanges(lambda datagram: self.sent.append(decode(datagram)), Random(1))

    def request(self, *, mid=1, token=b"a", code=Method.POST, kind=Kind.CON, now_s=0.0):
        return self.exchanges.receive(encode(Packet(kind=kind, code=code, mid=mid, token=token)), now_s)

    def take(self):
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def wire():
    return Wire()


DONE = Packet(kind=Kind.ACK, code=CHANGED)


def test_a_repeated_request_is_answered_again_and_not_handed_on_again(wire):
    wire.exchanges.answer(wire.request(), DONE, 0.0)
    first = wire.take()

    assert wire.request() is None
    assert wire.take() == first


def test_a_repetition_while_the_request_is_worked_on_is_not_handed_on(wire):
    wire.request()

    assert wire.request() is None
    assert wire.take() == []


def test_an_id_that_comes_again_with_another_token_is_another_request(wire):
    wire.exchanges.answer(wire.request(token=b"a"), DONE, 0.0)

    assert wire.request(token=b"b") is not None


def test_a_request_that_only_reads_is_done_again_and_costs_no_memory(wire):
    wire.exchanges.answer(wire.request(code=Method.GET), DONE, 0.0)

    assert wire.exchanges.repetitions.kept_bytes == 0
    assert wire.request(code=Method.GET) is not None


def test_answers_are_forgotten_after_their_lifetime(wire):
    wire.exchanges.answer(wire.request(), DONE, 0.0)

    assert wire.request(now_s=LIFETIME_S[Kind.CON] - 1) is None
    assert wire.request(now_s=LIFETIME_S[Kind.CON] + 1) is not None


def test_what_is_kept_of_a_peer_is_bounded_and_the_oldest_goes(wire):
    long = Packet(kind=Kind.ACK, code=CHANGED, payload=b"x" * 1000)
    for mid in range(200):
        wire.exchanges.answer(wire.request(mid=mid), long, 0.0)

    assert wire.exchanges.repetitions.kept_bytes <= MAX_BYTES
    assert wire.request(mid=199) is None
    assert wire.request(mid=0) is not None


def test_a_slow_request_is_acknowledged_empty_and_answered_by_itself(wire):
    request = wire.request(mid=7)
    wire.exchanges.tick(1.5)
    empty = wire.take()
    wire.exchanges.answer(request, DONE, 5.0)
    (answer,) = wire.take()

    assert [(each.kind, each.code, each.mid) for each in empty] == [(Kind.ACK, EMPTY, 7)]
    assert (answer.kind, answer.code, answer.token) == (Kind.CON, CHANGED, b"a")


def test_a_request_that_is_not_confirmed_is_answered_so(wire):
    wire.exchanges.answer(wire.request(kind=Kind.NON), DONE, 0.0)

    assert [each.kind for each in wire.take()] == [Kind.NON]


def test_a_message_of_ours_is_repeated_ever_more_slowly_and_then_lost(wire):
    lost = []
    wire.exchanges.confirm(Packet(kind=Kind.CON, code=CONTENT, token=b"o"), 0.0, lost=lost.append)
    times, now_s = [0.0], 0.0
    while not lost:
        now_s = min(each.due_s for each in wire.exchanges._confirmables.values())
        count = len(wire.sent)
        wire.exchanges.tick(now_s)
        if len(wire.sent) > count:
            times.append(now_s)

    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) == 1 + MAX_RETRANSMIT
    assert 2.0 <= gaps[0] <= 3.0
    assert gaps == pytest.approx([gaps[0] * 2**number for number in range(MAX_RETRANSMIT)])
    assert len({each.mid for each in wire.sent}) == 1
    assert lost == [False]
    assert wire.exchanges.idle


def test_an_acknowledgement_ends_the_repetition(wire):
    done = []
    wire.exchanges.confirm(Packet(kind=Kind.CON, code=CONTENT, token=b"o"), 0.0, acknowledged=lambda: done.append(True))
    (sent,) = wire.take()
    wire.exchanges.receive(encode(Packet(kind=Kind.ACK, code=EMPTY, mid=sent.mid)), 0.1)
    wire.exchanges.tick(1000.0)

    assert done == [True]
    assert wire.take() == []


def test_a_reset_is_told(wire):
    lost = []
    wire.exchanges.confirm(Packet(kind=Kind.CON, code=CONTENT, token=b"o"), 0.0, lost=lost.append)
    (sent,) = wire.take()
    wire.exchanges.receive(encode(Packet(kind=Kind.RST, code=EMPTY, mid=sent.mid)), 0.1)

    assert lost == [True]


def test_an_acknowledgement_that_nobody_waits_for_means_nothing(wire):
    assert wire.exchanges.receive(encode(Packet(kind=Kind.ACK, code=CONTENT, mid=9, token=b"z")), 0.0) is None
    assert wire.take() == []


def test_an_answer_on_the_acknowledgement_of_another_token_is_dropped(wire):
    wire.exchanges.confirm(Packet(kind=Kind.CON, code=Method.GET, token=b"o"), 0.0)
    (sent,) = wire.take()

    assert wire.exchanges.receive(encode(Packet(kind=Kind.ACK, code=CONTENT, mid=sent.mid, token=b"p")), 0.1) is None


def test_a_ping_is_answered_with_a_reset(wire):
    wire.exchanges.receive(encode(Packet(kind=Kind.CON, code=EMPTY, mid=3)), 0.0)

    assert [(each.kind, each.mid) for each in wire.take()] == [(Kind.RST, 3)]


def test_requests_under_way_are_bounded(wire):
    taken = [wire.request(mid=mid) for mid in range(MAX_UNDER_WAY + 5)]

    assert len([each for each in taken if each is not None]) == MAX_UNDER_WAY


@pytest.mark.parametrize(
    "datagram",
    [
        b"\x49\x01\x00\x05123456789",  # a token of nine bytes
        b"\x44\x01\x00\x05ab",  # shorter than its token
        b"\x40\x00\x00\x05x",  # an empty message with something in it
        b"\x40\x20\x00\x05",  # a code of class 1
        b"\x40\xe1\x00\x05",  # a code of class 7, which is for TCP
        b"\x40\x01\x00\x05\xff",  # a payload marker without a payload
        b"\x40\x01\x00\x05\xbd",  # an option that ends in its head
        b"\x40\x01\x00\x05\xb5abc",  # an option shorter than it says
        b"\x40\x01\x00\x05\xf1a",  # an option's delta of 15
        b"\x40\x01\x00\x05\xb1\xff",  # a path that is no UTF-8
    ],
)
def test_a_malformed_message_is_reset_and_goes_no_further(wire, datagram):
    assert wire.exchanges.receive(datagram, 0.0) is None
    assert [(each.kind, each.mid) for each in wire.take()] == [(Kind.RST, 5)]


@pytest.mark.parametrize("datagram", [b"", b"\x40", b"\x40\x01\x00", b"\x00\x01\x00\x05", b"\xc0\x01\x00\x05"])
def test_what_is_no_message_of_this_version_is_dropped_silently(wire, datagram):
    assert wire.exchanges.receive(datagram, 0.0) is None
    assert wire.take() == []


def test_any_bytes_are_a_message_or_malformed():
    random = Random(20)
    good = encode(
        Packet(
            kind=Kind.CON,
            code=Method.POST,
            mid=5,
            token=b"abcd",
            options=options([(Option.URI_PATH, b"device"), (Option.URI_QUERY, b"id=7"), (Option.BLOCK1, b"\x0e")]),
            payload=b"payload",
        )
    )
    for _ in range(10_000):
        mutated = bytearray(good)
        for _ in range(random.randint(1, 6)):
            mutated[random.randrange(len(mutated))] = random.randrange(256)
        try:
            packet = decode(bytes(mutated[: random.randint(0, len(mutated))]))
        except Malformed:
            continue
        assert len(packet.token) <= 8


def test_options_come_back_as_they_went():
    packet = Packet(
        kind=Kind.NON,
        code=CONTENT,
        mid=65535,
        token=b"12345678",
        options=options(
            [
                (Option.PENDING, b"commands=2"),
                (Option.ETAG, b"e" * 8),
                (Option.OBSERVE, b""),
                (Option.URI_PATH, "å".encode()),
                (Option.SIZE2, None),
            ]
        ),
        payload=b"\xff\x00",
    )

    assert decode(encode(packet)) == packet


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([(Option.URI_PATH, b"a"), (Option.URI_PATH, b"b")], None),
        ([(9, b"")], 9),  # critical, OSCORE
        ([(2049, b"x")], 2049),
        ([(2048, b"x")], None),  # elective
        ([(Option.ACCEPT, b"2"), (Option.ACCEPT, b"<")], Option.ACCEPT),
    ],
)
def test_critical_options_that_are_not_understood_are_found(given, found):
    packet = Packet(kind=Kind.CON, code=Method.GET, options=options(given))

    assert packet.not_understood == found
