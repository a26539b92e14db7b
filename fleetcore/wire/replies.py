"""Outcomes in the form that devices receive: replies, and problem documents (RFC 9457).

Every protocol uses them, so a refusal has the same content on each.
"""

from collections.abc import Mapping

from fleetcore.errors import CODES, FleetError, NotAuthenticated, NotAuthorised, NotFound, Refused, Unavailable
from fleetcore.model.message import Accepted, Dropped, Outcome, Rejected, Reply


def problem(outcome: Outcome, **members: object) -> dict[str, object]:
    """The wire form of a refusal (wire.md §4): ``code title status type …`` plus ``members`` that are not None.

    It also describes an outcome that is not a complete refusal: refused readings, or a message without effect.
    """
    if isinstance(outcome, Accepted):
        first = outcome.refused[0].code if outcome.refused else "internal"
        body: dict[str, object] = {"code": first, "title": CODES[first].title, "status": 200, **partial(outcome)}
        body["type"] = f"urn:fleetcore:error:{first}"
        return body | _given(members)
    if isinstance(outcome, Dropped):
        return {"code": "internal", "title": outcome.reason, "status": 200} | _given(members)
    code = CODES[outcome.code]
    body = {
        "type": f"urn:fleetcore:error:{outcome.code}",
        "title": code.title,
        "status": code.http,
        "code": outcome.code,
        "detail": outcome.reason,
    }
    if outcome.pointer:
        body["errors"] = [{"pointer": outcome.pointer, "code": outcome.code}]
    if outcome.refused:
        body |= {"stored": 0, "rejected": _rejected(outcome)}
    extra = {
        "limit": outcome.limit,
        "unit": outcome.unit,
        "scope": outcome.scope,
        "version": outcome.version,
        "retry_after_s": outcome.retry_after_s,
    }
    return body | _given(extra) | _given(members)


def reply_to(outcome: Outcome) -> Reply:
    """The reply to a message with this outcome."""
    if isinstance(outcome, Rejected):
        return refusal(outcome)
    if isinstance(outcome, Dropped):
        return Reply(status=204)
    if outcome.refused:
        return Reply(status=200, body=partial(outcome))
    if outcome.late:
        return Reply(status=200, body={"late": True})
    return Reply(status=204, version=outcome.version, etag=outcome.etag)


def refusal(rejected: Rejected) -> Reply:
    """The reply of a refusal."""
    return Reply(status=CODES[rejected.code].http, error=problem(rejected), version=rejected.version)


def rejection(error: FleetError) -> Rejected:
    """The outcome for a device whose message raised the error."""
    limit, unit, scope = error.ids.get("limit"), error.ids.get("unit"), error.ids.get("scope")
    version = error.ids.get("version")
    return Rejected(
        code=error.code if error.code in CODES else "internal",
        reason=error.message,
        pointer=str(error.ids.get("pointer", "")),
        limit=limit if isinstance(limit, int) else None,
        unit=unit if isinstance(unit, str) else None,
        scope=scope if isinstance(scope, str) else None,
        version=version if isinstance(version, int) else None,
        retry_after_s=error.retry_after_s if isinstance(error, Unavailable) else None,
    )


def error_of(reply: Reply) -> FleetError:
    """A refusal as the exception of the device client's interface."""
    members = reply.error or {}
    code = str(members.get("code"))
    code = code if code in CODES else "internal"
    text = str(members.get("reason") or members.get("detail") or members.get("title") or f"status {reply.status}")
    if reply.status in {429, 503, 507}:
        wait = members.get("retry_after_s")
        return Unavailable(text, code=code, retry_after_s=float(wait) if isinstance(wait, int | float) else 1.0)
    kinds: Mapping[int, type[FleetError]] = {401: NotAuthenticated, 403: NotAuthorised, 404: NotFound}
    return kinds.get(reply.status, Refused)(text, code=code)


def partial(outcome: Accepted) -> dict[str, object]:
    """The number of accepted readings, and the refused ones, with reasons."""
    return {"stored": outcome.stored, "rejected": _rejected(outcome)}


def _rejected(outcome: Accepted | Rejected) -> list[dict[str, object]]:
    return [
        {"index": point.index, "metric": point.metric, "code": point.code, **_given({"detail": point.reason or None})}
        for point in outcome.refused
    ]


def _given(members: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}
