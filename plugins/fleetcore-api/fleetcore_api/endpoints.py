"""The routes of a table of calls as ASGI endpoints; only this module uses the web framework."""

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fleetcore.calls.table import Call, Table, admit, invoke
from fleetcore.errors import FleetError, Refused
from fleetcore.wire.headers import Headers
from fleetcore_api.app_state import AppState
from fleetcore_api.callers import caller_of
from fleetcore_api.problems import Answer, problem
from fleetcore_api.request_middleware import HEADERS, KEPT, SHOWN_ONCE, KeptAnswer
from fleetcore_api.respond import Answered, answered, chosen, format_of, values_of
from fleetcore_api.streams import EventStream, gone

_log = logging.getLogger(__name__)
PREFIX = "/api/v1"
_NAMED = re.compile(r"\{\w+\}")
#: A body that is bytes.
_OCTETS = ("application/octet-stream",)


def routes(table: Table, state: AppState) -> list[Route]:
    """A route for each path of the table."""
    methods: dict[str, dict[str, list[Call]]] = {}
    for call in table:
        if call.path:
            methods.setdefault(call.path, {}).setdefault(call.method, []).append(call)
    read = {_NAMED.sub("{}", path) for path, calls in methods.items() if "GET" in calls}
    return [
        Route(PREFIX + path, _Endpoint(calls, state, located=f"{_NAMED.sub('{}', path)}/{{}}" in read))
        for path, calls in methods.items()
    ]


def streamed(table: Table) -> Callable[[str, str], bool]:
    """Whether a call, given by method and path, reads the body piece by piece."""
    calls = [call for call in table if call.path and call.stream]
    found = [(call.method, re.compile(PREFIX + _NAMED.sub("[^/]+", call.path))) for call in calls]
    return lambda method, path: any(method == item and pattern.fullmatch(path) for item, pattern in found)


class Page:
    """A read-only path: ``answer(scope)`` returns the response."""

    def __init__(self, answer: Callable[[Any], Awaitable[Answered]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        if scope["method"] in ("GET", "HEAD"):
            await _guarded(scope, receive, send, self._respond(scope))
        else:
            await _not_served(scope["method"], ["GET"])(scope, receive, send)

    async def _respond(self, scope: Any) -> Response:
        found = await self._answer(scope)
        return Response(found.body, found.status, dict(found.headers))


class _Endpoint:
    """One path, with the calls of each of its methods."""

    def __init__(self, calls: Mapping[str, Sequence[Call]], state: AppState, *, located: bool) -> None:
        self._calls, self._state, self._located = dict(calls), state, located
        if "GET" in calls and not any(call.is_stream for call in calls["GET"]):
            self._calls["HEAD"] = calls["GET"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await _guarded(scope, receive, send, self._respond(Request(scope, receive)))

    async def _respond(self, request: Request) -> Response | EventStream:
        scope: Any = request.scope
        calls = self._calls.get(request.method)
        if calls is None:
            return _not_served(request.method, self._calls)
        call, query = chosen(calls, scope["query_string"])
        # A stream, and a body in pieces, detect a disconnect themselves.
        waits = not (call.is_stream or call.stream)
        caller = caller_of(self._state, scope, partial(gone, request.receive) if waits else None)
        admit(call, caller)
        kept: KeptAnswer | None = scope.get(KEPT)
        if kept is not None:
            kept.passed = True
            return Response(status_code=204)  # the middleware sends the stored one
        scope[SHOWN_ONCE] = call.declared.secret_fields
        form, query = format_of(call, query)
        values = values_of(
            call,
            path={name: _named(text) for name, text in request.path_params.items()},
            query=query,
            headers=scope[HEADERS],
            body=b"" if call.stream else await request.body(),
            content=_content(request, scope[HEADERS], self._state) if call.stream else None,
        )
        found = await invoke(call, caller, values)
        if call.is_stream:
            return EventStream(self._state, found, lambda after: invoke(call, caller, {**values, "after": after}))
        answer = answered(call, found, located=self._located, format=form)
        return Response(answer.body, answer.status, dict(answer.headers))


async def _guarded(scope: Any, receive: Any, send: Any, responding: Awaitable[Response | EventStream]) -> None:
    """Sends the result of a request, also a refusal or a fault of ours."""
    answer: Response | EventStream
    try:
        answer = await responding
    except FleetError as error:
        answer = refused(problem(error))
    except ClientDisconnect:
        return  # the client disconnected before it was answered
    except Exception as error:  # noqa: BLE001  # a fault of ours is answered too
        _log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
        answer = refused(problem(FleetError("The server failed; its log has the error")))
    await answer(scope, receive, send)


def refused(answer: Answer) -> Response:
    """A problem as the framework sends it."""
    return Response(answer.body, answer.status, dict(answer.headers))


def _not_served(method: str, allowed: Any) -> Response:
    refusal = Refused(f"{method} is not served at this path", code="operation_unknown")
    return refused(problem(refusal, status=405, headers={"allow": ", ".join(sorted(allowed))}))


def _named(text: str) -> str:
    """A name from a path: a slash within it was sent as ``%2F`` (see the middleware)."""
    return text.replace("%2F", "/").replace("%25", "%")


def _content(request: Request, headers: Headers, state: AppState) -> AsyncIterator[bytes]:
    """The body in pieces; raises Refused for any media type but that of bytes."""
    headers.coding(())
    headers.check_media_type(_OCTETS)
    return _pieces(request, state)


async def _pieces(request: Request, state: AppState) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect as error:
        raise state.cut_off("upload") from error
