"""The meaning of errors of Azure IoT Hub.

An error's code is a name (``ThrottlingException``) in the header ``iothub-errorcode`` and in the body's message as
``ErrorCode:NAME;…``, with a number in some answers (429001). If neither is known, the status counts. Source:
https://learn.microsoft.com/azure/iot-hub/troubleshoot-error-codes
"""

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import ClassVar

from fleetcore.interfaces.call_failed import CallFailed, Kind, wrong_clock
from fleetcore_azure.actions import ACTIONS

_CODES: Mapping[str, Kind] = {
    "ThrottlingException": "throttled",
    "ThrottlingBacklogTimeout": "throttled",
    "ThrottlingMaxActiveJobCountExceeded": "throttled",
    "DeviceThrottlingLimitExceeded": "throttled",
    "IotHubQuotaExceeded": "throttled",
    "IotHubUnauthorized": "credentials",
    "IotHubUnauthorizedAccess": "credentials",
    "AuthorizationFailed": "credentials",
    "DeviceNotFound": "missing",
    "IotHubNotFound": "missing",
    "DeviceAlreadyExists": "exists",
    "PreconditionFailed": "conflict",
    "DeviceVersionMismatch": "conflict",
    "TwinVersionMismatch": "conflict",
    "ServerError": "unavailable",
    "ServiceUnavailable": "unavailable",
    "GatewayTimeout": "unavailable",
    # This only means that a read can still tell whether it was executed.
    "OperationNotAllowedInCurrentState": "unavailable",
}
_BY_STATUS: Mapping[int, Kind] = {
    401: "credentials",
    403: "credentials",
    404: "missing",
    408: "unavailable",
    409: "exists",
    412: "conflict",
    429: "throttled",
}
#: The day's messages are used up: HTTP 403, until midnight UTC (quotas and throttling, daily quota).
_QUOTA = "IotHubQuotaExceeded"
_SAID = re.compile(r"ErrorCode:\s*(\w+)")
_NUMBER = re.compile(r'"errorCode"\s*:\s*(\d{6})')
_BY_NUMBER: Mapping[str, str] = {
    "403002": _QUOTA, "429001": "ThrottlingException", "429002": "ThrottlingBacklogTimeout", "404001": "DeviceNotFound",
    "409001": "DeviceAlreadyExists", "412002": "DeviceVersionMismatch",
}  # fmt: skip
_DAY_S = 24 * 3600
#: A signature is valid for an hour of the clock that made it: a clock that is far behind makes no valid ones.
_BEHIND_S = 50 * 60
_WHOSE = "the hub's"


class HubFailed(CallFailed):
    """A failed call of Azure IoT Hub."""

    hub: ClassVar[str] = "Azure IoT Hub"

    @property
    def needs(self) -> str:
        """With Entra ID, or with a shared access policy."""
        action = ACTIONS[self.action]
        actions = " and ".join(f"the data action {each}" for each in action.rights)
        permission = f"the permission {action.permission} of a shared access policy ({self.action})"
        return f"{actions}, or {permission}," if actions else permission


def from_answer(action: str, status: int, body: str, headers: Mapping[str, str], now_s: float) -> HubFailed:
    """The failure of an error answer; ``now_s`` is from the clock that signs requests."""
    code = _code(body, headers)
    said = _said(status, code, body)
    theirs_s = _hubs_time_s(headers, now_s)
    if code == _QUOTA:
        return HubFailed(action, "throttled", said, retry_after_s=_DAY_S - theirs_s % _DAY_S)
    kind = _CODES.get(code)
    if kind is None:
        kind = _BY_STATUS.get(status, "invalid" if 400 <= status < 500 else "unavailable")
    if kind == "credentials" and theirs_s - now_s > _BEHIND_S:
        return HubFailed(action, "clock", f"{wrong_clock(now_s - theirs_s, _WHOSE)} ({said})")
    wait_s = _seconds(headers.get("retry-after", ""))
    return HubFailed(action, kind, said, retry_after_s=wait_s, paced=kind == "throttled")


def of_device(action: str, code: str, status: str) -> HubFailed:
    """The failure of one device in a bulk operation."""
    kind = _CODES.get(code) or _CODES.get(_BY_NUMBER.get(code, ""))
    return HubFailed(action, kind or "invalid", f"{code}: {status}" if status else code, paced=kind == "throttled")


def _code(body: str, headers: Mapping[str, str]) -> str:
    if named := headers.get("iothub-errorcode"):
        return named
    if found := _SAID.search(body):
        return found[1]
    number = _NUMBER.search(body.replace("\\", ""))
    return _BY_NUMBER.get(number[1], "") if number else ""


def _said(status: int, code: str, body: str) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    message = document.get("Message", document.get("message", "")) if isinstance(document, dict) else body
    text = " ".join(str(message).split())[:300]
    if code and code in text:
        return text
    named = code or f"HTTP {status}"
    return f"{named}: {text}" if text else named


def _hubs_time_s(headers: Mapping[str, str], now_s: float) -> float:
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return now_s


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
