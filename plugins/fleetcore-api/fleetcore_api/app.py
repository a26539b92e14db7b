"""Puts the API together: routes, the door, the answer to each error, the OpenAPI document."""

import contextlib
import difflib
import logging
from functools import partial
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException

from fleetcore.calls.table import of_fleet
from fleetcore.errors import FleetError, Refused
from fleetcore_api.access import Access, door
from fleetcore_api.endpoints import router, streamed
from fleetcore_api.gate import KEPT, Gate, KeptAnswer
from fleetcore_api.models import ALPHABETS, In
from fleetcore_api.openapi import CONFIG, document, document_route, methods_at, queries_of
from fleetcore_api.problems import MEDIA_TYPE, problem
from fleetcore_api.routes import (
    metrics,
    queries,
    seen,
    server,
)
from fleetcore_api.site import Site

_log = logging.getLogger(__name__)

#: Everything below /api/v1; the matrix test walks through it.
ROUTES = [
    one
    for module in (
        queries, seen,
    )
    for one in module.HANDLERS
]  # fmt: skip


def provide_access(request: Request[Any, Any, Any]) -> Access:
    """The caller's way to the fleet."""
    return Access(request.app.state.site, request.scope["user"], request.scope["auth"])


async def before(request: Request[Any, Any, Any]) -> Response[None] | None:
    """What comes between the door and the handler: a first answer that is kept takes the handler's place."""
    kept: KeptAnswer | None = request.scope.get(KEPT)  # type: ignore[assignment]  # the gate's own member
    if kept is not None:
        kept.passed = True
        return Response(None, status_code=204)  # the gate sends the kept one
    await strictly(request)
    return None


async def strictly(request: Request[Any, Any, Any]) -> None:
    """Refuses what a handler would silently pass over or convert.

    A query parameter that the route does not have, ``wheer=`` for one, would otherwise list everything; and a body that
    fits its model only after a conversion is none: 0 is not false, "5" is not 5.
    """
    known = request.app.state.queries.get(request.route_handler.handler_name, frozenset())
    for name in request.query_params.keys() - known:
        near = difflib.get_close_matches(name, known, 1)
        raise Refused(
            f"This route has no query parameter {name[:64]!r}",
            remedy=f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(sorted(known)) or 'none'}",
        )
    field = request.route_handler.parsed_data_field
    model = None if field is None else field.annotation
    if not (isinstance(model, type) and issubclass(model, In)):
        return
    try:
        msgspec.convert(await request.json(), model)
    except msgspec.ValidationError as error:
        with contextlib.suppress(msgspec.ValidationError):
            msgspec.convert(await request.json(), model, strict=False)
            raise Refused(str(error)) from None  # else the framework says what is wrong, member by member


def build(site: Site) -> Gate:
    """The ASGI application."""
    api = Router("/api/v1", route_handlers=[*ROUTES, document_route])
    app = Litestar(
        [api, *server.HANDLERS, *metrics.HANDLERS],
        dependencies={"access": Provide(provide_access, sync_to_thread=False)},
        guards=[door],
        before_request=before,
        openapi_config=CONFIG,
        state=State({"site": site}),
        exception_handlers={FleetError: _fleet_error, HTTPException: _http_error, Exception: _unexpected},
        logging_config=None,
        multipart_form_part_limit=1,
    )
    table = of_fleet(site.fleet.host)
    app.state.document = document(app, table)
    app.state.queries = queries_of(app.state.document)
    return Gate(router(table, site, app), site, partial(methods_at, app.state.document), streamed(table))


def _response(error: FleetError, status: int | None = None, **headers: str) -> Response[bytes]:
    answer = problem(error, status=status, headers=headers)
    return Response(answer.body, status_code=answer.status, headers=dict(answer.headers), media_type=MEDIA_TYPE)


def _fleet_error(_request: Request[Any, Any, Any], error: FleetError) -> Response[bytes]:
    return _response(error)


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    if isinstance(error, ValidationException):
        return _response(_invalid(error))
    if isinstance(error, MethodNotAllowedException):
        refusal = Refused(f"{request.method} is not served at this path", code="operation_unknown")
        allowed = methods_at(request.app.state.document, request.scope["path"])
        return _response(refusal, 405, Allow=", ".join(allowed))
    if isinstance(error, NotFoundException):
        return _response(Refused("Nothing is served at this path", code="operation_unknown"))
    code = {413: "limit_exceeded", 415: "media_type_unsupported", 400: "payload_unreadable"}.get(error.status_code)
    if code is None:
        return _unexpected(request, error)
    return _response(Refused(error.detail or "The request cannot be read", code=code))


def _invalid(error: ValidationException) -> Refused:
    """What of a request has the wrong form, member by member."""
    extra = error.extra if isinstance(error.extra, list) else []
    found = [
        {"at": str(one.get("key", "")), "message": str(one.get("message", ""))[:500]}
        for one in extra[:20]
        if isinstance(one, dict)
    ]
    if any(one["at"] == "data" and one["message"] == "'data'" for one in found):  # the framework's words for none
        return Refused("The request has no body", remedy="Send a JSON object, {} for one without members")
    for pattern, alphabet in ALPHABETS.items():
        for one in found:
            if repr(pattern) in one["message"]:
                one["message"] = f"a name has {alphabet}"
                return Refused(
                    f"{one['at']} is no valid name", code="name_invalid", remedy=f"Use {alphabet}", errors=found
                )
    detail = "; ".join(f"{one['at']}: {one['message']}" if one["at"] else one["message"] for one in found)
    return Refused(detail or "The request has the wrong form", errors=found)


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    _log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return _response(FleetError("The server made a mistake; it is in its log"))
