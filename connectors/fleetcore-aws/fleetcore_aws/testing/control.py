"""The contract tests' access to a simulated AWS, independent of the connector: the real SDK at the side door."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import boto3

from fleetcore.model.mirror import EntityKey
from fleetcore.model.patch import patch
from fleetcore_aws.brought import SHADOW as CERTIFICATES
from fleetcore_aws.config import SHADOW
from fleetcore_aws.names import THING, job_id
from fleetcore_aws.testing.front import Front
from fleetcore_aws.testing.operations import REGION


class Control:
    """A :class:`~fleetcore.testing.cloud_contract.HubControl` of a simulated AWS."""

    def __init__(self, front: Front, fleet: str = "default", queue: str = "") -> None:
        self.front, self._fleet, self._queue = front, fleet, queue
        session = boto3.Session(aws_access_key_id="side", aws_secret_access_key="door", region_name=REGION)  # noqa: S106
        self._clients: dict[str, Any] = {}
        self._session = session

    def client(self, service: str) -> Any:
        """The SDK's client at the side door."""
        if service not in self._clients:
            self._clients[service] = self._session.client(service, endpoint_url=self.front.side)
        return self._clients[service]

    def close(self) -> None:
        """Closes connections."""
        for client in self._clients.values():
            client.close()

    async def call(self, service: str, method: str, **arguments: object) -> Any:
        """Calls AWS as another writer would."""
        return await asyncio.to_thread(getattr(self.client(service), method), **arguments)

    async def has(self, key: EntityKey) -> bool:
        """See the contract."""
        name = THING.encode(key.id)
        calls: Mapping[str, tuple[str, str, Mapping[str, object]]] = {
            "registry": ("iot", "describe_thing", {"thingName": name}),
            "certificate": ("iot-data", "get_thing_shadow", {"thingName": name, "shadowName": CERTIFICATES}),
            "twin": ("iot-data", "get_thing_shadow", {"thingName": name, "shadowName": SHADOW}),
            "group": ("iot", "describe_thing_group", {"thingGroupName": name}),
            "job": ("iot", "describe_job", {"jobId": job_id(self._fleet, key.id)}),
        }
        service, method, arguments = calls[key.facet]
        try:
            await self.call(service, method, **arguments)
        except self.client(service).exceptions.ResourceNotFoundException:
            return False
        return True

    async def twin(self, device: str) -> tuple[Mapping[str, Any], int]:
        """State and version of a device's twin."""
        answer = await self.call("iot-data", "get_thing_shadow", thingName=THING.encode(device), shadowName=SHADOW)
        document = json.loads(answer["payload"].read())
        return document["state"], document["version"]

    async def edit(self, key: EntityKey, patch_: Mapping[str, object]) -> None:
        """See the contract; only for twins."""
        assert key.facet == "twin"
        state, _ = await self.twin(key.id)
        changed = {name: patch(state.get(name, {}), value) for name, value in patch_.items() if isinstance(value, dict)}
        payload = json.dumps({"state": changed}).encode()
        await self.call(
            "iot-data", "update_thing_shadow", thingName=THING.encode(key.id), shadowName=SHADOW, payload=payload
        )

    async def make_foreign(self, key: EntityKey) -> None:
        """See the contract."""
        await self.call("iot", "create_thing", thingName=THING.encode(key.id))

    async def telemetry(self, device: str) -> Sequence[tuple[str, int, float | str]]:
        """See the contract."""
        return [
            (reading["metric"], reading["time"], reading["value"])
            for message in self.front.messages
            if message["device"] == device
            for reading in message["readings"]  # type: ignore[attr-defined]  # a message of the connector
        ]

    async def command(self, device: str, name: str, args: Mapping[str, object]) -> None:
        """See the contract: the message that a rule of AWS IoT would put into the queue."""
        body = json.dumps({"device": device, "command": name, "args": args})
        await self.call("sqs", "send_message", QueueUrl=self._queue, MessageBody=body)

    async def throttle(self) -> None:
        """See the contract."""
        self.front.faults.throttled = 1 << 30

    async def go_down(self) -> None:
        """See the contract."""
        self.front.faults.down = True

    async def lose_answers(self, calls: int) -> None:
        """See the contract."""
        self.front.faults.lost = calls

    async def cut_requests(self, heads: int, bodies: int) -> None:
        """Cuts connections after half of the heads of this many requests, and of the bodies of this many."""
        self.front.faults.cut_heads, self.front.faults.cut_bodies = heads, bodies

    async def have_time(self, ahead_s: float) -> None:
        """Sets the hub's clock ahead of this machine's, or behind it if negative."""
        self.front.faults.skew_s = ahead_s

    async def reject_credentials(self) -> None:
        """See the contract."""
        self.front.faults.refused = "UnrecognizedClientException"

    async def heal(self) -> None:
        """See the contract."""
        self.front.faults.heal()
