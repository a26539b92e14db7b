"""Reads and inflates a request's body within limits: never more than the message limit is in memory.

The codecs decode the bytes.
"""

import zlib
from collections.abc import Mapping

from aiohttp import web

from fleetcore.errors import FleetError, Refused
from fleetcore.wire.headers import Headers

#: Content coding → zlib's window bits: gzip is RFC 1952, deflate is RFC 1950 and not the bare stream of RFC 1951 that
#: some senders use (RFC 9110 §8.4.1.2).
_WINDOWS: Mapping[str, int] = {"gzip": 15 + 16, "deflate": 15}


class BodyLimitError(FleetError):
    """The body exceeds the message limit; its rest is not read, so the connection must be closed."""

    default_code = "limit_exceeded"


async def read_body(request: web.BaseRequest, headers: Headers, limit_bytes: int) -> bytes:
    """The body's bytes after undoing the content coding.

    Raises:
        BodyLimitError: the body, or what it inflates to, is longer than ``limit_bytes``. A longer declared length is
            refused unread.
        Refused: ``media_type_unsupported`` for a coding other than gzip and deflate, ``payload_unreadable`` for
            broken framing.
    """
    length = headers.content_length
    if length is not None and length > limit_bytes:
        raise BodyLimitError("The body is longer than the limit")
    coding = headers.coding(tuple(_WINDOWS))
    if headers.continues:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # an interim answer is not the answer
    try:
        body = await _read(request, limit_bytes)
    except web.RequestPayloadError as error:
        raise Refused("The body's framing is broken", code="payload_unreadable") from error
    return inflate(body, coding, limit_bytes) if coding in _WINDOWS else body


async def _read(request: web.BaseRequest, limit_bytes: int) -> bytes:
    content = request.content
    if content.is_eof():  # the usual case: header and body arrived in one segment
        body = content.read_nowait(-1)
        if len(body) > limit_bytes:
            raise BodyLimitError("The body is longer than the limit")
        return body
    pieces = bytearray()
    while piece := await content.readany():
        pieces += piece
        if len(pieces) > limit_bytes:
            raise BodyLimitError("The body continues past the limit")
    return bytes(pieces)


def inflate(body: bytes, coding: str, limit_bytes: int) -> bytes:
    """Decodes ``body``; raises as :func:`read_body`. Inflating stops at the limit.

    Only one stream, or gzip member: a body of many tiny ones would make the work quadratic.
    """
    inflater = zlib.decompressobj(_WINDOWS[coding])
    try:
        plain = inflater.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        remedy = "Send the zlib format (RFC 1950), which begins with 78" if coding == "deflate" else ""
        raise Refused(f"The {coding} coding is broken", code="payload_unreadable", remedy=remedy) from error
    if len(plain) > limit_bytes:
        raise BodyLimitError("The inflated body exceeds the limit")
    if not inflater.eof or inflater.unused_data:
        raise Refused(f"The body is not one complete {coding} stream", code="payload_unreadable")
    return plain
