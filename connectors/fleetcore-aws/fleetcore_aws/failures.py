"""What a call of the SDK can end with, told once: one exception with a kind that callers act on."""

from collections.abc import Mapping
from typing import Literal

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import MirrorResult

Kind = Literal["throttled", "credentials", "unavailable", "invalid", "conflict", "exists", "missing"]

#: Codes of errors. ``ThrottlingException`` is HTTP 400 in iot and 429 in iot-data: the code counts, not the status.
#: Sources: the errors of each action in the API references of iot, iot-data, sqs, kinesis and firehose, and
#: https://docs.aws.amazon.com/general/latest/gr/api-retries.html.
_CODES: Mapping[str, Kind] = {
    **dict.fromkeys(
        (
            "ThrottlingException", "Throttling", "ThrottledException", "RequestThrottled", "RequestThrottledException",
            "TooManyRequestsException", "RequestLimitExceeded", "ProvisionedThroughputExceededException", "SlowDown",
            "BandwidthLimitExceeded", "KMSThrottlingException", "OverLimit", "LimitExceededException",
        ),
        "throttled",
    ),
    **dict.fromkeys(
        (
            "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException",
            "AccessDenied", "AccessDeniedException", "Forbidden", "ForbiddenException", "UnauthorizedException",
            "SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "MissingAuthenticationToken",
            "MissingAuthenticationTokenException", "InvalidAccessKeyId", "NotAuthorized", "OptInRequired",
            "RequestExpired", "AuthFailure",
        ),
        "credentials",
    ),
    **dict.fromkeys(
        (
            "InternalFailure", "InternalFailureException", "InternalServerException", "InternalException",
            "ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout", "RequestTimeoutException",
            "ConflictingResourceUpdateException", "TransferConflictException",
        ),
        "unavailable",
    ),
    "VersionConflictException": "conflict",
    "ConflictException": "conflict",
    # The execution of a job; the service model names none for another version, the guide and MQTT the first one.
    **dict.fromkeys(
        (
            "VersionMismatch", "VersionMismatchException", "InvalidStateTransition", "InvalidStateTransitionException",
        ),
        "conflict",
    ),
    "ResourceAlreadyExistsException": "exists",
    "ResourceNotFoundException": "missing",
    "AWS.SimpleQueueService.NonExistentQueue": "missing",
    "QueueDoesNotExist": "missing",
}  # fmt: skip
#: A full account has no room for what is made: not the rate of calls, and not over in a second.
_FULL = "LimitExceededException"
_FULL_WAIT_S = 300.0


class CallFailed(Exception):
    """A call that has not ended well.

    Attributes:
        action: the IAM action, ``iot:CreateThing``.
        kind: what it means.
        said: AWS's words.
        retry_after_s: where the service says so, else 0.
        lost: whether there was no answer at all, so that the hub may be down.
        paced: whether calls of its class come too fast.
    """

    def __init__(
        self, action: str, kind: Kind, said: str, *, retry_after_s: float = 0.0, lost: bool = False, paced: bool = False
    ) -> None:
        super().__init__(f"{action}: {said}")
        self.action, self.kind, self.said = action, kind, said
        self.retry_after_s, self.lost, self.paced = retry_after_s, lost, paced


def from_answer(action: str, code: str, message: str, status: int, headers: Mapping[str, str]) -> CallFailed:
    """The failure of an answer that is an error of the service."""
    said = f"{code}: {message}" if message else code
    kind = _CODES.get(code)
    if kind is None:
        by_status: Mapping[int, Kind] = {401: "credentials", 403: "credentials", 404: "missing", 429: "throttled"}
        kind = by_status.get(status, "invalid" if 400 <= status < 500 else "unavailable")
    wait_s = _seconds(headers.get("retry-after", ""))
    if code == _FULL:
        return CallFailed(action, "throttled", said, retry_after_s=wait_s or _FULL_WAIT_S)
    return CallFailed(action, kind, said, retry_after_s=wait_s, paced=kind == "throttled")


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0


def rejected(failed: CallFailed) -> CredentialsRejected:
    """For the engine: the mirror pauses."""
    return CredentialsRejected(
        f"AWS refused {failed.action}: {failed.said}",
        remedy=f"Allow the action {failed.action} to these credentials, or renew them; a wrong clock looks the same",
    )


def unavailable(failed: CallFailed) -> Unavailable:
    """For the engine: tried again with back-off."""
    return Unavailable(f"AWS did not do {failed.action}: {failed.said}", retry_after_s=failed.retry_after_s or 1.0)


def for_all(failed: CallFailed) -> CredentialsRejected | Unavailable:
    """For the engine, where a failure concerns all that was asked."""
    return rejected(failed) if failed.kind == "credentials" else unavailable(failed)


def as_result(failed: CallFailed) -> MirrorResult:
    """What it means for one item. Raises :class:`CredentialsRejected`, which concerns them all."""
    match failed.kind:
        case "credentials":
            raise rejected(failed) from failed
        case "throttled":
            return MirrorResult(state="throttled", reason=str(failed), retry_after_s=failed.retry_after_s)
        case "conflict":
            return MirrorResult(state="conflict", reason=str(failed))
        case "invalid":
            return MirrorResult(state="invalid", reason=str(failed))
        case "unavailable" | "exists" | "missing":
            # What was there a moment ago is gone, or the other way round: another writer is at work.
            return MirrorResult(state="failed", reason=str(failed), retry_after_s=failed.retry_after_s)
