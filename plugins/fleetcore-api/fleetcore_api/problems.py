"""Refusals as problem documents (RFC 9457), with the status from the one registry of codes."""

from collections.abc import Mapping
from math import ceil

import msgspec

from fleetcore.errors import CODES, FleetError, Unavailable

MEDIA_TYPE = "application/problem+json"
#: Seconds to wait if the error names none.
_RETRY_AFTER_S = {429: 1.0, 503: 5.0, 507: 30.0}
_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))


class Answer(msgspec.Struct, kw_only=True, frozen=True):
    """A problem ready to be sent."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def status_of(error: FleetError) -> int:
    """The HTTP status of an error; a code with status 202 becomes a refusal here."""
    status = CODES[error.code].http if error.code in CODES else 500
    return status if status >= 400 else 409


def problem(error: FleetError, *, status: int | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """The answer to a request that ended in an error; ``status`` if HTTP has a finer one (405)."""
    code = error.code if error.code in CODES else "internal"
    status = status_of(error) if status is None else status
    body: dict[str, object] = {
        "type": f"urn:fleetcore:error:{code}",
        "title": CODES[code].title,
        "status": status,
        "code": code,
        "detail": error.message,
    }
    if error.remedy:
        body["remedy"] = error.remedy
    ids = {name: value for name, value in error.ids.items() if isinstance(value, _PLAIN)}
    if ids:
        body["ids"] = ids
    found = {"content-type": MEDIA_TYPE, "cache-control": "no-store", **(headers or {})}
    if status == 401:
        found["www-authenticate"] = 'Bearer realm="fleetcore"'
    if status in _RETRY_AFTER_S:
        seconds = error.retry_after_s if isinstance(error, Unavailable) else _RETRY_AFTER_S[status]
        found["retry-after"] = str(max(1, ceil(seconds)))
    return Answer(status=status, body=msgspec.json.encode(body), headers=found)
