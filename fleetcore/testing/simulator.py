"""Simulated devices: a complete device side, over any protocol's DeviceClient.

A device makes its own key, enrols by CSR, reports its twin, follows desired state, runs each command once however often
it arrives, verifies the command signature if it has the key, handles firmware offers, and follows cut-overs.
Credentials are in :mod:`fleetcore.testing.credentials`, cut-overs in :mod:`fleetcore.testing.cutover_device`.
"""

import asyncio
import contextlib
import math
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import cast
from urllib.parse import urlsplit

from attrs import evolve, field, frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fleetcore.errors import FleetError, NotAuthenticated, NotFound, Refused, Unavailable
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets, EnrollRequest
from fleetcore.interfaces.waits import end_task
from fleetcore.model.cutover import cutover_of
from fleetcore.model.message import Downlink, MessageType, Reply
from fleetcore.model.twin import merge_patch
from fleetcore.testing.credentials import CredentialCare, Traffic
from fleetcore.testing.cutover_device import FLEET, LOOK_S, FleetSide, Mover, Side
from fleetcore.testing.flash import Flash, MemoryFlash
from fleetcore.testing.slots import Image
from fleetcore.testing.updater import Updater
from fleetcore.wire import dsse, messages
from fleetcore.wire.identity import issued_chain, make_csr, make_key
from fleetcore.wire.strict_json import loads

ClientFactory = Callable[[str, DeviceSecrets], DeviceClient]

#: How many results a device remembers, to answer a repeated command without running it again.
_REMEMBERED = 100
COMMAND_TYPE = "application/vnd.fleetcore.command+json"


@frozen(kw_only=True)
class Signal:
    """A metric's value over time: a daily sine with noise, and faults at given moments.

    Attributes:
        faults: seconds since the start → added to the value for one reading.
    """

    metric: str
    unit: str | None = None
    mean: float = 20.0
    swing: float = 2.0
    noise: float = 0.1
    period_s: float = 86_400.0
    faults: Mapping[int, float] = field(factory=dict)

    def at(self, second: int, chance: random.Random) -> float:
        """The value ``second`` seconds after the start."""
        base = self.mean + self.swing * math.sin(2 * math.pi * second / self.period_s)
        return round(base + chance.gauss(0, self.noise) + self.faults.get(second, 0.0), 3)


@frozen(kw_only=True)
class Behaviour:
    """The behaviour of a device.

    Attributes:
        model: its hardware model.
        firmware, seq: the factory version.
        trust: the factory's ``trust.json`` (an envelope); with it, only signed firmware is accepted.
        components: other components than the device's own firmware, such as a modem, with their factory images.
        firmware_fails: the code with which an update fails, or None.
        bad_firmware: the version that does not prove healthy with ``firmware_fails`` "health_failed"; None for each.
        command_key: the fleet's public key (raw Ed25519); with it, only signed commands are run, and firmware needs the
            server's assignment.
    """

    model: str | None = None
    firmware: str = "1.0.0"
    seq: int = 0
    trust: Mapping[str, object] | None = None
    components: Mapping[str, Image] = field(factory=dict)
    firmware_fails: str | None = None
    bad_firmware: str | None = None
    command_key: bytes | None = None
    signals: tuple[Signal, ...] = (Signal(metric="temperature", unit="Cel"),)


#: The members of a signed command (wire.md §9).
_SIGNED = frozenset({"id", "device", "name", "args", "sequence", "lane", "expires_at"})


class SimulatedDevice:
    """One device.

    Args:
        secrets: the id and the CA, and any credential it already has.
        client: makes a client for an endpoint; called for every connection.
        endpoint: where to connect.
        download: client and endpoint of a protocol that can download, for devices whose protocol cannot. A device that
            comes back from a hub also enrols over it, if its own protocol cannot.
        flash: survives restarts; without one nothing does.
        hubs: the hubs that it can be cut over to, by the names of their mirrors; it falls back from all others.
        side: its initial side: ``fleet``, or one of ``hubs``, where :meth:`follow_offers` makes it wait.

    Attributes:
        mover: its part of cut-overs.
        ran: executed commands, in order.
        sent, acknowledged: readings.
        problems: received refusals, by code.
        leaves: the handlers of downlinks for its leaves, by id.
    """

    def __init__(
        self,
        secrets: DeviceSecrets,
        client: ClientFactory,
        endpoint: str,
        clock: Clock,
        *,
        behaviour: Behaviour | None = None,
        download: tuple[ClientFactory, str] | None = None,
        flash: Flash | None = None,
        hubs: Mapping[str, Side] = MappingProxyType({}),
        side: str = FLEET,
        seed: int = 0,
    ) -> None:
        self.secrets, self._factory, self.endpoint, self._clock = secrets, client, endpoint, clock
        self._download_by = download
        self.behaviour = behaviour or Behaviour()
        self.device = secrets.device
        # Seeded so that a run can be repeated; no secret depends on it.
        self._chance = random.Random(f"{secrets.device}/{seed}")  # noqa: S311
        self._client: DeviceClient | None = None
        self._listening: asyncio.Task[None] | None = None
        self._results: OrderedDict[str, dict[str, object]] = OrderedDict()
        # By lane: the commands of a lane are in order, two lanes are independent.
        self._last_sequence: dict[str, int] = {}
        flash = flash or MemoryFlash()
        spoken = {
            urlsplit(at).scheme: made for made, at in ((client, endpoint), *(() if download is None else (download,)))
        }
        self._home = _Home(self, flash, spoken, secrets, endpoint)
        self.mover = Mover(flash, clock, {**hubs, FLEET: self._home}, side=side)
        self._following: asyncio.Task[None] | None = None
        self.updater = Updater(
            flash,
            clock,
            device=self.device,
            model=self.behaviour.model,
            firmware=self.behaviour.firmware,
            seq=self.behaviour.seq,
            trust=self.behaviour.trust,
            server_key=self.behaviour.command_key,
            components=self.behaviour.components,
        )
        fails = self.behaviour.firmware_fails
        factory = self.updater.boot().version
        self.updater.slots.comes_up = lambda image: fails != "boot_failed" or image.version == factory
        self.updater.spoilt = fails if fails not in ("boot_failed", "health_failed") else None
        self.desired: dict[str, object] = {}
        self.desired_version = 0
        self.ran: list[str] = []
        self.refused_commands: list[str] = []
        self.updates: list[str] = []
        self.sent = 0
        self.acknowledged = 0
        self.problems: dict[str, int] = {}
        self.leaves: dict[str, Callable[[Downlink], None]] = {}
        self._traffic, self._taking = Traffic(), asyncio.Lock()
        self.credentials = CredentialCare(
            clock,
            secrets=lambda: self.secrets,
            request=lambda csr: self._request(messages.CERTIFICATE_RENEW, {"csr": csr.decode()}),
            move=self._move,
            report=self.report,
        )

    @property
    def firmware(self) -> str:
        """The running version."""
        return self.updater.running.version

    async def enroll(
        self,
        token: str | None = None,
        *,
        client: ClientFactory | None = None,
        endpoint: str | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        """Makes a key, requests a certificate and keeps it; raises NotAuthenticated with the refusal's code.

        With a claim certificate in the secrets, ``parameters`` describe the device; without any it would only have
        begun.
        """
        pem, key = make_key()
        request = EnrollRequest(csr=make_csr(self.device, key), token=token, parameters=parameters or {})
        async with (client or self._factory)(endpoint or self.endpoint, self.secrets) as connection:
            reply = await connection.enroll(request)
        if reply.status != 201 or reply.body is None:
            code = str((reply.error or {}).get("code", "enrollment_pending"))
            raise NotAuthenticated(f"{self.device} was not enrolled", code=code)
        ca = cast("str", reply.body["ca"]).encode()
        self.secrets = evolve(self.secrets, certificate=issued_chain(reply.body), key=pem, ca=ca)
        self.credentials.issued(reply.body)

    def use_token(self, token: str) -> None:
        """Uses a device token as credential instead of a certificate."""
        self.secrets = evolve(self.secrets, token=token)

    async def connect(self) -> None:
        """Connects, reports online, the running firmware and the end of an interrupted update."""
        self._take_over(await self._factory(self.endpoint, self.secrets).__aenter__())
        await self._online()
        await self.updater.reconcile(self._say, self._health)

    async def _report_firmware(self) -> None:
        said: dict[str, object] = {"version": self.firmware}
        if self.updater.running.size:
            said["sha256"] = self.updater.running.sha256
        if self.updater.trust is not None:
            memory = self.updater.memory
            said |= {
                "seq": self.updater.running.seq,
                "highest_seq": memory.highest_seq,
                "trust": self.updater.trust.version,
            }
        if self.updater.memory.components:
            said["components"] = {
                name: {"version": image.version, "seq": image.seq, "sha256": image.sha256}
                for name, image in self.updater.memory.components.items()
            }
        await self.report({"firmware": said})

    def _take_over(self, client: DeviceClient) -> None:
        self._client = client
        self._listening = asyncio.create_task(self._listen(client), name=f"listen {self.device}")

    async def _online(self) -> None:
        await self._send(messages.STATUS, {"state": "online", "session": f"{self._chance.randrange(1 << 32):08x}"})
        await self._report_firmware()
        # Requests made before the connection broke, or that failed.
        await self.credentials.obey(cast("Mapping[str, object]", self.desired.get("fleetcore", {})))

    async def _move(self, secrets: DeviceSecrets) -> None:
        """Switches to a connection with other secrets; if it cannot be opened, the old one stays."""
        async with self._taking, self._traffic.held():
            client = await self._factory(self.endpoint, secrets).__aenter__()
            old, listening, self.secrets = self._client, self._listening, secrets
            self._take_over(client)
            await _closed(old, listening)
        await self._online()

    def follow_offers(self) -> None:
        """Follows an offer to change sides, and what happens at a hub until the device is back; idempotent."""
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow_offers(), name=f"cut-over {self.device}")

    async def _follow_offers(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                await self.mover.step()
            if self.mover.side != FLEET:
                await self._leave()
            elif self._client is None:
                self.secrets, self.endpoint = self._home.secrets, self._home.endpoint
                await self.connect()
            if self.mover.side == FLEET and not self.mover.is_trying:
                return
            await self._clock.sleep(LOOK_S)

    async def disconnect(self) -> None:
        """Closes the connection, and stops a cut-over under way; idempotent."""
        following, self._following = self._following, None
        if following is not None and following is not asyncio.current_task():
            with contextlib.suppress(FleetError):
                await end_task(following)
        await self._leave()

    async def _leave(self) -> None:
        await self.credentials.close()
        client, self._client = self._client, None
        listening, self._listening = self._listening, None
        await _closed(client, listening)

    @property
    def is_connected(self) -> bool:
        """Whether it is connected to the fleet."""
        return self._client is not None

    @property
    def connection(self) -> DeviceClient:
        """Its client; raises Unavailable if it is not connected."""
        if self._client is None:
            raise Unavailable(f"{self.device} is not connected", code="not_ready")
        return self._client

    async def _send(self, type: MessageType, body: object, *, target: str | None = None) -> Reply:
        async with self._traffic.message():
            reply = await self.connection.send(type, body, target=target)
        if reply.error is not None:
            code = str(reply.error.get("code", "internal"))
            self.problems[code] = self.problems.get(code, 0) + 1
        return reply

    async def _request(self, type: MessageType, body: object) -> Reply:
        async with self._traffic.message():
            return await self.connection.request(type, body)

    async def report(self, patch: Mapping[str, object]) -> Reply:
        """Reports twin state."""
        return await self._send(messages.TWIN_REPORT, dict(patch))

    async def send(self, body: object, readings: int) -> Reply:
        """Sends readings in any format; ``readings`` is their number."""
        self.credentials.look()
        self.sent += readings
        reply = await self._send(messages.TELEMETRY, body)
        if reply.error is None:
            stored = reply.body.get("stored") if reply.body else None
            self.acknowledged += stored if isinstance(stored, int) else readings
        return reply

    async def send_second(self, second: int, start_ms: int) -> Reply:
        """Sends one reading of each signal, ``second`` seconds after the start."""
        values = {signal.metric: signal.at(second, self._chance) for signal in self.behaviour.signals}
        return await self.send({"time": start_ms + second * 1000, "values": values}, len(values))

    async def _listen(self, client: DeviceClient) -> None:
        async for downlink in client.downlinks():
            leaf = self.leaves.get(downlink.subject)
            if leaf is not None:
                leaf(downlink)
                continue
            try:
                async with self._taking:
                    await self._take(downlink)
            except FleetError as error:
                self.problems[error.code] = self.problems.get(error.code, 0) + 1

    async def _take(self, downlink: Downlink) -> None:
        match downlink.type:
            case messages.TWIN_DESIRED:
                await self._follow(downlink.body)
            case messages.COMMAND:
                await self._command(downlink.body)
            case messages.FIRMWARE:
                await self._update(downlink.body)
            case messages.ERRORS:
                code = str(downlink.body.get("code", "internal"))
                self.problems[code] = self.problems.get(code, 0) + 1

    async def _follow(self, change: Mapping[str, object]) -> None:
        version, since = cast("int", change["version"]), cast("int", change["since"])
        if version <= self.desired_version:
            return
        if since not in (0, self.desired_version):
            reply = await self.connection.request(messages.TWIN_GET)
            body = reply.body or {}
            self.desired = cast("dict[str, object]", body.get("desired", {}))
            self.desired_version = cast("int", body.get("desired_version", self.desired_version))
        else:
            base = {} if since == 0 else self.desired
            self.desired = cast("dict[str, object]", merge_patch(base, change["patch"]))
            self.desired_version = version
        ours = cast("Mapping[str, object]", self.desired.get("fleetcore", {}))
        self.secrets = self.credentials.with_bundle(self.secrets, ours.get("trust"))
        await self.report({name: value for name, value in self.desired.items() if name != "fleetcore"})
        await self._send(messages.TWIN_ACK, {"version": self.desired_version})
        await self.credentials.obey(ours)
        if "cutover" in ours:
            self.follow_offers()

    async def _command(self, body: Mapping[str, object]) -> None:
        name = cast("str", body["id"])
        known = self._results.get(name)
        if known is not None:
            await self._send(messages.COMMAND_RESULT, known, target=name)
            return
        try:
            command = self._verified(body)
        except Refused as error:
            self.refused_commands.append(name)
            await self._result(name, {"status": "rejected", "code": error.code, "reason": error.message})
            return
        self._last_sequence[str(command["lane"])] = cast("int", command["sequence"])
        await self._send(messages.COMMAND_RESULT, {"status": "accepted"}, target=name)
        self.ran.append(name)
        if command["name"] == "fail":
            await self._result(
                name, {"status": "failed", "code": "asked_to", "reason": "the command requests a failure"}
            )
        else:
            await self._result(
                name, {"status": "succeeded", "output": {"name": command["name"], "args": command["args"]}}
            )

    async def _result(self, command: str, body: dict[str, object]) -> None:
        self._results[command] = body
        while len(self._results) > _REMEMBERED:
            self._results.popitem(last=False)
        await self._send(messages.COMMAND_RESULT, body, target=command)

    def _verified(self, body: Mapping[str, object]) -> Mapping[str, object]:
        """The command to run: with a key, only the signed payload of a new command for this device."""
        if self.behaviour.command_key is None:
            return body
        signed = body.get("signed")
        if not isinstance(signed, Mapping):
            raise Refused("The command is not signed", code="not_authorised")
        key = Ed25519PublicKey.from_public_bytes(self.behaviour.command_key)
        payload = loads(dsse.verify(signed, COMMAND_TYPE, [key]).payload)
        if not isinstance(payload, dict) or not payload.keys() >= _SIGNED:
            raise Refused("The signed payload is not a command", code="schema_invalid")
        if payload.get("device") != self.device or payload.get("id") != body.get("id"):
            raise Refused("The command is signed for another device", code="not_your_device")
        if cast("int", payload["sequence"]) <= self._last_sequence.get(str(payload["lane"]), 0):
            raise Refused("The command is a replay", code="not_authorised")
        from fleetcore.wire.times import parse_time

        if parse_time(payload["expires_at"]) < self._clock.now_ms():
            raise Refused("The command has expired", code="command_expired")
        return payload

    async def _update(self, body: Mapping[str, object]) -> None:
        offer = body.get("offer")
        if not isinstance(offer, Mapping):
            if isinstance(body.get("cancel"), str):
                await self.updater.withdraw(cast("str", body["cancel"]), self._say)
            return
        before = self.firmware
        await self.updater.take(
            offer,
            lambda start: self._image(offer, start),
            self._say,
            self._health,
            fetch_delta=lambda sha256: self._image({**offer, "sha256": sha256}, 0),
        )
        if self.firmware != before:
            self.updates.append(self.firmware)

    async def _say(self, execution: str, campaign: str, state: str, **more: object) -> None:
        if state in ("succeeded", "failed", "rejected"):
            await self._report_firmware()
        await self._send(
            messages.FIRMWARE_STATUS, {"execution": execution, "campaign": campaign, "state": state, **more}
        )

    async def _health(self) -> str | None:
        fails, bad = self.behaviour.firmware_fails, self.behaviour.bad_firmware
        return fails if fails == "health_failed" and bad in (None, self.firmware) else None

    async def _image(self, offer: Mapping[str, object], start: int) -> AsyncIterator[bytes]:
        if "path" not in offer:
            raise NotFound("This device only downloads from its own server", code="artifact_unknown")
        sha256 = cast("str", offer["sha256"])
        if self._download_by is None:
            async for piece in self.connection.artifact(sha256, start):
                yield piece
            return
        factory, endpoint = self._download_by
        async with factory(endpoint, self.secrets) as client:
            async for piece in client.artifact(sha256, start):
                yield piece


class _Home(FleetSide):
    """The fleet: over the device's own connection while that is open."""

    def __init__(
        self,
        device: SimulatedDevice,
        flash: Flash,
        clients: Mapping[str, ClientFactory],
        secrets: DeviceSecrets,
        endpoint: str,
    ) -> None:
        super().__init__(flash, clients, secrets, endpoint)
        self._device = device

    async def offered(self) -> Mapping[str, object]:
        return cutover_of(self._device.desired) if self._device.is_connected else await super().offered()

    async def tell(self, said: Mapping[str, object]) -> None:
        if self._device.is_connected:
            await self._device.report({"fleetcore": {"cutover": dict(said)}})
        else:
            await super().tell(said)


async def _closed(client: DeviceClient | None, listening: asyncio.Task[None] | None) -> None:
    if listening is not None:
        # If its connection broke it has ended already; the client is closed nevertheless.
        with contextlib.suppress(FleetError):
            await end_task(listening)
    if client is not None:
        await client.__aexit__(None, None, None)
