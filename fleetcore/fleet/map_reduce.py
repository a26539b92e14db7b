"""Distributed processing: each gateway summarises the readings that it has stored, and the core adds the summaries.

A job is an operation whose items are gateways. Each is asked by commands, one part after the other; the commands keep
the answers, so a job continues after a crash of either side. Each device is asked of the gateway that it is a leaf of,
so no reading counts twice, and a gateway counts once it has answered completely.
"""

import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from attrs import define, evolve, field, frozen

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.fleet.commands import Commands
from fleetcore.fleet.mapping import MAP, Wanted, check_answer, read_wanted
from fleetcore.fleet.operations import Kind, Operations
from fleetcore.fleet.process_state.presence import PresenceBoard
from fleetcore.fleet.registry import GATEWAYS, Registry
from fleetcore.fleet.search import Search
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.command import FINISHED, Command, CommandState
from fleetcore.model.device import Connectivity, Device, Lifecycle
from fleetcore.model.names import MAX_METRIC_LENGTH, METRIC_ALPHABET
from fleetcore.model.operation import Failure, Operation, OperationState
from fleetcore.model.sketch import ACCURACY
from fleetcore.model.summaries import Part, Summary, Table, merge_into, part_from_document
from fleetcore.query.ast import Clause
from fleetcore.query.fitting import parse_new

KIND = "map_reduce"
AGGREGATES = ("count", "sum", "min", "max", "mean")
BY = ("all", "device", "model")
#: The most rows of a result, aggregates of a row, and gateways of a job.
MAX_ROWS, MAX_AGGREGATES, MAX_GATEWAYS = 10_000, 20, 2_000
#: The most parts that a gateway is asked for: 2.7 MB.
MAX_PARTS = 64
#: What the devices of one command have as JSON at most, of the 64 KiB of its arguments.
_DEVICES_BYTES = 32 * 1024
_SHARE = re.compile(r"p(\d{1,3}(?:\.\d{1,6})?)", re.ASCII)
_PATTERN = re.compile(rf"[{METRIC_ALPHABET}*?]{{1,{MAX_METRIC_LENGTH}}}", re.ASCII)
_LOOK_S = 0.5
_NAMED = 5
_GONE = frozenset({Lifecycle.RETIRED, Lifecycle.SUSPENDED})

#: Waits for news, at most; an exception from it ends the wait.
Pause = Callable[[Coroutine[Any, Any, bool]], Awaitable[None]]


@frozen(kw_only=True)
class Job:
    """What is wanted.

    Attributes:
        metric: a pattern with ``*`` and ``?``.
        start, end: ``start <= time < end``, ms since the epoch.
        bucket_ms: the length of a bucket, aligned to the epoch; None for one over the whole range.
        aggregates: of :data:`AGGREGATES`, and percentiles such as ``p50`` and ``p99.9``.
        by: of :data:`BY`: what a row is of.
        within_ms: after this time a result without all gateways is partial.
        wait_for: the share of the gateways that is enough, above 0 and up to 1.
        open_ms: how long the gateways have to answer.
    """

    metric: str
    start: int = 0
    end: int = 0
    bucket_ms: int | None = None
    aggregates: tuple[str, ...] = AGGREGATES
    by: str = "all"
    within_ms: int = 60_000
    wait_for: float = 1.0
    open_ms: int = 86_400_000


@frozen(kw_only=True)
class GatewayPart:
    """What came of a gateway.

    Attributes:
        state: ``answered``, ``waiting``, ``offline``, ``timed_out`` (it has not answered by the deadline), ``failed``
            or ``cancelled``.
        reason: why it has not answered; empty where it has.
        progress: of its present part, percent; None where it is not known.
        readings, parts: what has come so far.
    """

    gateway: str
    state: str
    code: str = ""
    reason: str = ""
    progress: float | None = None
    readings: int = 0
    parts: int = 0


@frozen(kw_only=True)
class Distributed:
    """The result of a job as it is now.

    Attributes:
        state: ``running`` until the deadline, ``partial`` where gateways are missing after it or have failed,
            ``complete`` with the answers of all.
        enough: whether as many gateways have answered as were to be waited for, or no more can.
        open: whether late answers are still added.
        rows: metric, group, start of the bucket and the aggregates, in this order.
    """

    operation: str
    state: str
    enough: bool
    open: bool
    job: Job
    deadline: int
    rows: Sequence[tuple[str, str, int, Sequence[float | None]]]
    gateways: Sequence[GatewayPart]
    series: int
    readings: int


@define
class _Asked:
    """How far a gateway has answered; made again from its commands after a restart."""

    gateway: str
    slices: Sequence[Mapping[str, Sequence[str]]]
    part: int = 0
    slice: int = 0
    after: tuple[str, str, int] | None = None
    command: Command | None = None
    readings: int = 0
    series: int = 0
    code: str = ""
    reason: str = ""
    known: set[str] = field(factory=set)

    @property
    def failed(self) -> bool:
        return bool(self.code)

    @property
    def answered(self) -> bool:
        return not self.failed and self.slice >= len(self.slices)

    @property
    def ended(self) -> bool:
        return self.failed or self.answered


@define
class _Known:
    """What is in memory of a job: how far each gateway is, and the counts of commands at that time."""

    asked: Sequence[_Asked]
    counts: Mapping[str, int] | None = None
    waiting: str = ""


class MapReduce:
    """Starts jobs, and shows their results; the operations advance them."""

    def __init__(
        self, storage: Storage, clock: Clock, registry: Registry, search: Search, commands: Commands,
        operations: Operations, presence: PresenceBoard,
    ) -> None:  # fmt: skip
        self._storage, self._clock, self._registry, self._search = storage, clock, registry, search
        self._commands, self._operations, self._presence = commands, operations, presence
        self._known: dict[str, _Known] = {}
        operations.register(KIND, Kind(driver=self._advance, undo=self._cancel))

    async def start(
        self, job: Job, *, where: str | Clause | None = None, gateways: Sequence[str] = (), actor: str = "system",
        reason: str = "",
    ) -> Operation:  # fmt: skip
        """Starts a job and returns at once.

        Args:
            where: a query; only gateways' leaves, and gateways themselves, that it selects.
            gateways: only these.

        Raises:
            NotFound: there is no such gateway, or none with a device that is selected.
            Refused: ``range_invalid``, no time is in the range; ``limit_exceeded``, the result would be too long;
                something else is not as it can be asked for.
        """
        job = self._checked(job)
        chosen = await self._chosen(gateways)
        devices = await self._devices(chosen, where)
        if not devices:
            raise NotFound(
                "No gateway has a device that is selected",
                remedy="`fleetcore edge list` lists the gateways, `fleetcore edge leaves GATEWAY` the leaves",
            )
        groups = {"all": 1, "device": sum(map(len, devices.values())), "model": _models(devices)}[job.by]
        _check_rows(job, groups)
        items = [
            {"gateway": gateway, "slices": _slices(found, by_model=job.by == "model")}
            for gateway, found in sorted(devices.items())
        ]
        now = self._clock.now_ms()
        slices = {str(item["gateway"]): len(item["slices"]) for item in items}
        spec = {"deadline": now + job.within_ms, "until": now + job.open_ms, "gateways": slices, **_spec(job)}
        return await self._operations.start(KIND, items, spec=spec, actor=actor, reason=reason or f"of {job.metric}")

    def _checked(self, job: Job) -> Job:
        end = job.end or self._clock.now_ms()
        if not _PATTERN.fullmatch(job.metric):
            raise Refused(
                f"{job.metric!r} is no metric, and no pattern of metrics with * and ?", code="metric_name_invalid",
                pointer="/metric",
            )  # fmt: skip
        if job.start >= end:
            raise Refused(
                "The range is empty: its end is not after its start", code="range_invalid", pointer="/end",
                remedy="Give a later end, or an earlier start",
            )  # fmt: skip
        if job.by not in BY:
            raise Refused(f"The rows are by {', '.join(BY)}, not {job.by!r}", pointer="/by")
        if not 0 < job.wait_for <= 1:
            raise Refused("The share to wait for is above 0 and up to 1", pointer="/wait_for")
        if not 1 <= len(job.aggregates) <= MAX_AGGREGATES:
            raise Refused(f"There are 1 to {MAX_AGGREGATES} aggregates", code="limit_exceeded", pointer="/aggregates")
        for place, each in enumerate(job.aggregates):
            share_of(each, f"/aggregates/{place}")
        return evolve(job, end=end)

    async def _chosen(self, gateways: Sequence[str]) -> Sequence[Device]:
        if gateways:
            found = [await self._registry.get(gateway) for gateway in sorted(set(gateways))]
            is_gateway = {each.id for each in await self._registry.list(ref=GATEWAYS)}
            for each in found:
                if each.id not in is_gateway:
                    raise NotFound(
                        f"{each.id!r} is not a gateway", remedy=f"Register it: fleetcore edge register {each.id}"
                    )
        else:
            found = [each for each in await self._registry.list(ref=GATEWAYS) if each.lifecycle not in _GONE]
        if not found:
            raise NotFound("There is no gateway", remedy="Register one: fleetcore edge register ID")
        if len(found) > MAX_GATEWAYS:
            raise Refused(
                f"{len(found)} gateways are more than {MAX_GATEWAYS}", code="limit_exceeded", limit=MAX_GATEWAYS,
                remedy="Name some of them",
            )  # fmt: skip
        return found

    async def _devices(
        self, gateways: Sequence[Device], where: str | Clause | None
    ) -> Mapping[str, Sequence[Device]]:  # fmt: skip
        """The selected devices of each gateway: its leaves, and itself."""
        if isinstance(where, str):
            where = parse_new(where)
        selected = None if where is None else set(await self._search.ids(where))
        found: dict[str, Sequence[Device]] = {}
        for gateway in gateways:
            own = [gateway, *await self._registry.leaves(gateway.id)]
            kept = [each for each in own if selected is None or each.id in selected]
            if kept:
                found[gateway.id] = sorted(kept, key=lambda device: device.id)
        return found

    # --- asking ------------------------------------------------------------------------------------------------------

    async def _advance(self, operation: Operation, items: Sequence[Any]) -> Operation | None:
        known = self._known.get(operation.id)
        if known is None:
            known = self._known[operation.id] = _Known(_asked(items))
        counts = await self._commands.bulk_counts(operation.id)
        if counts == known.counts:
            return evolve(operation, waiting=known.waiting)
        for each in known.asked:
            if not each.ended:
                await self._ask(operation, each)
        # What was sent now changes the counts once more; the next turn then finds nothing new.
        known.counts = counts
        ended = [each for each in known.asked if each.ended]
        failed = [each for each in ended if each.failed]
        left = [each.gateway for each in known.asked if not each.ended]
        state = operation.state
        if not left:
            state = OperationState.PARTLY if failed else OperationState.SUCCEEDED
            del self._known[operation.id]
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        known.waiting = f"{', '.join(left[:_NAMED])}{more}"
        return evolve(
            operation, done=len(ended), failed=len(failed), state=state, waiting=known.waiting,
            reasons=Counter(each.code for each in failed),
            result={"answered": len(ended) - len(failed), "readings": sum(each.readings for each in known.asked)},
            failures=tuple(
                Failure(item=place, about=each.gateway, code=each.code, reason=each.reason)
                for place, each in enumerate(known.asked, 1) if each.failed
            ),
        )  # fmt: skip

    async def _ask(self, operation: Operation, asked: _Asked) -> None:
        """Takes the answers that have come, and asks for the next part."""
        while not asked.ended:
            command = await self._commands.keyed(asked.gateway, _key(operation.id, asked.part))
            if command is None:
                try:
                    command = await self._send(operation, asked)
                except (Conflict, NotFound, Refused) as error:
                    asked.code, asked.reason = error.code, error.message
                    return
            asked.command = command
            if command.state not in FINISHED:
                return
            _take(asked, command)

    async def _send(self, operation: Operation, asked: _Asked) -> Command:
        spec = operation.spec
        left_s = (_int(spec["until"]) - self._clock.now_ms()) / 1000
        if left_s <= 0:
            raise Refused("The time for its answer is over", code="too_late")
        job = job_of(operation)
        wanted = Wanted(
            metric=job.metric, start=job.start, end=job.end, bucket_ms=job.bucket_ms,
            groups=asked.slices[asked.slice], by_device=job.by == "device",
            sketched=any(share_of(each) is not None for each in job.aggregates), after=asked.after,
        )  # fmt: skip
        return await self._commands.send(
            asked.gateway, MAP, wanted.to_arguments(), lane=MAP, deliver_within_s=left_s, execute_within_s=left_s,
            result_within_s=left_s, idempotency_key=_key(operation.id, asked.part), bulk=operation.id,
            actor=operation.actor, reason=operation.reason,
        )  # fmt: skip

    async def _cancel(self, operation: Operation, actor: str, reason: str) -> None:
        """Cancels the commands without an end."""
        self._known.pop(operation.id, None)
        async for command in self._commands.of_bulk(operation.id):
            if command.state not in FINISHED:
                try:
                    await self._commands.cancel(command.id, actor=actor, reason=reason)
                except Conflict:  # it has ended meanwhile
                    continue

    # --- the result --------------------------------------------------------------------------------------------------

    async def wait(self, operation: str, seconds: float, *, pause: Pause | None = None) -> None:
        """Returns once enough gateways have answered, at the job's deadline, or after the time."""
        until = self._clock.monotonic_s() + seconds
        while (left := until - self._clock.monotonic_s()) > 0:
            position = await self._storage.position()
            await self._operations.turn(operation)
            current = await self._operations.get(operation)
            enough = _enough(current)
            if current.state is not OperationState.RUNNING or enough or self._clock.now_ms() >= _deadline(current):
                return
            news = self._storage.wait_feed(position, min(_LOOK_S, left))
            await (news if pause is None else pause(news))

    async def result(self, operation: str) -> Distributed:
        """The result as it is now.

        Raises:
            NotFound: there is no such operation, or it is of another kind; or all gateways have answered, and none of
                the devices has such a metric.
        """
        found = await self._operations.get(operation)
        if found.kind != KIND:
            raise NotFound(f"Operation {operation!r} is no distributed processing", code="operation_unknown")
        job, table, asked = job_of(found), Table(), await self._answers(found)
        known = set[str]()
        for each, parts in asked:
            known |= each.known
            if each.answered:
                for part in parts:
                    merge_into(table, part.table)
            if len(table) > MAX_ROWS:
                raise _too_long(len(table))
        states = [self._state(found, each) for each, _ in asked]
        answered, total = sum(each.answered for each, _ in asked), len(asked)
        series = sum(each.series for each, _ in asked)
        if answered == total and not series:
            raise NotFound(
                f"No gateway has readings of {job.metric!r}",
                remedy=f"They have {', '.join(sorted(known)[:20])}" if known else "They have no readings",
            )
        ended = found.state is not OperationState.RUNNING
        late = self._clock.now_ms() >= _deadline(found)
        missing = answered < total
        return Distributed(
            operation=found.id,
            state="complete" if not missing else "partial" if ended or late else "running",
            enough=ended or late or answered >= math.ceil(job.wait_for * total - 1e-9),
            open=not ended, job=job, deadline=_deadline(found), rows=_rows(table, job), gateways=states,
            series=series, readings=sum(each.count for each in table.values()),
        )  # fmt: skip

    async def _answers(self, operation: Operation) -> Sequence[tuple[_Asked, Sequence[Part]]]:
        """How far each gateway is, and its parts, by its commands."""
        spec: Any = operation.spec
        found = []
        by_gateway: dict[str, list[Command]] = {name: [] for name in spec["gateways"]}
        async for command in self._commands.of_bulk(operation.id):
            by_gateway[command.device].append(command)
        for (gateway, slices), commands in zip(spec["gateways"].items(), by_gateway.values(), strict=True):
            asked, parts = _Asked(gateway, [{}] * slices), []
            for command in sorted(commands, key=lambda each: each.sequence):
                asked.command = command
                if command.state not in FINISHED:
                    break
                part = _take(asked, command)
                parts += [] if part is None else [part]
            found.append((asked, parts))
        for failure in operation.failures:  # what was refused before it was sent has no command
            for asked, _ in found:
                if asked.gateway == failure.about and not asked.ended:
                    asked.code, asked.reason = failure.code, failure.reason
        return found

    def _state(self, operation: Operation, asked: _Asked) -> GatewayPart:
        command = asked.command
        part = GatewayPart(
            gateway=asked.gateway, state="answered", readings=asked.readings, parts=asked.part,
            progress=None if command is None else command.progress,
        )  # fmt: skip
        if asked.answered:
            return part
        if asked.failed:
            state = "cancelled" if asked.code == CommandState.CANCELLED.value else "failed"
            return evolve(part, state=state, code=asked.code, reason=asked.reason)
        stands = "nothing is sent yet" if command is None else f"its command is {command.state}"
        if operation.state is OperationState.CANCELLED:
            return evolve(part, state="cancelled", code="cancelled", reason=f"The job was cancelled; {stands}")
        seen = self._presence.of(asked.gateway)
        if seen.connectivity in (Connectivity.OFFLINE, Connectivity.NEVER):
            return evolve(part, state="offline", code="not_ready", reason=f"It is not connected; {stands}")
        if self._clock.now_ms() >= _deadline(operation):
            return evolve(
                part, state="timed_out", code="too_late", reason=f"It has not answered by the deadline; {stands}"
            )
        return evolve(part, state="waiting", reason=stands)


def share_of(aggregate: str, pointer: str = "") -> float | None:
    """The share of a percentile, 0 to 1; None for another aggregate.

    Raises:
        Refused: there is no such aggregate, or the percentile is not from 0 to 100.
    """
    if aggregate in AGGREGATES:
        return None
    found = _SHARE.fullmatch(aggregate)
    if found is None or float(found[1]) > 100:
        raise Refused(
            f"{aggregate!r} is no aggregate", pointer=pointer,
            remedy=f"There are {', '.join(AGGREGATES)}, and percentiles from p0 to p100, such as p99.9",
        )  # fmt: skip
    return float(found[1]) / 100


def job_of(operation: Operation) -> Job:
    """What an operation is to find."""
    spec: Any = operation.spec
    job = {name: spec[name] for name in _spec(Job(metric=""))}
    return Job(**{**job, "aggregates": tuple(job["aggregates"])})


def _take(asked: _Asked, command: Command) -> Part | None:
    """Moves on by the end of a command; returns its part, or None where the gateway has failed."""
    if command.state is not CommandState.SUCCEEDED:
        asked.code = command.code or command.state.value
        asked.reason = command.reason or f"its command is {command.state}"
        return None
    try:
        part = part_from_document(command.output)
        check_answer(part.table, read_wanted(command.args))
    except Refused as error:
        asked.code, asked.reason = error.code, f"It has answered with what is no part: {error.message}"
        return None
    asked.part += 1
    asked.readings += part.readings
    asked.series += part.series
    asked.known |= set(part.metrics)
    asked.after = part.next
    if part.next is None:
        asked.slice += 1
    elif asked.part >= MAX_PARTS:
        asked.code, asked.reason = "limit_exceeded", f"It has more than {MAX_PARTS} parts: ask for longer buckets"
    return part


def _asked(items: Sequence[Any]) -> Sequence[_Asked]:
    return [_Asked(item["gateway"], item["slices"]) for item in items]


def _slices(devices: Sequence[Device], *, by_model: bool) -> Sequence[Mapping[str, Sequence[str]]]:
    """The devices by group, in slices that fit into a command."""
    slices: list[dict[str, list[str]]] = []
    size = _DEVICES_BYTES
    for device in devices:
        group = (device.model or "") if by_model else ""
        long = len(device.id) + 4 * len(group) + 8
        if size + long > _DEVICES_BYTES:
            slices.append({})
            size = 0
        slices[-1].setdefault(group, []).append(device.id)
        size += long
    return slices


def _models(devices: Mapping[str, Sequence[Device]]) -> int:
    return len({device.model for found in devices.values() for device in found})


def _check_rows(job: Job, groups: int) -> None:
    # Without a start nothing is known of the number of buckets: the result is refused where it becomes too long.
    buckets = 1 if job.bucket_ms is None or not job.start else -(-(job.end - job.start) // job.bucket_ms)
    if groups * buckets > MAX_ROWS:
        raise _too_long(groups * buckets)


def _too_long(rows: int) -> Refused:
    return Refused(
        f"The result has {rows} rows or more, and {MAX_ROWS} are allowed", code="limit_exceeded", limit=MAX_ROWS,
        remedy="Ask for longer buckets, a shorter range, fewer devices, or by model", unit="rows",
    )  # fmt: skip


def _rows(table: Table, job: Job) -> Sequence[tuple[str, str, int, Sequence[float | None]]]:
    shares = [(each, share_of(each)) for each in job.aggregates]
    return [
        (key.metric, key.group, key.start, [_value(summary, name, share) for name, share in shares])
        for key, summary in sorted(table.items())
    ]


def _value(summary: Summary, name: str, share: float | None) -> float | None:
    if share is not None:
        return summary.quantile(share)
    named = {
        "count": summary.count, "sum": summary.sum, "min": summary.least, "max": summary.most, "mean": summary.mean,
    }  # fmt: skip
    return named[name]


def _enough(operation: Operation) -> bool:
    return _int(operation.result.get("answered", 0)) >= math.ceil(job_of(operation).wait_for * operation.total - 1e-9)


def _deadline(operation: Operation) -> int:
    return _int(operation.spec["deadline"])


def _int(value: object) -> int:
    assert isinstance(value, int), "this module wrote it"
    return value


def _key(operation: str, part: int) -> str:
    return f"{KIND}/{operation}/{part}"


def _spec(job: Job) -> dict[str, object]:
    return {
        "metric": job.metric, "start": job.start, "end": job.end, "bucket_ms": job.bucket_ms,
        "aggregates": list(job.aggregates), "by": job.by, "within_ms": job.within_ms, "wait_for": job.wait_for,
        "open_ms": job.open_ms,
    }  # fmt: skip


__all__ = ["ACCURACY", "AGGREGATES", "BY", "KIND", "Distributed", "GatewayPart", "Job", "MapReduce"]
