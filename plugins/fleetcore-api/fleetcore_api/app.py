"""Assembles the API: the routes of the table of calls, the other pages, and the middleware before all."""

import hashlib
from functools import lru_cache, partial
from typing import Any

import msgspec
from starlette.routing import Route, Router

from fleetcore.calls.caller import Caller
from fleetcore.calls.fleet_table import of_fleet
from fleetcore.calls.table import Call
from fleetcore.errors import Refused
from fleetcore.frontends.describe import describe, to_json
from fleetcore.model.operator import Permission
from fleetcore_api import metrics
from fleetcore_api.app_state import AppState
from fleetcore_api.callers import caller_of
from fleetcore_api.endpoints import PREFIX, Page, refused, routes, streamed
from fleetcore_api.openapi import document, methods_at
from fleetcore_api.problems import problem
from fleetcore_api.request_middleware import HEADERS, RequestMiddleware
from fleetcore_api.respond import Answered


def build(state: AppState) -> RequestMiddleware:
    """The ASGI application."""
    table = of_fleet(state.fleet.host)
    described, encoded, catalogue = _descriptions(tuple(table))
    pages = {
        f"{PREFIX}/openapi.json": _constant(encoded),
        f"{PREFIX}/calls": _constant(catalogue),
        "/metrics": partial(_metrics, state),
        "/healthz": _health,
        "/readyz": partial(_readiness, state),
    }
    beside = [Route(path, Page(answer)) for path, answer in pages.items()]
    router = Router([*routes(table, state), *beside], default=_nowhere, redirect_slashes=False)
    return RequestMiddleware(router, state, partial(methods_at, described), streamed(table))


@lru_cache(maxsize=2)
def _descriptions(calls: tuple[Call, ...]) -> tuple[dict[str, Any], bytes, bytes]:
    """The OpenAPI document, as it is and as JSON, and the catalogue; made once for all listeners of a process."""
    described = document(calls)
    return described, msgspec.json.encode(described), to_json(describe(call for call in calls if call.path))


def _constant(content: bytes) -> Any:
    """A page that does not change while the server runs, with an ETag."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}

    async def answer(scope: Any) -> Answered:
        if scope[HEADERS].get("if-none-match") == tag:
            return Answered(304, headers=headers)
        return Answered(200, content, {**headers, "content-type": "application/json"})

    return answer


async def _metrics(state: AppState, scope: Any) -> Answered:
    caller: Caller = caller_of(state, scope)
    caller.everywhere("metrics", Permission.SERVER_READ)
    return Answered(200, (await metrics.text(state.fleet)).encode(), {"content-type": metrics.MEDIA_TYPE})


async def _health(_scope: Any) -> Answered:
    """Answers 200 while the process runs."""
    return Answered(200, b'{"status":"ok","waiting_for":[]}', {"content-type": "application/json"})


async def _readiness(state: AppState, _scope: Any) -> Answered:
    """200 once every part of the server works, else 503 with the parts that do not.

    Their reasons are in `fleetcore doctor`, for operators: this page is public.
    """
    waiting = list(await state.fleet.readiness.waiting_for())
    if state.closing.is_set():
        waiting.append("closing")
    body = {"status": "not ready" if waiting else "ready", "waiting_for": waiting}
    return Answered(503 if waiting else 200, msgspec.json.encode(body), {"content-type": "application/json"})


async def _nowhere(scope: Any, receive: Any, send: Any) -> None:
    await refused(problem(Refused("Nothing is served at this path", code="operation_unknown")))(scope, receive, send)
