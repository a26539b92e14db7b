"""Refusals as problem documents (RFC 9457): the status from the one registry of codes, never an HTML page."""

from collections.abc import Mapping
from math import ceil
from types import MappingProxyType

from aiohttp import web

from fleetcore.errors import CODES
from fleetcore.model.message import Rejected
from fleetcore.wire import replies
from fleetcore.wire.strict_json import dumps

#: Seconds to wait if the plane names none: a token bucket refills within one, a full disk does not.
_RETRY_AFTER_S: Mapping[int, int] = MappingProxyType({202: 60, 429: 1, 503: 5, 507: 30})


def retry_after(status: int, seconds: object) -> str | None:
    """The Retry-After header (RFC 9110 §10.2.3) of an answer with ``status``, whole seconds rounded up, or None."""
    if status not in _RETRY_AFTER_S:
        return None
    known = isinstance(seconds, int | float) and seconds == seconds and 0 <= seconds < 86_400  # noqa: PLR0124 - NaN
    return str(max(1, ceil(seconds))) if known else str(_RETRY_AFTER_S[status])  # type: ignore[call-overload]  # known


def problem(refusal: Rejected, *, status: int | None = None, **members: object) -> web.Response:
    """The answer to a refused request; ``status`` if HTTP has a finer one than the code (405)."""
    if refusal.refused:
        status = 422
    if status is None:
        status = CODES[refusal.code].http if refusal.code in CODES else 500
    if status < 400:  # ``enrollment_pending`` is an answer on enrolment routes, a refusal elsewhere
        status = 403
    body = {**replies.problem(refusal, **members), "status": status}
    return problem_answer(status, body, refusal.retry_after_s)


def problem_answer(status: int, body: Mapping[str, object], retry_after_s: object = None) -> web.Response:
    """A ready problem as an answer."""
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store", "Server": "fleetcore"}
    wait = retry_after(status, retry_after_s)
    if wait is not None:
        headers["Retry-After"] = wait
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="fleetcore"'
    return web.Response(status=status, body=dumps(dict(body)), headers=headers)
