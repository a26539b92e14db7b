"""The routes of a table of calls as an ASGI application; what it does not have goes to another one."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from fleetcore.calls.caller import Caller
from fleetcore.calls.table import Call, Table, admit
from fleetcore.errors import FleetError, Refused
from fleetcore_api.gate import KEPT, KeptAnswer
from fleetcore_api.parameters import named
from fleetcore_api.problems import Answer, problem
from fleetcore_api.respond import chosen, respond
from fleetcore_api.site import Site

_log = logging.getLogger(__name__)
PREFIX = "/api/v1"
_NAMED = re.compile(r"\{\w+\}")


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
    return Router(routes, default=otherwise, redirect_slashes=False)


class _Endpoint:
    """One path, with the calls of each of its methods."""

    def __init__(self, calls: Mapping[str, Sequence[Call]], site: Site, *, located: bool) -> None:
        self._calls, self._site, self._located = dict(calls), site, located
        if "GET" in calls:
            self._calls["HEAD"] = calls["GET"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        try:
            answer = await self._respond(request)
        except FleetError as error:
            answer = _response(problem(error))
        except Exception as error:  # noqa: BLE001  # a fault of ours is answered too
            _log.error("%s %s failed", request.method, scope["path"], exc_info=error)
            answer = _response(problem(FleetError("The server made a mistake; it is in its log")))
        await answer(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
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
        answered = await respond(
            call,
            caller,
            path={name: named(text) for name, text in request.path_params.items()},
            query=query,
            headers=dict(request.scope["headers"]),
            body=await request.body(),
            located=self._located,
        )
        return Response(answered.body, answered.status, dict(answered.headers))


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers))
