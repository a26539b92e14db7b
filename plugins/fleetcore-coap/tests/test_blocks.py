"""Bodies in blocks (RFC 7959): holes, contradictions, limits, and answers that are fetched block by block."""

import pytest
from fleetcore_coap.blocks import Answers, Bodies, Continue, Incomplete, OutOfRange, TooLong, cut
from fleetcore_coap.codec import Block, Kind, Method, Option, Packet, options, uint


def block(number, more, payload, *, exponent=0, path=b"telemetry", size1=None):
    given = [(Option.URI_PATH, path), (Option.BLOCK1, Block(number, more, exponent).encode())]
    given.append((Option.SIZE1, None if size1 is None else uint(size1)))
    return Packet(kind=Kind.CON, code=Method.POST, options=options(given), payload=payload)


def test_blocks_in_their_order_are_the_body():
    bodies = Bodies(100)

    assert bodies.take(block(0, True, b"a" * 16)) == Continue(Block(0, True, 0))
    assert bodies.take(block(1, True, b"b" * 16)) == Continue(Block(1, True, 0))
    assert bodies.take(block(2, False, b"c")) == b"a" * 16 + b"b" * 16 + b"c"


def test_a_body_that_is_complete_is_not_held():
    bodies = Bodies(100)
    bodies.take(block(0, True, b"a" * 16))
    bodies.take(block(1, False, b"b"))

    assert isinstance(bodies.take(block(1, False, b"b")), Incomplete)


@pytest.mark.parametrize(
    "bad",
    [
        block(2, True, b"c" * 16),  # a hole
        block(1, True, b"c" * 15),  # shorter than it says
        block(1, True, b"c" * 17),
        block(0xFFFFF, False, b"c"),
    ],
)
def test_holes_and_contradictions_are_refused(bad):
    bodies = Bodies(4096)
    bodies.take(block(0, True, b"a" * 16))

    assert isinstance(bodies.take(bad), Incomplete)


def test_a_body_past_the_limit_is_refused_at_its_first_block_too_far():
    bodies = Bodies(40)
    bodies.take(block(0, True, b"a" * 16))
    bodies.take(block(1, True, b"a" * 16))

    assert isinstance(bodies.take(block(2, True, b"a" * 16)), TooLong)


def test_a_body_that_says_it_is_too_long_is_refused_at_its_first_block():
    assert isinstance(Bodies(40).take(block(0, True, b"a" * 16, size1=41)), TooLong)


def test_bodies_beside_each_other_are_kept_apart_and_few():
    bodies = Bodies(100)
    for path in (b"x", b"y", b"z"):
        bodies.take(block(0, True, path * 16, path=path))

    assert bodies.take(block(1, False, b"!", path=b"z")) == b"z" * 16 + b"!"
    assert isinstance(bodies.take(block(1, False, b"!", path=b"x")), Incomplete)


def test_half_a_body_is_forgotten_once_no_block_of_it_comes_any_more():
    bodies = Bodies(100)
    bodies.take(block(0, True, b"a" * 16), 0.0)
    bodies.take(block(1, True, b"a" * 16), 100.0)
    bodies.forget(300.0)
    held = len(bodies)
    bodies.forget(347.0)

    assert (held, len(bodies)) == (1, 0)
    assert isinstance(bodies.take(block(2, False, b"a"), 347.0), Incomplete)


def test_a_new_first_block_begins_anew():
    bodies = Bodies(100)
    bodies.take(block(0, True, b"a" * 16))
    bodies.take(block(1, True, b"a" * 16))
    bodies.take(block(0, True, b"b" * 16))

    assert bodies.take(block(1, False, b"c")) == b"b" * 16 + b"c"


@pytest.mark.parametrize(
    ("asked", "size", "expected"),
    [
        (None, 1024, None),
        (None, 1025, (Block(0, True, 6), 1024)),
        (Block(0, False, 6), 10, (Block(0, False, 6), 10)),
        (Block(3, False, 2), 200, (Block(3, False, 2), 200)),
        (Block(0, False, 0), 17, (Block(0, True, 0), 16)),
        (Block(0, False, 6), 0, (Block(0, False, 6), 0)),
    ],
)
def test_the_block_that_is_asked_for_is_cut(asked, size, expected):
    assert cut(asked, size) == expected


@pytest.mark.parametrize("asked", [Block(1, False, 6), Block(0xFFFFF, False, 6), Block(0, False, 7)])
def test_a_block_that_there_is_not_is_refused(asked):
    with pytest.raises(OutOfRange):
        cut(asked, 1024)


def test_answers_that_cannot_be_made_again_are_kept_within_a_bound():
    answers = Answers()
    for number in range(100):
        request = Packet(kind=Kind.CON, code=Method.POST, options=((Option.URI_QUERY, b"%d" % number),))
        answers.keep(request, Packet(kind=Kind.ACK, code=68, payload=b"x" * 4000))

    assert answers.find(request) is not None
    assert answers.find(Packet(kind=Kind.CON, code=Method.POST, options=((Option.URI_QUERY, b"0"),))) is None


def test_the_newest_answer_is_kept_however_long_and_for_minutes():
    answers = Answers()
    request = Packet(kind=Kind.CON, code=Method.POST)
    answers.keep(request, Packet(kind=Kind.ACK, code=68, payload=b"x" * 200_000), 0.0)
    kept = answers.find(request)
    answers.forget(247.0)

    assert kept is not None
    assert answers.find(request) is None


def test_an_echo_value_that_came_with_the_first_block_alone_is_no_part_of_what_the_blocks_have_in_common():
    bodies = Bodies(100)
    first = block(0, True, b"a" * 16)
    shown = Packet(
        kind=Kind.CON, code=first.code, options=(*first.options, (Option.ECHO, b"12345678")), payload=first.payload
    )
    bodies.take(shown)

    assert bodies.take(block(1, False, b"b")) == b"a" * 16 + b"b"
