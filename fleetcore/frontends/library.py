"""IoTFleetManager: the façade that people script against. It opens on first use and holds no logic of its own.

Flat calls return plain data that shows itself well; the parts (``manager.devices``, ``.twins`` …) return records.
"""

import asyncio
import contextlib
import inspect
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from attrs import evolve

from fleetcore import threads
from fleetcore.calls.caller import owner, user_of
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.table import core, of_fleet, run
from fleetcore.calls.types import present
from fleetcore.errors import Refused, WrongLoop
from fleetcore.frontends.describe import describe, to_json
from fleetcore.frontends.generated.calls_async import AsyncCalls
from fleetcore.frontends.generated.calls_blocking import BlockingCalls
from fleetcore.frontends.registration import registration
from fleetcore.interfaces.clock import Clock
from fleetcore.views import TelemetryView
from fleetcore.wire.pieces import async_pieces
from fleetcore.wire.times import parse_time

if TYPE_CHECKING:
    from fleetcore.fleet.anomalies import AnomalyDetector
    from fleetcore.fleet.audit import AuditLog
    from fleetcore.fleet.campaigns import Campaigns
    from fleetcore.fleet.commands import Commands
    from fleetcore.fleet.edge import EdgeComputing
    from fleetcore.fleet.groups import Groups
    from fleetcore.fleet.health import FleetHealth
    from fleetcore.fleet.location import Locations
    from fleetcore.fleet.registry import Registry
    from fleetcore.fleet.security import SecurityManager
    from fleetcore.fleet.telemetry import Telemetry
    from fleetcore.fleet.twins import Twins
    from fleetcore.runtime.app import Fleet
    from fleetcore.runtime.config import Config

T = TypeVar("T")
#: What the tasks of a blocking manager may take to end once they are cancelled.
_WIND_UP_S = 5.0


class IoTFleetManager(AsyncCalls):
    """A fleet in a script or a notebook.

    Args:
        data: a data folder; None keeps everything in memory. A folder that is missing, or holds nothing of a fleet,
            becomes a new fleet. Where some parts of a fleet are there and others are not, opening refuses.
        config: a configuration instead.
        clock: another clock, for tests.
        create: True makes a new fleet also where there is a ``fleet.toml`` alone, as ``fleetcore init`` does; False
            never makes one.
        actor: the name under which changes are written into the audit log; ``library:USER`` by default.

    It opens on the first call and belongs to that event loop: another one raises :class:`WrongLoop`. Not closing it
    loses nothing that was acknowledged.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        config: "Config | None" = None,
        clock: Clock | None = None,
        create: bool | None = None,
        actor: str | None = None,
    ) -> None:
        self._data, self._config, self._clock, self._create = data, config, clock, create
        self._actor = actor or user_of("library")
        self._table = core()
        self._fleet: Fleet | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Lock | None = None

    @staticmethod
    def sync(data: str | Path | None = None, **options: Any) -> "SyncFleetManager":
        """The same calls, blocking; the fleet runs in a background thread."""
        return SyncFleetManager(IoTFleetManager(data, **options))

    async def open(self) -> "Fleet":
        """Opens the fleet, if it is not open yet, and returns it. Raises what opening raises."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._opening = loop, asyncio.Lock()
        if self._loop is not loop:
            raise WrongLoop(
                "This manager belongs to another event loop",
                remedy="Make a manager per loop, or use IoTFleetManager.sync()",
            )
        assert self._opening is not None
        async with self._opening:
            if self._fleet is None:
                from fleetcore.runtime.app import Fleet

                self._fleet = await Fleet.open(self._configuration(), clock=self._clock, create=self._create)
                self._table = of_fleet(self._fleet.host)
            return self._fleet

    def _configuration(self) -> "Config":
        from fleetcore.runtime.config import Config, Instance, load

        if self._config is not None:
            return self._config
        if self._data is not None and (Path(self._data) / "fleet.toml").is_file():
            found = load(Path(self._data) / "fleet.toml")
            # A folder that was named is the data folder, also where the file does not say so.
            return found if found.fleet.data is not None else evolve(found, fleet=evolve(found.fleet, data="."))
        config = load()
        detectors = config.detectors or (Instance(name="statistical", kind="statistical", table={}),)
        return Config(
            fleet=evolve(config.fleet, data=None if self._data is None else str(self._data)),
            limits=config.limits,
            ca=config.ca,
            firmware=config.firmware,
            storage=config.storage,
            detectors=detectors,
        )

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drains, flushes and closes; idempotent."""
        fleet, self._fleet = self._fleet, None
        if fleet is not None:
            await fleet.close()

    async def call(self, name: str, /, **given: Any) -> Any:
        """A call by its name, a plugin's among them; raises Refused where there is none."""
        call = self._table.get(name)
        stream = "" if call is None else call.stream
        content = async_pieces(given.pop(stream)) if stream in given else None
        return await self.call_as(self._actor, name, given, content)

    async def call_as(
        self, actor: str, name: str, given: Mapping[str, Any], content: AsyncIterator[bytes] | None = None
    ) -> Any:
        """The same in another name, that of the user who speaks through the control socket; ``content`` is a stream."""
        fleet = await self.open()
        call = self._table.get(name)
        if call is None:
            raise Refused(f"There is no call {name!r}", code="operation_unknown")
        return await run(call, owner(fleet, actor), present(**given), content=content)

    async def catalogue(self) -> bytes:
        """The calls of the fleet, its plugins' among them, as :func:`fleetcore.frontends.catalogue.read` reads them."""
        await self.open()
        return to_json(describe(self._table))

    def stream(self, name: str, /, **given: Any) -> AsyncIterator[Any]:
        """The items of a call that streams, by its name."""
        return self._stream(name, given, Any)

    async def _stream(self, name: str, given: Mapping[str, Any], kind: type[T]) -> AsyncIterator[T]:
        del kind
        items: AsyncGenerator[T, None] = await self.call(name, **given)
        async with contextlib.aclosing(items):
            async for item in items:
                yield item

    async def _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:
        del kind  # it is what the call answers
        answer: T = await self.call(name, **given)
        return answer

    def _open_now(self) -> "Fleet":
        if self._fleet is None:
            raise Refused("The fleet is not open yet", remedy="Use `async with manager:` or await any call first")
        return self._fleet

    # --- the parts ----------------------------------------------------------------------------------------------

    @property
    def devices(self) -> "Registry":
        """The registry."""
        return self._open_now().devices

    @property
    def twins(self) -> "Twins":
        """Desired and reported state."""
        return self._open_now().twins

    @property
    def telemetry(self) -> "Telemetry":
        """Stored readings."""
        return self._open_now().telemetry

    @property
    def anomalies(self) -> "AnomalyDetector":
        """What detectors found."""
        return self._open_now().anomalies

    @property
    def commands(self) -> "Commands":
        """Commands and their states."""
        return self._open_now().commands

    @property
    def campaigns(self) -> "Campaigns":
        """Firmware campaigns."""
        return self._open_now().campaigns

    @property
    def security(self) -> "SecurityManager":
        """Certificates, tokens, enrolment."""
        return self._open_now().security

    @property
    def edge(self) -> "EdgeComputing":
        """Gateways and leaves."""
        return self._open_now().edge

    @property
    def location(self) -> "Locations":
        """Positions."""
        return self._open_now().location

    @property
    def groups(self) -> "Groups":
        """Groups."""
        return self._open_now().groups

    @property
    def audit(self) -> "AuditLog":
        """The audit log."""
        return self._open_now().audit

    @property
    def health(self) -> "FleetHealth":
        """Scores."""
        return self._open_now().health

    # --- flat calls: devices ------------------------------------------------------------------------------------

    async def register_device(
        self, device_id: str, device_type: str, properties: Mapping[str, Any] | None = None, *, reason: str = ""
    ) -> str:
        """Registers a device and returns its id: ``create_device`` with free members.

        ``properties`` may hold what ``create_device`` takes; any other member becomes an attribute. Raises Conflict
        where the id exists.
        """
        members = registration(properties)
        return (await self.create_device(device_id, device_type, **members, reason=reason)).id

    async def run_operation(self, operation: str) -> OperationResponse:
        """Waits until long work has ended, doing it here where no server does."""
        await (await self.open()).operations.run(operation)
        return await self.get_operation(operation)

    # --- flat calls: telemetry ----------------------------------------------------------------------------------

    async def query_telemetry(
        self, device_id: str, metric: str, *, start: int | str | None = None, end: int | str | None = None
    ) -> TelemetryView:
        """The points of a series with ``start <= time < end``, as columns, numbers and text alike."""
        fleet = await self.open()
        first, last = 0 if start is None else parse_time(start), None if end is None else parse_time(end)
        data = await fleet.telemetry.query(device_id, metric, start=first, end=last)
        return TelemetryView(data, await fleet.telemetry.texts(device_id, metric, start=first, end=last))

    async def settle(self) -> None:
        """Returns once every detector and notifier has seen what was accepted so far."""
        fleet = await self.open()
        await fleet.settle()


class SyncFleetManager(BlockingCalls):
    """The façade's calls, blocking. Every method of :class:`IoTFleetManager` exists here under the same name."""

    def __init__(self, manager: IoTFleetManager) -> None:
        self._manager = manager
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run_loop, args=(self._loop,), name="fleetcore sync", daemon=True)
        threads.stop_at_exit(self._stop)  # before its store's, which the tasks of the loop use
        threads.start(self._thread)
        self._finalizer = weakref.finalize(self, _stop_loop, self._loop, self._thread)
        self._finalizer.atexit = False

    def _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:
        return self._run(self._manager._value(name, given, kind))

    def _stream(self, name: str, given: Mapping[str, Any], kind: type[T]) -> Iterator[T]:
        return self._iterate(self._manager._stream, name, given, kind)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._manager, name)
        if inspect.isasyncgenfunction(member):
            return partial(self._iterate, member)
        if not inspect.iscoroutinefunction(member):
            return member
        return partial(self._call, member)

    def _call(self, member: Any, *args: Any, **options: Any) -> Any:
        return self._run(member(*args, **options))

    def _iterate(self, member: Any, *args: Any, **options: Any) -> Iterator[Any]:
        """What the call yields, each waited for; the call is closed when the iteration ends, also by an interrupt."""
        items, end = member(*args, **options), object()

        async def following() -> Any:
            return await anext(items, end)

        try:
            while True:
                waiting = asyncio.run_coroutine_threadsafe(following(), self._loop)
                try:
                    item = waiting.result()
                finally:
                    waiting.cancel()  # does nothing to what is done
                if item is end:
                    return
                yield item
        finally:
            with contextlib.suppress(RuntimeError):  # an interrupted step may not have ended yet
                self._run(items.aclose())

    def __enter__(self) -> Self:
        self._run(self._manager.open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the fleet and ends the thread; idempotent."""
        if self._finalizer.alive:
            self._run(self._manager.close())
            self._finalizer()

    def _stop(self) -> threading.Thread:
        _tell_loop(self._loop)
        return self._thread


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_wind_up())
    finally:
        loop.close()


async def _wind_up() -> None:
    """What ``asyncio.run`` does at its end: nothing that is dropped is left to complain of it."""
    tasks = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_WIND_UP_S)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _tell_loop(loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(loop.stop)


def _stop_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    _tell_loop(loop)
    if thread is not threading.current_thread():  # a garbage collection runs in any
        thread.join(timeout=_WIND_UP_S)
