"""The protocol of both clients: addresses, answers, refusals, events; it does no network I/O."""

import json
import ssl
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleetcore.errors import (
    Conflict,
    FleetError,
    IllegalTransition,
    NotAuthenticated,
    NotAuthorised,
    NotFound,
    Refused,
    Unavailable,
    VersionConflict,
)
from fleetcore.wire.endpoints import is_loopback

POSITION = "Fleetcore-Position"
#: How often a repeatable request is tried: a read, or a POST with its key.
ATTEMPTS = 4
TIMEOUT_S = 30.0
#: For a request whose body is sent in pieces.
UPLOAD_TIMEOUT_S = 600.0
#: The server's longest wait for a command's end; longer waits consist of several.
WAIT_S = 50.0

#: Codes of refusals that have the status of a conflict.
_REFUSED = (
    "command_expired", "manifest_expired", "manifest_required", "model_mismatch", "no_capacity", "requires_unmet",
    "rollback_refused", "too_late", "topology_cycle", "trust_expired", "trust_invalid", "version_mismatch",
)  # fmt: skip
_CLASSES: Mapping[str, type[FleetError]] = {
    "version_conflict": VersionConflict,
    "illegal_transition": IllegalTransition,
    "not_authenticated": NotAuthenticated,
    "not_authorised": NotAuthorised,
    **dict.fromkeys(_REFUSED, Refused),
}
_BY_STATUS: Mapping[int, type[FleetError]] = {404: NotFound, 409: Conflict, 412: VersionConflict}
#: The pause before reconnecting to a stream that was cut off.
AGAIN_S = 1.0
_AGAIN = frozenset({429, 502, 503, 504, 507})


def base_of(url: str) -> str:
    """The address of the API.

    Raises Refused for an invalid address, and for one that would send the token unencrypted.
    """
    remedy = "Write it as in https://fleet.example:8444"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise Refused(f"{url!r} is not an address of a server: {error}", remedy=remedy) from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise Refused(f"{url!r} is not an address of a server", remedy=remedy)
    if "@" in parts.netloc:
        raise Refused(
            "The address of a server must not contain a user or a password", remedy="Give the token separately"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise Refused(f"{url!r} would send the token unencrypted", remedy="Use https://")
    return parts.geturl().rstrip("/").removesuffix("/api/v1") + "/api/v1"


def trust(ca: str | Path | None) -> ssl.SSLContext:
    """A TLS context that trusts the fleet's CA, or the system's."""
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:
        raise Refused(
            f"The CA file {ca} cannot be read: {error}", remedy="Use pki/ca.pem of the data folder"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def now_s() -> float:
    """Seconds of a monotonic clock."""
    return time.monotonic()


def fresh_key() -> str:
    """An Idempotency-Key for one request and its retries."""
    return uuid.uuid4().hex


def again_after(status: int, headers: Mapping[str, str], attempt: int) -> float | None:
    """Seconds after which a refused request should be retried; None where it should not."""
    if status not in _AGAIN or attempt >= ATTEMPTS:
        return None
    text = headers.get("Retry-After", "")
    return min(float(text), 10.0) if text.isdigit() else 0.2 * 2**attempt


def refusal(status: int, body: bytes) -> FleetError:
    """The error in a problem document (RFC 9457)."""
    try:
        problem = json.loads(body)
        code, message = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        text = body[:200].decode("utf-8", "replace")
        return Unavailable(f"The server answered {status}: {text}", remedy="Is it a fleetcore server?")
    kind = _CLASSES.get(code) or _BY_STATUS.get(status)
    if kind is None:
        kind = Unavailable if status in _AGAIN else FleetError if status >= 500 else Refused
    ids = problem.get("ids")
    safe = {str(name): value for name, value in ids.items() if name not in _TAKEN} if isinstance(ids, dict) else {}
    return kind(message, code=code, remedy=str(problem.get("remedy", "")), **safe)


_TAKEN = frozenset({"message", "code", "remedy", "retry_after_s"})


def unreachable(url: str, error: Exception) -> Unavailable:
    """The error for a server that does not answer."""
    return Unavailable(
        f"{url} cannot be reached: {str(error) or type(error).__name__}",
        remedy="Is the server up, with [services.api], and is --ca its CA?",
    )


class Events:
    """Parses server-sent events by lines; ``last`` is the id to continue after, ``ended`` tells the stream's end."""

    def __init__(self) -> None:
        self.last: str | None = None
        self.ended = False
        self._id: str | None = None
        self._event = ""
        self._data: list[str] = []

    def take(self, line: str) -> dict[str, Any] | None:
        """The item that a line completes, if any.

        Raises NotFound where the feed after the last position is trimmed, and the error that ended the stream.
        """
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                self._id = value
            elif name == "event":
                self._event = value
            elif name == "data":
                self._data.append(value)
            return None
        data, self._data = "\n".join(self._data), []
        event, self._event = self._event, ""
        if self._id is not None:
            self.last, self._id = self._id, None
        found = json.loads(data) if data else None
        if event == "reset" and isinstance(found, dict):
            raise NotFound(str(found["detail"]), remedy=str(found["remedy"]), **found["ids"])
        if event == "error" and isinstance(found, dict):
            raise refusal(int(found.get("status", 500)), data.encode())
        if event == "end":
            self.ended = True
            return None
        return found if isinstance(found, dict) else None
