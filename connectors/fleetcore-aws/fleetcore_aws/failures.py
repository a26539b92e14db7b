"""The meaning of AWS errors: by their codes, and by their dates."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import ClassVar

from fleetcore.interfaces import call_failed
from fleetcore.interfaces.call_failed import Kind, wrong_clock

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
    # The execution of a job; the service model has no error for another version, the guide and MQTT the first one.
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
#: A full account has no room for a new object: not a rate limit, and not over in a second.
_FULL = "LimitExceededException"
_FULL_WAIT_S = 300.0
#: A request whose time differs by more is refused (IAM guide, signature version 4); some services allow 15 minutes.
_CLOCKS_DIFFER_S = 300.0
#: AWS's clock in its error message: ``(20190304T212815Z + 15 min.)``.
_AWS_TIME = re.compile(r"\((\d{8}T\d{6}Z) [+-]")


class CallFailed(call_failed.CallFailed):
    """A failed call of AWS; ``action`` is the IAM action, ``iot:CreateThing``."""

    hub: ClassVar[str] = "AWS"

    @property
    def needs(self) -> str:
        """The IAM action."""
        return f"the action {self.action}"


def from_answer(
    action: str, code: str, message: str, status: int, headers: Mapping[str, str], now_s: float
) -> CallFailed:
    """The failure of an error answer; ``now_s`` is from the clock that signs requests.

    The answer's date distinguishes a wrong clock from wrong credentials: the SDK does not correct its signatures by it.
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
            differs = wrong_clock(ahead_s, "AWS's")
            return CallFailed(action, "clock", f"{differs} ({said})")
    return CallFailed(action, kind, said, retry_after_s=wait_s, paced=kind == "throttled")


def _aws_time_s(message: str, headers: Mapping[str, str]) -> float | None:
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        found = _AWS_TIME.search(message)
        return None if found is None else datetime.strptime(found[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
