"""What errors of Azure IoT Hub mean.

An error's code is a name (``ThrottlingException``) in the header ``iothub-errorcode`` and in the body's message as
``ErrorCode:NAME;…``, with a number in some answers (429001). Where neither is known, the status counts. Source:
https://learn.microsoft.com/azure/iot-hub/troubleshoot-error-codes
"""

import json
import re
from collections.abc import Mapping
from typing import ClassVar

from fleetcore.interfaces.call_failed import CallFailed, Kind
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
    # Which only means that it can still be told apart whether it was done: by reading.
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
_DAY_MS = 24 * 3600 * 1000


class HubFailed(CallFailed):
    """A call of Azure IoT Hub that has not ended well."""

    hub: ClassVar[str] = "Azure IoT Hub"

    @property
    def needs(self) -> str:
        """By Entra ID, or by a shared access policy."""
        action = ACTIONS[self.action]
        return " or ".join([*(f"the data action {each}" for each in action.rights), f"the permission {action.permission}"])


def from_answer(action: str, status: int, body: str, headers: Mapping[str, str], now_ms: int) -> HubFailed:
    """The failure of an answer that is an error of the service."""
    code = _code(body, headers)
    said = _said(status, code, body)
    if code == _QUOTA:
        wait_s = (_DAY_MS - now_ms % _DAY_MS) / 1000
        return HubFailed(action, "throttled", said, retry_after_s=wait_s)
    kind = _CODES.get(code)
    if kind is None:
        kind = _BY_STATUS.get(status, "invalid" if 400 <= status < 500 else "unavailable")
    wait_s = _seconds(headers.get("retry-after", ""))
    return HubFailed(action, kind, said, retry_after_s=wait_s, paced=kind == "throttled")


def of_device(action: str, code: str, status: str) -> HubFailed:
    """The failure of one device of a bulk operation."""
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
    return text if code and code in text else f"{code or f'HTTP {status}'}: {text}" if text else code or f"HTTP {status}"


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
