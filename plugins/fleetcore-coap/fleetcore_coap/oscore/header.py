"""The OSCORE option of a request, parsed strictly (RFC 8613 §6.1). No keys, no state."""

from msgspec import Struct

_N, _KID, _CONTEXT, _RESERVED = 0b111, 0b1000, 0b1_0000, 0b1110_0000
#: A Partial IV has 40 bits (RFC 8613 §7.2.1); lengths of 6 and 7 are reserved.
PIV_BYTES = 5


class Header(Struct, frozen=True, gc=False):
    """The members of the option; None for an absent one."""

    piv: bytes | None
    context: bytes | None
    kid: bytes | None


def read(value: bytes) -> Header | None:
    """Parses the option; None if it does not follow the standard."""
    if not value:
        return Header(None, None, None)
    flags, at = value[0], 1
    length = flags & _N
    if flags & _RESERVED or not flags or length > PIV_BYTES:
        return None
    piv = context = None
    if length:
        piv = value[at : at + length]
        at += length
        if length > 1 and not piv[:1].strip(b"\0"):  # in the fewest bytes, so that each number has one encoding
            return None
    if flags & _CONTEXT:
        if at >= len(value):
            return None
        end = at + 1 + value[at]
        context, at = value[at + 1 : end], end
    if at > len(value):
        return None
    if flags & _KID:
        return Header(piv, context, value[at:])
    return Header(piv, context, None) if at == len(value) else None
