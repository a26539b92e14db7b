"""The meaning of the SDK's errors: one kind for each gRPC status, and for tokens that cannot be obtained.

Sources: https://cloud.google.com/pubsub/docs/reference/error-codes and the statuses of gRPC.
"""

from collections.abc import Mapping

import google.auth.exceptions as auth
import grpc
from google.api_core import exceptions as api
from google.rpc import error_details_pb2

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces import call_failed
from fleetcore.interfaces.call_failed import Kind, wrong_clock
from fleetcore_gcp.tokens import WrongClock

_KINDS: Mapping[grpc.StatusCode, Kind] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "throttled",
    grpc.StatusCode.UNAUTHENTICATED: "credentials",
    grpc.StatusCode.PERMISSION_DENIED: "credentials",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.OUT_OF_RANGE: "invalid",
    grpc.StatusCode.NOT_FOUND: "missing",
    grpc.StatusCode.ALREADY_EXISTS: "exists",
}
#: Without an answer of the service; whether the call was executed is unknown.
_LOST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)
_NAMED = 300
_WHOSE = "Google's"


class CallFailed(call_failed.CallFailed):
    """A failed call of Pub/Sub; its action is the permission of the call."""

    hub = "Pub/Sub"

    @property
    def needs(self) -> str:
        return f"the permission {self.action}"


def from_sdk(permission: str, error: Exception) -> CallFailed:
    """The failure for an error of the SDK."""
    if isinstance(error, grpc.RpcError):
        error = api.from_grpc_error(error)  # type: ignore[no-untyped-call]  # the SDK's
    said = f"{type(error).__name__}: {error}"[:_NAMED]
    if isinstance(error, WrongClock):
        return CallFailed(permission, "clock", f"{wrong_clock(error.ahead_s, _WHOSE)} ({said})")
    if isinstance(error, auth.RefreshError | auth.TransportError | auth.TimeoutError):
        passing = getattr(error, "retryable", False) or not isinstance(error, auth.RefreshError)
        return CallFailed(permission, "unavailable" if passing else "credentials", said, lost=passing)
    if isinstance(error, auth.GoogleAuthError):
        return CallFailed(permission, "credentials", said)
    if isinstance(error, api.GoogleAPICallError):
        status = error.grpc_status_code or grpc.StatusCode.UNKNOWN
        kind = _KINDS.get(status, "unavailable")
        return CallFailed(
            permission,
            kind,
            said,
            retry_after_s=_retry_after_s(error),
            lost=status in _LOST,
            paced=kind == "throttled",
        )
    # Exhausted retries, connections closed during a call.
    return CallFailed(permission, "unavailable", said, lost=True)


def _retry_after_s(error: api.GoogleAPICallError) -> float:
    """When the service asks to retry."""
    for detail in error.details or ():
        if isinstance(detail, error_details_pb2.RetryInfo):
            delay = detail.retry_delay
            return max(0.0, float(delay.seconds) + float(delay.nanos) / 1e9)
    return 0.0


def missing(what: str, failed: call_failed.CallFailed) -> Unavailable:
    """The engine's error for a missing topic or subscription: it affects everything that is sent to it."""
    return Unavailable(
        f"{what} does not exist: {failed.said}",
        retry_after_s=30.0,
        remedy="Create it, or set create = true; `fleetcore mirror check` lists what is missing",
    )


def for_all(what: str, failed: call_failed.CallFailed) -> CredentialsRejected | Unavailable:
    """The engine's error for a failure of everything that was sent to a topic or subscription."""
    return missing(what, failed) if failed.kind == "missing" else call_failed.for_all(failed)
