"""Leaves: simulated devices without a connection, which use their gateway's."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from fleetcore.errors import Refused
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets, EnrollRequest
from fleetcore.model.message import Downlink, MessageType, Reply
from fleetcore.testing.simulator import Behaviour, SimulatedDevice


class LeafClient(DeviceClient):
    """A leaf on its gateway's connection, over any protocol that pushes to leaves."""

    def __init__(self, gateway: SimulatedDevice, leaf: str) -> None:
        self._gateway, self._leaf = gateway, leaf
        self._came: asyncio.Queue[Downlink | None] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._gateway.leaves[self._leaf] = self._came.put_nowait
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gateway.leaves.pop(self._leaf, None)
        self._came.put_nowait(None)

    async def send(
        self,
        type: MessageType,
        body: object,
        *,
        subject: str | None = None,
        target: str | None = None,
        id: str | None = None,
    ) -> Reply:
        del subject
        return await self._gateway.connection.send(type, body, subject=self._leaf, target=target, id=id)

    async def request(self, type: MessageType, body: object = None, *, subject: str | None = None) -> Reply:
        del subject
        return await self._gateway.connection.request(type, body, subject=self._leaf)

    async def downlinks(self) -> AsyncIterator[Downlink]:
        while (downlink := await self._came.get()) is not None:
            yield downlink

    async def enroll(self, request: EnrollRequest) -> Reply:
        del request
        raise Refused("A leaf has no credential: its gateway registers it", code="operation_unknown")

    def artifact(self, sha256: str, start: int = 0, *, subject: str | None = None) -> AsyncIterator[bytes]:
        del subject
        return self._gateway.connection.artifact(sha256, start, subject=self._leaf)


def simulated_leaf(
    gateway: SimulatedDevice, leaf: str, clock: Clock, *, behaviour: Behaviour | None = None, seed: int = 0
) -> SimulatedDevice:
    """A leaf behind a connected gateway; register it first, then connect it."""
    return SimulatedDevice(
        DeviceSecrets(device=leaf),
        lambda _endpoint, _secrets: LeafClient(gateway, leaf),
        gateway.endpoint,
        clock,
        behaviour=behaviour,
        seed=seed,
    )
