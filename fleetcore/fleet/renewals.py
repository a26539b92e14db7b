"""New certificates for many devices, in waves: requested in their twins, tracked in the inventory, stopped in time.

A device is asked by ``desired.fleetcore.renew``, whose value is the operation's id. It renews with a new key, and is
done once a certificate issued after the request has connected. A wave starts when the one before is done, and
everything stops when too many fail. After a crash the current wave is evaluated again from the inventory, and asking
twice changes nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import cast

from attrs import define, evolve, field, frozen

from fleetcore.errors import Conflict, Refused
from fleetcore.fleet.operations import Kind, Operations, check_plan
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.search import Search
from fleetcore.fleet.security import SecurityManager
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.clock import Clock
from fleetcore.model.credential import CertificateState
from fleetcore.model.device import Lifecycle
from fleetcore.model.operation import Failure, Operation, OperationState
from fleetcore.model.twin import OURS
from fleetcore.query.fitting import parse_new
from fleetcore.rollout.waves import MAX_FAILED, WAVES, in_waves, wave_sizes
from fleetcore.wire.strict_json import dumps

KIND = "renewal"
#: The default cap on the devices, as for a bulk command.
CAP = 1000
#: The time that a device has, seconds: sleeping devices come back within a day.
TIMEOUT_S = 86_400.0
_SAMPLE = 10
#: How long one turn works before others get theirs, seconds.
_TURN_S = 0.3
_POINTER = f"/{OURS}/renew"

_RENEWED = frozenset({CertificateState.ACTIVE, CertificateState.SUPERSEDED})


@frozen(kw_only=True)
class RenewalPlan:
    """The devices that a renewal would ask; ``plan`` identifies exactly these.

    Attributes:
        waves: how many devices each wave asks.
        skipped: selected devices without a valid certificate, which have none to renew.
    """

    plan: str
    count: int
    sample: tuple[str, ...]
    waves: tuple[int, ...]
    skipped: int
    cap: int


@frozen(kw_only=True)
class _Progress:
    """The progress of an operation, in its ``spec``.

    Attributes:
        begun: when each wave so far began, ms since the epoch.
        done, failed: in the waves before the current one.
    """

    waves: tuple[int, ...]
    timeout_ms: int
    max_failed: float
    begun: tuple[int, ...] = ()
    done: int = 0
    failed: int = 0

    def spec(self) -> dict[str, object]:
        """The stored form."""
        return {_STORED.get(name, name): getattr(self, name) for name in _MEMBERS}

    @classmethod
    def of(cls, spec: Mapping[str, object]) -> "_Progress":
        """From the stored form."""
        found = {name: spec[_STORED.get(name, name)] for name in _MEMBERS}
        lists = {name: tuple(cast("Sequence[int]", found[name])) for name in ("waves", "begun")}
        return cls(**{**found, **lists})  # type: ignore[arg-type]  # as written by spec()


_MEMBERS = ("waves", "timeout_ms", "max_failed", "begun", "done", "failed")
#: Members with another name in a stored ``spec``.
_STORED = {"max_failed": "most_failed"}


@define
class _Wave:
    """The current wave, in memory: how many were asked, and the results by index."""

    number: int
    asked: int = 0
    ended: dict[int, Failure | None] = field(factory=dict)
    looked: int = 0


class Renewals:
    """Plans, starts and runs renewals."""

    def __init__(
        self,
        security: SecurityManager,
        twins: Twins,
        operations: Operations,
        registry: Registry,
        search: Search,
        clock: Clock,
    ) -> None:
        self._security, self._twins, self._operations = security, twins, operations
        self._registry, self._search, self._clock = registry, search, clock
        self._waves: dict[str, _Wave] = {}
        # The devices' time runs by the clock, even while it is paused.
        operations.register(KIND, Kind(driver=self._drive, undo=self._unask, pauses=False))

    async def plan(
        self,
        *,
        where: str | None = None,
        devices: Sequence[str] = (),
        outdated: bool = False,
        waves: Sequence[str] = WAVES,
        cap: int = CAP,
    ) -> RenewalPlan:
        """The devices it would ask.

        Args:
            where, devices: a query or ids; neither means all devices, with ``outdated``.
            outdated: only devices without a valid certificate of the CA that signs now.
            waves: sizes, or shares as ``10%``; the rest comes in a last wave.

        Raises Refused where none or both select devices, or for an invalid wave; NotFound for an unknown device.
        """
        chosen, skipped = await self._chosen(where, devices, outdated=outdated)
        sizes = wave_sizes(waves, len(chosen))
        return RenewalPlan(
            plan=_digest(chosen, sizes),
            count=len(chosen),
            sample=tuple(chosen[:_SAMPLE]),
            waves=sizes,
            skipped=skipped,
            cap=cap,
        )

    async def start(
        self,
        *,
        where: str | None = None,
        devices: Sequence[str] = (),
        outdated: bool = False,
        waves: Sequence[str] = WAVES,
        rate_per_s: float | None = None,
        timeout_s: float = TIMEOUT_S,
        max_failed: float = MAX_FAILED,
        plan: str | None = None,
        cap: int = CAP,
        actor: str = "system",
        reason: str = "",
    ) -> Operation:
        """Starts it and returns at once; its ``done`` counts devices that have renewed or failed.

        Args:
            rate_per_s: the most devices asked in a second.
            timeout_s: a device that has not renewed after this time has failed.
            max_failed: more failures than this share of the devices in the started waves stop it.
            plan: the result of :meth:`plan`: then it asks exactly these devices, or none.

        Raises as :meth:`plan`; Conflict ``plan_changed``; Refused ``limit_exceeded`` beyond the cap.
        """
        if not 0 <= max_failed <= 1 or not 0 < timeout_s <= 366 * 86_400:
            raise Refused("max_failed must be a share from 0 to 1, timeout_s a number of seconds up to a year")
        chosen, _ = await self._chosen(where, devices, outdated=outdated)
        sizes = wave_sizes(waves, len(chosen))
        check_plan(plan, _digest(chosen, sizes), len(chosen), cap)
        progress = _Progress(waves=sizes, timeout_ms=int(timeout_s * 1000), max_failed=max_failed)
        return await self._operations.start(
            KIND, chosen, spec=progress.spec(), rate_per_s=rate_per_s, actor=actor, reason=reason
        )  # fmt: skip

    async def reissue(
        self, device: str, *, timeout_s: float = TIMEOUT_S, actor: str = "system", reason: str = ""
    ) -> Operation:
        """Asks one device; raises NotFound, and Conflict where it has no certificate to renew."""
        chosen, _ = await self._chosen(None, (device,), outdated=False)
        if not chosen:
            raise Conflict(
                f"Device {device!r} has no valid certificate",
                code="illegal_transition",
                remedy="Let it enrol: fleetcore enrollment token create --device …",
                device=device,
            )
        return await self.start(devices=(device,), timeout_s=timeout_s, actor=actor, reason=reason)

    async def _unask(self, operation: Operation, _actor: str, _reason: str) -> None:
        """Withdraws the request from the devices that have not renewed."""
        for device in await self._asked(operation.id):
            await self._withdraw(operation.id, device)
        self._waves.pop(operation.id, None)

    async def _asked(self, operation: str) -> list[str]:
        """The devices whose twin has this operation's request and that have not confirmed it."""
        found = []
        for device in await self._operations.items(operation):
            twin = await self._twins.get(str(device))
            wanted, reported = (section.document.get(OURS) for section in (twin.own, twin.reported))
            asked, obeyed = (
                isinstance(item, Mapping) and item.get("renew") == operation for item in (wanted, reported)
            )
            if asked and not obeyed:
                found.append(twin.device)
        return found

    async def _chosen(self, where: str | None, devices: Sequence[str], *, outdated: bool) -> tuple[list[str], int]:
        if where is not None and devices:
            raise Refused("Select the devices by a query or by their ids, not both")
        if where is None and not devices and not outdated:
            raise Refused(
                "Select the devices: by a query, by their ids, or those with certificates of an older CA (outdated)"
            )
        issuer = self._security.authority.issuer
        holders: dict[str, bool] = {}
        async for record in self._security.living():
            holders[record.device] = holders.get(record.device, False) or record.issuer == issuer
        if where is not None:
            wanted = await self._search.ids(parse_new(where))
        elif devices:
            wanted = sorted(set(devices))
            for device in wanted:
                await self._registry.get(device)
        else:
            wanted = sorted(holders)
        able = [device for device in wanted if device in holders]
        chosen = [device for device in able if not outdated or not holders[device]]
        return in_waves(chosen), len(wanted) - len(able)

    # --- running the operation -------------------------------------------------------------------------------------

    async def _drive(self, operation: Operation, items: Sequence[object]) -> Operation | None:
        devices = cast("Sequence[str]", items)
        progress = _Progress.of(operation.spec)
        now = self._clock.now_ms()
        if not progress.begun:
            # Stored before the first device is asked, so that after a crash an older answer does not count.
            return evolve(operation, spec=evolve(progress, begun=(now,)).spec())
        number = len(progress.begun) - 1
        wave = self._waves.get(operation.id)
        if wave is None or wave.number != number:
            wave = self._waves[operation.id] = _Wave(number=number)
        first, size = sum(progress.waves[:number]), progress.waves[number]
        members = devices[first : first + size]
        until = self._clock.monotonic_s() + _TURN_S
        await self._ask(operation, progress, wave, members, until)
        await self._look(operation, progress, wave, members, until)
        return await self._judge(operation, progress, wave, members)

    async def _ask(
        self, operation: Operation, progress: _Progress, wave: _Wave, members: Sequence[str], until: float
    ) -> None:
        allowed = len(members)
        if operation.rate_per_s is not None:
            passed_s = (self._clock.now_ms() - progress.begun[-1]) / 1000
            allowed = min(allowed, 1 + int(passed_s * operation.rate_per_s))
        while wave.asked < allowed and self._clock.monotonic_s() <= until:
            place, device = wave.asked, members[wave.asked]
            wave.asked += 1
            found = await self._registry.find(device)
            if found is None or found.lifecycle is Lifecycle.RETIRED:
                wave.ended[place] = _failure(progress, place, device, "device_unknown", "the device no longer exists")
                continue
            patch = {OURS: {"renew": operation.id}}
            await self._twins.desire(device, patch, ours=True, actor=operation.actor, reason=operation.reason)

    async def _look(
        self, operation: Operation, progress: _Progress, wave: _Wave, members: Sequence[str], until: float
    ) -> None:
        """Checks those without an end state, continuing where the last turn stopped."""
        now, begun = self._clock.now_ms(), progress.begun[-1]
        for _ in range(wave.asked):
            place = wave.looked % wave.asked
            wave.looked += 1
            if place in wave.ended:
                continue
            device = members[place]
            if any(item.created > begun and item.state in _RENEWED for item in await self._security.inventory(device)):
                wave.ended[place] = None
                continue
            waited = 0 if operation.rate_per_s is None else place / operation.rate_per_s * 1000
            refused = (await self._twins.get(device)).refused
            if _POINTER in refused:
                wave.ended[place] = _failure(
                    progress, place, device, "rejected", f"the device refuses: {refused[_POINTER]}"
                )
            elif now >= begun + waited + progress.timeout_ms:
                why = f"it has not renewed within {progress.timeout_ms / 1000:g} s"
                wave.ended[place] = _failure(progress, place, device, "timed_out", why)
            if self._clock.monotonic_s() > until:
                return

    async def _judge(
        self, operation: Operation, progress: _Progress, wave: _Wave, members: Sequence[str]
    ) -> Operation | None:
        failed = [item for _, item in sorted(wave.ended.items()) if item is not None]
        all_failed = progress.failed + len(failed)
        moved = evolve(
            operation,
            done=progress.done + len(wave.ended),
            failed=all_failed,
            failures=(*operation.failures[: progress.failed], *failed),
        )
        reached = sum(progress.waves[: wave.number + 1])
        if all_failed > progress.max_failed * reached and self._stops(progress, wave, members, all_failed):
            for place in range(wave.asked):
                if wave.ended.get(place, 0) is not None:  # those without an end state, and those that failed
                    await self._withdraw(operation.id, members[place])
            return self._end(evolve(moved, state=OperationState.STOPPED))
        if len(wave.ended) < len(members):
            return moved if (moved.done, moved.failed) != (operation.done, operation.failed) else None
        if wave.number + 1 == len(progress.waves):
            return self._end(evolve(moved, state=OperationState.PARTLY if all_failed else OperationState.SUCCEEDED))
        following = evolve(
            progress, begun=(*progress.begun, self._clock.now_ms()), done=moved.done, failed=moved.failed
        )
        return evolve(moved, spec=following.spec())

    def _stops(self, progress: _Progress, wave: _Wave, members: Sequence[str], failed: int) -> bool:
        """At the very end there is nothing left to stop."""
        last = wave.number + 1 == len(progress.waves)
        return failed > 0 and not (last and len(wave.ended) == len(members))

    def _end(self, operation: Operation) -> Operation:
        self._waves.pop(operation.id, None)
        return operation

    async def _withdraw(self, operation: str, device: str) -> None:
        wanted = (await self._twins.get(device)).own.document.get(OURS)
        if isinstance(wanted, Mapping) and wanted.get("renew") == operation:
            await self._twins.desire(device, {OURS: {"renew": None}}, ours=True, actor="system", reason="taken back")


def _failure(progress: _Progress, place: int, device: str, code: str, reason: str) -> Failure:
    item = sum(progress.waves[: len(progress.begun) - 1]) + place + 1
    return Failure(item=item, about=device, code=code, reason=reason)


def _digest(devices: Sequence[str], sizes: Sequence[int]) -> str:
    return "sha256:" + hashlib.sha256(dumps([list(devices), list(sizes)])).hexdigest()
