"""The codec against aiocoap's: what both read they read alike, and ours refuses what the standard has no place for."""

from random import Random

from fleetcore_coap.codec import Kind, Malformed, Method, Option, Packet, decode, encode, options

NUMBERS = [1, 3, 4, 5, 6, 7, 11, 12, 14, 15, 17, 23, 27, 28, 60, 252, 292, 2048, 65020, 65535]
LENGTHS = [0, 1, 2, 8, 12, 13, 14, 200, 268, 269, 270, 1000]
#: Numbers, which aiocoap writes without zeros in front: their bytes need not be the same, their values are.
UINTS = {6, 7, 12, 14, 17, 23, 27, 28, 60}


def made(random):
    given = [
        (number, random.randbytes(random.choice(LENGTHS)).hex().encode()[: random.choice(LENGTHS)])
        for number in random.sample(NUMBERS, random.randrange(8))
    ]
    return Packet(
        kind=random.choice(list(Kind)),
        code=random.choice([1, 2, 69, 132, 143]),
        mid=random.randrange(1 << 16),
        token=random.randbytes(random.randrange(9)),
        options=options(given),
        payload=random.randbytes(random.choice([0, 1, 900])),
    )


def test_every_message_comes_back_as_it_went():
    random = Random(31)
    for _ in range(5_000):
        packet = made(random)

        assert decode(encode(packet)) == packet


def test_aiocoap_reads_what_we_write(oracle):
    random = Random(32)
    for _ in range(2_000):
        packet = made(random)
        theirs = oracle(encode(packet))

        assert theirs is not None
        assert theirs[:4] == (packet.kind, packet.code, packet.mid, packet.token)
        assert [number for number, _ in theirs[4]] == [number for number, _ in packet.options]
        assert [value for number, value in theirs[4] if number not in UINTS] == [
            value for number, value in packet.options if number not in UINTS
        ]
        assert theirs[5] == packet.payload


def test_what_we_read_aiocoap_reads_alike_and_what_it_cannot_read_neither_do_we(oracle):
    random, both = Random(33), 0
    good = [
        encode(made(random)) for _ in range(50)
    ] + [encode(Packet(kind=Kind.CON, code=Method.GET, mid=1, options=((Option.URI_PATH, b"d"),)))]  # fmt: skip
    for _ in range(20_000):
        mutated = bytearray(random.choice(good))
        for _ in range(random.randint(1, 4)):
            mutated[random.randrange(len(mutated))] = random.randrange(256)
        datagram = bytes(mutated[: random.randint(1, len(mutated))])
        theirs = oracle(datagram)
        try:
            ours = decode(datagram)
        except Malformed:
            continue
        assert theirs is not None, datagram
        if not theirs:
            continue
        both += 1
        assert (ours.code, ours.mid, ours.token, ours.payload) == (theirs[1], theirs[2], theirs[3], theirs[5])
        assert [number for number, _ in ours.options] == [number for number, _ in theirs[4]]

    assert both > 1_000
