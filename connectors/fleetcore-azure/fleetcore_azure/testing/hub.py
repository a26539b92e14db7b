"""IoT Hub in memory: operations on a state, each all or nothing.

Fast enough to simulate Azure at scale: an operation is a few lookups. Queries use the index, which may lag behind by a
requested time.
"""

import base64
import copy
import datetime as dt
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen, mutable

from fleetcore.testing.http1 import Answer
from fleetcore_azure.testing.operations import Call
from fleetcore_azure.testing.query import condition, counting
from fleetcore_azure.testing.rules import (
    RefusedByAzure,
    check_name,
    check_section,
    check_thumbprint,
    invalid,
    missing,
    precondition,
)

_TAGS, _PROPERTIES = 8 * 1024, 32 * 1024
_MAX_MESSAGE = 256 * 1024
_MAX = 100


@mutable(kw_only=True)
class Device:
    """An identity and its twin.

    Attributes:
        edge, scope: whether it is an IoT Edge device; its own scope then, else that of the edge above.
        parents: scopes of edges above.
        authentication: ``sas``, ``selfSigned`` or ``certificateAuthority``; ``generation`` counts its keys.
        metadata: when each desired property was written.
    """

    name: str
    status: str = "enabled"
    reason: str | None = None
    authentication: str = "sas"
    keys: tuple[str, str] = ("", "")
    thumbprints: tuple[str | None, str | None] = (None, None)
    identity_etag: str = ""
    edge: bool = False
    scope: str | None = None
    parents: tuple[str, ...] = ()
    generation: int = 1
    tags: dict[str, Any] = field(factory=dict)
    desired: dict[str, Any] = field(factory=dict)
    reported: dict[str, Any] = field(factory=dict)
    metadata: dict[str, Any] = field(factory=dict)
    desired_version: int = 1
    reported_version: int = 1
    version: int = 1
    etag: str = ""


@mutable(kw_only=True)
class Message:
    """A cloud-to-device message; ``token`` while a device has it."""

    id: str
    number: int
    body: bytes
    enqueued: str
    token: str = ""


@frozen(kw_only=True)
class Event:
    """An accepted device-to-cloud message."""

    device: str
    body: bytes
    properties: Mapping[str, str]


def merged(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A section after a partial update: null members are removed."""
    result = dict(old)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            before = result.get(key)
            result[key] = merged(before if isinstance(before, dict) else {}, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


class Hub:
    """See the module.

    Attributes:
        events: messages of devices, in order.
        index_lag_s: how far the index of queries is behind, by ``now_s``.
        quota: messages that may still be accepted today; None for any number.
        largest_page: devices per page of a query.
        connected: names of connected devices (mqtt.py).
        on_removal: called with each removed device.
    """

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self.devices: dict[str, Device] = {}
        self.events: list[Event] = []
        self.queues: dict[str, deque[Message]] = {}
        self.now_s = now_s
        self.index_lag_s = 0.0
        self.quota: int | None = None
        self.largest_page = 100
        self.connected: set[str] = set()
        self.on_removal: list[Callable[[str], None]] = []
        self._indexed: dict[str, dict[str, Any]] = {}
        self._coming: deque[tuple[float, str, dict[str, Any] | None]] = deque()
        self._number = itertools.count(1)
        self._operations: Mapping[str, Callable[[Call], Answer]] = {
            "UpdateRegistry": self._bulk,
            "Query": self._query,
            "GetIdentity": lambda call: _json(self.identity(self.device(call.name))),
            "PutIdentity": self._put_identity,
            "DeleteIdentity": self._delete_identity,
            "GetTwin": lambda call: _json(self.twin(self.device(call.name))),
            "UpdateTwin": self._update_twin,
            "ReplaceTwin": self._update_twin,
            "SendEvent": self._send_event,
            "Receive": self._receive,
            "Complete": self._complete,
            "Abandon": self._abandon,
        }

    def do(self, call: Call) -> Answer:
        """Executes an operation. Raises :class:`RefusedByAzure`."""
        return self._operations[call.operation](call)

    # -- identities -------------------------------------------------------------------------------------------------

    def device(self, name: str) -> Device:
        """The device. Raises :class:`RefusedByAzure` if it is missing."""
        if name not in self.devices:
            raise missing(name)
        return self.devices[name]

    def make(self, name: str, given: Mapping[str, Any]) -> Device:
        """Creates a device, with generated keys unless it has its own authentication."""
        if check_name(name) in self.devices:
            raise RefusedByAzure("DeviceAlreadyExists", f"{name} is already registered", 409)
        device = Device(name=name, generation=next(self._number))
        self._identify(device, given)
        self._tag(device, given.get("tags") or {}, (given.get("properties") or {}).get("desired") or {})
        self.devices[name] = device
        self._touched(device)
        return device

    def remove(self, name: str) -> None:
        """Removes a device with its twin and its messages."""
        del self.devices[name]
        self.queues.pop(name, None)
        for left in self.on_removal:
            left(name)
        self._coming.append((self.now_s(), name, None))

    def _identify(self, device: Device, given: Mapping[str, Any]) -> None:
        status = given.get("status") or "enabled"
        if status not in {"enabled", "disabled"}:
            raise invalid(f"the status {status!r}")
        authentication = given.get("authentication") or {}
        kind = authentication.get("type") or "sas"
        prints = authentication.get("x509Thumbprint") or {}
        both = (prints.get("primaryThumbprint"), prints.get("secondaryThumbprint"))
        for each in both:
            check_thumbprint(each)
        if kind == "selfSigned" and not any(both):
            raise invalid("selfSigned without a thumbprint")
        keys = authentication.get("symmetricKey") or {}
        device.status, device.reason = status, given.get("statusReason")
        self._place(device, given)
        device.authentication = kind
        device.thumbprints = both if kind == "selfSigned" else (None, None)
        own = (keys.get("primaryKey") or self._key(), keys.get("secondaryKey") or self._key())
        device.keys = own if kind == "sas" else ("", "")
        device.identity_etag = self._etag()

    def _place(self, device: Device, given: Mapping[str, Any]) -> None:
        """Its place; the hub creates the scope of an edge, which never changes."""
        edge = bool((given.get("capabilities") or {}).get("iotEdge"))
        above = [each for each in given.get("parentScopes") or () if edge]
        if not edge and given.get("deviceScope"):
            above = [given["deviceScope"]]
        scopes = {each.scope for each in self.devices.values() if each.edge and each.name != device.name}
        if len(above) > 1 or not scopes.issuperset(above):
            raise invalid(f"the scopes {above}: there is no such edge, or a device is below two")
        own = device.scope if device.edge else f"ms-azure-iot-edge://{device.name}-{device.generation}"
        if edge and given.get("deviceScope") not in {None, "", own}:
            raise invalid("the scope of an edge is not to be changed")
        device.edge, device.parents = edge, tuple(above)
        device.scope = own if edge else (above[0] if above else None)

    def _key(self) -> str:
        return base64.b64encode(f"key-{next(self._number)}".encode()).decode()

    def _etag(self) -> str:
        return base64.b64encode(next(self._number).to_bytes(8, "big")).decode()

    @staticmethod
    def identity(device: Device) -> dict[str, Any]:
        """The identity in answers."""
        return {
            "deviceId": device.name,
            "generationId": str(device.generation),
            "etag": device.identity_etag,
            "status": device.status,
            "statusReason": device.reason,
            "connectionState": "Disconnected",
            "authentication": {
                "type": device.authentication,
                "symmetricKey": {"primaryKey": device.keys[0] or None, "secondaryKey": device.keys[1] or None},
                "x509Thumbprint": {
                    "primaryThumbprint": device.thumbprints[0],
                    "secondaryThumbprint": device.thumbprints[1],
                },
            },
            "capabilities": {"iotEdge": device.edge},
            "deviceScope": device.scope,
            "parentScopes": list(device.parents),
        }

    def _put_identity(self, call: Call) -> Answer:
        document = call.document
        if not isinstance(document, dict) or document.get("deviceId") != call.name:
            raise invalid("the device of the path and of the body are two")
        there = self.devices.get(check_name(call.name))
        if there is None:
            if call.etag is not None:
                raise missing(call.name)
            return _json(self.identity(self.make(call.name, document)))
        if call.etag is not None and call.etag != there.identity_etag:
            raise precondition()
        self._identify(there, document)
        self._touched(there)
        return _json(self.identity(there))

    def _delete_identity(self, call: Call) -> Answer:
        there = self.device(call.name)
        if call.etag is not None and call.etag != there.identity_etag:
            raise precondition()
        self.remove(call.name)
        return Answer(status=204, body=b"")

    def _bulk(self, call: Call) -> Answer:
        document = call.document
        if not isinstance(document, list) or len(document) > _MAX:
            raise invalid(f"a list of at most {_MAX} devices")
        names = [each.get("id") for each in document]
        if len(set(names)) != len(names):
            raise invalid("a device stands twice in the list")
        errors = []
        for each in document:
            try:
                self._one(each)
            except RefusedByAzure as refused:
                errors.append({"deviceId": each.get("id"), "errorCode": refused.code, "errorStatus": refused.message})
        return bulk_answer(errors)

    def _one(self, given: Mapping[str, Any]) -> None:
        name, mode = check_name(given.get("id")), given.get("importMode")
        match mode:
            case "create":
                self.make(name, given)
            case "delete" | "deleteIfMatchETag":
                there = self.device(name)
                if mode == "deleteIfMatchETag" and (given.get("eTag") or "").strip('"') != there.identity_etag:
                    raise precondition()
                self.remove(name)
            case "updateTwin" | "updateTwinIfMatchETag":
                there = self.device(name)
                if mode == "updateTwinIfMatchETag" and (given.get("twinETag") or "").strip('"') != there.etag:
                    raise precondition()
                self._tag(there, given.get("tags") or {}, (given.get("properties") or {}).get("desired") or {})
                self._touched(there)
            case _:
                raise invalid(f"the import mode {mode!r}")

    # -- twins ------------------------------------------------------------------------------------------------------

    def _now(self) -> str:
        return dt.datetime.fromtimestamp(self.now_s(), dt.UTC).isoformat()

    def _tag(self, device: Device, tags: Mapping[str, Any], desired: Mapping[str, Any]) -> None:
        new_tags, new_desired = merged(device.tags, tags), merged(device.desired, desired)
        check_section(new_tags, _TAGS)
        check_section(new_desired, _PROPERTIES)
        device.tags, device.desired = new_tags, new_desired
        if desired:
            device.desired_version += 1
            device.metadata = _written(device.metadata, desired, self._now(), device.desired_version)

    def edit(
        self, name: str, *, tags: Mapping[str, Any] | None = None, desired: Mapping[str, Any] | None = None
    ) -> None:
        """Changes a twin like a user of the hub."""
        device = self.device(name)
        self._tag(device, tags or {}, desired or {})
        self._touched(device)

    def _touched(self, device: Device) -> None:
        device.version += 1
        device.etag = self._etag()
        self._coming.append((self.now_s(), device.name, self.twin(device)))

    def twin(self, device: Device) -> dict[str, Any]:
        """The twin in answers."""
        metadata = {"$metadata": device.metadata, "$version": device.desired_version}
        return {
            "deviceId": device.name,
            "etag": device.etag,
            "deviceEtag": device.identity_etag,
            "status": device.status,
            "statusReason": device.reason,
            "statusUpdateTime": "0001-01-01T00:00:00Z",
            "connectionState": "Connected" if device.name in self.connected else "Disconnected",
            "lastActivityTime": "0001-01-01T00:00:00Z",
            "cloudToDeviceMessageCount": 0,
            "authenticationType": device.authentication,
            "x509Thumbprint": {
                "primaryThumbprint": device.thumbprints[0],
                "secondaryThumbprint": device.thumbprints[1],
            },
            "capabilities": {"iotEdge": device.edge},
            "deviceScope": device.scope,
            "parentScopes": list(device.parents),
            "version": device.version,
            "tags": copy.deepcopy(device.tags),
            "properties": {
                "desired": {**copy.deepcopy(device.desired), **copy.deepcopy(metadata)},
                "reported": {**copy.deepcopy(device.reported), "$metadata": {}, "$version": device.reported_version},
            },
        }

    def report(self, name: str, changes: object) -> int:
        """Merges into a device's reported properties, over its connection; returns the version. Raises RefusedByAzure.

        The ETag only covers tags and desired properties, which services write.
        """
        device = self.device(name)
        if not isinstance(changes, dict):
            raise invalid("the report is not an object")
        reported = merged(device.reported, changes)
        check_section(reported, _PROPERTIES)
        device.reported = reported
        device.reported_version += 1
        device.version += 1
        self._coming.append((self.now_s(), name, self.twin(device)))
        return device.reported_version

    def _update_twin(self, call: Call) -> Answer:
        there, document = self.device(call.name), call.document
        if not isinstance(document, dict):
            raise invalid("the twin is not an object")
        if call.etag is not None and call.etag != there.etag:
            raise precondition()
        properties = document.get("properties") or {}
        if "reported" in properties:
            raise invalid("reported properties are written by the device alone")
        self._tag(there, document.get("tags") or {}, properties.get("desired") or {})
        self._touched(there)
        return _json(self.twin(there))

    def _query(self, call: Call) -> Answer:
        text = (call.document or {}).get("query", "")
        self._index()
        if (counted := counting(text)) is not None:
            alias, text = counted
            matches = condition(text)
            return _json_list([{alias: sum(map(matches, self._indexed.values()))}])
        matches = condition(text)
        found = [twin for twin in self._indexed.values() if matches(twin)]
        headers = call.request.headers
        start = int(headers.get("x-ms-continuation") or 0)
        count = min(int(headers.get("x-ms-max-item-count") or self.largest_page), self.largest_page)
        end = start + count
        more = {"x-ms-continuation": str(end)} if end < len(found) else {}
        return Answer(body=json.dumps(found[start:end]).encode(), headers={"x-ms-item-type": "Twin", **more})

    def _index(self) -> None:
        until = self.now_s() - self.index_lag_s
        while self._coming and self._coming[0][0] <= until:
            _, name, twin = self._coming.popleft()
            if twin is None:
                self._indexed.pop(name, None)
            else:
                self._indexed[name] = twin

    # -- messages ---------------------------------------------------------------------------------------------------

    def _connected(self, name: str) -> Device:
        """The device that a shared access policy may act for."""
        device = self.device(name)
        if device.authentication != "sas" or device.status != "enabled":
            raise RefusedByAzure("IotHubUnauthorizedAccess", f"Unauthorized: {name} cannot connect so", 401)
        return device

    def _send_event(self, call: Call) -> Answer:
        device = self._connected(call.name)
        properties = {
            name.removeprefix("iothub-app-"): value
            for name, value in call.request.headers.items()
            if name.startswith("iothub-")
        }
        if len(call.request.body) + sum(len(k) + len(v) for k, v in properties.items()) > _MAX_MESSAGE:
            raise RefusedByAzure("MessageTooLarge", "the message is larger than 256 kB", 413)
        if self.quota is not None:
            if self.quota <= 0:
                raise RefusedByAzure("IotHubQuotaExceeded", "Total number of messages of the day is reached", 403)
            self.quota -= 1
        self.events.append(Event(device=device.name, body=call.request.body, properties=properties))
        return Answer(status=204, body=b"")

    def command(self, name: str, body: bytes, id: str = "") -> None:
        """Sends a cloud-to-device message, like a service over AMQP."""
        self.device(name)
        number = next(self._number)
        self.queues.setdefault(name, deque()).append(
            Message(id=id or f"message-{number}", number=number, body=body, enqueued=self._now())
        )

    def _receive(self, call: Call) -> Answer:
        self._connected(call.name)
        for message in self.queues.get(call.name, ()):
            if not message.token:
                message.token = f"lock-{next(self._number)}"
                headers = {
                    "etag": f'"{message.token}"',
                    "iothub-messageid": message.id,
                    "iothub-sequencenumber": str(message.number),
                    "iothub-enqueuedtime": message.enqueued,
                }
                return Answer(body=message.body, headers=headers)
        return Answer(status=204, body=b"")

    def _locked(self, call: Call) -> Message:
        self._connected(call.name)
        for message in self.queues.get(call.name, ()):
            if message.token == call.token:
                return message
        raise RefusedByAzure("DeviceMessageLockLost", "the lock token is not good any more", 412)

    def _complete(self, call: Call) -> Answer:
        self.queues[call.name].remove(self._locked(call))
        return Answer(status=204, body=b"")

    def _abandon(self, call: Call) -> Answer:
        self._locked(call).token = ""
        return Answer(status=204, body=b"")


def bulk_answer(errors: list[dict[str, Any]]) -> Answer:
    """The answer of a bulk operation: HTTP 400 if one device has failed."""
    body = {"isSuccessful": not errors, "errors": errors, "warnings": []}
    return Answer(status=400 if errors else 200, body=json.dumps(body).encode())


def _written(metadata: Mapping[str, Any], changes: Mapping[str, Any], when: str, version: int) -> dict[str, Any]:
    stamp = {"$lastUpdated": when, "$lastUpdatedVersion": version}
    result = {**metadata, **stamp}
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        else:
            before = result.get(key) or {}
            result[key] = _written(before, value, when, version) if isinstance(value, dict) else stamp
    return result


def _json_list(documents: list[dict[str, Any]]) -> Answer:
    return Answer(body=json.dumps(documents).encode(), headers={"x-ms-item-type": "Raw"})


def _json(document: Mapping[str, Any]) -> Answer:
    return Answer(body=json.dumps(document).encode())
