"""A fleet in asyncio, blocking: calls run in a separate loop, in a thread that ends with the object."""

import asyncio
import contextlib
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from fleetcore import threads
from fleetcore.calls.responses.campaigns import CampaignResponse
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.responses.telemetry import ImportedReadingsResponse
from fleetcore.calls.types import Ms
from fleetcore.errors import Refused
from fleetcore.frontends.async_fleet import AsyncFleet
from fleetcore.frontends.generated.calls_blocking import BlockingCalls
from fleetcore.views import TelemetryView

T = TypeVar("T")
F = TypeVar("F", bound=AsyncFleet)
#: How long a loop's tasks may take to end after their cancellation.
_WIND_UP_S = 5.0


class BlockingFleet(BlockingCalls, Generic[F]):
    """A blocking fleet, on a folder, in memory or on a server."""

    def __init__(self, fleet: F) -> None:
        self._fleet = fleet
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run_loop, args=(self._loop,), name="fleetcore blocking", daemon=True)
        threads.stop_at_exit(self._stop)  # before the store's thread, which the loop's tasks use
        threads.start(self._thread)
        self._process = os.getpid()
        self._finalizer = weakref.finalize(self, _stop_loop, self._loop, self._thread)
        self._finalizer.atexit = False

    # --- calls by name, and combined calls -------------------------------------------------------------------------

    def call(self, name: str, /, **given: Any) -> Any:
        """Makes a call by name, including plugins' calls; raises Refused where there is none."""
        return self._run(self._fleet.call(name, **given))

    def stream(self, name: str, /, **given: Any) -> Iterator[Any]:
        """The items of a streaming call, by name."""
        return self._iterate(partial(self._fleet.stream, name), **given)

    def register_device(
        self, device_id: str, device_type: str, properties: Mapping[str, Any] | None = None, *, reason: str = ""
    ) -> str:
        """Registers a device and returns its id: ``create_device`` with free members.

        ``properties`` may hold what ``create_device`` takes; any other member becomes an attribute. Raises Conflict
        where the id exists.
        """
        return self._run(self._fleet.register_device(device_id, device_type, properties, reason=reason))

    def update_firmware(
        self,
        campaign: str,
        version: str,
        devices: Sequence[str],
        url: str = "",
        *,
        sha256: str | None = None,
        size: int | None = None,
        manifest: Mapping[str, Any] | None = None,
        from_release: str | None = None,
        allow_downgrade: bool = False,
        reason: str = "",
    ) -> CampaignResponse:
        """Starts a campaign: ``create_campaign`` with parameters that suit a script."""
        return self._run(
            self._fleet.update_firmware(
                campaign,
                version,
                devices,
                url,
                sha256=sha256,
                size=size,
                manifest=manifest,
                from_release=from_release,
                allow_downgrade=allow_downgrade,
                reason=reason,
            )
        )

    def collect_many(
        self,
        readings: Any,
        *,
        device: str | None = None,
        metric: str | None = None,
        unit: str | Mapping[str, str] | None = None,
        dry_run: bool = False,
    ) -> ImportedReadingsResponse:
        """Stores many readings: rows, columns, a DataFrame or an Arrow table; see :meth:`AsyncFleet.collect_many`."""
        return self._run(self._fleet.collect_many(readings, device=device, metric=metric, unit=unit, dry_run=dry_run))

    def run_operation(self, operation: str) -> OperationResponse:
        """Waits until an operation has ended; in a library without a server, runs it meanwhile."""
        return self._run(self._fleet.run_operation(operation))

    def query_telemetry(
        self,
        device_id: str,
        metric: str,
        *,
        start: Ms | int | str | datetime | None = None,
        end: Ms | int | str | datetime | None = None,
    ) -> TelemetryView:
        """The points of a series with ``start <= time < end``, as columns, numbers and text alike.

        Raises NotFound for a series that never existed.
        """
        return self._run(self._fleet.query_telemetry(device_id, metric, start=start, end=end))

    # --- making calls ---------------------------------------------------------------------------------------------

    def _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:
        return self._run(self._fleet._value(name, given, kind))

    def _stream(self, name: str, given: Mapping[str, Any], kind: type[T]) -> Iterator[T]:
        return self._iterate(self._fleet._stream, name, given, kind)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work; an interrupt cancels the work too. Raises Refused where its thread does not exist."""
        waiting = self._begun(work)
        try:
            return waiting.result()
        finally:
            waiting.cancel()  # does nothing to finished work

    def _begun(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        why = ""
        if self._process != os.getpid():
            why = "This fleet was opened before a fork: only the process that opened it can use it"
        elif self._thread is threading.current_thread():
            why = "The fleet runs in this thread, which cannot wait for itself"
        elif not self._finalizer.alive:
            why = "This fleet was closed"
        if why:
            work.close()
            raise Refused(why, remedy="Make a new fleet object")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def __getattr__(self, name: str) -> Any:
        """The other members of the fleet; awaitable ones block."""
        if name.startswith("__") or "_fleet" not in vars(self):  # of a copy, which has no attributes yet
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        member = getattr(self._fleet, name)
        if inspect.isasyncgenfunction(member):
            return partial(self._iterate, member)
        if not inspect.iscoroutinefunction(member):
            return member
        return partial(self._call, member)

    def _call(self, member: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return self._run(member(*args, **options))

    def _iterate(self, member: Callable[..., Any], *args: Any, **options: Any) -> Iterator[Any]:
        """Yields a member's items, waiting for each; it is closed when the iteration ends, also by an interrupt."""
        items, end = member(*args, **options), object()

        async def following() -> Any:
            return await anext(items, end)

        try:
            while True:
                waiting = self._begun(following())
                try:
                    item = waiting.result()
                finally:
                    waiting.cancel()  # does nothing to finished work
                if item is end:
                    return
                yield item
        finally:
            with contextlib.suppress(RuntimeError, Refused):  # it is closed; an interrupted step may not have ended yet
                self._run(items.aclose())

    def __enter__(self) -> Self:
        self._run(self._fleet.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the fleet, and ends its thread; idempotent. In a process forked since, it does nothing."""
        if self._finalizer.alive and self._process == os.getpid():
            self._run(self._fleet.close())
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
    """Ends the loop as ``asyncio.run`` does: dropped objects leave no warnings."""
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
    if thread is not threading.current_thread():  # a garbage collection may run in any thread
        thread.join(timeout=_WIND_UP_S)
