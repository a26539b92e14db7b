"""A call that streams, as server-sent events: it ends when the reader leaves, when its rights do, or when the API does.

An item with a position carries it as the event's id, so that ``Last-Event-ID`` goes on after it. Where a position is
not kept any more the reader gets ``event: reset``: read again what you hold, then follow from there. A call that has
no more items says ``event: end``; a stream that ends without it was cut off.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec

from fleetcore.calls.types import encode_hook
from fleetcore.errors import FleetError, NotAuthenticated, NotAuthorised, NotFound
from fleetcore_api.site import Site

_log = logging.getLogger(__name__)
#: A comment so often keeps proxies from closing a quiet stream.
_HEARTBEAT_S = 15.0
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_encode = msgspec.json.Encoder(enc_hook=encode_hook).encode
Items = AsyncGenerator[Any, None]


class EventStream:
    """An ASGI response.

    Args:
        first: the call's items.
        again: the same after a position, for a reader whose own position is gone.
    """

    def __init__(self, site: Site, first: Items, again: Callable[[int], Awaitable[Items]]) -> None:
        self._site, self._items, self._again = site, first, again

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends until the end."""
        del scope
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        ends = [asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(self._site.closing.wait())]
        try:
            await _sent(send, b"retry: 2000\n\n")
            await self._send_until(ends, send)
        except (NotAuthenticated, NotAuthorised):
            pass  # the reader asks again, and is answered so
        except FleetError as error:
            _log.warning("A stream ended: %s", error)
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            await self._items.aclose()
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b""})

    async def _send_until(self, ends: "list[asyncio.Task[Any]]", send: Any) -> None:
        while True:
            following = asyncio.ensure_future(anext(self._items))
            try:
                while not following.done():
                    quiet = asyncio.ensure_future(self._site.fleet.clock.sleep(_HEARTBEAT_S))
                    try:
                        await asyncio.wait({following, quiet, *ends}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        quiet.cancel()
                    if any(task.done() for task in ends):
                        return
                    if not following.done():
                        await _sent(send, b": here\n\n")
            finally:
                if not following.done():
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
            try:
                item = following.result()
            except StopAsyncIteration:
                await _sent(send, _event("end", {}, None))
                return
            except NotFound as error:
                position = error.ids.get("oldest")
                if not isinstance(position, int):
                    raise
                said = {
                    "position": position - 1,
                    "detail": error.message,
                    "remedy": error.remedy,
                    "ids": dict(error.ids),
                }
                await _sent(send, _event("reset", {"position": position - 1, **said}, position - 1))
                self._items = await self._again(position - 1)
                continue
            await _sent(send, _event(getattr(item, "type", "item"), item, getattr(item, "position", None)))


async def _gone(receive: Any) -> None:
    """Returns when the reader has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def left(receive: Any, site: Site) -> None:
    """Returns when the reader has left, or the API ends."""
    ends = [asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(site.closing.wait())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def _sent(send: Any, piece: bytes) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": True})


def _event(kind: str, item: object, position: int | None) -> bytes:
    # JSON holds no line break, so one data line is enough; a type holds none either.
    head = b"" if position is None else f"id: {position}\n".encode()
    return head + b"event: " + kind.encode() + b"\ndata: " + _encode(item) + b"\n\n"
