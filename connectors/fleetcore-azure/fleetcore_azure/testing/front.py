"""The front of the simulated hub: recognises operations, checks tokens, applies faults, and passes calls to the hub.

It has three doors: ``endpoint``, HTTPS, for the connector; ``side``, HTTP, for people, without faults and tokens; and
``devices``, MQTT, for devices and links.
"""

import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, quote_plus

from attrs import evolve, field, mutable

from fleetcore.testing.http1 import Answer, Read, Request, Server
from fleetcore.testing.throwaway_ca import ThrowawayCa
from fleetcore_azure.testing.faults import Faults
from fleetcore_azure.testing.hub import Hub, bulk_answer
from fleetcore_azure.testing.mqtt import Devices, serving_devices
from fleetcore_azure.testing.operations import HOST, Call, call_of
from fleetcore_azure.testing.rules import RefusedByAzure

#: ``POST`` JSON to it at the side door sets faults by name, ``{"heal": true}`` ends them; ``GET`` returns counts.
CONTROL = "/_faults"
_POLICIES: Mapping[str, frozenset[str]] = {
    "iothubowner": frozenset({"RegistryRead", "RegistryWrite", "ServiceConnect", "DeviceConnect"}),
    "device": frozenset({"DeviceConnect"}),
}


@mutable
class Front:
    """See the module.

    Attributes:
        policies: permissions of shared access policies by name; ``keys`` are their keys, in base64.
        bearers: accepted tokens of Entra ID.
        calls: how often each class of calls was made at the front door, including refused calls.
    """

    hub: Hub
    ca: ThrowawayCa
    faults: Faults = field(factory=Faults)
    policies: dict[str, frozenset[str]] = field(factory=lambda: dict(_POLICIES))
    keys: dict[str, str] = field(
        factory=lambda: {name: base64.b64encode(f"{name}-1".encode()).decode() for name in _POLICIES}
    )
    bearers: set[str] = field(factory=lambda: {"trial"})
    calls: dict[str, int] = field(factory=dict)
    endpoint: str = ""
    side: str = ""
    devices: Devices = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.devices = Devices(self.hub, self.faults, self.calls, self._admits)
        self.hub.on_removal.append(self.devices.drop)

    def connection_string(self, policy: str = "iothubowner") -> str:
        """The connection string of a policy."""
        return f"HostName={HOST};SharedAccessKeyName={policy};SharedAccessKey={self.keys[policy]}"

    def arriving(self, request: Request) -> Read:
        """How much of a request is read at the front door, by its head."""
        call = call_of(request)
        if call is None:
            return "whole"
        return self.faults.read_of(call.action, int(request.headers.get("content-length", "0")))

    async def at_the_front(self, request: Request) -> Answer:
        """Answers the connector."""
        answer = await self._answered(request)
        now = dt.datetime.fromtimestamp(self._now_s(), dt.UTC)
        return evolve(answer, headers={**answer.headers, "date": format_datetime(now, usegmt=True)})

    def _now_s(self) -> float:
        return time.time() + self.faults.skew_s

    async def _answered(self, request: Request) -> Answer:
        if self.faults.down:
            return Answer(fate="none")
        if self.faults.delay_s:
            await asyncio.sleep(self.faults.delay_s)
        call = call_of(request)
        if call is None:
            return RefusedByAzure("InvalidOperation", f"{request.method} {request.path}", 404).answer()
        self.calls[call.action] = self.calls.get(call.action, 0) + 1
        try:
            self.faults.enter(call, bearer=self._admitted(call))
            answer = self._done(call)
        except RefusedByAzure as refused:
            return refused.answer()
        return evolve(answer, fate=self.faults.fate_of(call.action))

    def _done(self, call: Call) -> Answer:
        """The hub's answer; some devices of bulk operations may fail on request."""
        if call.operation != "UpdateRegistry" or not isinstance(call.document, list):
            return self.hub.do(call)
        failing = [each for each in call.document if self.faults.failing(call)]
        answer = self.hub.do(evolve(call, document=[each for each in call.document if each not in failing]))
        if not failing:
            return answer
        errors = json.loads(answer.body)["errors"]
        errors += [{"deviceId": each["id"], "errorCode": "ServerError", "errorStatus": "busy"} for each in failing]
        return bulk_answer(errors)

    def _admitted(self, call: Call) -> bool:
        """Whether a call has a token of Entra ID rather than a signature. Raises if neither is valid."""
        given = call.request.headers.get("authorization", "")
        if given.startswith("Bearer ") and given.removeprefix("Bearer ") in self.bearers and not call.of_device:
            return True
        parts = {key: value[0] for key, value in parse_qs(given.removeprefix("SharedAccessSignature ")).items()}
        if not self._is_signed(parts):
            raise RefusedByAzure("IotHubUnauthorizedAccess", "Unauthorized: the token is not valid", 401)
        if call.permission not in self._permissions(parts["skn"]):
            raise RefusedByAzure("IotHubUnauthorizedAccess", f"Unauthorized: {call.permission} is not allowed", 401)
        return False

    def _permissions(self, policy: str) -> frozenset[str]:
        had = self.policies[policy]
        return had | {"RegistryRead"} if "RegistryWrite" in had else had

    def _is_signed(self, parts: Mapping[str, str]) -> bool:
        policy = parts.get("skn", "")
        return policy in self.keys and parts.get("sr") == HOST and self._is_good(parts, self.keys[policy])

    def _is_good(self, parts: Mapping[str, str], key: str) -> bool:
        """Whether a token is unexpired and was signed with a key."""
        until, resource = parts.get("se", ""), parts.get("sr", "")
        if not until.isdigit() or int(until) < self._now_s():
            return False
        text = f"{quote_plus(resource)}\n{until}".encode()
        wanted = base64.b64encode(hmac.digest(base64.b64decode(key), text, hashlib.sha256)).decode()
        return hmac.compare_digest(wanted, parts.get("sig", ""))

    def _admits(self, name: str, password: str) -> bool:
        """Whether a password authenticates a device: by its own key, or a policy's with DeviceConnect."""
        device = self.hub.devices.get(name)
        if device is None or device.authentication != "sas" or device.status != "enabled":
            return False
        given = password.removeprefix("SharedAccessSignature ")
        parts = {key: value[0] for key, value in parse_qs(given).items()}
        if given == password or parts.get("sr") not in {HOST, f"{HOST}/devices/{name}"}:
            return False
        policy = parts.get("skn")
        if policy is None:
            return parts["sr"] != HOST and any(self._is_good(parts, key) for key in device.keys)
        if policy not in self.keys or "DeviceConnect" not in self.policies[policy]:
            return False
        return self._is_good(parts, self.keys[policy])

    async def at_the_side(self, request: Request) -> Answer:
        """Answers tests and people."""
        if request.path == CONTROL:
            return self._control(request)
        call = call_of(request)
        if call is None:
            return RefusedByAzure("InvalidOperation", f"{request.method} {request.path}", 404).answer()
        try:
            return self.hub.do(call)
        except RefusedByAzure as refused:
            return refused.answer()

    def _control(self, request: Request) -> Answer:
        given: Mapping[str, Any] = json.loads(request.body) if request.body else {}
        for name, value in given.items():
            if name == "heal":
                self.faults.heal()
            elif name in {"index_lag_s", "quota"}:
                setattr(self.hub, name, value)
            else:
                setattr(self.faults, name, value)
        return Answer(body=json.dumps({"calls": self.calls, "messages": len(self.hub.events)}).encode())


@asynccontextmanager
async def serving(
    hub: Hub, port: int = 0, *, delay_s: float = 0.0, ca: ThrowawayCa | None = None
) -> AsyncIterator[Front]:
    """Listens on the loopback within the context; ``port`` is the front's, the next ones the side's and devices'."""
    front = Front(hub=hub, ca=ca or ThrowawayCa(), faults=Faults(delay_s=delay_s))
    tls = front.ca.server(client_certificates=False)
    async with (
        Server(front.at_the_front, port, tls=tls, reader=front.arriving) as door,
        Server(front.at_the_side, port + 1 if port else 0) as side,
        serving_devices(front.devices, port + 2 if port else 0, tls),
    ):
        front.endpoint, front.side = door.endpoint, side.endpoint
        yield front
