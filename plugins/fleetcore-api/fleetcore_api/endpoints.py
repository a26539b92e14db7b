"""The routes of a table of calls as an ASGI application; what it does not have goes to another one."""

import hashlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router

from fleetcore.calls.caller import Caller
from fleetcore.calls.table import Call, Table, admit, invoke
from fleetcore.errors import FleetError, Refused
from fleetcore.frontends.describe import describe, to_json
from fleetcore_api.gate import KEPT, KeptAnswer
from fleetcore_api.parameters import named
from fleetcore_api.problems import Answer, problem
from fleetcore_api.respond import answered, chosen, format_of, values_of
from fleetcore_api.site import Site
from fleetcore_api.streams import EventStream

_log = logging.getLogger(__name__)
PREFIX = "/api/v1"
_NAMED = re.compile(r"\{\w+\}")
#: A body that is bytes.
_OCTETS = "application/octet-stream"


def router(table: Table, site: Site, otherwise: Any) -> Router:
    """The application; ``otherwise`` answers what no call has."""
    methods: dict[str, dict[str, list[Call]]] = {}
    for call in table:
        if call.path:
            methods.setdefault(call.path, {}).setdefault(call.method, []).append(call)
    read = {_NAMED.sub("{}", path) for path, calls in methods.items() if "GET" in calls}
    routes = [
        Route(PREFIX + path, _Endpoint(calls, site, located=f"{_NAMED.sub('{}', path)}/{{}}" in read))
        for path, calls in methods.items()
    ]
    routes.append(Route(f"{PREFIX}/calls", _Catalogue(table)))
    return Router(routes, default=otherwise, redirect_slashes=False)


class _Catalogue:
    """The table itself, so that a client can learn what the fleet's plugins add; for every token."""

    def __init__(self, table: Table) -> None:
        self._content = to_json(describe(call for call in table if call.path))
        self._tag = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        headers = {"etag": self._tag, "cache-control": "no-cache"}
        if request.method not in ("GET", "HEAD"):
            refusal = Refused(f"{request.method} is not served at this path", code="operation_unknown")
            answer = _response(problem(refusal, status=405, headers={"allow": "GET, HEAD"}))
        elif request.headers.get("if-none-match") == self._tag:
            answer = Response(status_code=304, headers=headers)
        else:
            answer = Response(self._content, headers={**headers, "content-type": "application/json"})
        await answer(scope, receive, send)


def streamed(table: Table) -> Callable[[str, str], bool]:
    """Says of a method and a path whether a call takes the body piece by piece."""
    calls = [call for call in table if call.path and call.stream]
    found = [(call.method, re.compile(PREFIX + _NAMED.sub("[^/]+", call.path))) for call in calls]
    return lambda method, path: any(method == one and pattern.fullmatch(path) for one, pattern in found)


class _Endpoint:
    """One path, with the calls of each of its methods."""

    def __init__(self, calls: Mapping[str, Sequence[Call]], site: Site, *, located: bool) -> None:
        self._calls, self._site, self._located = dict(calls), site, located
        if "GET" in calls and not any(call.is_stream for call in calls["GET"]):
            self._calls["HEAD"] = calls["GET"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        answer: Response | EventStream
        try:
            answer = await self._respond(request)
        except FleetError as error:
            answer = _response(problem(error))
        except Exception as error:  # noqa: BLE001  # a fault of ours is answered too
            _log.error("%s %s failed", request.method, scope["path"], exc_info=error)
            answer = _response(problem(FleetError("The server made a mistake; it is in its log")))
        await answer(scope, receive, send)

    async def _respond(self, request: Request) -> Response | EventStream:
        calls = self._calls.get(request.method)
        if calls is None:
            refusal = Refused(f"{request.method} is not served at this path", code="operation_unknown")
            return _response(problem(refusal, status=405, headers={"allow": ", ".join(sorted(self._calls))}))
        call, query = chosen(calls, request.scope["query_string"])
        operators, token = self._site.fleet.operators, request.scope["auth"]
        caller = Caller(
            self._site.fleet,
            request.scope["user"],
            renew=lambda: operators.authenticate(token),
            watch=lambda: operators.watch(token),
            max_wait_s=self._site.config.command_wait_s,
        )
        admit(call, caller)
        kept: KeptAnswer | None = request.scope.get(KEPT)
        if kept is not None:
            kept.passed = True
            return Response(status_code=204)  # the gate sends the kept one
        form, query = format_of(call, query)
        values = values_of(
            call,
            path={name: named(text) for name, text in request.path_params.items()},
            query=query,
            headers=dict(request.scope["headers"]),
            body=b"" if call.stream else await request.body(),
            content=_content(request) if call.stream else None,
        )
        found = await invoke(call, caller, values)
        if call.is_stream:
            return EventStream(self._site, found, lambda after: invoke(call, caller, {**values, "after": after}))
        answer = answered(call, found, located=self._located, format=form)
        return Response(answer.body, answer.status, dict(answer.headers))


def _content(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces; raises Refused for a media type that is not that of bytes."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != _OCTETS:
        raise Refused(f"The body is sent as {_OCTETS}", code="media_type_unsupported")
    return _pieces(request)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect as error:
        raise Refused("The upload was cut off", code="payload_unreadable") from error


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers))
