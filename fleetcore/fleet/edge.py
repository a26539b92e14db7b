"""Edge computing: gateways, the devices that are connected through them, and the functions that run on them.

A leaf of a gateway may be a gateway for further leaves. A function is a signed release; a campaign deploys it, and
:mod:`fleetcore.fleet.desired_functions` has what each gateway is to run.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from attrs import evolve, field, frozen

from fleetcore.errors import Conflict, NotAuthorised, NotFound, Refused
from fleetcore.fleet.campaigns import Campaigns
from fleetcore.fleet.desired_functions import DesiredFunctions, image_promise, together
from fleetcore.fleet.function_states import FunctionState, function_states
from fleetcore.fleet.map_reduce import AGGREGATES, Distributed, Job, MapReduce, Pause
from fleetcore.fleet.registry import GATEWAY, GATEWAYS, Registry
from fleetcore.fleet.releases import FUNCTION_RELEASES, OF_FUNCTION, Releases
from fleetcore.fleet.repository import retried
from fleetcore.fleet.search import Search
from fleetcore.fleet.shielding import Shield, shielded
from fleetcore.fleet.twins import Twins
from fleetcore.fleet.updates import Updates
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.edge import (
    ABI,
    NOTHING_PROMISED,
    RUNS,
    Capacity,
    amount,
    declared,
    function_of,
    is_function,
    lacking,
    largest,
    reported,
    room_left,
    whole_amount,
)
from fleetcore.model.events import GATEWAY_REPLACED
from fleetcore.model.firmware import Campaign, Release
from fleetcore.model.message import Handler, MessageType, Reply, Request
from fleetcore.model.rollout import AT_ONCE, Rollout
from fleetcore.model.store import Commit, Event, place
from fleetcore.model.twin import Twin
from fleetcore.query.ast import And, Clause, Compare
from fleetcore.query.parse import parse
from fleetcore.wire import messages
from fleetcore.wire.manifest import peek_manifest

#: The code of executions that ended because their function was removed from the gateway.
UNDEPLOYED = "undeployed"
#: The code of executions of gateways that another one has replaced.
REPLACED = "replaced"
_REPLACED_BY = "replaced_by"
_NAMED = 5
#: The lifecycle states in which a gateway can get functions.
_SERVED = frozenset({Lifecycle.REGISTERED, Lifecycle.PROVISIONED, Lifecycle.ACTIVE})

#: Leaves in one answer to a gateway.
_LISTED = 200


@frozen(kw_only=True)
class Gateway:
    """A gateway.

    Attributes:
        device: its record.
        capabilities: free-form, by names of its own.
        may_register: whether it may register leaves that were not announced.
        labels: for placement; the query grammar reads them as ``attributes.gateway.labels.NAME``.
        capacity: what it has, as declared; None of an amount where its report counts.
        replaced_by: the gateway that has its leaves and functions now.
    """

    device: Device
    capabilities: Mapping[str, object] = field(factory=dict)
    may_register: bool = False
    labels: Mapping[str, str] = field(factory=dict)
    capacity: Capacity = Capacity()
    replaced_by: str | None = None


@frozen(kw_only=True)
class GatewayResources:
    """What a gateway has, promises and uses.

    Attributes:
        capacity: what it has, as declared or else as reported.
        promised: to its functions, together.
        reported: ``resources`` as the gateway reports them, such as its engine and its load.
    """

    capacity: Capacity
    promised: Capacity
    reported: Mapping[str, object] = field(factory=dict)


@frozen(kw_only=True)
class GatewayUsage:
    """What a gateway uses, by its last report.

    Attributes:
        resources: what it has, promises and reports.
        used: the processor time of functions between its last two reports, their memory, and the disk that is not free.
        uplink: ``uplink`` as the gateway reports it: what waits and what was lost.
        functions, running: how many functions it is to run or reports, and how many run.
        in_sync: whether it runs exactly what is deployed.
    """

    resources: GatewayResources
    used: Capacity
    uplink: Mapping[str, object]
    functions: int
    running: int
    in_sync: bool


@frozen(kw_only=True)
class GatewayFunctions:
    """The functions of a gateway.

    Attributes:
        in_sync: whether it runs exactly what is deployed.
        since: since when it is in this state, ms since the epoch; None where that is not known.
        why: a sentence for each function that differs.
    """

    gateway: str
    functions: Sequence[FunctionState]
    in_sync: bool
    since: int | None
    why: Sequence[str]


@frozen(kw_only=True)
class Candidate:
    """A gateway as a place for a function: ``reasons`` why it does not fit, and the ``room`` left there, 0 to 1."""

    gateway: str
    reasons: Sequence[str] = ()
    room: float = 0.0


@frozen(kw_only=True)
class Placement:
    """Where a function fits: the gateways that were chosen, the one with the most room first, and all others."""

    release: str
    chosen: Sequence[Candidate]
    others: Sequence[Candidate]


@frozen(kw_only=True)
class Replacement:
    """What a gateway got from the one that it replaces."""

    old: str
    new: str
    leaves: int
    functions: Sequence[str]


def _gateway(device: Device) -> Gateway:
    section = device.attributes.get(GATEWAY)
    if not isinstance(section, Mapping):
        raise Refused(
            f"Device {device.id!r} is not a gateway",
            code="not_authorised",
            remedy="Register it with EdgeComputing.register_gateway",
        )
    capabilities, labels, by = section.get("capabilities"), section.get("labels"), section.get(_REPLACED_BY)
    return Gateway(
        device=device,
        capabilities=capabilities if isinstance(capabilities, Mapping) else {},
        may_register=section.get("may_register") is True,
        labels={name: str(value) for name, value in labels.items()} if isinstance(labels, Mapping) else {},
        capacity=declared(section),
        replaced_by=by if isinstance(by, str) else None,
    )


class EdgeComputing:
    """Registers gateways, attaches leaves, and deploys functions to gateways.

    Args:
        retire: moves a device to the lifecycle ``retired``, with the actor and the reason.
    """

    def __init__(
        self, storage: Storage, clock: Clock, registry: Registry, twins: Twins, functions: DesiredFunctions,
        updates: Updates, campaigns: Campaigns, releases: Releases, search: Search,
        retire: Callable[[str, str, str], Awaitable[None]], map_reduce: MapReduce,
    ) -> None:  # fmt: skip
        self._storage, self._clock, self._registry, self._twins = storage, clock, registry, twins
        self._functions, self._updates, self._campaigns = functions, updates, campaigns
        self._releases, self._search, self._retire = releases, search, retire
        self._map_reduce = map_reduce
        self._shield = Shield()

    # --- gateways and leaves -------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers for gateways' messages about their leaves."""
        return {messages.LEAF_REGISTER: self._announced, messages.LEAF_LIST: self._listed}

    async def _announced(self, request: Request, body: messages.LeafBody) -> Reply:
        device = await self.register_leaf(request.identity, body.device, body.type or "leaf")
        return Reply(status=201, body={"device": device.id, "gateway": device.gateway})

    async def _listed(self, request: Request, body: messages.LeafListBody) -> Reply:
        after = None if body.after is None else place("", body.after)
        page = await self._registry.records.page(ref=("gateway", request.identity), after=after, limit=_LISTED)
        leaves = [
            {"device": leaf.id, "type": leaf.type, "lifecycle": leaf.lifecycle.value, "tags": sorted(leaf.tags)}
            | {name: value for name in ("model", "name") if (value := getattr(leaf, name)) is not None}
            for leaf in page.items
        ]
        return Reply(body={"leaves": leaves, "more": page.after is not None})

    async def register_gateway(
        self,
        gateway: str,
        capabilities: Mapping[str, object] | None = None,
        *,
        type: str = "gateway",
        may_register: bool = False,
        labels: Mapping[str, str] | None = None,
        capacity: Capacity | None = None,
        model: str | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> Gateway:
        """Registers a device as a gateway, or makes a registered device one. Labels and capacity stay if not given.

        Args:
            capabilities: runtimes and what else there is; free-form.
            may_register: whether it may register unknown leaves by ``leaf.register``.
            labels: for placement.
            capacity: what it has for functions; where it is not given, what the gateway reports counts.
            model: its hardware model, which signed functions name.

        Raises:
            Refused: ``no_capacity``, it promises more than this capacity.
        """
        async with self._functions.turn(gateway):
            known = await self._registry.find(gateway)
            before = {} if known is None else known.attributes.get(GATEWAY)
            section = {
                **({} if not isinstance(before, Mapping) else before),
                "capabilities": dict(capabilities or {}),
                "may_register": may_register,
            }
            if labels is not None:
                section["labels"] = dict(labels)
            if capacity is not None:
                section["capacity"] = _given(capacity)
                if known is not None:
                    await self._check_capacity(known, section)
            if known is None:
                device = await self._registry.register(
                    gateway, type, model=model, attributes={GATEWAY: section}, actor=actor, reason=reason
                )
            else:
                more: dict[str, Any] = {} if model is None else {"model": model}
                device = await self._registry.change(
                    gateway, attributes={**known.attributes, GATEWAY: section}, actor=actor, reason=reason, **more
                )
        return _gateway(device)

    async def _check_capacity(self, device: Device, section: Mapping[str, object]) -> None:
        twin = await self._twins.get(device.id)
        has = declared(section).known(reported(twin.reported.document))
        promised = together((await self._functions.promises(device.id, twin)).values())
        if problems := lacking(has, promised):
            raise Refused(
                f"{device.id} promises more than that: {'; '.join(problems)}", code="no_capacity",
                remedy="Undeploy a function first", device=device.id,
            )  # fmt: skip

    async def set_capacity(
        self, gateway: str, capacity: Capacity, *, actor: str = "system", reason: str = ""
    ) -> Gateway:  # fmt: skip
        """Declares what a gateway has for functions; amounts that are not given follow from its report.

        Raises:
            NotFound: there is no such device.
            Refused: ``no_capacity``, it promises more to its functions; ``not_authorised``, it is not a gateway.
        """
        async with self._functions.turn(gateway):
            device = await self._registry.get(gateway)
            _gateway(device)
            section = {**cast("Mapping[str, object]", device.attributes[GATEWAY]), "capacity": _given(capacity)}
            await self._check_capacity(device, section)
            return _gateway(
                await self._registry.change(
                    gateway, attributes={**device.attributes, GATEWAY: section}, actor=actor, reason=reason
                )
            )

    async def gateways(self) -> list[Gateway]:
        """All gateways by id."""
        return [_gateway(device) for device in await self._registry.list(ref=GATEWAYS)]

    @staticmethod
    def gateway(device: Device) -> Gateway:
        """A device as a gateway; raises Refused where it is not one."""
        return _gateway(device)

    async def attach(self, gateway: str, leaf: str, *, actor: str = "system", reason: str = "") -> Device:
        """Attaches a registered device to the gateway; it may be a gateway with leaves of its own.

        Raises:
            Conflict: it belongs to another gateway.
            Refused: ``topology_cycle``, the gateway is below it.
        """
        _gateway(await self._registry.get(gateway))
        device = await self._registry.get(leaf)
        if device.gateway not in (None, gateway):
            raise Conflict(
                f"{leaf!r} belongs to gateway {device.gateway!r}", remedy="Detach it there first", device=leaf
            )
        return await self._registry.change(leaf, gateway=gateway, actor=actor, reason=reason)

    async def detach(self, leaf: str, *, actor: str = "system", reason: str = "") -> Device:
        """Detaches the leaf from its gateway."""
        return await self._registry.change(leaf, gateway=None, actor=actor, reason=reason)

    async def leaves(self, gateway: str) -> Sequence[Device]:
        """The gateway's leaves."""
        return await self._registry.leaves(gateway)

    async def register_leaf(self, gateway: str, leaf: str, type: str = "leaf") -> Device:
        """Registers a leaf that a gateway announces. Announcing its own leaf again is not an error.

        Raises:
            NotAuthorised: the device may not register leaves, or is not a gateway.
            Conflict: the id belongs to a device that is not below this gateway.
        """
        known = await self._registry.find(leaf)
        if known is not None:
            if any(each.id == gateway for each in await self._registry.path(known)):
                return known
            raise Conflict(f"{leaf!r} is registered already", device=leaf)
        device = await self._registry.get(gateway)
        section = device.attributes.get(GATEWAY)
        if not isinstance(section, Mapping) or section.get("may_register") is not True:
            raise NotAuthorised(
                f"{gateway!r} may not register leaves", remedy="Register the gateway with may_register", device=gateway
            )
        return await self._registry.register(
            leaf, type, gateway=gateway, actor=gateway, reason="announced by its gateway"
        )

    # --- functions -----------------------------------------------------------------------------------------------

    async def releases(self, function: str | None = None) -> Sequence[Release]:
        """The released versions of all functions, or of one, by name and seq."""
        ref = FUNCTION_RELEASES if function is None else (OF_FUNCTION, function)
        return await self._releases.records.find(ref=ref)

    async def release(self, function: str) -> Release:
        """The release of a function: ``NAME:SEQ``, or the newest of a function by its name. Raises NotFound."""
        if ":" in function:
            found = await self._releases.get(function)
        else:
            newest = await self._releases.records.page(ref=(OF_FUNCTION, function), limit=1, newest=True)
            if not newest.items:
                raise NotFound(
                    f"No function {function!r} is released", remedy="Sign one: fleetcore firmware sign --function",
                    function=function,
                )  # fmt: skip
            found = newest.items[0]
        if not is_function(found.component):
            raise NotFound(f"{found.id} is firmware, not a function", function=function)
        return found

    async def place(
        self, function: str, *, where: str = "", gateways: Sequence[str] = (), copies: int | None = None
    ) -> Placement:
        """Finds gateways for a function, by model, ABI and capacity; nothing is deployed.

        Args:
            function: ``NAME:SEQ``, or a name for its newest release.
            where: only gateways that this query selects, such as ``attributes.gateway.labels.hall = 'A'``.
            gateways: only these.
            copies: how many are wanted: those with the most room left; by default all that fit.

        Raises:
            NotFound: there is no such function.
            Refused: ``no_capacity``, it fits nowhere, or on fewer gateways than wanted; with the reasons of each.
        """
        release = await self.release(function)
        candidates = [await self._judged(release, each) for each in await self._among(where, gateways)]
        fitting = sorted((each for each in candidates if not each.reasons), key=lambda each: (-each.room, each.gateway))
        chosen = fitting if copies is None else fitting[:copies]
        taken = {each.gateway for each in chosen}
        if len(chosen) < max(1, copies or 1):
            failing = [each for each in candidates if each.reasons]
            named = "; ".join(f"{each.gateway}: {', '.join(each.reasons)}" for each in failing[:_NAMED])
            more = f"; and {len(failing) - _NAMED} more" if len(failing) > _NAMED else ""
            raise Refused(
                f"{release.id} fits {len(fitting)} of {len(candidates)} gateways, and {copies or 1} are wanted"
                + (f". {named}{more}" if failing else ""),
                code="no_capacity",
                remedy="Undeploy another function, add a gateway, or widen the query",
                failures=[
                    {"device": each.gateway, "code": "no_capacity", "reason": ", ".join(each.reasons)}
                    for each in failing
                ],
            )
        return Placement(
            release=release.id, chosen=chosen, others=[each for each in candidates if each.gateway not in taken]
        )

    async def _among(self, where: str, gateways: Sequence[str]) -> Sequence[Device]:
        if gateways:
            return [(await self._registry.get(gateway)) for gateway in dict.fromkeys(gateways)]
        if not where:
            return await self._registry.list(ref=GATEWAYS)
        clause = And((parse(where), Compare(("lifecycle",), "!=", Lifecycle.RETIRED.value)))
        found = await self._registry.records.get_many(await self._search.ids(clause))
        return [device for _, device in sorted(found.items()) if GATEWAY in device.attributes]

    async def _judged(self, release: Release, device: Device) -> Candidate:
        """A gateway as a place for a release."""
        if GATEWAY not in device.attributes:
            return Candidate(gateway=device.id, reasons=("it is not a gateway",))
        gateway, twin = _gateway(device), await self._twins.get(device.id)
        manifest = peek_manifest(release.manifest)
        reasons: list[str] = []
        if gateway.replaced_by is not None:
            reasons.append(f"{gateway.replaced_by} has replaced it")
        if device.lifecycle not in _SERVED:
            reasons.append(f"it is {device.lifecycle}")
        if device.model not in release.models:
            reasons.append(f"it {f'is a {device.model}' if device.model else 'has no model'}")
        newest = _abi(twin.reported.document)
        if manifest.function is not None and manifest.function.abi > newest:
            reasons.append(f"its engine runs ABI {newest}, and the function needs {manifest.function.abi}")
        has = await self._functions.capacity(device)
        name = function_of(release.component)
        promised = {
            **await self._updates.coming_functions(device.id),
            **await self._functions.promises(device.id, twin),
        }
        promised[name] = largest(image_promise(release.image), promised.get(name, NOTHING_PROMISED))
        total = together(promised.values())
        reasons += lacking(has, total)
        return Candidate(gateway=device.id, reasons=reasons, room=room_left(has, total))

    async def deploy(
        self,
        function: str,
        campaign: str,
        *,
        gateways: Sequence[str] = (),
        where: str = "",
        copies: int | None = None,
        config: Mapping[str, object] | None = None,
        rollout: Rollout = AT_ONCE,
        rollback_to: str | None = None,
        hold: bool = False,
        starts_at: int | None = None,
        approval: bool = False,
        actor: str = "system",
        reason: str = "",
    ) -> Campaign:
        """Deploys a function with a campaign of its own: in waves, with retries, a health gate and a way back.

        Args:
            function, gateways, where, copies: as :meth:`place`. Named gateways all have to fit.
            campaign: the campaign's name.
            config: sets members of the function's configuration; None leaves what each gateway has.
            rollback_to: the release that a rollback installs; None for what each gateway has now.

        Raises:
            NotFound: there is no such function or gateway.
            Conflict: ``already_exists``, a campaign of that name.
            Refused: as :meth:`place` and :meth:`Campaigns.create`.
        """
        wanted = len(dict.fromkeys(gateways)) if gateways and copies is None else copies
        placement = await self.place(function, where=where, gateways=gateways, copies=wanted)
        release = await self.release(placement.release)
        back = None if rollback_to is None else (await self.release(rollback_to)).image
        return await self._campaigns.create(
            campaign, release.release, sorted(each.gateway for each in placement.chosen), sha256=release.sha256,
            size=release.size, manifest=release.image.manifest, rollout=rollout, rollback=back, hold=hold,
            starts_at=starts_at, approval=approval, config=config, allow_downgrade=True, actor=actor, reason=reason,
        )  # fmt: skip

    async def undeploy(self, function: str, gateway: str, *, actor: str = "system", reason: str = "") -> None:
        """Removes a function from a gateway, and cancels what is to deploy it there. May be repeated.

        Raises:
            NotFound: there is no such device.
        """
        await self._registry.get(gateway)
        await self._updates.end_functions(gateway, function, UNDEPLOYED, actor=actor)
        await self._functions.remove(gateway, function, actor=actor, reason=reason)

    async def functions(self, gateway: str) -> GatewayFunctions:
        """What a gateway is to run, what it reports, and why these differ.

        Raises:
            NotFound: there is no such device.
            Refused: ``not_authorised``, it is not a gateway.
        """
        _gateway(await self._registry.get(gateway))
        states = function_states(await self._twins.get(gateway))
        differ = [each for each in states if not each.in_sync]
        times = [each.since for each in (differ or states) if each.since is not None]
        return GatewayFunctions(
            gateway=gateway,
            functions=states,
            in_sync=not differ,
            since=(min if differ else max)(times, default=None),
            why=[f"function {each.name}: {each.why}" for each in differ],
        )

    async def usage(self, device: Device) -> GatewayUsage:
        """What a gateway has, promises and uses. Raises Refused where the device is not a gateway."""
        _gateway(device)
        twin = await self._twins.get(device.id)
        resources, states = await self._resources(device, twin), function_states(twin)
        uplink = twin.reported.document.get("uplink")
        kib = sum(amount(each.usage, "memory_kib") or 0.0 for each in states)
        all_mib, free_mib = (whole_amount(resources.reported, name) for name in ("disk_mib", "free_disk_mib"))
        return GatewayUsage(
            resources=resources,
            used=Capacity(
                cpu_percent=round(sum(amount(each.usage, "cpu_percent") or 0.0 for each in states)),
                memory_mib=-(-round(kib) // 1024),
                disk_mib=None if all_mib is None or free_mib is None else all_mib - free_mib,
            ),
            uplink=uplink if isinstance(uplink, Mapping) else {},
            functions=len(states),
            running=sum(each.state == RUNS for each in states),
            in_sync=all(each.in_sync for each in states),
        )

    async def resources(self, gateway: str) -> GatewayResources:
        """What a gateway has for functions, promises to them, and reports.

        Raises:
            NotFound: there is no such device.
            Refused: ``not_authorised``, it is not a gateway.
        """
        device = await self._registry.get(gateway)
        _gateway(device)
        return await self._resources(device, await self._twins.get(gateway))

    async def _resources(self, device: Device, twin: Twin) -> GatewayResources:
        found = twin.reported.document.get("resources")
        return GatewayResources(
            capacity=await self._functions.capacity(device),
            promised=together((await self._functions.promises(device.id, twin)).values()),
            reported=found if isinstance(found, Mapping) else {},
        )

    # --- distributed processing --------------------------------------------------------------------------------------

    async def run_distributed(
        self,
        metric: str,
        *,
        where: str | Clause | None = None,
        gateways: Sequence[str] = (),
        start: int | None = None,
        end: int | None = None,
        bucket_s: float | None = None,
        aggregates: Sequence[str] = AGGREGATES,
        by: str = "all",
        within_s: float = 60.0,
        wait_for: float = 1.0,
        open_s: float = 86_400.0,
        wait_s: float | None = None,
        pause: Pause | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> Distributed:
        """Summarises the readings that each gateway has stored itself, there, and adds the summaries here.

        The job is an operation. The result is what it is once ``wait_for`` of the gateways have answered, or after
        ``within_s``; it names those that are missing. :meth:`distributed` gives it again, with late answers.

        Args:
            metric: a metric, or a pattern with ``*`` and ``?``.
            where: a query for leaves, and gateways, by what the core knows of them.
            gateways: only these; by default all.
            start, end: ``start <= time < end``, ms since the epoch; up to now by default.
            bucket_s: the length of a bucket, aligned to the epoch; by default one over the whole range.
            aggregates: ``count``, ``sum``, ``min``, ``max``, ``mean``, and percentiles such as ``p50`` and ``p99.9``,
                which are within 1 % of the true ones.
            by: a row for ``all``, for each ``device`` or for each ``model``.
            wait_for: the share of the gateways that is enough, above 0 and up to 1.
            open_s: how long late answers are added.
            wait_s: returns after this time at the latest; by default ``within_s``.

        Raises:
            NotFound: there is no such gateway, none with a selected device, or none with such a metric.
            Refused: ``range_invalid``, no time is in the range; ``limit_exceeded``, the result would be too long;
                there is no such aggregate.
        """
        job = Job(
            metric=metric, start=start or 0, end=end or 0, aggregates=tuple(aggregates), by=by, wait_for=wait_for,
            bucket_ms=None if bucket_s is None else max(1, int(bucket_s * 1000)), within_ms=int(within_s * 1000),
            open_ms=int(open_s * 1000),
        )  # fmt: skip
        started = await self._map_reduce.start(job, where=where, gateways=gateways, actor=actor, reason=reason)
        return await self.distributed(started.id, wait_s=within_s if wait_s is None else wait_s, pause=pause)

    async def distributed(self, operation: str, *, wait_s: float = 0.0, pause: Pause | None = None) -> Distributed:
        """The result of distributed processing as it is now, or once there is enough, after ``wait_s`` at the latest.

        Raises:
            NotFound: there is no such operation, or it is of another kind; none of the devices has such a metric.
        """
        await self._map_reduce.wait(operation, wait_s, pause=pause)
        return await self._map_reduce.result(operation)

    # --- replacement ---------------------------------------------------------------------------------------------

    async def replace(
        self, old: str, new: str, *, retire: bool = False, actor: str = "system", reason: str = ""
    ) -> Replacement:
        """Gives a gateway's leaves, functions, labels, capacity and place in the topology to another one.

        One commit does it, and suspends the old one; with ``retire`` it is retired after that. Repeated, it completes
        what a crash interrupted.

        Raises:
            NotFound: there is no such device.
            Conflict: ``illegal_transition``: another gateway has replaced it, or the new one is retired, or has
                functions of its own.
            Refused: it is not a gateway; ``model_mismatch``, a function is for other hardware; ``no_capacity``.
        """
        reason = reason or f"{new} replaces {old}"
        done = await self._replaced(old, new, actor, reason)
        if retire:
            await self._retire(old, actor, reason)
        return done

    @shielded
    @retried("The gateways change all the time")
    async def _replaced(self, old: str, new: str, actor: str, reason: str) -> Replacement:
        gateway, taking = _gateway(await self._registry.get(old)), await self._registry.get(new)
        if gateway.replaced_by == new:
            await self._updates.leave(old, REPLACED, actor=actor)
            return await self._replacement(old, new)
        if old == new:
            raise Refused(f"{old!r} cannot replace itself", device=old)
        if gateway.replaced_by is not None:
            raise Conflict(
                f"{gateway.replaced_by!r} has replaced {old!r}", code="illegal_transition",
                remedy=f"Replace {gateway.replaced_by!r}", device=old,
            )  # fmt: skip
        if taking.lifecycle not in _SERVED:
            raise Conflict(f"{new!r} is {taking.lifecycle}", code="illegal_transition", device=new)
        await self._updates.leave(old, REPLACED, actor=actor)
        first, second = sorted((old, new))
        async with self._functions.turn(first), self._functions.turn(second):
            await self._take_over(old, new, actor, reason)
        await self._updates.leave(old, REPLACED, actor=actor)  # an offer may have been made meanwhile
        return await self._replacement(old, new)

    async def _take_over(self, old: str, new: str, actor: str, reason: str) -> None:
        before, taking = await self._registry.get(old), await self._registry.get(new)
        if function_states(await self._twins.get(new)):
            raise Conflict(
                f"{new!r} has functions of its own", code="illegal_transition", remedy="Undeploy them first", device=new
            )
        now = self._clock.now_ms()
        section = cast("Mapping[str, object]", before.attributes[GATEWAY])
        above = before.gateway
        over_old = {each.id for each in await self._registry.path(before)}
        over_new = {each.id for each in await self._registry.path(taking)}
        after = evolve(
            taking,
            attributes={**taking.attributes, GATEWAY: dict(section)},
            updated=now,
            gateway=taking.gateway if new in over_old or (above is None and old not in over_new) else above,
        )
        target = await self._updates.target(new)
        functions, told = await self._functions.taking_over(before, after, target.trust, actor=actor, reason=reason)
        leaves = [each for each in await self._registry.leaves(old) if each.id != new]
        moved = [evolve(leaf, gateway=new, updated=now) for leaf in leaves]
        retired = evolve(
            before, attributes={**before.attributes, GATEWAY: {**section, _REPLACED_BY: new}}, updated=now
        )  # fmt: skip
        suspending = before.lifecycle in _SERVED
        if suspending:
            retired = evolve(retired, lifecycle=Lifecycle.SUSPENDED)
        pairs = [(before, retired), (taking, after), *zip(leaves, moved, strict=True)]
        commit = functions
        events = [
            Event(type=GATEWAY_REPLACED, subject=old, time=now, actor=actor, reason=reason,
                  data={"by": new, "leaves": len(leaves)}),
            *(_changed(each, now, actor, reason, members) for each, members in (
                (new, ["attributes", "gateway"]), (old, ["attributes"]), *((leaf.id, ["gateway"]) for leaf in leaves),
            )),
        ]  # fmt: skip
        if suspending:
            events.append(
                Event(
                    type="device.suspended",
                    subject=old,
                    time=now,
                    actor=actor,
                    reason=reason,
                    data={"from": before.lifecycle, "to": Lifecycle.SUSPENDED},
                )
            )
        for was, becomes in pairs:
            commit += self._registry.records.changing(was, becomes)
        await self._storage.commit(commit + Commit(events=tuple(events)))
        for _, becomes in pairs:
            self._registry.moved(evolve(becomes, version=becomes.version + 1))
        for each in told:
            each()

    async def _replacement(self, old: str, new: str) -> Replacement:
        twin = await self._twins.get(new)
        return Replacement(
            old=old, new=new, leaves=len(await self._registry.leaves(new)),
            functions=[each.name for each in function_states(twin) if each.wanted is not None],
        )  # fmt: skip


def _given(capacity: Capacity) -> dict[str, object]:
    return {name: value for name, value in capacity.amounts().items() if value is not None}


def _abi(document: Mapping[str, object]) -> int:
    """The newest ABI that a gateway's engine runs."""
    found = document.get("resources")
    newest = found.get("abi") if isinstance(found, Mapping) else None
    return newest if type(newest) is int else ABI


def _changed(device: str, now: int, actor: str, reason: str, members: list[str]) -> Event:
    return Event(type="device.changed", subject=device, time=now, actor=actor, reason=reason, data={"members": members})
