"""The functions that gateways are to run: the object ``functions`` of their desired state.

A campaign's offer of a function is an entry in it. The entry stands while the gateway works on it and once it has
succeeded; in every other case the entry that was there before comes back, or none. The promises of the entries never
exceed the gateway's capacity: an entry whose return is possible counts too.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import cast

from attrs import evolve

from fleetcore.errors import FleetError, Refused
from fleetcore.fleet.process_state.turns import Turns
from fleetcore.fleet.registry import GATEWAY, Registry
from fleetcore.fleet.repository import Pairs, Repository
from fleetcore.fleet.trust_root import TrustRoot
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device
from fleetcore.model.edge import (
    FUNCTIONS,
    NOTHING_PROMISED,
    Capacity,
    Function,
    FunctionOffer,
    added,
    declared,
    entries,
    function_of,
    is_function,
    lacking,
    largest,
    offer_key,
    promise_of,
    reported,
)
from fleetcore.model.events import FUNCTION_PUT_BACK, FUNCTION_REMOVED
from fleetcore.model.firmware import Campaign, FirmwareImage
from fleetcore.model.store import Commit, Delete, Event
from fleetcore.model.twin import Json, Twin, diff_patch
from fleetcore.wire.manifest import open_manifest, peek_manifest
from fleetcore.wire.strict_json import dumps

#: The longest signed manifest of a function, as JSON: it is a part of desired state, which has 64 KiB by default.
MANIFEST_BYTES = 8192
#: The index entry of offers that a restart has to examine.
OPEN = ("open", "yes")
#: How many gateways a refusal names.
_NAMED, _LISTED = 5, 100


def _refs(offer: FunctionOffer) -> Pairs:
    return [("device", offer.device), *([OPEN] if offer.open else [])]


@lru_cache(maxsize=256)
def _contract(payload_type: str, payload: str) -> Function | None:
    try:
        return peek_manifest({"payloadType": payload_type, "payload": payload}).function
    except FleetError:
        return None


def contract_of(entry: Json) -> Function | None:
    """The contract in an entry's manifest; None where the entry is not one of a deployment."""
    manifest = entry.get("manifest")
    if not isinstance(manifest, Mapping):
        return None
    return _contract(str(manifest.get("payloadType")), str(manifest.get("payload")))


def promise(entry: Json | None) -> Capacity:
    """What a gateway promises an entry."""
    contract = None if entry is None else contract_of(entry)
    if entry is None or contract is None:
        return NOTHING_PROMISED
    size = entry.get("size")
    return promise_of(contract.resources, size if isinstance(size, int) else 0)


def image_promise(image: FirmwareImage) -> Capacity:
    """What a gateway promises the function of an image."""
    contract = None if image.manifest is None else peek_manifest(image.manifest).function
    return NOTHING_PROMISED if contract is None else promise_of(contract.resources, image.size or 0)


def together(promises: Iterable[Capacity]) -> Capacity:
    """The sum of promises."""
    total = NOTHING_PROMISED
    for each in promises:
        total = added(total, each)
    return total


class DesiredFunctions:
    """Changes the functions of gateways' desired state. Changes of one gateway take turns.

    Attributes:
        records: the last offer of each function to each gateway.
    """

    def __init__(self, storage: Storage, clock: Clock, twins: Twins, registry: Registry, root: TrustRoot) -> None:
        self._storage, self._clock = storage, clock
        self._twins, self._registry, self._root = twins, registry, root
        self.records = Repository(storage, "function_offer", FunctionOffer, refs=_refs)
        self._turns = Turns[None]()
        twins.protect_functions(self.is_gateway)

    def turn(self, gateway: str) -> AbstractAsyncContextManager[None]:
        """Excludes other changes of a gateway's functions and capacity, for the duration of the context."""
        return self._turns.of(gateway)

    async def is_gateway(self, device: str) -> bool:
        """Whether a device is a registered gateway."""
        record = await self._registry.find(device)
        return record is not None and GATEWAY in record.attributes

    async def promises(self, gateway: str, twin: Twin) -> dict[str, Capacity]:
        """What a gateway promises to each function: to its entry, and to a larger one that may come back."""
        found = {name: promise(entry) for name, entry in entries(twin.desired.document).items()}
        for offer in await self.records.find(ref=("device", gateway)):
            if offer.open and offer.before is not None:
                name = offer.function
                found[name] = largest(found.get(name, NOTHING_PROMISED), promise(offer.before))
        return found

    async def offer(
        self, campaign: Campaign, image: FirmwareImage, device: str, execution: str, attempt: int, trust: int
    ) -> None:
        """Makes a campaign's function an entry of a gateway's desired state; again, nothing changes.

        Args:
            execution: the name of the offer.
            trust: the version of the firmware root that the gateway has.

        Raises:
            Refused: ``no_capacity``; ``limit_exceeded``, the desired state would be too large.
        """
        name = function_of(image.component)
        made: dict[str, FunctionOffer] = {}
        async with self.turn(device):
            gateway, twin = await self._registry.find(device), await self._twins.get(device)
            if gateway is None:
                return
            last = await self.records.get(offer_key(device, name))
            others = await self.promises(device, twin)
            others.pop(name, None)

            def making(old: Twin) -> Json | None:
                entry = entries(old.own.document).get(name)
                if entry is not None and (entry.get("execution"), entry.get("attempt")) == (execution, attempt):
                    return None
                before = entry
                if last is not None and last.open and entry is not None and entry.get("execution") == last.execution:
                    before = last.before  # an offer that has not succeeded is not what comes back
                new = _entry(campaign, image, execution, attempt, before, self._root.after(max(1, trust)))
                wanted = added(together(others.values()), largest(promise(new), promise(before)))
                _refuse(device, lacking(self._capacity(gateway, old), wanted))
                made[name] = FunctionOffer(
                    id=offer_key(device, name), device=device, function=name, execution=execution, before=before
                )
                return {FUNCTIONS: {name: new if entry is None else diff_patch(entry, new)}}

            await self._twins.desire_by(
                device, making, extra=lambda _old, _new: Commit(puts=(self.records.put(made[name]),)),
                reason=f"the campaign {campaign.id} offers {name} {image.release}",
            )  # fmt: skip

    async def is_configured(self, campaign: Campaign, device: str) -> bool:
        """Whether a gateway has the configuration that a campaign's function is to get."""
        entry = entries((await self._twins.get(device)).own.document).get(function_of(campaign.component), {})
        return campaign.config is None or entry.get("config") == campaign.config

    async def accept(self, device: str, component: str, execution: str) -> None:
        """An offer has succeeded: its entry stays."""
        key = offer_key(device, function_of(component))
        async with self.turn(device):
            offer = await self.records.get(key)
            if offer is not None and offer.open and offer.execution == execution:
                await self._storage.commit(self.records.changing(offer, _closed(offer)))

    async def put_back(self, device: str, component: str, execution: str, reason: str) -> None:
        """Brings back what was there before an offer, unless another one has come since; again, nothing changes.

        Where that no longer fits the gateway, which may be once the offer had succeeded, the function is removed.
        """
        name = function_of(component)
        async with self.turn(device):
            gateway, twin = await self._registry.find(device), await self._twins.get(device)
            found = await self.records.get(offer_key(device, name))
            if gateway is None or found is None or found.execution != execution:
                return
            offer = found
            others = await self.promises(device, twin)
            others.pop(name, None)
            why = [reason]

            def making(old: Twin) -> Json | None:
                entry = entries(old.own.document).get(name)
                if entry is None or entry.get("execution") != execution:
                    return None
                before = offer.before
                wanted = added(together(others.values()), promise(before))
                if before is not None and (problems := lacking(self._capacity(gateway, old), wanted)):
                    why[:] = [f"{reason}; what was there before does not fit: {'; '.join(problems)}"]
                    before = None
                if before is None:
                    return _without(old, name)
                return {FUNCTIONS: {name: diff_patch(entry, _settled(before))}}

            def extra(_old: Twin, new: Twin) -> Commit:
                version = entries(new.own.document).get(name, {}).get("version")
                event = Event(
                    type=FUNCTION_PUT_BACK, subject=device, time=self._clock.now_ms(), reason=why[0],
                    data={"function": name, "execution": execution, "version": version},
                )  # fmt: skip
                return Commit(puts=(self.records.put(_closed(offer)),), events=(event,))

            await self._twins.desire_by(device, making, extra=extra, reason=reason)
            left = await self.records.get(offer.id)
            if left is not None and left.open:
                await self._storage.commit(self.records.changing(left, _closed(left)))

    async def remove(self, device: str, name: str, *, actor: str, reason: str) -> None:
        """Removes a function from a gateway's desired state; again, nothing changes."""
        async with self.turn(device):
            event = Event(
                type=FUNCTION_REMOVED, subject=device, time=self._clock.now_ms(), actor=actor, reason=reason,
                data={"function": name},
            )  # fmt: skip
            gone = Delete(kind=self.records.kind, key=offer_key(device, name))

            def making(old: Twin) -> Json | None:
                return _without(old, name) if name in entries(old.own.document) else None

            await self._twins.desire_by(
                device, making, extra=lambda _old, _new: Commit(deletes=(gone,), events=(event,)), actor=actor,
                reason=reason,
            )  # fmt: skip

    async def taking_over(
        self, old: Device, new: Device, trust: int, *, actor: str, reason: str
    ) -> tuple[Commit, Sequence[Callable[[], None]]]:
        """The part of a commit that gives a gateway's functions to another one; and what to call once it is stored.

        Raises:
            Refused: ``no_capacity``, the other one reports less than it would promise; ``model_mismatch``.
        """
        before = entries((await self._twins.get(old.id)).own.document)
        twin = await self._twins.get(new.id)
        wanted = {}
        for name, entry in before.items():
            wanted[name] = _settled(entry)
            manifest = peek_manifest(entry["manifest"]) if contract_of(entry) is not None else None
            if manifest is not None and new.model not in manifest.models:
                has_model = f"is a {new.model}" if new.model else "has no model"
                raise Refused(
                    f"{name} is for {', '.join(manifest.models[:_NAMED])}, and {new.id!r} {has_model}",
                    code="model_mismatch", remedy="Set the model of the new gateway", device=new.id,
                )  # fmt: skip
            if chain := self._root.after(max(1, trust)):
                wanted[name]["trust"] = chain
        total = together(promise(entry) for entry in wanted.values())
        has = reported(twin.reported.document)
        _refuse(new.id, lacking(has.known(total), total))
        given, told_new = await self._twins.desiring(new.id, {FUNCTIONS: wanted}, actor=actor, reason=reason)
        taken, told_old = await self._twins.desiring(old.id, {FUNCTIONS: None}, actor=actor, reason=reason)
        offers = await self.records.find(ref=("device", old.id))
        rest = Commit(deletes=tuple(Delete(kind=self.records.kind, key=each.id) for each in offers))
        return given + taken + rest, (told_new, told_old)

    async def capacity(self, gateway: Device) -> Capacity:
        """What a gateway has: what an operator declared, and for the rest what it reports."""
        return self._capacity(gateway, await self._twins.get(gateway.id))

    @staticmethod
    def _capacity(gateway: Device, twin: Twin) -> Capacity:
        return declared(gateway.attributes.get(GATEWAY)).known(reported(twin.reported.document))

    async def names_artifact(self, device: str, sha256: str) -> bool:
        """Whether the desired state of a gateway names a module."""
        if not await self.is_gateway(device):
            return False
        twin = await self._twins.get(device)
        return any(entry.get("sha256") == sha256 for entry in entries(twin.desired.document).values())

    async def check(
        self, devices: Sequence[str], images: Sequence[FirmwareImage], rollback: FirmwareImage | None,
        pending: Mapping[str, Mapping[str, Capacity]],
    ) -> None:  # fmt: skip
        """Checks that gateways can take functions, and what a rollback would give them, before a campaign is made.

        Args:
            pending: gateway → the functions that other campaigns are to offer it, and what it would promise them.

        Raises:
            Refused: ``no_capacity`` with figures, ``rollback_refused``, or ``limit_exceeded`` for a long manifest; the
                code is the first gateway's, and ``ids['failures']`` has that of each.
        """
        functions = [image for image in images if is_function(image.component)]
        if not functions:
            return
        for image in functions:
            if (size := len(dumps(image.manifest))) > MANIFEST_BYTES:
                raise Refused(
                    f"The signed manifest of {image.component} is {size} bytes long, and a gateway's desired state "
                    f"takes {MANIFEST_BYTES}",
                    code="limit_exceeded", remedy="Name fewer models or chunks", limit=MANIFEST_BYTES, unit="bytes",
                )  # fmt: skip
        failures = []
        for device in devices:
            try:
                await self._check(device, functions, rollback, pending.get(device, {}))
            except Refused as error:
                failures.append({"device": device, "code": error.code, "reason": error.message})
        if failures:
            named = "; ".join(each["reason"] for each in failures[:_NAMED])
            more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
            raise Refused(
                f"{len(failures)} of {len(devices)} gateways cannot take it: {named}{more}", code=failures[0]["code"],
                remedy="Leave them out, undeploy another function, or change the contract or the capacity",
                failures=failures[:_LISTED],
            )  # fmt: skip

    async def _check(
        self, device: str, functions: Sequence[FirmwareImage], rollback: FirmwareImage | None,
        pending: Mapping[str, Capacity],
    ) -> None:  # fmt: skip
        gateway = await self._registry.find(device)
        if gateway is None or GATEWAY not in gateway.attributes:
            raise Refused(f"{device} is not a gateway", code="no_capacity")
        twin = await self._twins.get(device)
        promised = dict(pending) | await self.promises(device, twin)
        for image in functions:
            name = function_of(image.component)
            entry = entries(twin.own.document).get(name)
            most = largest(image_promise(image), promise(entry))
            if image is functions[-1]:
                if rollback is not None:
                    most = largest(most, image_promise(rollback))
                elif entry is not None:
                    await self._check_way_back(device, name, entry)
            promised[name] = largest(most, promised.get(name, NOTHING_PROMISED))
        _refuse(device, lacking(self._capacity(gateway, twin), together(promised.values())))

    async def _check_way_back(self, device: str, name: str, entry: Json) -> None:
        """Checks that what a gateway runs now can come back: its module is stored, and its signatures are valid."""
        version, sha256 = entry.get("version"), str(entry.get("sha256"))
        if await self._storage.artifact(sha256) is None:
            raise Refused(f"{device} could not go back to {name} {version}: its module is not stored any more",
                          code="rollback_refused")  # fmt: skip
        if self._root.current is not None:
            try:
                open_manifest(entry.get("manifest"), self._root.current)
            except Refused as error:
                raise Refused(
                    f"{device} could not go back to {name} {version}: {error.message}", code="rollback_refused"
                ) from error


def _entry(
    campaign: Campaign, image: FirmwareImage, execution: str, attempt: int, before: Json | None,
    chain: Sequence[object],
) -> dict[str, object]:  # fmt: skip
    config = campaign.config
    if config is None:
        config = cast("Json", (before or {}).get("config", {}))
    entry: dict[str, object] = {
        "version": image.release,
        "sequence": image.seq,
        "sha256": image.sha256,
        "size": image.size,
        "config": dict(config),
        "execution": execution,
        "attempt": attempt,
        "manifest": dict(image.manifest or {}),
    }
    if chain:
        entry["trust"] = list(chain)
    return entry


def _settled(entry: Json) -> dict[str, object]:
    """An entry that no campaign offers."""
    return {name: value for name, value in entry.items() if name not in ("execution", "attempt")}


def _closed(offer: FunctionOffer) -> FunctionOffer:
    return evolve(offer, open=False)


def _without(twin: Twin, name: str) -> Json:
    """The patch that removes a function; with the last one the whole object."""
    return {FUNCTIONS: {name: None} if len(entries(twin.own.document)) > 1 else None}


def _refuse(device: str, problems: Sequence[str]) -> None:
    if problems:
        raise Refused(
            f"{device} cannot take it: {'; '.join(problems)}", code="no_capacity",
            remedy="Undeploy another function, or change the contract or the gateway's capacity", device=device,
        )  # fmt: skip
