"""The runner: functions are loaded, handed batches, and unloaded; their process is started again when it ends."""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import Factory, define

from fleetcore.errors import Unavailable
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.waits import end_task
from fleetcore_edge.runner import frames
from fleetcore_edge.runner.answers import Answer
from fleetcore_edge.runner.batches import Encoder
from fleetcore_edge.runner.budget import Budget
from fleetcore_edge.runner.link import Link, LinkLost
from fleetcore_edge.runner.machine_clock import MachineClock
from fleetcore_edge.runner.modules import Modules
from fleetcore_edge.runner.records import (
    Batch,
    Function,
    FunctionRefused,
    FunctionStopped,
    Output,
    RunnerSettings,
    Usage,
)
from fleetcore_edge.runner.remedies import REMEDIES
from fleetcore_edge.runner.tally import Tally
from fleetcore_edge.runner.verifier import TEXT

_log = logging.getLogger(__name__)
#: Waits before a worker is started again, for one that ended soon after its start: doubled up to the last.
_FIRST_WAIT_S, _LAST_WAIT_S, _STEADY_S = 0.05, 5.0, 30.0


@define
class _Slot:
    """One loaded function.

    Attributes:
        broken: why a new worker did not take it; batches of it are stopped for that reason.
    """

    number: int
    function: Function
    encoder: Encoder
    budget: Budget
    tally: Tally = Factory(Tally)
    broken: FunctionRefused | None = None


class Runner:
    """Functions, and the one process in which they run. Opened by :func:`open_runner`.

    Attributes:
        restarts: how often the process was started again.
    """

    def __init__(self, modules: Modules, settings: RunnerSettings, clock: Clock) -> None:
        self._modules, self._settings, self._clock = modules, settings, clock
        self._slots: dict[str, _Slot] = {}
        self._numbers = 0
        self._link: Link | None = None
        self._linked = asyncio.Event()
        self._turn = asyncio.Lock()
        self._is_closed = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The process that runs the functions; None while it is being started."""
        return None if self._link is None else self._link.pid

    async def load(self, function: Function) -> None:
        """Compiles, starts and configures a function; one of the same name is replaced when that has succeeded.

        Raises:
            FunctionRefused: with a code of docs/reference/edge-abi.md; the one before stays.
            Unavailable: no process that compiles can be started.
        """
        self._check(function)
        code = await self._code(function)
        async with self._turn:
            self._numbers += 1
            slot = _Slot(
                self._numbers,
                function,
                Encoder(self._settings.max_series, self._settings.batch_readings),
                Budget(function.resources.cpu_percent, self._settings.burst_ms, self._clock.monotonic_s()),
            )
            answer = await self._started(slot, code)
            slot.tally.memory_kib = answer.memory_kib
            before = self._slots.pop(function.name, None)
            self._slots[function.name] = slot
            if before is not None:
                await self._stop(before)

    async def unload(self, name: str) -> None:
        """Removes a function; one that is not there is no error."""
        async with self._turn:
            slot = self._slots.pop(name, None)
            if slot is not None:
                await self._stop(slot)

    async def run(self, name: str, batch: Batch) -> Output:
        """Hands a batch to a function. Batches are handled one after the other, in the order in which they are handed.

        Raises:
            FunctionStopped: nothing of its output is given. With ``over_budget`` the batch has not run. With
                ``crashed`` and ``out_of_time`` the process may have been started again; a batch that only waited for
                its turn then runs in the new one.
            FunctionRefused: ``not_loaded``; ``batch_invalid``, ``batch_too_large``, ``too_many_series``.
        """
        slot = self._slots.get(name)
        if slot is None:
            raise FunctionRefused(f"The function {name!r} is not loaded", code="not_loaded", function=name)
        wait_ms = slot.budget.wait_ms(self._clock.monotonic_s())
        if wait_ms:
            slot.tally.over_budget += 1
            percent = slot.function.resources.cpu_percent
            raise self._stopped(slot, "over_budget", f"It has used its {percent:g} % of a processor", wait_ms)
        pieces = slot.encoder.request(slot.number, batch, self._clock.now_ms())
        bound_s = self._settings.answer_s + 2 * slot.function.resources.time_ms / 1000
        while True:
            link = self._link or await self._ready()
            if slot.broken is not None:
                raise self._counted(slot, batch, slot.broken.code, slot.broken.message)
            try:
                answer = await link.ask(pieces, bound_s)
            except LinkLost as lost:
                if lost.running:
                    code = "out_of_time" if lost.overdue else "crashed"
                    reason = f"no answer in {bound_s:g} s" if lost.overdue else lost.reason
                    raise self._counted(slot, batch, code, f"The runner's process was lost: {reason}") from None
                continue
            break
        slot.budget.spend(answer.us / 1000)
        if answer.stopped:
            raise self._counted(slot, batch, answer.said.code, answer.said.reason, answer)
        output = answer.output(batch, slot.function.may)
        slot.tally.done(batch, answer, output)
        return output

    def usage(self) -> Mapping[str, Usage]:
        """What each loaded function has taken."""
        return {name: slot.tally.usage() for name, slot in self._slots.items()}

    async def keep_running(self) -> None:
        """Starts the process, and again whenever it ends, with all functions; until cancelled."""
        wait_s = _FIRST_WAIT_S
        try:
            while True:
                begun = self._clock.monotonic_s()
                try:
                    link = await self._linked_anew()
                    await link.lost.wait()
                    await link.close()
                    _log.warning("The process that runs the functions has ended, and is started again")
                except (OSError, Unavailable) as error:
                    _log.warning("The process that runs the functions cannot be started: %s", error)
                self.restarts += 1
                if self._clock.monotonic_s() - begun > _STEADY_S:
                    wait_s = _FIRST_WAIT_S
                await self._clock.sleep(wait_s)
                wait_s = min(2 * wait_s, _LAST_WAIT_S)
        finally:
            self._is_closed = True
            if self._link is not None:
                await self._link.close()
            # Callers that wait for a process are told that there will be no other.
            self._linked.set()

    def _lost(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            self._linked.clear()

    async def _linked_anew(self) -> Link:
        link = await Link.open(self._settings, self._lost)
        try:
            for slot in list(self._slots.values()):
                await self._start_again(link, slot)
        except BaseException:
            await link.close()
            raise
        if not link.lost.is_set():
            self._link = link
            self._linked.set()
        return link

    async def _start_again(self, link: Link, slot: _Slot) -> None:
        if slot.broken is not None and slot.broken.code == "crashed":
            return
        try:
            await self._start(link, slot, await self._code(slot.function))
            slot.tally.restarts += 1
            slot.broken = None
        except FunctionRefused as refused:
            slot.broken = refused
        except LinkLost as lost:
            if lost.running:
                slot.broken = FunctionRefused(
                    "It ended the runner's process while it was started", code="crashed", remedy=REMEDIES["crashed"]
                )

    async def _ready(self) -> Link:
        while self._link is None:
            if self._is_closed:
                raise FunctionRefused("The runner is closed", code="not_loaded")
            await self._linked.wait()
        return self._link

    def _check(self, function: Function) -> None:
        wanted, settings = function.resources, self._settings
        others = [slot.function for name, slot in self._slots.items() if name != function.name]
        promised = sum(other.resources.memory_mib for other in others)
        too_much = [
            (wanted.memory_mib + promised, settings.memory_mib, "MiB of memory for all functions"),
            (wanted.stack_kib, settings.max_stack_kib, "KiB of stack"),
            (len(others) + 1, settings.max_functions, "functions"),
        ]
        for value, limit, what in too_much:
            if value > limit:
                raise FunctionRefused(
                    f"The runner would need {value} {what}, and has {limit}",
                    code="resources",
                    remedy="Ask for less, or raise the runner's limits",
                    function=function.name,
                )
        if min(wanted.memory_mib, wanted.time_ms, wanted.fuel, wanted.stack_kib, wanted.cpu_percent) <= 0:
            raise FunctionRefused("Each resource must be more than 0", code="resources", function=function.name)

    async def _code(self, function: Function) -> bytes:
        try:
            content = await asyncio.to_thread(_read, function.module, self._settings.module_bytes)
        except OSError as error:
            raise FunctionRefused(
                f"The module {function.module} cannot be read: {error.strerror}",
                code="module_missing",
                remedy="Download it again",
                function=function.name,
            ) from error
        if hashlib.sha256(content).hexdigest() != function.sha256 and len(content) <= self._settings.module_bytes:
            raise FunctionRefused(
                f"The module {function.module} is not the one with the digest {function.sha256}",
                code="hash_mismatch",
                remedy="Download it again",
                function=function.name,
            )
        return await self._modules.code(content)

    async def _started(self, slot: _Slot, code: bytes) -> Answer:
        while True:
            link = await self._ready()
            try:
                return await self._start(link, slot, code)
            except LinkLost as lost:
                if lost.running:
                    raise FunctionRefused(
                        f"The function ended the runner's process while it was started: {lost.reason}",
                        code="crashed",
                        remedy=REMEDIES["crashed"],
                        function=slot.function.name,
                    ) from None

    async def _start(self, link: Link, slot: _Slot, code: bytes) -> Answer:
        """Raises FunctionRefused and LinkLost."""
        function, settings = slot.function, self._settings
        verifier = await self._modules.code(TEXT.encode(), own=True)
        parts = [verifier, code, function.config, *function.secrets.values()]
        document = json.dumps(
            {
                "number": slot.number,
                "name": function.name,
                "memory_mib": function.resources.memory_mib,
                "time_ms": function.resources.time_ms,
                "fuel": function.resources.fuel,
                "stack_kib": function.resources.stack_kib,
                "secrets": list(function.secrets),
                "limits": {
                    "output_bytes": settings.output_bytes,
                    "output_series": settings.max_series,
                    "output_readings": settings.output_readings,
                    "output_alerts": settings.output_alerts,
                    "output_commands": settings.output_commands,
                },
                "parts": [len(part) for part in parts],
            }
        ).encode()
        answer = await link.ask(
            _request(frames.LOAD, document, parts), settings.answer_s + 4 * function.resources.time_ms / 1000
        )
        if answer.stopped:
            raise FunctionRefused(
                f"The function {function.name!r} does not start: {answer.said.reason}",
                code=answer.said.code,
                remedy=REMEDIES.get(answer.said.code, ""),
                function=function.name,
            )
        return answer

    async def _stop(self, slot: _Slot) -> None:
        if self._link is not None:
            document = json.dumps({"number": slot.number}).encode()
            try:
                await self._link.ask(_request(frames.UNLOAD, document, []), self._settings.answer_s)
            except LinkLost:
                # The next process does not have it.
                return

    def _counted(
        self, slot: _Slot, batch: Batch, code: str, reason: str, answer: Answer | None = None
    ) -> FunctionStopped:
        slot.tally.stop(batch, code, reason, answer)
        return self._stopped(slot, code, reason)

    @staticmethod
    def _stopped(slot: _Slot, code: str, reason: str, retry_after_ms: float = 0.0) -> FunctionStopped:
        return FunctionStopped(
            f"The function {slot.function.name!r} was stopped: {reason}",
            code=code,
            remedy=REMEDIES.get(code, ""),
            retry_after_ms=retry_after_ms,
            function=slot.function.name,
            version=slot.function.version,
        )


@asynccontextmanager
async def open_runner(
    folder: Path, settings: RunnerSettings | None = None, clock: Clock | None = None
) -> AsyncIterator[Runner]:
    """Starts the process that runs functions; ends it at the end.

    Args:
        folder: for compiled functions. It is made for this user alone, and must be: what is in it is run.
    """
    settings = settings or RunnerSettings()
    runner = Runner(Modules(folder, settings), settings, clock or MachineClock())
    task = asyncio.create_task(runner.keep_running(), name="runner of functions")
    try:
        yield runner
    finally:
        await end_task(task)


def _request(operation: bytes, document: bytes, parts: list[bytes]) -> list[bytes]:
    length = frames.HEAD.size - frames.LENGTH.size + len(document) + sum(map(len, parts))
    return [frames.HEAD.pack(length, operation, len(document)), document, *parts]


def _read(file: Path, limit: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(limit + 1)
