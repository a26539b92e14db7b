"""The functions of a gateway: brought to what the core wants, one after the other, and reported.

The desired set is in the gateway's own store, so a gateway that starts without a connection runs what it ran before.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from fleetcore.errors import FleetError, Refused, is_temporary
from fleetcore.interfaces.boundary import in_a_line
from fleetcore.interfaces.waits import end_task, first_of
from fleetcore.model.edge import FUNCTIONS, RUNS, entries
from fleetcore.model.message import Reply
from fleetcore.model.telemetry import Series
from fleetcore_edge.functions.feed import FunctionFeed, forgetting, own_prefix
from fleetcore_edge.functions.resources import measured
from fleetcore_edge.functions.wanted import Verifier, Wanted
from fleetcore_edge.runner.records import Function, Resources, RunnerSettings
from fleetcore_edge.runner.runner import Runner

if TYPE_CHECKING:
    from fleetcore.runtime.app import Fleet

_log = logging.getLogger(__name__)

#: How often the usage of functions is reported, and what could not be loaded is tried again, s.
_REPORT_S, _RETRY_S = 60.0, 30.0


@define
class Running:
    """A function that runs, or one that could not be brought to run.

    Attributes:
        refused: the entry that could not take its place; ``code`` and ``reason`` say why.
    """

    wanted: Wanted | None
    entry: Mapping[str, object]
    state: str
    since_ms: int
    code: str = ""
    reason: str = ""
    refused: Mapping[str, object] | None = None
    feed: FunctionFeed | None = None
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)


class FunctionManager:
    """Brings the functions to what is wanted.

    Args:
        folder: for modules.
        download: gives the bytes of a module, by its digest, from the core.
        secret: resolves a secret of a function: function and name in, value out.
        tell: tells the core the state of an execution.
        beside: what else the gateway reports.
    """

    def __init__(
        self,
        fleet: "Fleet",
        runner: Runner,
        gateway: str,
        verifier: Verifier,
        folder: Path,
        *,
        download: Callable[[str], AsyncIterator[bytes]],
        secret: Callable[[str, str], bytes],
        tell: Callable[[Mapping[str, object]], Awaitable[Reply]],
        beside: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._fleet, self._runner, self._gateway, self._verifier = fleet, runner, gateway, verifier
        self._folder, self._download, self._secret, self._tell = folder, download, secret, tell
        self._beside = beside
        self.running: dict[str, Running] = {}
        #: Set once what was wanted at the start runs, or cannot.
        self.settled = asyncio.Event()
        self._look = asyncio.Event()
        #: Function → its processor time at the last report, ms, and when that was, monotonic.
        self._used: dict[str, tuple[float, float]] = {}
        self._told: set[tuple[str, str]] = set()
        self._telling: set[asyncio.Task[Reply]] = set()
        fleet.twins.on_desired(lambda device, _: self._look.set() if device == gateway else None)

    async def run(self) -> None:
        """Follows what is wanted until cancelled."""
        try:
            while True:
                self._look.clear()
                failed = await self._reconcile()
                self.settled.set()
                failed = not await self._reported() or failed
                await first_of(self._look.wait(), self._fleet.clock.sleep(_RETRY_S if failed else _REPORT_S))
        finally:
            for each in self.running.values():
                if each.task is not None:
                    await end_task(each.task)

    def report_soon(self) -> None:
        """Reports now, and not only at the next time."""
        self._look.set()

    def began(self) -> Sequence[int]:
        """The places in the feed after which functions get readings, in order."""
        return sorted({each.feed.since for each in self.running.values() if each.feed is not None})

    async def name_at_core(self, series: Series, position: int) -> str | None:
        """A metric as the core gets it, of readings that were committed at a place of the feed.

        None where a function's outputs stand for them.
        """
        for name, each in list(self.running.items()):
            if each.feed is None or each.wanted is None or not each.wanted.contract.replaces_raw:
                continue
            if await each.feed.gets(series.device, series.metric, position):
                return None
            if series.metric.startswith(own_prefix(name)):
                return series.metric.removeprefix(own_prefix(name))
        return series.metric

    async def _reconcile(self) -> bool:
        """One round; returns whether something is to be tried again."""
        wanted = entries((await self._fleet.twins.get(self._gateway)).desired.document)
        for name in self.running.keys() - wanted.keys():
            await self._remove(name)
        failed = False
        for name, entry in wanted.items():
            known = self.running.get(name)
            if known is None or known.entry != entry or known.state != RUNS:
                failed = not await self._install(name, entry) or failed
                continue
            known.refused, known.code, known.reason = None, "", ""  # what was to take its place is not wanted any more
            if known.task is not None and known.wanted is not None and known.task.done():
                await self._begin(known.wanted, entry)  # this task has failed, and ended it
        self._tidy(wanted)
        return failed

    async def _install(self, name: str, entry: Mapping[str, object]) -> bool:
        known = self.running.get(name)
        if known is not None and entry in (known.entry, known.refused) and known.code and not _may_pass(known.code):
            return True  # it would be refused again
        try:
            wanted = self._verifier.verify(name, entry)
            self._say(entry, "accepted")
            if known is not None and known.state == RUNS and wanted.is_same(known.wanted):
                # It keeps its state: the entry was put back, or another campaign wants the same.
                self._verifier.begun(wanted, known.wanted)
                known.entry, known.wanted, known.refused, known.code, known.reason = entry, wanted, None, "", ""
                self._say(entry, "succeeded", version=wanted.version)
                return True
            self._say(entry, "downloading")
            module = await self._module(wanted)
            self._say(entry, "installing")
            await self._runner.load(self._function(wanted, module))
            await self._stop(name)
            await self._begin(wanted, entry)
            self._verifier.begun(wanted, known.wanted if known is not None else None)
        except Exception as raised:  # noqa: BLE001  # what one function meets must not end the others
            error = raised if isinstance(raised, FleetError) else _unforeseen(raised)
            _log.warning("Function %s cannot run: %s", name, error)
            self._failed(name, entry, error)
            return not _may_pass(error.code)
        await self._reported()
        self._say(entry, "succeeded", version=wanted.version)
        return True

    async def _begin(self, wanted: Wanted, entry: Mapping[str, object]) -> None:
        """Feeds a function that is loaded."""
        feed = FunctionFeed(wanted, self._runner, self._fleet, self._gateway, self._look.set)
        await feed.start()
        self.running[wanted.name] = Running(
            wanted=wanted, entry=entry, state=RUNS, since_ms=self._fleet.clock.now_ms(), feed=feed,
            task=asyncio.create_task(feed.run(), name=f"function {wanted.name}"),
        )  # fmt: skip
        _log.info("Function %s %s runs", wanted.name, wanted.version)

    def _failed(self, name: str, entry: Mapping[str, object], error: FleetError) -> None:
        known = self.running.get(name)
        if known is None or known.state != RUNS:
            self.running[name] = Running(
                wanted=None, entry=entry, state="refused", since_ms=self._fleet.clock.now_ms(), code=error.code,
                reason=error.message,
            )  # fmt: skip
        elif not _may_pass(error.code):
            # The one before runs on; the core puts its entry back.
            known.refused, known.code, known.reason = entry, error.code, error.message
        if not _may_pass(error.code):
            self._say(entry, "failed", code=error.code, reason=error.message)

    async def _module(self, wanted: Wanted) -> Path:
        """The module's file, whole and with its digest."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{wanted.sha256}.wasm"
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == wanted.sha256:
            return path
        limit = RunnerSettings().module_bytes
        if wanted.size > limit:
            raise Refused(
                f"The module has {wanted.size} bytes", code="module_too_large", limit=limit, unit="bytes",
                remedy="Build it for size (-Os, --strip-all)",
            )  # fmt: skip
        content = bytearray()
        async for piece in self._download(wanted.sha256):
            content += piece
            if len(content) > wanted.size:
                break
        if hashlib.sha256(content).hexdigest() != wanted.sha256:
            raise Refused("The module that the core gave is another one than its digest says", code="digest_mismatch")
        part = path.with_suffix(".part")
        part.write_bytes(content)
        part.replace(path)
        return path

    def _function(self, wanted: Wanted, module: Path) -> Function:
        from fleetcore.wire.strict_json import dumps

        contract = wanted.contract
        resources = contract.resources
        return Function(
            name=wanted.name,
            version=wanted.version,
            sha256=wanted.sha256,
            module=module,
            config=dumps(wanted.config),
            secrets={name: self._secret(wanted.name, name) for name in contract.secrets},
            resources=Resources(
                memory_mib=resources.memory_mib,
                time_ms=resources.time_ms,
                fuel=resources.fuel,
                stack_kib=min(resources.stack_kib, 1024),
                cpu_percent=float(resources.cpu_percent),
            ),
            may=frozenset(contract.may),
        )

    async def _stop(self, name: str) -> None:
        known = self.running.get(name)
        if known is not None and known.task is not None and known.feed is not None:
            # A batch under way is finished with its outputs: the function has seen it, and would not give them again.
            await known.feed.keep()
            await end_task(known.task)

    async def _remove(self, name: str) -> None:
        await self._stop(name)
        gone = self.running.pop(name)
        if gone.wanted is not None:
            self._verifier.ended(gone.wanted)
        await self._runner.unload(name)
        await self._fleet.storage.commit(forgetting(name))
        _log.info("Function %s is removed", name)

    def _tidy(self, wanted: Mapping[str, Mapping[str, object]]) -> None:
        """Removes the modules that no function runs any more, and none is to run."""
        needed = {each.wanted.sha256 for each in self.running.values() if each.wanted is not None}
        needed |= {str(entry.get("sha256")) for entry in wanted.values()}
        for file in self._folder.glob("*.wasm"):
            if file.stem not in needed:
                file.unlink(missing_ok=True)

    def _say(self, entry: Mapping[str, object], state: str, **more: object) -> None:
        """Tells the core, once there is a connection; the functions do not wait for it."""
        execution = entry.get("execution")
        if not isinstance(execution, str) or (key := (f"{execution}/{entry.get('attempt')}", state)) in self._told:
            return
        self._told.add(key)
        task = asyncio.create_task(
            self._in_order(list(self._telling), {"execution": execution, "state": state, **more})
        )
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _in_order(self, before: "list[asyncio.Task[Reply]]", body: Mapping[str, object]) -> Reply:
        if before:
            await asyncio.wait(before)
        return await self._tell(body)

    async def _reported(self) -> bool:
        """Reports, or logs why not: functions run on without a report."""
        try:
            await self._report()
        except Exception as error:  # noqa: BLE001  # see above
            _log.warning("The functions cannot be reported: %s", in_a_line(error))
            return False
        return True

    async def _report(self) -> None:
        """Reports all functions in the gateway's own store; the uplink tells the core."""
        twin = await self._fleet.twins.get(self._gateway)
        before: Mapping[str, Any] = twin.reported.document
        shown = {name: self._shown(name, each) for name, each in self.running.items()}
        gone = dict.fromkeys((before.get(FUNCTIONS) or {}).keys() - shown.keys())
        report = {
            FUNCTIONS: {**shown, **gone},
            "resources": measured(self._fleet.config.data or Path()),
            **self._beside(),
        }
        await self._fleet.twins.report(self._gateway, report)

    def _cpu_percent(self, name: str, used_ms: float) -> float:
        """The processor time of a function since the report before, as a share of one processor."""
        now_s = self._fleet.clock.monotonic_s()
        before_ms, before_s = self._used.get(name, (used_ms, now_s))
        self._used[name] = used_ms, now_s
        # A runner that was started anew counts from 0.
        return round(max(0.0, used_ms - before_ms) / (now_s - before_s) / 10, 1) if now_s > before_s else 0.0

    def _shown(self, name: str, each: Running) -> dict[str, Any]:
        usage = self._runner.usage().get(name)
        counts = each.feed.counts if each.feed is not None else {}
        last = each.feed.last if each.feed is not None else None
        code = each.code or (last.code if last else "")
        reason = each.reason or (last.reason if last else "")
        return {
            "version": each.wanted.version if each.wanted is not None else str(each.entry.get("version")),
            "sha256": each.wanted.sha256 if each.wanted is not None else str(each.entry.get("sha256")),
            "state": each.state,
            "code": code or None,
            "reason": reason or None,
            "since": each.since_ms,
            "batches": counts.get("batches", 0),
            "readings_in": counts.get("readings_in", 0),
            "readings_out": counts.get("readings_out", 0),
            "alerts": counts.get("alerts", 0),
            "stopped_batches": counts.get("stopped", 0),
            "fuel": 0 if usage is None else usage.fuel,
            "ms": 0 if usage is None else round(usage.ms),
            "cpu_percent": self._cpu_percent(name, 0.0 if usage is None else usage.ms),
            "memory_kib": 0 if usage is None else usage.memory_kib,
        }


def _unforeseen(error: Exception) -> FleetError:
    """Such as a full disk under a module that is loaded."""
    return FleetError(in_a_line(error), code="internal")


def _may_pass(code: str) -> bool:
    """Whether a refusal may be over when it is tried again; ``internal`` is an answer of the core."""
    return code == "internal" or is_temporary(code)
