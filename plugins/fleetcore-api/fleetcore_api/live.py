"""The live stream as a WebSocket: ``GET /api/v1/live`` with the subprotocol ``fleetcore.live.v1``.

The protocol itself is in the core (:mod:`fleetcore.calls.live`). A frame is one text message of JSON. The stream ends
when the client disconnects, when its rights end (close code 4401 or 4403), or when the API does (1012).
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from fleetcore.calls.live import Conversation
from fleetcore.calls.types import encode_hook
from fleetcore.errors import FleetError, NotAuthenticated, Refused, Unavailable
from fleetcore.interfaces.waits import end_tasks
from fleetcore.wire import browser
from fleetcore_api.app_state import AppState
from fleetcore_api.callers import caller_of
from fleetcore_api.problems import problem

_log = logging.getLogger(__name__)
PATH = "/api/v1/live"
SUBPROTOCOL = "fleetcore.live.v1"
#: The longest message of a client.
FRAME_BYTES = 64 * 1024
CREDENTIAL, REVOKED = 4401, 4403
_UNSUPPORTED, _INTERNAL, _RESTART, _AGAIN = 1003, 1011, 1012, 1013
_encode = msgspec.json.Encoder(enc_hook=encode_hook).encode


def close_code(error: FleetError) -> int:
    """The close code for an error."""
    if isinstance(error, Unavailable):
        return _AGAIN
    return CREDENTIAL if isinstance(error, NotAuthenticated) else REVOKED


class LiveStream:
    """An ASGI application for one WebSocket that the middleware has admitted."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Runs the stream until its end."""
        conversation = Conversation(caller_of(self._state, scope))  # raises before the handshake is answered
        await conversation.begin()
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        ending = asyncio.ensure_future(self._state.closing.wait())
        parts = [
            asyncio.ensure_future(self._read(conversation, scope["user"].principal, receive)),
            asyncio.ensure_future(_tell(conversation, send)),
            asyncio.ensure_future(conversation.follow()),
        ]
        code, reason = _RESTART, "The server stops"
        try:
            await asyncio.wait({*parts, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                code, reason = next(_end_of(part) for part in parts if part.done())
        finally:
            await end_tasks(*parts, ending)
        with contextlib.suppress(OSError, RuntimeError):  # the client has disconnected
            await send({"type": "websocket.close", "code": code, "reason": reason})

    async def _read(self, conversation: Conversation, principal: str, receive: Any) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            if text is None:
                raise _NotText
            self._state.check_rate(principal)
            await conversation.take(text.encode())


class _NotText(Exception):
    """A binary message."""


async def _tell(conversation: Conversation, send: Any) -> None:
    async for frame in conversation.told():
        await send({"type": "websocket.send", "text": _encode(_plain(frame)).decode()})


def _plain(frame: Mapping[str, object]) -> Mapping[str, object]:
    """A frame with its error, if any, as a problem like in every answer of the API."""
    error = frame.get("error")
    return {**frame, "error": msgspec.Raw(problem(error).body)} if isinstance(error, FleetError) else frame


def _end_of(part: "asyncio.Future[None]") -> tuple[int, str]:
    """Close code and reason of a stream after the end of one of its parts."""
    match part.exception():
        case None:
            return 1000, ""
        case FleetError() as error:
            return close_code(error), error.message[:120]
        case OSError():
            return 1000, ""
        case _NotText():
            return _UNSUPPORTED, "Frames must be text messages of JSON"
        case error:
            _log.error("A live stream failed", exc_info=error)
            return _INTERNAL, "The server failed; its log has the error"


def check(scope: Any, origins: Collection[str]) -> list[str]:
    """Checks an opening handshake; returns the tokens from a browser's subprotocols.

    Raises:
        NotAuthorised: a page of an origin that is not configured.
        Refused: a path without a stream, or no supported subprotocol.
    """
    if scope["path"] != PATH:
        raise Refused(f"WebSockets are served at {PATH}", code="operation_unknown")
    shown = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    browser.check_origin(shown, origins, "services.api")
    offered = scope.get("subprotocols", [])
    if SUBPROTOCOL not in offered:
        raise Refused(f"Offer the subprotocol {SUBPROTOCOL}", code="protocol_violation")
    return browser.tokens(offered)


async def refuse(send: Any, error: FleetError, *, browser: bool) -> None:
    """Refuses the handshake with an HTTP answer.

    A browser hides that from its script: then the handshake is completed, and the close code gives the reason.
    """
    if browser:
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        await send({"type": "websocket.close", "code": close_code(error), "reason": error.message[:120]})
        return
    answer = problem(error)
    headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in answer.headers.items()]
    await send({"type": "websocket.http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": answer.body})
