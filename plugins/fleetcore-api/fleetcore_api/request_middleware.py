"""Runs before every handler: checks the path, the caller, the body, repeated requests and positions.

It is outside of the web framework, so no other code sees a request before these checks.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import unquote_to_bytes

from attrs import define

from fleetcore.errors import FleetError, NotAuthenticated, Refused, Unavailable
from fleetcore.fleet.rights import Rights
from fleetcore.listening.addresses import network
from fleetcore.wire.headers import Headers
from fleetcore_api import live
from fleetcore_api.app_state import AppState
from fleetcore_api.idempotency import IdempotencyStore, check_key
from fleetcore_api.problems import Answer, problem

_log = logging.getLogger(__name__)
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Public paths: the health of the server, and the description of the API.
OPEN = frozenset({"/healthz", "/readyz", "/api/v1/openapi.json"})
_POSITION = b"fleetcore-position"
#: The member of a request's scope with its parsed headers; no other code reads the raw ones.
HEADERS = "fleetcore.headers"
#: The member of a request's scope that says that its answer is stored already.
KEPT = "fleetcore.kept"
#: The member that names the one-time members of its answer.
SHOWN_ONCE = "fleetcore.shown-once"

Scope = Any
Receive = Any
Send = Any


@define
class KeptAnswer:
    """A stored answer on its way through the guard of its route; ``passed`` once the guard has admitted it."""

    parts: list[dict[str, Any]]
    passed: bool = False


class RequestMiddleware:
    """The ASGI application that uvicorn calls."""

    def __init__(
        self,
        inner: Any,
        state: AppState,
        methods: Callable[[str], Sequence[str]],
        streamed: Callable[[str, str], bool] = lambda _method, _path: False,
    ) -> None:
        """``methods`` returns those of a path; ``streamed`` says whether a call reads the body piece by piece.

        The result of such a call is identified by its digest, so it needs no key.
        """
        self._inner, self._state, self._methods, self._streamed = inner, state, methods, streamed
        self._answers = IdempotencyStore(state.fleet.storage, state.fleet.clock)
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or runs one live stream."""
        if scope["type"] == "websocket":
            await self._converse(scope, receive, send)
            return
        try:
            await self._pass(scope, self._state.until_end(receive), send)
        except FleetError as error:
            await _answer(send, problem(error))

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            scope[HEADERS] = headers = Headers.of(scope["headers"])
        except Refused as error:
            # The start of the next request may be uncertain.
            await _answer(send, problem(error, headers={"connection": "close"}))
            return
        scope["path"] = _path(scope)
        if scope["path"] in OPEN and scope["method"] == "GET":
            await self._inner(scope, receive, send)
            return
        async with self._admitted(scope, headers.credential("bearer")) as rights:
            await self._serve(rights, headers, scope, receive, send)

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the handshake, which is already in the scope
        shown: list[str] = []
        try:
            headers = Headers.of(scope["headers"])
            scope["path"] = _path(scope)
            shown = live.check(scope, self._state.config.origins)
            bearer = headers.credential("bearer")
            if len(shown) + (bearer is not None) > 1:
                raise NotAuthenticated("More than one token was sent")
            async with self._admitted(scope, shown[0] if shown else bearer):
                await live.LiveStream(self._state)(scope, receive, send)
        except FleetError as error:
            await live.refuse(send, error, browser=bool(shown))

    @asynccontextmanager
    async def _admitted(self, scope: Scope, token: str | None) -> AsyncIterator[Rights]:
        """The rights of a token's principal, while its request, or its stream, lasts."""
        scope["user"] = rights = await self._who(scope, token)
        self._state.check_rate(rights.principal)
        with self._under_way(rights.principal):
            yield rights

    @contextmanager
    def _under_way(self, principal: str) -> Iterator[None]:
        """Counts a request, or a stream, of a principal as under way."""
        most = self._state.fleet.listening.limits.per_identity
        if self._open[principal] >= most:
            self._state.fleet.listening.note(
                self._state.name, "per_identity", f"{principal} has {most} requests under way"
            )
            raise Unavailable(
                f"This principal has {most} requests under way",
                code="rate_limited",
                remedy="Wait for their answers, close unread event streams, or raise [listeners] per_identity",
                limit=most,
                unit="requests",
                scope="principal",
            )
        self._open[principal] += 1
        try:
            yield
        finally:
            self._open[principal] -= 1
            if not self._open[principal]:
                del self._open[principal]

    async def _serve(self, rights: Rights, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS" and (allowed := self._methods(scope["path"])):
            await _answer(send, Answer(status=204, body=b"", headers={"allow": ", ".join(allowed)}))
            return
        if scope["method"] in _READS:
            await self._wait(headers)
            await self._inner(scope, receive, send)
            return
        await self._wait(headers)
        key = check_key(headers.idempotency_key) if scope["method"] == "POST" else None
        if self._streamed(scope["method"], scope["path"]):
            await self._inner(scope, receive, self._with_position(send))
            return
        body = await _read(receive, headers, self._state)
        if key is None:
            await self._inner(scope, _replay(body, receive), self._with_position(send))
            return
        await self._once(key, rights, scope, body, receive, send)

    async def _who(self, scope: Scope, token: str | None) -> Rights:
        try:
            if token is None:
                raise NotAuthenticated("A bearer token is required", remedy="Send Authorization: Bearer fc_pat_…")
            scope["auth"] = token
            return await self._state.fleet.operators.authenticate(scope["auth"])
        except NotAuthenticated:
            address = scope["client"][0] if scope.get("client") else ""
            self._state.fleet.denials.note("nobody", f"api from {address}", "not_authenticated")
            too_many = "Too many refused tokens from this address"
            self._state.failures.check(network(address), too_many, unit="attempts/min", scope="address")
            raise

    async def _wait(self, headers: Headers) -> None:
        text = headers.get(_POSITION.decode())
        if text is None:
            return
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise Refused("Fleetcore-Position must be a number from a write's answer")
        await self._state.reach(int(text))

    async def _once(self, key: str, rights: Rights, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Runs a request with a new key; for a known key returns the first answer again, if still allowed."""
        name = self._answers.name(rights.principal, scope["method"], scope["path"], key)
        match = scope[HEADERS].get("if-match")
        sent = (body, scope["query_string"], *(() if match is None else (match.encode("latin-1"),)))
        digest = hashlib.sha256(b"\0".join(sent)).hexdigest()
        async with self._answers.turn(name):
            kept = await self._answers.find(name, digest, rights)
            parts: list[dict[str, Any]] = []

            async def collect(message: dict[str, Any]) -> None:
                parts.append(message)

            if kept is None:
                await self._inner(scope, _replay(body, receive), self._with_position(collect))
                await self._answers.keep(name, digest, parts, rights, secret=scope.get(SHOWN_ONCE, ()))
            else:
                # Through the route's own guard, which may refuse by now.
                scope[KEPT] = answer = KeptAnswer(kept)
                await self._inner(scope, _replay(body, receive), collect)
                if answer.passed:
                    parts = answer.parts
        for message in parts:
            await send(message)

    def _with_position(self, send: Send) -> Send:
        """Adds the fleet's position to answers of successful writes."""

        async def sending(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                position = await self._state.fleet.storage.position()
                message["headers"] = [*message["headers"], (_POSITION, str(position).encode())]
            await send(message)

        return sending


def _path(scope: Scope) -> str:
    """The path with its segments apart: a slash in a group's name stays ``%2F`` here.

    Raises Refused for a path that is not UTF-8 or contains control characters.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    segments = [unquote_to_bytes(item) for item in raw.split(b"?")[0].split(b"/")]
    try:
        path = "/".join(segment.decode().replace("%", "%25").replace("/", "%2F") for segment in segments)
    except UnicodeDecodeError as error:
        raise Refused("The path is not UTF-8", code="payload_unreadable") from error
    if any(item < " " or item == "\x7f" for item in path):
        raise Refused("The path contains control characters", code="payload_unreadable")
    return path


async def _read(receive: Receive, headers: Headers, state: AppState) -> bytes:
    most = state.config.body_bytes
    pieces, size = [], 0
    if (headers.content_length or 0) > most:
        raise _too_long(most)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise state.cut_off("request")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > most:
            raise _too_long(most)
        if not message.get("more_body"):
            return b"".join(pieces)


def _too_long(most: int) -> Refused:
    return Refused(
        f"A body may have at most {most} bytes", code="limit_exceeded", limit=most, unit="bytes", scope="request"
    )


def _replay(body: bytes, then: Receive) -> Receive:
    """A receive that returns the body read before, and then calls ``then``, which reports the disconnect."""
    given = False

    async def receive() -> Any:
        nonlocal given
        if given:
            return await then()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _answer(send: Send, answer: Answer) -> None:
    headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in answer.headers.items()]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
