"""The refusals of IoT Hub: names, keys, sizes, depths; the SDK checks none of them.

Each rule is from the developer guide (device identities, device twins, quotas). They are deliberately written
independently of the connector, because a shared mistake would not be found.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from fleetcore.testing.http1 import Answer

_DEVICE = re.compile(r"[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}")
_THUMBPRINT = re.compile(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}")
_NUMBERS = {
    "ArgumentInvalid": 400004, "IotHubUnauthorizedAccess": 401003, "IotHubQuotaExceeded": 403002,
    "DeviceNotFound": 404001, "DeviceAlreadyExists": 409001, "PreconditionFailed": 412001,
    "ThrottlingException": 429001, "ServerError": 500001,
}  # fmt: skip


class RefusedByAzure(Exception):
    """An error answer."""

    def __init__(self, code: str, message: str, status: int = 400, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.retry_after_s = code, message, status, retry_after_s

    def answer(self) -> Answer:
        """The answer in the service's form: the code in a header, in the message, and as a number."""
        inner = json.dumps({"errorCode": _NUMBERS.get(self.code, 400000), "message": self.message})
        body = {"Message": f"ErrorCode:{self.code};{inner}", "ExceptionMessage": "Tracking ID:counterpart"}
        headers = {"iothub-errorcode": self.code}
        if self.retry_after_s:
            headers["retry-after"] = f"{self.retry_after_s:g}"
        return Answer(status=self.status, body=json.dumps(body).encode(), headers=headers)


def invalid(message: str) -> RefusedByAzure:
    """The request can never succeed."""
    return RefusedByAzure("ArgumentInvalid", message)


def missing(name: str) -> RefusedByAzure:
    """There is no such device."""
    return RefusedByAzure("DeviceNotFound", f"{name} is not registered", 404)


def precondition() -> RefusedByAzure:
    """Another writer was faster."""
    return RefusedByAzure("PreconditionFailed", "Precondition failed: the version is another", 412)


def check_name(name: object) -> str:
    """A device id. Raises :class:`RefusedByAzure`."""
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        raise invalid(f"{name!r} is not a device id")
    return name


def check_thumbprint(value: object) -> None:
    """A thumbprint, or none. Raises :class:`RefusedByAzure`."""
    if value is not None and (not isinstance(value, str) or not _THUMBPRINT.fullmatch(value)):
        raise invalid("a thumbprint is SHA-1 or SHA-256 in hexadecimal digits")


def check_section(section: Mapping[str, Any], largest: int) -> None:
    """A section of a twin as it is stored. Raises :class:`RefusedByAzure`."""
    _check(section, 0, inside=False)
    if size(section) > largest:
        raise RefusedByAzure("ArgumentInvalid", f"the section has more than {largest} bytes", 400)


def _check(value: Any, level: int, *, inside: bool) -> None:
    if isinstance(value, dict):
        if level > 10:
            raise invalid("more than 10 levels")
        for key, each in value.items():
            if (
                not key
                or len(key.encode()) > 1024
                or any(ord(c) < 32 or 127 <= ord(c) < 160 or c in ".$ " for c in key)
            ):
                raise invalid(f"the key {key!r}")
            _check(each, level + 1, inside=inside)
    elif isinstance(value, list):
        if level > 10:
            raise invalid("more than 10 levels")
        for each in value:
            _check(each, level + 1, inside=True)
    elif value is None and inside:
        raise invalid("null in an array")
    elif isinstance(value, str) and len(value.encode()) > 4096:
        raise invalid("a text of more than 4 kB")
    elif isinstance(value, int) and not isinstance(value, bool) and not -(2**52) <= value < 2**52:
        raise invalid(f"the integer {value}")


def size(value: Any) -> int:
    """As the guide counts (device twin size)."""
    match value:
        case dict():
            return sum(len(key.encode()) + size(each) for key, each in value.items())
        case list():
            return sum(map(size, value))
        case bool():
            return 4
        case int() | float():
            return 8
        case str():
            return len(value.encode())
    return 0
