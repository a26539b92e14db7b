"""A request's body, read and inflated within bounds: no more than the message limit is ever held.

What the bytes mean is the codecs' business.
"""

import zlib

from aiohttp import web

from fleetcore.errors import FleetError, Refused

#: zlib's window bits for a gzip wrapper (RFC 1952): 15 for the window, 16 for gzip.
_GZIP = 15 + 16


class BodyLimitError(FleetError):
    """The body passes the message limit; what is left of it is not read, so the connection cannot be kept."""

    default_code = "limit_exceeded"


async def read_body(request: web.BaseRequest, limit_bytes: int) -> bytes:
    """The body's bytes with the content coding undone.

    Raises:
        BodyLimitError: the body, or what it inflates to, is longer than ``limit_bytes``. A length declared beyond it
            is refused unread.
        Refused: ``media_type_unsupported`` for a coding other than gzip, ``payload_unreadable`` for broken framing.
    """
    headers = request.headers
    length = headers.get("Content-Length")
    if length is not None and (len(length) > 19 or int(length) > limit_bytes):  # the parser lets digits pass only
        raise BodyLimitError("The body is longer than the limit")
    coding = headers.get("Content-Encoding")
    if coding is not None:
        coding = coding.strip().lower()
        if coding not in {"gzip", "x-gzip", "identity", ""}:
            raise Refused(f"Content-Encoding {coding[:64]!r} is not gzip", code="media_type_unsupported")
    if "Expect" in headers:
        await _continue(request, headers["Expect"])
    try:
        body = await _read(request, limit_bytes)
    except web.RequestPayloadError as error:
        raise Refused("The body's framing is broken", code="payload_unreadable") from error
    return inflate(body, limit_bytes) if coding in {"gzip", "x-gzip"} else body


async def _read(request: web.BaseRequest, limit_bytes: int) -> bytes:
    content = request.content
    if content.is_eof():  # the usual case: header and body came in one segment
        body = content.read_nowait(-1)
        if len(body) > limit_bytes:
            raise BodyLimitError("The body is longer than the limit")
        return body
    pieces = bytearray()
    while piece := await content.readany():
        pieces += piece
        if len(pieces) > limit_bytes:
            raise BodyLimitError("The body goes on past the limit")
    return bytes(pieces)


async def _continue(request: web.BaseRequest, expectation: str) -> None:
    """RFC 9110 §10.1.1: the client waits for a word before it sends the body."""
    if expectation.strip().lower() != "100-continue":
        raise Refused("The only expectation is 100-continue", code="schema_invalid")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # an interim answer is not the answer


def inflate(body: bytes, limit_bytes: int) -> bytes:
    """``body`` without its gzip coding; raises as :func:`read_body`. Inflating stops at the limit.

    One gzip member only: a body of many tiny ones would make the work quadratic.
    """
    inflater = zlib.decompressobj(_GZIP)
    try:
        plain = inflater.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise Refused("The gzip coding is broken", code="payload_unreadable") from error
    if len(plain) > limit_bytes:
        raise BodyLimitError("The body inflates past the limit")
    if not inflater.eof or inflater.unused_data:
        raise Refused("The body is not one complete gzip member", code="payload_unreadable")
    return plain
