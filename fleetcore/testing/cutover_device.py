"""A device's part of a cut-over: it tries the new side, keeps the old one until it is confirmed, and falls back.

:class:`Mover` has the rules, and saves its state in a flash: after a loss of power at any place it continues. A
:class:`Side` is this fleet, as :class:`FleetSide` for any protocol's client, or a hub.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetcore.errors import FleetError, Refused, Unavailable
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets, EnrollRequest
from fleetcore.model.cutover import cutover_of
from fleetcore.model.twin import Json
from fleetcore.testing.flash import Flash
from fleetcore.wire import messages
from fleetcore.wire.identity import issued_chain, key_digest, make_csr, make_key

FLEET = "fleet"
_MEMORY, _CREDENTIAL = "cutover.json", "credential.json"
#: How long one try lasts, and how often the new side is polled meanwhile, seconds.
VISIT_S, LOOK_S = 60.0, 1.0


class Side(ABC):
    """One side of a cut-over, as a device uses it. Every method may be repeated, also after a loss of power.

    Each raises FleetError if the side does not answer or does not admit the device.
    """

    @abstractmethod
    async def offered(self) -> Json:
        """``desired.fleetcore.cutover`` on this side; empty without an offer."""

    @abstractmethod
    async def tell(self, said: Json) -> None:
        """Reports ``reported.fleetcore.cutover`` on this side."""

    @abstractmethod
    async def come(self, epoch: int, to: Json, old: "Side") -> None:
        """Connects from the old side with an offer's ``to``: with a credential, and reports its arrival."""


class Mover:
    """Follows offers from side to side.

    Args:
        sides: the sides that the device can use, by name.
        side: the initial side; afterwards the saved state.
        visit_s, look_s: how long one try lasts, and how often the new side is polled meanwhile, seconds.
    """

    def __init__(
        self,
        flash: Flash,
        clock: Clock,
        sides: Mapping[str, Side],
        *,
        side: str = FLEET,
        visit_s: float = VISIT_S,
        look_s: float = LOOK_S,
    ) -> None:
        self._flash, self._clock, self._sides = flash, clock, sides
        self._visit_s, self._look_s = visit_s, look_s
        kept = flash.load(_MEMORY)
        empty = {"side": side, "confirmed": 0, "told": True, "trying": None, "back": None}
        self._memory: dict[str, Any] = empty if kept is None else json.loads(kept)

    @property
    def side(self) -> str:
        """The side to which the device belongs: it only runs commands of this one."""
        return str(self._memory["side"])

    @property
    def confirmed(self) -> int:
        """The epoch of the last confirmed cut-over; 0 before the first."""
        return int(self._memory["confirmed"])

    @property
    def is_trying(self) -> bool:
        """Whether it is moving to another side, or has not reported there yet that it stays."""
        return self._memory["trying"] is not None or not self._memory["told"]

    @property
    def tried(self) -> int:
        """How many times it has tried the new side so far."""
        trying = self._memory["trying"]
        return 0 if trying is None else int(trying["tried"])

    def _save(self, **changes: object) -> None:
        self._memory |= changes
        self._flash.save(_MEMORY, json.dumps(self._memory).encode())

    async def step(self) -> None:
        """Does the next step, at most one try. Raises FleetError if its own side does not answer."""
        if self._memory["trying"] is not None:
            await self._try(self._memory["trying"])
            return
        here, back = self._sides[self.side], self._memory["back"]
        if not self._memory["told"]:
            await here.tell({"epoch": self.confirmed, "state": "moved"})
            self._save(told=True)
            return
        said = await here.offered()
        epoch = said.get("epoch")
        if not isinstance(epoch, int) or epoch <= self.confirmed:
            return
        gave_up = back is not None and back["epoch"] == epoch
        if said.get("confirmed") and gave_up:
            # It was confirmed before the fleet knew that the device had gone back.
            self._stay(back["to"], epoch)
        elif gave_up:
            await self._tell_back()
        elif isinstance(to := said.get("to"), Mapping):
            self._save(trying={"epoch": epoch, "to": to, "tries": said.get("tries", 1), "tried": 0}, back=None)

    async def _try(self, trying: Mapping[str, Any]) -> None:
        epoch, to, reason = int(trying["epoch"]), trying["to"], "it was not confirmed"
        new = self._sides.get(to["name"])
        if new is None:
            await self._give_up(trying, f"this device cannot use {to['name']}")
            return
        self._save(trying={**trying, "tried": trying["tried"] + 1})
        until_s = self._clock.monotonic_s() + self._visit_s
        while True:
            try:
                await new.come(epoch, to, self._sides[self.side])
                said = await new.offered()
                if said.get("epoch") == epoch and said.get("confirmed"):
                    self._stay(to["name"], epoch)
                    return
            except FleetError as error:
                reason = error.message
            if self._clock.monotonic_s() >= until_s:
                break
            await self._clock.sleep(self._look_s)
        if self.tried >= trying["tries"]:
            await self._give_up(trying, reason)

    def _stay(self, side: str, epoch: int) -> None:
        self._save(side=side, confirmed=epoch, told=False, trying=None, back=None)

    async def _give_up(self, trying: Mapping[str, Any], reason: str) -> None:
        self._save(trying=None, back={"epoch": trying["epoch"], "to": trying["to"]["name"], "reason": reason})
        await self._tell_back()

    async def _tell_back(self) -> None:
        back = self._memory["back"]
        said = {"epoch": back["epoch"], "state": "fell_back", "reason": back["reason"]}
        await self._sides[self.side].tell(said)


class FleetSide(Side):
    """This fleet, through the clients of its protocols.

    A device that comes here makes a key, reports its digest on the old side, and enrols with it. Its credentials here
    are saved in the flash; before its first certificate here it has ``secrets``.

    Args:
        clients: by the scheme of an endpoint, the function that makes a client; the device's preferred ones come first.
        endpoint: where to connect with the factory secrets; later an offer says where.
    """

    def __init__(
        self,
        flash: Flash,
        clients: Mapping[str, Callable[[str, DeviceSecrets], DeviceClient]],
        secrets: DeviceSecrets,
        endpoint: str = "",
    ) -> None:
        self._flash, self._clients, self.secrets, self.endpoint = flash, clients, secrets, endpoint
        self._kept: dict[str, Any] = json.loads(flash.load(_CREDENTIAL) or b"{}")
        if self._kept.get("certificate"):
            self._use()

    def _save(self, **changes: object) -> None:
        self._kept |= changes
        self._flash.save(_CREDENTIAL, json.dumps(self._kept).encode())

    def _use(self) -> None:
        kept, device = self._kept, self.secrets.device
        self.secrets = DeviceSecrets(
            device=device,
            certificate=kept["certificate"].encode(),
            key=kept["key"].encode(),
            ca=kept["ca"].encode(),
        )
        self.endpoint = kept["endpoints"][0]

    def _client(self, endpoint: str, secrets: DeviceSecrets) -> DeviceClient:
        return self._clients[urlsplit(endpoint).scheme](endpoint, secrets)

    async def offered(self) -> Json:
        async with self._client(self.endpoint, self.secrets) as client:
            twin = (await client.request(messages.TWIN_GET)).body or {}
        return cutover_of(twin.get("desired"))

    async def tell(self, said: Json) -> None:
        async with self._client(self.endpoint, self.secrets) as client:
            await client.send(messages.TWIN_REPORT, {"fleetcore": {"cutover": dict(said)}})

    async def come(self, epoch: int, to: Json, old: Side) -> None:
        told, roots = cast("Sequence[str]", to.get("endpoints") or ()), to.get("roots")
        endpoints = [each for scheme in self._clients for each in told if urlsplit(each).scheme == scheme]
        if not endpoints or not isinstance(roots, str):
            spoken = ", ".join(self._clients)
            raise Unavailable(f"The offer has no roots, or no endpoint with a protocol of the device: {spoken}")
        if self._kept.get("epoch") != epoch:
            self._save(epoch=epoch, key=make_key()[0].decode(), certificate=None, ca=roots, endpoints=endpoints)
        if self._kept["certificate"] is None:
            await self._enrol(epoch, old)
        self._use()

    async def _enrol(self, epoch: int, old: Side) -> None:
        key = serialization.load_pem_private_key(self._kept["key"].encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        await old.tell({"epoch": epoch, "state": "ready", "key": key_digest(key)})
        device = self.secrets.device
        bare, request = DeviceSecrets(device=device, ca=self._kept["ca"].encode()), make_csr(device, key)
        for endpoint in self._kept["endpoints"]:
            with suppress(Refused):  # not every protocol can enrol
                async with self._client(endpoint, bare) as client:
                    reply = await client.enroll(EnrollRequest(csr=request))
                break
        else:
            raise Unavailable(f"{device} cannot enrol with any of its protocols")
        if reply.status != 201 or reply.body is None:
            code = (reply.error or {}).get("code", reply.status)
            raise Unavailable(f"{device} is not admitted yet: {code}", code="not_ready")
        self._save(certificate=issued_chain(reply.body).decode(), ca=str(reply.body["ca"]))
