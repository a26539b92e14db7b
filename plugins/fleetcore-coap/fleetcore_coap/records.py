"""DTLS 1.2 records in a datagram (RFC 6347 §4.1): inspected and packed; nothing is decrypted here."""

from collections.abc import Iterator
from enum import IntEnum

from msgspec import Struct

#: Type, version, epoch, sequence number and length.
_HEADER_BYTES = 13
#: The maximum size of our datagrams: a packet of 1,280 bytes (RFC 8200 §5, the minimum of IPv6) less its headers, 40
#: bytes of IPv6 and 8 of UDP.
DATAGRAM_BYTES = 1232
#: A handshake message's header (RFC 6347 §4.2.2), and the version before the random of a ClientHello.
_HANDSHAKE_HEADER_BYTES, _VERSION_BYTES, _RANDOM_BYTES = 12, 2, 32
_CLIENT_HELLO = 1


class Content(IntEnum):
    """The type of a record (RFC 5246 §6.2.1)."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    DATA = 23


class Look(Struct, frozen=True, gc=False):
    """The visible fields of a datagram's first record.

    Attributes:
        random: of a ClientHello, which identifies a handshake; else empty.
        cookie: of a ClientHello; empty if it has none.
    """

    content: Content
    epoch: int
    random: bytes = b""
    cookie: bytes = b""

    @property
    def is_hello(self) -> bool:
        """Whether it is a ClientHello that begins a handshake."""
        return self.random != b""


_MESSAGE = Look(Content.DATA, 1)
#: Application data of DTLS 1.2 in epoch 1.
_MESSAGE_HEAD = b"\x17\xfe\xfd\x00\x01"


def look(datagram: bytes) -> Look | None:
    """Inspects a datagram; None if it is not a series of whole DTLS records."""
    if _is_message(datagram):
        return _MESSAGE
    if not datagram or sum(len(each) for each in whole_records(datagram)) != len(datagram):
        return None
    epoch = int.from_bytes(datagram[3:5], "big")
    content = Content(datagram[0])
    if content is not Content.HANDSHAKE or epoch != 0 or datagram[_HEADER_BYTES : _HEADER_BYTES + 1] != b"\x01":
        return Look(content, epoch)
    at = _HEADER_BYTES + _HANDSHAKE_HEADER_BYTES + _VERSION_BYTES
    random = datagram[at : at + _RANDOM_BYTES]
    session = datagram[at + _RANDOM_BYTES : at + _RANDOM_BYTES + 1]
    if len(random) != _RANDOM_BYTES or not session:
        return None
    after = at + _RANDOM_BYTES + 1 + session[0]
    length = datagram[after] if after < len(datagram) else 0
    return Look(content, epoch, random, datagram[after + 1 : after + 1 + length])


def _is_message(datagram: bytes) -> bool:
    """Whether it is one record with a message in the first epoch after a handshake, like nearly all datagrams."""
    return (
        datagram[:5] == _MESSAGE_HEAD
        and len(datagram) > _HEADER_BYTES
        and _HEADER_BYTES + (datagram[11] << 8 | datagram[12]) == len(datagram)
    )


def count(datagram: bytes) -> int:
    """The number of records in a datagram."""
    if _is_message(datagram):
        return 1
    return sum(1 for _ in whole_records(datagram))


def whole_records(data: bytes) -> Iterator[bytes]:
    """The records, up to the first invalid one."""
    at = 0
    while len(data) - at >= _HEADER_BYTES:
        known = 20 <= data[at] <= 23 and data[at + 1] == 0xFE  # the version is 254.255 or 254.253
        end = at + _HEADER_BYTES + int.from_bytes(data[at + 11 : at + 13], "big")
        if not known or end > len(data):
            return
        yield data[at:end]
        at = end


def pack(records: bytes) -> list[bytes]:
    """Datagrams of whole records, filled as far as possible; ``records`` is OpenSSL's output."""
    if len(records) <= DATAGRAM_BYTES:
        return [records] if records else []
    datagrams: list[bytes] = []
    filling = b""
    for record in whole_records(records):
        if filling and len(filling) + len(record) > DATAGRAM_BYTES:
            datagrams.append(filling)
            filling = b""
        filling += record
    if filling:
        datagrams.append(filling)
    return datagrams
