"""Finds the end of each packet, and refuses too long ones, from the header alone.

Nothing is buffered for a refused packet: the length is known after at most five bytes.
"""

from fleetcore_mqtt.packets import Reason, Violation

#: 256 KiB of payload, plus topic and properties.
PACKET_BYTES = 270_336
#: A longer first packet is not a device's CONNECT (CVE-2023-0809 is what an unlimited one costs).
CONNECT_BYTES = 64 * 1024


def header(data: bytes | bytearray, start: int, limit: int) -> tuple[int, int] | None:
    """The first byte of the body and the end of the packet at ``start``; None while the header is incomplete.

    Raises Violation for a length of more than four bytes, one not in the shortest form (MQTT 5.0 §1.5.5), and a packet
    of more than ``limit`` bytes.
    """
    size = len(data)
    if start + 2 <= size and (length := data[start + 1]) < 0x80 and length + 2 <= limit:
        return start + 2, start + 2 + length
    length, shift, at = 0, 0, start + 1
    while True:
        if at >= size:
            return None
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 21:
            raise Violation("the remaining length has more than four bytes")
    if shift and not byte:
        raise Violation("the remaining length is not in its shortest form")
    if at - start + length > limit:
        raise Violation(f"a packet of {length} bytes is longer than {limit}", Reason.TOO_LARGE)
    return at, at + length


def varint(value: int) -> bytes:
    """A variable byte integer (MQTT 5.0 §1.5.5)."""
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | 0x80 if value else low)
        if not value:
            return bytes(out)
