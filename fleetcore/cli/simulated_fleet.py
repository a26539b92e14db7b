"""Simulated devices against a running server: registered by the operator's way, enrolled and connected by their own."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fleetcore.cli.connect import Caller
from fleetcore.errors import FleetError, Refused, Unavailable
from fleetcore.frontends.registration import registration
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.interfaces.provider import Provider
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.simulator import Behaviour, ClientFactory, SimulatedDevice
from fleetcore.wire.endpoints import reachable

#: Enrolments and connections under way at once: TLS handshakes are work for both ends.
_AT_ONCE = 8


@frozen(kw_only=True)
class Way:
    """One open protocol and its device side."""

    name: str
    kind: str
    endpoint: str
    client: ClientFactory


def ways_in(protocols: dict[str, Any], offers: dict[str, Provider[Any]]) -> list[Way]:
    """The protocols of a server (``status``) that this machine has clients for; raises Unavailable or Refused."""
    found = []
    for name, one in protocols.items():
        provider = offers.get(one.get("kind", name))
        if provider is not None and provider.client is not None and one["endpoints"]:
            endpoint = reachable(one["endpoints"][0], "localhost")
            found.append(Way(name=name, kind=provider.name, endpoint=endpoint, client=provider.client))
    if not protocols:
        raise Unavailable("No server runs on this data folder", remedy="Start it: fleetcore serve --data FOLDER")
    if not found:
        raise Refused(
            "The server has no protocol open that a simulated device could speak",
            remedy="Add [protocols.http] to fleet.toml and install fleetcore-http",
        )
    return found


class SimulatedFleet:
    """Makes devices, spreads them over the ways in, and ends them."""

    def __init__(self, caller: Caller, ways: Sequence[Way], pki: Path) -> None:
        self._caller, self._ways = caller, ways
        # What a factory would put into a device: whom it trusts, and whose commands it obeys.
        self._ca = (pki / "ca.pem").read_bytes()
        key = load_pem_public_key((pki / "command.pub").read_bytes())
        self._command_key = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        # Enrolment and downloads need a protocol that can do them: HTTP where there is one, in process otherwise.
        able = [way for way in ways if way.kind in ("http", "local")]
        self._able = able[0] if able else None
        self.devices: list[SimulatedDevice] = []

    def way_of(self, number: int) -> Way:
        """Over which protocol the device with this number speaks."""
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
        """Registers, enrols and connects one device."""
        way = way or self.way_of(len(self.devices))
        download = (self._able.client, self._able.endpoint) if self._able and way.kind == "mqtt" else None
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
            await self._caller.run("create_device", {"id": device, "type": kind, **members})
            if self._able is not None:
                made = await self._caller.run("create_enrollment_token", {"device": device})
                await simulated.enroll(made["token"], client=self._able.client, endpoint=self._able.endpoint)
            else:
                made = await self._caller.run("issue_device_token", {"device_id": device})
                simulated.use_token(made["token"])
            await simulated.connect()
        return simulated

    async def add_all(
        self, names: Sequence[str], kind: str, behaviours: Sequence[Behaviour], step: Callable[[], None]
    ) -> None:
        """Adds many, a few at a time; ``step`` is called after each. The first error ends it."""

        async def one(name: str, behaviour: Behaviour, way: Way) -> None:
            await self.add(name, kind, behaviour, way=way, properties={"tags": ["simulated", way.name]})
            step()

        try:
            async with asyncio.TaskGroup() as group:
                for number, (name, behaviour) in enumerate(zip(names, behaviours, strict=True)):
                    group.create_task(one(name, behaviour, self.way_of(number)))
        except* FleetError as errors:
            raise errors.exceptions[0] from errors

    async def close(self) -> None:
        """Disconnects all."""
        await asyncio.gather(*(device.disconnect() for device in self.devices), return_exceptions=True)
