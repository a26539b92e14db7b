"""A streaming call as server-sent events: ends when the client disconnects, its rights end, or the API does.

An item with a position has it as the event's id, so that ``Last-Event-ID`` continues after it. If a position is no
longer available the client gets ``event: reset``: read the current state again, then follow from there. A call without
further items sends ``event: end``, a refused or failed one ``event: error`` with the problem; a stream that ends
without either was interrupted.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
from msgspec import json

from fleetcore.calls.types import encode_hook
from fleetcore.errors import FleetError, NotAuthenticated, NotAuthorised, NotFound
from fleetcore.interfaces.waits import end_tasks
from fleetcore_api.app_state import AppState
from fleetcore_api.problems import problem

_log = logging.getLogger(__name__)
#: The interval of comments that keep proxies from closing a quiet stream.
_HEARTBEAT_S = 15.0
#: How long a client may take for the end of a stream.
_LAST_S = 0.5
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
        again: the same after a position, for a client whose own position is no longer available.
    """

    def __init__(self, state: AppState, first: Items, again: Callable[[int], Awaitable[Items]]) -> None:
        self._state, self._items, self._again = state, first, again

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends until the end; a client that does not read blocks nothing else."""
        del scope
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        left, sending = asyncio.ensure_future(gone(receive)), asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait({left, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(left, sending)
            await self._items.aclose()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Any) -> None:
        try:
            await _sent(send, b"retry: 2000\n\n")
            await self._send_items(send)
        except (NotAuthenticated, NotAuthorised):
            pass  # the client reconnects, and gets it then
        except FleetError as error:
            await _sent(send, _event("error", json.decode(problem(error).body), None))
        except OSError:
            pass  # the client has disconnected
        except Exception as error:  # noqa: BLE001  # a fault of ours is told too
            _log.error("A stream failed", exc_info=error)
            mistake = FleetError("The server failed; its log has the error")
            await _sent(send, _event("error", json.decode(problem(mistake).body), None))

    async def _send_items(self, send: Any) -> None:
        while True:
            following = asyncio.ensure_future(anext(self._items))
            try:
                while not following.done():
                    quiet = asyncio.ensure_future(self._state.fleet.clock.sleep(_HEARTBEAT_S))
                    try:
                        await asyncio.wait({following, quiet}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        quiet.cancel()
                    if not following.done():
                        await _sent(send, b": here\n\n")
            finally:
                if not following.done():
                    await end_tasks(following)
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


async def gone(receive: Any) -> None:
    """Returns when the client has disconnected, or the API ends."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _sent(send: Any, piece: bytes) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": True})


def _event(kind: str, item: object, position: int | None) -> bytes:
    # JSON contains no line break, so one data line is enough; a type contains none either.
    head = b"" if position is None else f"id: {position}\n".encode()
    return head + b"event: " + kind.encode() + b"\ndata: " + _encode(item) + b"\n\n"
