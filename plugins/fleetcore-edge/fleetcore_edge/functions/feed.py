"""The feed of one function: readings of the gateway's store in, as batches, and its outputs back into the store."""

import fnmatch
import logging
import re
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from attrs import frozen

from fleetcore.errors import FleetError, is_temporary
from fleetcore.model.message import Inbound, MessageType
from fleetcore.model.names import check_device_id
from fleetcore.model.store import Commit, FeedEntry
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.pipeline.consumer import Consumer
from fleetcore.pipeline.selection import Selection
from fleetcore.query.parse import parse
from fleetcore.wire import messages
from fleetcore_edge.functions.wanted import Wanted
from fleetcore_edge.runner.records import Batch, EdgeAlert, FunctionStopped, Output
from fleetcore_edge.runner.runner import Runner
from fleetcore_edge.splitting import split

if TYPE_CHECKING:
    from fleetcore.runtime.app import Fleet

_log = logging.getLogger(__name__)

#: The longest pause between two batches, s: a change of desired state is followed within it.
_LONGEST_S = 5.0
#: The wait before outputs that the store does not take now are handed over again, s.
_AGAIN_S = 1.0
#: The characters that a detector's name has not, and its length.
_NOT_NAMED, _NAME = re.compile(r"[^A-Za-z0-9_-]"), 64


@frozen
class Last:
    """The last batch that was stopped: its code, and the reason; empty while batches succeed."""

    code: str = ""
    reason: str = ""


class _Began(msgspec.Struct):
    """Since when a function gets what: kept as long as the gateway has the function."""

    since: int
    metrics: tuple[str, ...]
    where: str


def own_prefix(function: str) -> str:
    """What the metrics of a function's outputs begin with where it takes the same metrics."""
    return f"{function}/"


def cursor_of(function: str) -> str:
    """The name of a function's place in the feed."""
    return f"function/{function}"


class FunctionFeed(Consumer):
    """Feeds a function.

    Where it gives a reading of a metric that it takes, ``temperature``, the store has it as ``NAME/temperature``,
    beside the reading that came in. After a crash it gets the readings of some seconds again; what it gives again is
    the same reading to the store, by series and time.

    Args:
        gateway: the device that ``""`` means.
        changed: called after a batch that changed whether it works.

    Attributes:
        since: the place in the feed after which it gets readings; those before were committed without it.
        counts: ``batches``, ``readings_in``, ``readings_out``, ``alerts``, ``commands``, ``stopped`` batches, readings
            of those that were ``passed_raw``, and outputs that were ``refused`` by the store.
        last: see :class:`Last`.
    """

    def __init__(
        self, wanted: Wanted, runner: Runner, fleet: "Fleet", gateway: str, changed: Callable[[], None]
    ) -> None:
        super().__init__(cursor_of(wanted.name), fleet.storage, fleet.clock)
        self._wanted, self._runner, self._fleet, self._gateway = wanted, runner, fleet, gateway
        self._changed = changed
        self._pattern = re.compile("|".join(fnmatch.translate(each) for each in wanted.contract.metrics))
        where = wanted.contract.where
        self._selection = Selection(parse(where), fleet.search, fleet.storage, fleet.clock) if where else None
        self._own = own_prefix(wanted.name)
        self.since = 0
        self.counts: Counter[str] = Counter()
        self.last = Last()

    async def start(self) -> None:
        """Creates the cursor, and saves the place after which it gets what its contract takes."""
        await super().start()
        contract = self._wanted.contract
        blob = await self._storage.blob(self.name)
        known = None if blob is None else msgspec.json.decode(blob, type=_Began)
        if known is None or (known.metrics, known.where) != (contract.metrics, contract.where):
            since = await self._storage.cursor(self.name) or 0
            known = _Began(since, contract.metrics, contract.where)
            await self._storage.commit(Commit(blobs={self.name: msgspec.json.encode(known)}))
        self.since = known.since

    async def gets(self, device: str, metric: str, position: int) -> bool:
        """Whether the function gets the readings of a series that were committed at a place of the feed."""
        if position <= self.since or not self.takes(metric):
            return False
        return self._selection is None or await self._selection.selects(device)

    def takes(self, metric: str) -> bool:
        """Whether the function takes readings of a metric by its name. It does not take its own."""
        return not metric.startswith(self._own) and self._pattern.fullmatch(metric) is not None

    async def _step(self) -> None:
        await super()._step()
        await self._clock.sleep(min(self._wanted.contract.every_ms / 1000, _LONGEST_S))

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        if self._selection is not None:
            self._selection.follow(entries)
        batch = TelemetryBatch.concat([entry.readings for entry in entries if entry.readings is not None])
        if len(batch):
            catalog = self._storage.catalog
            series, place = np.unique(batch.series, return_inverse=True)
            names = [catalog.series(index) for index in series.tolist()]
            mask = np.array([self.takes(each.metric) for each in names], np.bool_)[place]
            batch = batch.take(mask)
        if len(batch) and self._selection is not None:
            batch = batch.take(await self._selection.mask(batch))
        most = self._wanted.contract.every_readings
        for at in range(0, len(batch), most):
            await self._run(self._columns(batch.take(np.arange(at, min(at + most, len(batch))))))
        return False

    def _columns(self, batch: TelemetryBatch) -> Batch:
        catalog = self._storage.catalog
        series, place = np.unique(batch.series, return_inverse=True)
        named = [catalog.series(index) for index in series.tolist()]
        return Batch(
            series=[(self._short(each.device), each.metric, each.unit or "") for each in named],
            at=array("I", place.astype(np.uint32).tobytes()),
            time=array("q", batch.time.tobytes()),
            value=array("d", batch.value.tobytes()),
        )

    async def _run(self, batch: Batch) -> None:
        while True:
            try:
                output = await self._runner.run(self._wanted.name, batch)
            except FunctionStopped as stopped:
                if stopped.code == "over_budget":
                    await self._clock.sleep(stopped.retry_after_ms / 1000)
                    continue
                await self._stopped(batch, Last(stopped.code, stopped.message))
                return
            except FleetError as refused:
                await self._stopped(batch, Last(refused.code, refused.message))
                return
            break
        self.counts["batches"] += 1
        self.counts["readings_in"] += len(batch)
        self._now(Last())
        await self._give(output)

    async def _stopped(self, batch: Batch, last: Last) -> None:
        """A batch without an output; where outputs stand for the readings, these go on as they are."""
        self.counts["stopped"] += 1
        self._now(last)
        if self._wanted.contract.replaces_raw:
            self.counts["passed_raw"] += len(batch)
            await self._give(Output(readings=batch))

    def _now(self, last: Last) -> None:
        if last != self.last:
            self.last = last
            if last.code:
                _log.warning("Function %s: a batch was stopped (%s): %s", self._wanted.name, last.code, last.reason)
            self._changed()

    async def _give(self, output: Output) -> None:
        for line in output.log:
            printable = "".join(each if each.isprintable() else "\ufffd" for each in line)
            _log.info("Function %s: %s", self._wanted.name, printable)
        for device, forms in self._forms(output).items():
            self.counts["readings_out"] += await self._store(messages.TELEMETRY, device, forms)
        alerts: dict[str, list[Mapping[str, object]]] = {}
        for alert in output.alerts:
            alerts.setdefault(self._full(alert.device), []).append(self._alert(alert))
        for device, found in alerts.items():
            self.counts["alerts"] += await self._store(messages.EVENTS, device, found)
        for command in output.commands:
            await self._send(self._full(command.device), command.name, command.args)

    def _forms(self, output: Output) -> Mapping[str, list[dict[str, object]]]:
        found: dict[str, list[dict[str, object]]] = {}
        given = output.readings
        for at, time, value in zip(given.at, given.time, given.value, strict=True):
            device, metric, unit = given.series[at]
            named = self._own + metric if self.takes(metric) else metric
            form: dict[str, object] = {"metric": named, "value": value, "time": time}
            if unit:
                form["unit"] = unit
            found.setdefault(self._full(device), []).append(form)
        return found

    async def _store(self, type: MessageType, device: str, items: Sequence[object]) -> int:
        """Stores outputs as messages of their device are, with the same checks; returns how many were taken."""
        stored = 0
        for part, body in split(items, self._fleet.limits.message_bytes):
            stored += len(part) - await self._refused(Inbound(type=type, subject=device, payload=body), len(part))
        return stored

    async def _refused(self, message: Inbound, count: int) -> int:
        """Hands a message over until the store has taken it, or refused it for good; how much of it was refused."""
        while True:
            try:
                check_device_id(message.subject)
                session = await self._fleet.sessions.of(message.subject)
                outcome = await self._fleet.ingest.submit(session, message)
                code, why = getattr(outcome, "code", ""), getattr(outcome, "reason", "")
            except FleetError as error:
                outcome, code, why = None, error.code, str(error)
            if not is_temporary(code):
                break
            _log.warning("Outputs of function %s wait: %s", self._wanted.name, why)
            await self._clock.sleep(_AGAIN_S)
        refused = count if code else len(getattr(outcome, "refused", ()))
        if refused:
            self.counts["refused"] += refused
            told = why or "see the quarantine"
            _log.warning(
                "%d outputs of function %s for %r are refused: %s", refused, self._wanted.name, message.subject, told
            )
        return refused

    def _alert(self, alert: EdgeAlert) -> Mapping[str, object]:
        """As a device tells it."""
        name = _NOT_NAMED.sub("-", f"{self._wanted.name}-{alert.kind}")
        return {
            "detector": name[:_NAME],
            "metric": alert.metric or self._wanted.name,
            "time": alert.time,
            "value": alert.value,
            "severity": alert.severity,
            "text": alert.message or alert.kind,
        }

    async def _send(self, device: str, name: str, args: str) -> None:
        by = f"function {self._wanted.name}"
        try:
            await self._fleet.commands.send(device, name, msgspec.json.decode(args or "{}"), actor=by, reason=by)
            self.counts["commands"] += 1
        except (FleetError, msgspec.DecodeError) as error:
            self.counts["refused"] += 1
            _log.warning("A command of %s for %r is refused: %s", by, device, error)

    def _full(self, device: str) -> str:
        return device or self._gateway

    def _short(self, device: str) -> str:
        return "" if device == self._gateway else device


def forgetting(function: str) -> Commit:
    """The commit that removes a function's place in the feed."""
    return Commit(cursors={cursor_of(function): None}, blobs={cursor_of(function): None})
