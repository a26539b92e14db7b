"""The contract tests' access to the simulated hub, independent of the connector: as users and services have it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fleetcore.model.mirror import EntityKey
from fleetcore.model.patch import patch
from fleetcore_azure.held import OWN
from fleetcore_azure.names import DEVICE, KEY
from fleetcore_azure.testing.front import Front


class Control:
    """A :class:`~fleetcore.testing.cloud_contract.HubControl` of the simulated hub."""

    def __init__(self, front: Front, commands_by: str = "desired") -> None:
        self.front, self.hub, self._by = front, front.hub, commands_by
        self._number = 0

    @staticmethod
    def name(device: str) -> str:
        """The hub's name of a device."""
        return DEVICE.encode(device) or ""

    async def has(self, key: EntityKey) -> bool:
        """See the contract."""
        there = self.hub.devices.get(self.name(key.device or ""))
        if there is None:
            return False
        match key.facet:
            case "twin":
                return "twin" in there.tags.get(OWN, {})
            case "job":
                campaign = KEY.encode(key.id.partition(":")[0])
                return campaign in there.desired.get(OWN, {}).get("firmware", {})
            case "certificate":
                return there.authentication == "selfSigned"
            case _:
                return True

    async def edit(self, key: EntityKey, patch_: Mapping[str, object]) -> None:
        """See the contract; only for desired state in twins."""
        assert key.facet == "twin"
        there = self.hub.device(self.name(key.id))
        wanted: Any = patch_["desired"]
        desired = {name: value for name, value in there.desired.items() if name != OWN}
        self.hub.edit(there.name, desired=patch(desired, wanted))

    async def make_foreign(self, key: EntityKey) -> None:
        """See the contract."""
        self.hub.make(self.name(key.id), {})

    async def telemetry(self, device: str) -> Sequence[tuple[str, int, float | str]]:
        """See the contract."""
        bodies = [json.loads(each.body) for each in self.hub.events if each.device == self.name(device)]
        return [(each["metric"], each["time"], each["value"]) for body in bodies for each in body["readings"]]

    async def command(self, device: str, name: str, args: Mapping[str, object]) -> None:
        """See the contract."""
        if self._by == "c2d":
            self.hub.command(self.name(device), json.dumps({"command": name, "args": args}).encode())
            return
        self._number += 1
        given = {f"call-{self._number}": {"name": name, "args": args}}
        self.hub.edit(self.name(device), desired={OWN: {"commands": given}})

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
        self.front.faults.refused = True

    async def heal(self) -> None:
        """See the contract."""
        self.front.faults.heal()
