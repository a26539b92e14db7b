"""Entity tags of twins in the 8 bytes that CoAP allows (RFC 7252 §5.10.6): both versions, four bytes each."""

import re

_TAG = re.compile(r'"?d(\d{1,15})\.r(\d{1,15})"?', re.ASCII)
_WORD = 1 << 32


def packed(etag: str) -> bytes | None:
    """``d12.r40`` as bytes; None for a tag that is not a twin's or whose versions do not fit."""
    match = _TAG.fullmatch(etag)
    if match is None:
        return None
    desired, reported = int(match[1]), int(match[2])
    if desired >= _WORD or reported >= _WORD:
        return None
    return desired.to_bytes(4, "big") + reported.to_bytes(4, "big")


def unpacked(tag: bytes) -> str | None:
    """The tag as text; None where it is not a twin's."""
    if len(tag) != 8:
        return None
    return f"d{int.from_bytes(tag[:4], 'big')}.r{int.from_bytes(tag[4:], 'big')}"


def reported_version(tag: bytes) -> int | None:
    """The reported version that a tag names, or None."""
    return int.from_bytes(tag[4:], "big") if len(tag) == 8 else None
