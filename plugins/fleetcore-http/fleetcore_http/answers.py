"""Outcomes and replies as HTTP answers (wire.md §4): status, headers and body."""

from collections.abc import Mapping

from aiohttp import web

from fleetcore.model.message import Accepted
from fleetcore.wire.replies import partial
from fleetcore.wire.strict_json import dumps

#: For every answer without a body; made once, aiohttp copies it.
_PLAIN = {"Server": "fleetcore"}
_JSON = {"Content-Type": "application/json", "Cache-Control": "no-store", "Server": "fleetcore"}


def empty(status: int = 204) -> web.Response:
    """An answer without a body."""
    return web.Response(status=status, headers=_PLAIN)


def json_answer(status: int, body: Mapping[str, object]) -> web.Response:
    """A JSON answer that must not be cached: it is about one device at one moment."""
    return web.Response(status=status, body=dumps(dict(body)), headers=_JSON)


def accepted(outcome: Accepted) -> web.Response:
    """204; 200 if some readings were refused, or if the message was late and is recorded as late."""
    if outcome.refused:
        return json_answer(200, partial(outcome))
    answer = json_answer(200, {"late": True}) if outcome.late else empty()
    if outcome.etag is not None:
        answer.headers["ETag"] = quoted(outcome.etag)
    return answer


def quoted(etag: str) -> str:
    """``etag`` as written in the header (RFC 9110 §8.8.3)."""
    return etag if etag.startswith('"') else f'"{etag}"'


def matches(header: str, etag: str) -> bool:
    """Whether an If-None-Match header matches ``etag``, by weak comparison (RFC 9110 §13.1.2)."""
    if header.strip() == "*":
        return True
    return any(candidate.strip().removeprefix("W/") == etag for candidate in header.split(","))


def pending_header(pending: Mapping[str, int]) -> str:
    """``Fleetcore-Pending``: ``commands=2, desired=13``; zeros are left out."""
    return ", ".join([f"{name}={count}" for name, count in pending.items() if count])
