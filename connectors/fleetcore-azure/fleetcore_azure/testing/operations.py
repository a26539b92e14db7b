"""The IoT Hub operation of a request, and its permissions."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from fleetcore.testing.http1 import Request, unquoted

HOST = "counterpart.azure-devices.net"

_RIGHT = "Microsoft.Devices/IotHubs/"
#: Method and path → operation; the parts in braces are a device's name and a lock token. From the SDK's operations and
#: the REST reference of devices.
_ROUTES: Mapping[tuple[str, str], str] = {
    ("POST", "/devices"): "UpdateRegistry",
    ("POST", "/devices/query"): "Query",
    ("GET", "/devices/{name}"): "GetIdentity",
    ("PUT", "/devices/{name}"): "PutIdentity",
    ("DELETE", "/devices/{name}"): "DeleteIdentity",
    ("GET", "/twins/{name}"): "GetTwin",
    ("PATCH", "/twins/{name}"): "UpdateTwin",
    ("PUT", "/twins/{name}"): "ReplaceTwin",
    ("POST", "/devices/{name}/messages/events"): "SendEvent",
    ("GET", "/devices/{name}/messages/devicebound"): "Receive",
    ("DELETE", "/devices/{name}/messages/devicebound/{token}"): "Complete",
    ("POST", "/devices/{name}/messages/devicebound/{token}/abandon"): "Abandon",
}
_PATTERNS = [
    (method, re.compile(path.replace("{name}", "([^/]+)").replace("{token}", "([^/]+)")), operation)
    for (method, path), operation in _ROUTES.items()
]
#: operation → its class of calls, its data actions (control access by Entra ID), and its permission of a shared access
#: policy.
_NEEDS: Mapping[str, tuple[str, Sequence[str], str]] = {
    "UpdateRegistry": ("devices/bulk", ("devices/write", "devices/delete"), "RegistryWrite"),
    "Query": ("twins/query", ("twins/read",), "ServiceConnect"),
    "GetIdentity": ("devices/read", ("devices/read",), "RegistryRead"),
    "PutIdentity": ("devices/write", ("devices/write",), "RegistryWrite"),
    "DeleteIdentity": ("devices/delete", ("devices/delete",), "RegistryWrite"),
    "GetTwin": ("twins/read", ("twins/read",), "ServiceConnect"),
    "UpdateTwin": ("twins/write", ("twins/write",), "ServiceConnect"),
    "ReplaceTwin": ("twins/write", ("twins/write",), "ServiceConnect"),
    "SendEvent": ("messages/send", (), "DeviceConnect"),
    "Receive": ("messages/receive", (), "DeviceConnect"),
    "Complete": ("messages/receive", (), "DeviceConnect"),
    "Abandon": ("messages/receive", (), "DeviceConnect"),
}


@frozen(kw_only=True)
class Call:
    """A requested operation.

    Attributes:
        name: the device in its path; ``token`` the lock token of a message.
        document: the body as JSON; None if it is missing or unreadable.
    """

    operation: str
    name: str
    token: str
    document: Any
    request: Request

    @property
    def action(self) -> str:
        """The connector's class of calls."""
        return _NEEDS[self.operation][0]

    @property
    def rights(self) -> Sequence[str]:
        """Its data actions; none if Entra ID does not allow it."""
        return [_RIGHT + each for each in _NEEDS[self.operation][1]]

    @property
    def permission(self) -> str:
        """Its permission of a shared access policy."""
        return _NEEDS[self.operation][2]

    @property
    def of_device(self) -> bool:
        """Whether it belongs to the device's API."""
        return not self.rights

    @property
    def etag(self) -> str | None:
        """The requested ETag; None for any."""
        given = self.request.headers.get("if-match", "*").strip('"')
        return None if given == "*" else given


def call_of(request: Request) -> Call | None:
    """The operation of a request; None for an unknown one."""
    for method, pattern, operation in _PATTERNS:
        if method == request.method and (found := pattern.fullmatch(request.path)):
            names = [unquoted(each) for each in found.groups()] + ["", ""]
            try:
                document = json.loads(request.body) if request.body else None
            except ValueError:
                document = None
            return Call(operation=operation, name=names[0], token=names[1], document=document, request=request)
    return None
