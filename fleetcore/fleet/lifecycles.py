"""Retiring a device: one rule for every front end.

One commit moves the lifecycle, revokes every credential and starts the rest as an operation; then the device's sessions
end. The rest may be long: queued commands are cancelled and open firmware executions ended, step by step, also after a
crash.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fleetcore.errors import FleetError, NotFound
from fleetcore.fleet.commands import Commands
from fleetcore.fleet.operations import Kind, Operations
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.security import SecurityManager
from fleetcore.fleet.shielding import Shield
from fleetcore.fleet.updates import DEVICE_RETIRED, Updates
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.operation import Operation
from fleetcore.model.store import Commit

KIND = "retirement"


class Lifecycles:
    """Moves devices through their lifecycle. Retiring includes more than the move, so every front end uses this."""

    def __init__(
        self,
        registry: Registry,
        security: SecurityManager,
        operations: Operations,
        commands: Commands,
        updates: Updates,
    ) -> None:
        self._registry, self._security, self._operations = registry, security, operations
        self._commands, self._updates = commands, updates
        self._shield = Shield()
        # A device must never be half retired.
        operations.register(KIND, Kind(handler=self._leave, stops=False, pauses=False))

    async def move(
        self, device: str, to: Lifecycle, *, if_version: int | None = None, actor: str = "system", reason: str = ""
    ) -> Device:
        """Moves the lifecycle; moving to the present state does nothing.

        When it returns a retired device, none of its credentials is accepted, its sessions were told to end, and
        nothing is queued or offered to it any more.

        Retiring completes even if the caller is cancelled.

        Raises NotFound, IllegalTransition, VersionConflict.
        """
        if to is not Lifecycle.RETIRED:
            return await self._registry.move(device, to, if_version=if_version, actor=actor, reason=reason)
        return await self._shield.run(self._retire(device, if_version, actor, reason))

    async def _retire(self, device: str, if_version: int | None, actor: str, reason: str) -> Device:
        started: list[Operation] = []

        async def retirement() -> Commit:
            started.clear()
            old = await self._registry.get(device)
            moving = self._registry.moving(old, Lifecycle.RETIRED, if_version=if_version, actor=actor, reason=reason)
            if moving is None:
                return Commit()
            operation, begun = self._operations.prepared(KIND, [device], actor=actor, reason=reason)
            started.append(operation)
            return moving + begun

        await self._security.revoke(
            device=device, actor=actor, reason=reason or "retired", extra_commit=retirement, code=DEVICE_RETIRED
        )
        retired = await self._registry.get(device)
        if started:
            self._registry.moved(retired)
            await self._operations.run(started[0].id)
        return retired

    async def _leave(self, operation: Operation, devices: Sequence[Any]) -> Mapping[int, FleetError]:
        for device in devices:
            try:
                if (await self._registry.get(device)).lifecycle is not Lifecycle.RETIRED:
                    continue
            except NotFound:
                continue
            await self._commands.cancel_all(device, DEVICE_RETIRED, actor=operation.actor, reason=operation.reason)
            await self._updates.leave(device, DEVICE_RETIRED, actor=operation.actor)
        return {}
