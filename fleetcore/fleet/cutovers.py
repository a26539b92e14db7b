"""Cut-overs of many devices between this fleet and cloud hubs, in waves, as an operation.

A wave starts when all devices of the one before have ended, confirmed or not. When too many have stayed, the open
offers are withdrawn and no others are made. :mod:`fleetcore.fleet.cutover_offers` handles each device.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import cast

from attrs import evolve, frozen

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.fleet.cutover_offers import HERE, CutoverOffers
from fleetcore.fleet.operations import Kind, Operations
from fleetcore.model.cutover import STAYED, CutoverState
from fleetcore.model.operation import Failure, Operation, OperationState
from fleetcore.model.twin import Json
from fleetcore.rollout.waves import in_waves, wave_sizes

KIND = "cut-over"
#: How many devices one turn examines for an offer.
_TURN = 1000


@frozen(kw_only=True)
class PlannedCutover:
    """A device of a plan: its wave, from 1, and why it is skipped, or None."""

    device: str
    wave: int
    hindrance: Refused | None


class Cutovers:
    """Plans, starts and runs cut-overs."""

    def __init__(self, offers: CutoverOffers, operations: Operations) -> None:
        self.offers, self._operations = offers, operations
        #: Which hub does not answer, by operation.
        self._missing: dict[str, str] = {}
        operations.register(KIND, Kind(driver=self._drive, undo=self._undo, follows=True))

    async def plan(
        self, devices: Iterable[str], target: str | None, *, waves: Sequence[str]
    ) -> Sequence[PlannedCutover]:
        """The plan for devices, in the order of their turns. Changes nothing. Raises as :meth:`start`."""
        ids, sizes, hindered = await self._in_waves(devices, target, waves)
        numbers = [number for number, size in enumerate(sizes, start=1) for _ in range(size)]
        return [
            PlannedCutover(device=device, wave=wave, hindrance=hindered.get(device))
            for device, wave in zip(ids, numbers, strict=True)
        ]

    async def _in_waves(
        self, devices: Iterable[str], target: str | None, waves: Sequence[str]
    ) -> tuple[Sequence[str], Sequence[int], Mapping[str, Refused]]:
        """Devices in the order of their turns, the sizes of their waves, and why some cannot be cut over now.

        Those come in a wave after all others: a first wave of them would test nothing.
        """
        ids = in_waves(dict.fromkeys(devices))
        hindered = await self.offers.hindrances(ids, target)
        sizes = wave_sizes(waves, len(ids) - len(hindered))
        ordered = sorted(ids, key=lambda device: device in hindered)
        return ordered, (*sizes, len(hindered)) if hindered else sizes, hindered

    async def start(
        self,
        devices: Iterable[str],
        target: str | None,
        *,
        to: Json,
        tries: int,
        timeout_s: float,
        at_once: int,
        waves: Sequence[str],
        max_failed: float,
        actor: str,
        reason: str,
    ) -> Operation:
        """Starts the cut-over of devices to the hub of a mirror, or to this fleet (None).

        Args:
            to: the data of the new side for devices: endpoints, roots.
            tries: how often it tries the new side before it falls back.
            timeout_s: how long a device may take, from its offer on.
            at_once: how many may have an open offer at the same time.
            waves: sizes, or shares as ``10%``; the rest comes in a last wave.
            max_failed: when more than this share of the devices in the started waves stay, the operation stops.

        Raises:
            Refused: a wave is neither a size nor a share.
        """
        ids, sizes, _ = await self._in_waves(devices, target, waves)
        spec = {
            "target": target, "to": dict(to), "tries": tries, "timeout_s": timeout_s, "at_once": at_once, "next": 0,
            "waves": sizes, "max_failed": max_failed,
        }  # fmt: skip
        return await self._operations.start(KIND, ids, spec=spec, actor=actor, reason=reason)

    # -- running the operation --------------------------------------------------------------------------------------

    async def _drive(self, operation: Operation, items: Sequence[object]) -> Operation | None:
        devices = cast("Sequence[str]", items)
        to = {"name": operation.spec["target"] or HERE, **cast("Json", operation.spec["to"])}
        open_ = await self.offers.open(operation.id)
        missing = await self.offers.look_at(open_, {"to": to, "tries": operation.spec["tries"]})
        if missing is not None:
            self._missing[operation.id] = missing
        moved = evolve(await self._counted(operation), waiting=self._missing.get(operation.id, ""))
        if await self._fails(moved):
            await self._undo(moved, "system", "too many have stayed")
            return await self._ended(moved, devices, OperationState.STOPPED)
        if moved.paused is None:
            moved = await self._offer(moved, devices)
        if cast("int", moved.spec["next"]) == len(devices) and not moved.result.get(CutoverState.OFFERED):
            return await self._ended(moved, devices, None)
        return None if moved == operation else moved

    async def _counted(self, operation: Operation) -> Operation:
        counts = await self.offers.counts(operation.id)
        done = cast("int", operation.spec["next"]) - counts.get(CutoverState.OFFERED, 0)
        return evolve(operation, done=max(0, done), result=dict(counts))

    async def _fails(self, operation: Operation) -> bool:
        stayed = sum(operation.result.get(state, 0) for state in STAYED)
        return stayed > cast("float", operation.spec["max_failed"]) * _begun(operation) and not (
            cast("int", operation.spec["next"]) == operation.total
            and not operation.result.get(CutoverState.OFFERED)  # at the very end there is nothing left to stop
        )

    async def _offer(self, operation: Operation, devices: Sequence[str]) -> Operation:
        """Makes the next offers, as many as may be open and as the wave has."""
        spec, target = operation.spec, cast("str | None", operation.spec["target"])
        following = cast("int", spec["next"])
        room = cast("int", spec["at_once"]) - operation.result.get(CutoverState.OFFERED, 0)
        part = devices[following : min(_wave_end(operation), following + _TURN)] if room > 0 else ()
        why = await self.offers.hindrances(part, target) if part else {}
        begun = await self.offers.records.get_many(part)
        hindered: list[Failure] = []
        for place, device in enumerate(part, start=following + 1):
            if room <= 0:
                break
            following = place
            if device in begun and begun[device].operation == operation.id:
                continue  # offered before a crash
            try:
                if device in why:
                    raise why[device]
                await self.offers.make(operation, device, target, timeout_s=cast("float", spec["timeout_s"]))
                room -= 1
            except (Refused, NotFound, Conflict) as error:
                hindered.append(Failure(item=place, about=device, code=error.code, reason=str(error)))
        offered = evolve(
            operation,
            failures=(*operation.failures, *hindered),
            failed=operation.failed + len(hindered),
            reasons=_reasons(operation, hindered),
            spec={**spec, "next": following},
        )
        return await self._counted(offered)

    async def _ended(self, operation: Operation, devices: Sequence[str], state: OperationState | None) -> Operation:
        """Counts those that stayed from their records, including the records of a server that was killed."""
        self._missing.pop(operation.id, None)
        counted = evolve(await self._counted(operation), waiting="")
        places = {device: number for number, device in enumerate(devices, start=1)}
        stayed = [
            Failure(item=places[record.id], about=record.id, code=str(record.state), reason=record.reason)
            for record in await self.offers.records.find(ref=("operation", operation.id))
            if record.state is not CutoverState.CONFIRMED
        ]
        failed = counted.failed + len(stayed)
        return evolve(
            counted,
            failed=failed,
            # The first ones are kept: those that tried come before those that could not.
            failures=tuple(sorted((*counted.failures, *stayed), key=lambda failure: failure.item)),
            reasons=_reasons(counted, stayed),
            state=state or (OperationState.PARTLY if failed else OperationState.SUCCEEDED),
        )

    async def _undo(self, operation: Operation, _actor: str, reason: str) -> Operation:
        why = reason or "the operation was cancelled"
        for item in await self.offers.open(operation.id):
            await self.offers.end(item, CutoverState.CANCELLED, why)
        return await self._counted(operation)


def _reasons(operation: Operation, more: Sequence[Failure]) -> Mapping[str, int]:
    return dict(Counter(operation.reasons) + Counter(item.code for item in more))


def _begun(operation: Operation) -> int:
    """The end of the started waves."""
    following = cast("int", operation.spec["next"])
    return next((end for end in _ends(operation) if end >= following > 0), 0)


def _wave_end(operation: Operation) -> int:
    """The end of the present offers; the next wave starts when all earlier devices have ended."""
    following, begun = cast("int", operation.spec["next"]), _begun(operation)
    if following < begun or operation.result.get(CutoverState.OFFERED):
        return begun
    return next((end for end in _ends(operation) if end > following), operation.total)


def _ends(operation: Operation) -> Iterable[int]:
    return accumulate(cast("Sequence[int]", operation.spec["waves"]))


__all__ = ["HERE", "KIND", "Cutovers", "PlannedCutover"]
