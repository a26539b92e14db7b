"""What a call of the SDK can end with, told once: one exception with a kind that callers act on."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import MirrorResult

Kind = Literal["throttled", "credentials", "clock", "unavailable", "invalid", "conflict", "exists", "missing", "in_use"]

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
            "AuthFailure",
        ),
        "credentials",
    ),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"), "clock"),
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
    "CertificateStateException": "conflict",
    "DeleteConflictException": "in_use",
    "ResourceAlreadyExistsException": "exists",
    "ResourceNotFoundException": "missing",
    "AWS.SimpleQueueService.NonExistentQueue": "missing",
    "QueueDoesNotExist": "missing",
}  # fmt: skip
#: A full account has no room for what is made: not the rate of calls, and not over in a second.
_FULL = "LimitExceededException"
_FULL_WAIT_S = 300.0
#: A request whose time differs by more is refused (IAM guide, signature version 4); some services allow 15 minutes.
_CLOCKS_DIFFER_S = 300.0
#: What AWS's clock was, in its words: ``(20190304T212815Z + 15 min.)``.
_AWS_TIME = re.compile(r"\((\d{8}T\d{6}Z) [+-]")


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


def from_answer(
    action: str, code: str, message: str, status: int, headers: Mapping[str, str], now_s: float
) -> CallFailed:
    """The failure of an answer that is an error of the service; ``now_s`` is of the clock that signs requests.

    A wrong clock is told from wrong credentials by the answer's date: the SDK does not correct its signatures by it.
    """
    said = f"{code}: {message}" if message else code
    kind = _CODES.get(code)
    if kind is None:
        by_status: Mapping[int, Kind] = {401: "credentials", 403: "credentials", 404: "missing", 429: "throttled"}
        kind = by_status.get(status, "invalid" if 400 <= status < 500 else "unavailable")
    wait_s = _seconds(headers.get("retry-after", ""))
    if code == _FULL:
        return CallFailed(action, "throttled", said, retry_after_s=wait_s or _FULL_WAIT_S)
    if kind in {"credentials", "clock"}:
        theirs_s = _aws_time_s(message, headers)
        ahead_s = None if theirs_s is None else now_s - theirs_s
        if kind == "clock" or (ahead_s is not None and abs(ahead_s) > _CLOCKS_DIFFER_S):
            return CallFailed(action, "clock", f"the clock of this machine {_differs(ahead_s)} ({said})")
    return CallFailed(action, kind, said, retry_after_s=wait_s, paced=kind == "throttled")


def _aws_time_s(message: str, headers: Mapping[str, str]) -> float | None:
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        found = _AWS_TIME.search(message)
        return None if found is None else datetime.strptime(found[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _differs(ahead_s: float | None) -> str:
    if ahead_s is None:
        return "differs from AWS's"
    return f"is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} AWS's"


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0


#: What to do about a wrong clock.
SET_CLOCK = "Set the clock of this machine, and have it follow a time server"


def _rejected(failed: CallFailed) -> CredentialsRejected:
    return CredentialsRejected(
        f"AWS refused {failed.action}: {failed.said}",
        remedy=f"Allow the action {failed.action} to these credentials, or renew them",
    )


def unavailable(failed: CallFailed) -> Unavailable:
    """For the engine: tried again with back-off."""
    return Unavailable(
        f"AWS did not do {failed.action}: {failed.said}",
        retry_after_s=failed.retry_after_s or 1.0,
        remedy=SET_CLOCK if failed.kind == "clock" else "",
    )


def for_all(failed: CallFailed) -> CredentialsRejected | Unavailable:
    """For the engine, where a failure concerns all that was asked: rejected credentials pause the mirror."""
    return _rejected(failed) if failed.kind == "credentials" else unavailable(failed)


def is_for_all(failed: CallFailed) -> bool:
    """Whether a failure concerns all calls, whatever is asked."""
    return failed.kind in {"credentials", "clock"}


def as_result(failed: CallFailed) -> MirrorResult:
    """What it means for one item. Raises :func:`for_all` where it concerns them all."""
    match failed.kind:
        case "credentials" | "clock":
            raise for_all(failed) from failed
        case "throttled":
            return MirrorResult(state="throttled", reason=str(failed), retry_after_s=failed.retry_after_s)
        case "conflict":
            return MirrorResult(state="conflict", reason=str(failed))
        case "invalid":
            return MirrorResult(state="invalid", reason=str(failed))
        case "unavailable" | "exists" | "missing" | "in_use":
            # What was there a moment ago is gone, or the other way round: another writer is at work.
            return MirrorResult(state="failed", reason=str(failed), retry_after_s=failed.retry_after_s)
