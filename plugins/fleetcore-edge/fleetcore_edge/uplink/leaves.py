"""The gateway's leaves: those that the core knows exist here too, and new ones here are announced to the core."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from fleetcore.errors import Conflict, FleetError, NotFound
from fleetcore.fleet.lifecycles import Lifecycles
from fleetcore.fleet.registry import Registry
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.store import Commit
from fleetcore.wire import messages
from fleetcore.wire.replies import error_of
from fleetcore_edge.uplink.link import Link

_log = logging.getLogger(__name__)

ACTOR = "core"
#: The states of a leaf at the core in which it may not speak.
_BARRED = frozenset({Lifecycle.SUSPENDED, Lifecycle.RETIRED})
#: The blob with what is remembered of leaves.
_LEAVES = "uplink/leaves"
_NO_LEAF = "it is no leaf of this gateway any more"
#: How long a refused announcement stands before it is tried again.
_REFUSED_S = 300.0


class _Remembered(msgspec.Struct):
    """The leaves that the core listed last, and those that it does not list any more."""

    known: set[str]
    gone: set[str]


class Leaves:
    """Follows the core's list of leaves.

    Args:
        gateway: the gateway's own id.

    Attributes:
        refused: leaves that the core does not take, with the reason.
    """

    def __init__(
        self, gateway: str, link: Link, storage: Storage, devices: Registry, lifecycles: Lifecycles, clock: Clock
    ) -> None:
        self.gateway = gateway
        self._link, self._storage, self._devices = link, storage, devices
        self._lifecycles, self._clock = lifecycles, clock
        self._known: set[str] | None = None
        self._saved = _Remembered(set(), set())
        self.refused: dict[str, str] = {}
        self._refused_at: dict[str, float] = {}
        self._turn = asyncio.Lock()

    def again(self) -> None:
        """Forgets which leaves the core knew: one that it lost is announced again, and not barred."""
        self._known, self._saved = set(), _Remembered(set(), set())

    async def look(self) -> None:
        """Asks the core for the leaves, and follows: new ones are registered here, barred ones are suspended."""
        found: dict[str, Mapping[str, Any]] = {}
        after: str | None = None
        while True:
            body = {} if after is None else {"after": after}
            reply = await self._link.request(messages.LEAF_LIST, body)
            if reply.error is not None:
                raise error_of(reply)
            page = cast("Mapping[str, Any]", reply.body)
            found |= {leaf["device"]: leaf for leaf in page["leaves"]}
            if not page["more"] or not page["leaves"]:
                break
            after = page["leaves"][-1]["device"]
        if self._known is None and (blob := await self._storage.blob(_LEAVES)) is not None:
            self._saved = msgspec.json.decode(blob, type=_Remembered)
        gone = ((self._known or self._saved.known) | self._saved.gone) - found.keys()
        self._known = set(found)
        for leaf in found.values():
            await self._follow(leaf)
        for device in sorted(gone):
            await self._bar(device, _NO_LEAF)
        await self._save(_Remembered(set(found), gone))

    async def _save(self, remembered: _Remembered) -> None:
        if remembered != self._saved:
            await self._storage.commit(Commit(blobs={_LEAVES: msgspec.json.encode(remembered)}))
            self._saved = remembered

    async def _follow(self, leaf: Mapping[str, Any]) -> None:
        device, lifecycle = str(leaf["device"]), Lifecycle(leaf["lifecycle"])
        known = await self._devices.find(device)
        if known is None:
            if lifecycle in _BARRED:
                return
            try:
                known = await self._devices.register(
                    device, leaf["type"], model=leaf.get("model"), name=leaf.get("name"), tags=leaf.get("tags", ()),
                    actor=ACTOR, reason="it is a leaf of this gateway at the core",
                )  # fmt: skip
            except Conflict:
                known = await self._devices.get(device)
        if lifecycle in _BARRED:
            await self._bar(device, f"it is {lifecycle} at the core")
            return
        if known.lifecycle is Lifecycle.SUSPENDED:
            await self._lifecycles.move(device, Lifecycle.ACTIVE, actor=ACTOR, reason="it may speak again at the core")
        described = {name: leaf.get(name) for name in ("model", "name")} | {"tags": frozenset(leaf.get("tags", ()))}
        if any(_differs(known, name, value) for name, value in described.items()):
            await self._devices.change(device, **described, actor=ACTOR, reason="as at the core")

    async def _bar(self, device: str, reason: str) -> None:
        known = await self._devices.find(device)
        if known is None or known.lifecycle in _BARRED or device == self.gateway:
            return
        try:
            await self._lifecycles.move(device, Lifecycle.SUSPENDED, actor=ACTOR, reason=reason)
        except (Conflict, NotFound) as error:  # retired or erased meanwhile
            _log.warning("%s cannot be suspended: %s", device, error)

    async def announced(self, device: str) -> str:
        """Makes sure that the core knows a leaf; returns why it does not take it, or an empty text."""
        if device == self.gateway:
            return ""
        async with self._turn:
            if self._known is None:
                await self.look()
            if device in cast("set[str]", self._known):
                return ""
            known = await self._devices.find(device)
            if known is None:
                return "device_unknown: it is not registered at this gateway"
            if device in self._saved.gone:
                return f"not_your_device: {_NO_LEAF}"
            now = self._clock.monotonic_s()
            if device in self.refused and now < self._refused_at[device] + _REFUSED_S:
                return self.refused[device]
            reply = await self._link.request(messages.LEAF_REGISTER, {"device": device, "type": known.type})
            if reply.error is None:
                cast("set[str]", self._known).add(device)
                await self._save(_Remembered(self._saved.known | {device}, self._saved.gone))
                self.refused.pop(device, None)
                return ""
            error: FleetError = error_of(reply)
            self.refused[device], self._refused_at[device] = f"{error.code}: {error.message}", now
            _log.warning("The core does not take the leaf %s: %s", device, error)
            return self.refused[device]

    def known(self) -> Sequence[str]:
        """The leaves that the core knows, by id."""
        return sorted(self._known or ())


def _differs(device: Device, name: str, value: object) -> bool:
    here = getattr(device, name)
    return bool((frozenset(here) if name == "tags" else here) != value)
