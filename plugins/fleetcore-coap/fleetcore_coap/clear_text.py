"""The clear part of a DTLS 1.2 handshake with a pre-shared key: the peer's cipher suites, and its claimed identity.

None of it is proved. It is read before OpenSSL reads it, to choose the context and to look up the key; if the two
readings differ, OpenSSL's counts (:mod:`fleetcore_coap.keyed`).
"""

from collections.abc import Iterator

from fleetcore_coap.records import Content, whole_records

#: RFC 6347 §4.2.2: type, length, message number, fragment's offset and length.
_HEAD_BYTES = 12
_RECORD_BYTES = 13
#: Version and random of a ClientHello.
_BEFORE_SESSION_BYTES = 34
_CLIENT_KEY_EXCHANGE = 16
_ALERT_NUMBER = 1 << 32

#: The suites of :mod:`fleetcore_coap.contexts`, by number: RFC 5487 §2, RFC 6655 §4, RFC 7905 §2.
KEY_SUITES = frozenset({0x00A8, 0x00A9, 0xC0A4, 0xC0A5, 0xC0A8, 0xC0A9, 0xCCAB, 0xCCAC})


def offers_key(hello: bytes) -> bool:
    """Whether a ClientHello, one datagram, offers a suite with a pre-shared key."""
    at = _RECORD_BYTES + _HEAD_BYTES + _BEFORE_SESSION_BYTES
    for _ in range(2):  # the session's id, the cookie
        if at >= len(hello):
            return False
        at += 1 + hello[at]
    end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
    suites = hello[at + 2 : end]
    return any(int.from_bytes(suites[here : here + 2], "big") in KEY_SUITES for here in range(0, len(suites), 2))


def identity_in(datagram: bytes) -> bytes | None:
    """The identity in a datagram's ClientKeyExchange; None if it is missing.

    An identity that is split over fragments counts as missing: a datagram easily holds one.
    """
    for head, body in _handshake_messages(datagram):
        offset = int.from_bytes(head[6:9], "big")
        length = int.from_bytes(body[:2], "big")
        if head[0] == _CLIENT_KEY_EXCHANGE and offset == 0 and 2 + length <= len(body):
            return body[2 : 2 + length]
    return None


def changes_cipher(datagram: bytes) -> bool:
    """Whether the peer announces in it that it encrypts from now on."""
    return any(record[0] == Content.CHANGE_CIPHER_SPEC for record in whole_records(datagram))


def has_finished(datagram: bytes) -> bool:
    """Whether it has an encrypted handshake message: the proof that the peer has the key."""
    return any(record[0] == Content.HANDSHAKE and record[3:5] == b"\0\x01" for record in whole_records(datagram))


def decrypt_error() -> bytes:
    """The alert for a peer with a wrong proof, in clear because it cannot decrypt yet (RFC 4279 §2, RFC 5246 §7.2.2).

    Its sequence number is above those that OpenSSL has used in a handshake.
    """
    return b"\x15\xfe\xfd\0\0" + _ALERT_NUMBER.to_bytes(6, "big") + b"\0\x02\x02\x33"


def _handshake_messages(datagram: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Header and body of the clear messages; a record may have several."""
    for record in whole_records(datagram):
        if record[0] != Content.HANDSHAKE or record[3:5] != b"\0\0":
            continue
        at = _RECORD_BYTES
        while at + _HEAD_BYTES <= len(record):
            head = record[at : at + _HEAD_BYTES]
            end = at + _HEAD_BYTES + int.from_bytes(head[9:12], "big")
            if end > len(record):
                break
            yield head, record[at + _HEAD_BYTES : end]
            at = end
