"""Downloading an artifact: whole or one range (RFC 9110 §14), validated by its digest.

The plane only finds artifacts in an open offer of the subject. The address is the digest, not a name, so path traversal
is impossible.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import nullcontext

from aiohttp import web

from fleetcore.errors import NotFound
from fleetcore.interfaces.protocol import ArtifactReader
from fleetcore.model.file_span import FileSpan
from fleetcore.model.message import Rejected
from fleetcore_http.answers import matches
from fleetcore_http.exchange import Exchange
from fleetcore_http.problems import problem
from fleetcore_http.sending import WRITE_BYTES, Sending

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
#: Up to 18 digits: an exabyte; longer numbers take long to parse.
_RANGE = re.compile(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


async def download(exchange: Exchange) -> web.StreamResponse:
    """``GET`` and ``HEAD /artifacts/{sha256}``: 200, 206, 304, 404 or 416."""
    sha256 = (exchange.target or "").lower()
    if _SHA256.fullmatch(sha256) is None:
        raise NotFound("This is not a SHA-256 digest", code="artifact_unknown")
    artifact = await exchange.state.plane.open_artifact(exchange.who, exchange.subject, sha256)
    headers = exchange.headers
    etag = f'"{artifact.sha256}"'
    shown = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache", "Server": "fleetcore"}
    held = headers.get("if-none-match")
    if held is not None and matches(held, etag):
        return web.Response(status=304, headers=shown)
    size = artifact.size_bytes
    span: tuple[int, int] | None = None
    asked = headers.get("range") if exchange.request.method == "GET" else None  # RFC 9110 §14.2: only for GET
    if asked is not None and headers.get("if-range") in (None, etag):
        span = one_range(asked, size)
        if span is not None and span[0] >= span[1]:
            response: web.StreamResponse = problem(
                Rejected(code="range_invalid", reason=f"The artifact has {size} bytes; ask for one range"),
            )
            response.headers["Content-Range"] = f"bytes */{size}"
            return response
    start, end = span or (0, size)
    response = web.StreamResponse(status=200 if span is None else 206, headers=shown)
    response.content_length = end - start
    response.content_type = "application/octet-stream"
    response.headers["Content-Disposition"] = "attachment"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if span is not None:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    await exchange.note_pending(response)
    await response.prepare(exchange.request)
    if exchange.request.method == "GET" and end > start:
        await _send(exchange, response, artifact, start, end)
    return response


async def _send(
    exchange: Exchange, response: web.StreamResponse, artifact: ArtifactReader, start: int, end: int
) -> None:
    """Sends the bytes; if that fails the connection is aborted, so that a part is never taken for the whole."""
    left = end - start
    transport = exchange.request.transport
    plain = transport is not None and transport.get_extra_info("sslcontext") is None
    spans = artifact.spans(start, end) if plain else None
    pieces: AsyncIterator[bytes] | AsyncIterator[FileSpan] = artifact.read(start, end) if spans is None else spans
    try:
        with Sending(exchange.connection) if spans is not None else nullcontext() as sending:
            async for piece in pieces:
                if isinstance(piece, FileSpan):
                    assert sending is not None
                    await sending.send(piece)
                else:
                    for at in range(0, len(piece), WRITE_BYTES):
                        exchange.connection.expect_reading()
                        await response.write(memoryview(piece)[at : at + WRITE_BYTES])
                left -= len(piece)
                if left < 0 or exchange.who.ended is not None:
                    return
    finally:
        if isinstance(pieces, AsyncGenerator):  # its open resources must not wait for the garbage collector
            await pieces.aclose()
        if left != 0:
            exchange.connection.abort()


def one_range(header: str, size: int) -> tuple[int, int] | None:
    """``start <= i < end`` of a Range header; None if it is to be ignored; an empty span if it is refused.

    Several ranges are refused: a small request with a thousand overlapping ones would get a large answer.
    """
    if not header.strip().lower().startswith("bytes="):
        return None
    if "," in header:
        return 0, 0
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        return max(0, size - int(last)), size
    start = int(first)
    if last and int(last) < start:
        return None  # RFC 9110 §14.1.1: invalid, so it is ignored
    return (start, min(int(last) + 1, size) if last else size) if start < size else (0, 0)
