"""A plane's reply to a call as an HTTP answer."""

from aiohttp import web

from fleetcore.errors import CODES
from fleetcore.model.message import Rejected, Reply
from fleetcore_http.answers import empty, json_answer, quoted
from fleetcore_http.problems import problem, problem_answer, retry_after


def reply_answer(reply: Reply) -> web.Response:
    """Status, body, ETag and Retry-After of ``reply``.

    The wait comes from the member ``retry_after_s`` of the problem or body, if there is one.
    """
    if reply.error is not None:
        status = reply.status if reply.status >= 400 else _status_of(reply.error.get("code"))
        return problem_answer(status, reply.error, reply.error.get("retry_after_s"))
    if reply.status >= 400:
        return problem(Rejected(code="internal", reason="An internal error"))
    response = (
        empty(reply.status if reply.status != 200 else 204)
        if reply.body is None
        else json_answer(reply.status, reply.body)
    )
    if reply.etag is not None:
        response.headers["ETag"] = quoted(reply.etag)
    wait = retry_after(reply.status, reply.body.get("retry_after_s") if reply.body is not None else None)
    if wait is not None:
        response.headers["Retry-After"] = wait
    return response


def _status_of(code: object) -> int:
    known = CODES.get(code) if isinstance(code, str) else None
    return known.http if known is not None and known.http >= 400 else 500
