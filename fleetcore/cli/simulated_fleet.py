"""Simulated devices against a running server: registered with operator calls, enrolled and connected as devices."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fleetcore.cli.connect import Caller
from fleetcore.errors import Conflict, FleetError, Refused, Unavailable
from fleetcore.frontends.registration import registration
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.interfaces.provider import Provider
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.simulated_leaf import simulated_leaf
from fleetcore.testing.simulator import Behaviour, ClientFactory, SimulatedDevice
from fleetcore.wire import messages
from fleetcore.wire.endpoints import reachable
from fleetcore.wire.replies import error_of

#: Enrolments and connections under way at once: TLS handshakes are work for both ends.
_AT_ONCE = 8
#: Protocols whose server pushes items to leaves; over the others a gateway polls for each.
PUSHES_TO_LEAVES = frozenset({"mqtt", "websocket"})
#: Protocols over which a device can enrol and download.
_ABLE = frozenset({"http", "local"})


@frozen(kw_only=True)
class Way:
    """One open protocol and its client."""

    name: str
    kind: str
    endpoint: str
    client: ClientFactory


def ways_in(protocols: dict[str, Any], offers: dict[str, Provider[Any]]) -> list[Way]:
    """The protocols of a server (``status``) for which this machine has clients; raises Unavailable or Refused."""
    found = []
    for name, item in protocols.items():
        provider = offers.get(item.get("kind", name))
        if provider is not None and provider.client is not None and item["endpoints"]:
            endpoint = reachable(item["endpoints"][0], "localhost")
            found.append(Way(name=name, kind=provider.name, endpoint=endpoint, client=provider.client))
    if not protocols:
        raise Unavailable("No server is running on this data folder", remedy="Start it: fleetcore serve --data FOLDER")
    if not found:
        raise Refused(
            "The server has no open protocol for simulated devices",
            remedy="Add [protocols.http] to fleet.toml and install fleetcore-http",
        )
    return found


class SimulatedFleet:
    """Creates devices, spreads them over the protocols, and ends them; ``gateways`` only where supported."""

    def __init__(self, caller: Caller, ways: Sequence[Way], pki: Path, *, gateways: bool = False) -> None:
        self._caller = caller
        self._ways = [way for way in ways if way.kind in PUSHES_TO_LEAVES] if gateways else ways
        if not self._ways:
            raise Refused(
                "The server has no open protocol for simulated gateways",
                remedy="Add [protocols.mqtt] or [protocols.websocket] to fleet.toml",
            )
        # The factory settings of a device: the trust root and the operator's key for commands.
        self._ca = (pki / "ca.pem").read_bytes()
        key = load_pem_public_key((pki / "command.pub").read_bytes())
        self._command_key = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        # Enrolment and downloads need a protocol that supports them: HTTP if there is one, otherwise this process.
        able = [way for way in ways if way.kind in _ABLE]
        self._able = able[0] if able else None
        self.devices: list[SimulatedDevice] = []
        self.leaves: list[SimulatedDevice] = []

    def way_of(self, number: int) -> Way:
        """The protocol of the device with this number."""
        return self._ways[number % len(self._ways)]

    async def add(
        self,
        device: str,
        kind: str,
        behaviour: Behaviour,
        *,
        way: Way | None = None,
        properties: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> SimulatedDevice:
        """Registers, enrols and connects one device; one of an earlier simulation is enrolled again.

        Raises Conflict if a device with this id was not created by a simulation.
        """
        way = way or self.way_of(len(self.devices))
        download = (self._able.client, self._able.endpoint) if self._able and way.kind not in _ABLE else None
        simulated = SimulatedDevice(
            DeviceSecrets(device=device, ca=self._ca),
            way.client,
            way.endpoint,
            SystemClock(),
            behaviour=evolve(behaviour, command_key=self._command_key),
            download=download,
            seed=seed,
        )
        self.devices.append(simulated)
        async with self._slots:
            model = {} if behaviour.model is None else {"model": behaviour.model}
            members = registration({**model, **(properties or {})})
            try:
                await self._caller.run("create_device", {"id": device, "type": kind, **members})
            except Conflict:
                await self._take_again(device, kind)
            if self._able is not None:
                made = await self._caller.run("create_enrollment_token", {"device": device})
                await simulated.enroll(made["token"], client=self._able.client, endpoint=self._able.endpoint)
            else:
                made = await self._caller.run("issue_device_token", {"device_id": device})
                simulated.use_token(made["token"])
            await simulated.connect()
        return simulated

    async def _take_again(self, device: str, kind: str) -> None:
        """Lets a device of an earlier simulation enrol again, whose key ended with that process."""
        there = await self._caller.run("get_device", {"device_id": device})
        if there["type"] != kind or there["id"] != device:
            raise Conflict(
                f"Device {there['id']!r} exists and was not created by a simulation",
                remedy="Choose other names with --prefix",
                device=device,
            )

    async def add_all(
        self, names: Sequence[str], kind: str, behaviours: Sequence[Behaviour], step: Callable[[], None]
    ) -> None:
        """Adds several, a few at a time; calls ``step`` after each. The first error ends it."""

        async def one(name: str, behaviour: Behaviour, way: Way) -> None:
            await self.add(name, kind, behaviour, way=way, properties={"tags": ["simulated", way.name]})
            step()

        try:
            async with asyncio.TaskGroup() as group:
                for number, (name, behaviour) in enumerate(zip(names, behaviours, strict=True)):
                    group.create_task(one(name, behaviour, self.way_of(number)))
        except* FleetError as errors:
            raise errors.exceptions[0] from errors

    async def add_leaves(self, number: int, names: Sequence[str]) -> list[SimulatedDevice]:
        """Makes the device with this number a gateway, and registers and connects leaves behind it.

        Raises Refused if its protocol is not in :data:`PUSHES_TO_LEAVES`.
        """
        gateway, way = self.devices[number], self.way_of(number)
        if way.kind not in PUSHES_TO_LEAVES:
            raise Refused(f"A simulated gateway cannot use {way.name}", code="operation_unknown")
        await self._caller.run("register_gateway", {"id": gateway.device, "may_register": True})
        made = []
        for name in names:
            reply = await gateway.connection.request(messages.LEAF_REGISTER, {"device": name, "type": "leaf"})
            if reply.error is not None and reply.error["code"] != "already_exists":
                raise error_of(reply)
            leaf = simulated_leaf(gateway, name, SystemClock())
            self.leaves.append(leaf)
            made.append(leaf)
            await leaf.connect()
        return made

    async def close(self) -> None:
        """Disconnects all."""
        for some in (self.leaves, self.devices):
            await asyncio.gather(*(device.disconnect() for device in some), return_exceptions=True)
