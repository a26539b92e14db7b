"""``fleetcore serve``: runs the server until it is asked to stop."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from fleetcore.cli.connect import data_option
from fleetcore.interfaces.boundary import in_a_line
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.waits import end_task, end_tasks
from fleetcore.listening.descriptors import raise_limit
from fleetcore.runtime.process import settle_memory
from fleetcore.runtime.supervisor_socket import notify, watchdog_s
from fleetcore.threads import Deadline

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from fleetcore.runtime.app import Fleet

#: From the request to stop to the end of the process, even if something hangs: below the 30 s of most supervisors.
STOP_S = 25.0
#: How often to check whether everything is open, and the store works.
_LOOK_S = 0.25


@click.command()
@data_option
@click.option("--verbose", is_flag=True, help="Log more.")
def serve(data: Path, verbose: bool) -> None:
    """Run the server on a data folder. SIGTERM drains and stops, in 25 s at most; a second one stops it (exit 1)."""
    run(data, verbose=verbose)


def run(
    data: Path, *, verbose: bool, clock: Clock | None = None, opened: "Callable[[Fleet], None]" = lambda _fleet: None
) -> None:
    """Runs the server as the command does.

    Args:
        clock: another clock than the machine's.
        opened: called with the fleet before it listens.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    raise_limit()
    with asyncio.Runner(loop_factory=_uvloop()) as runner:
        serving = runner.get_loop().create_task(_serve(data, clock, opened), name="fleetcore serve")
        while True:
            try:
                runner.run(_ended(serving))
            except (SystemExit, KeyboardInterrupt) as error:
                # asyncio stops its loop for an exit() in a task or callback, for example a plugin's. The loop is
                # intact, and the failed task has the exception.
                if serving.done():
                    raise
                _log.error("%s left a task, perhaps a plugin's; the server goes on", in_a_line(error))
            else:
                return


async def _ended(serving: "asyncio.Task[None]") -> None:
    await serving


def _uvloop() -> "type[asyncio.AbstractEventLoop] | None":
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop  # type: ignore[return-value]  # a factory, as a loop class is
    return None


async def _serve(data: Path, clock: Clock | None, opened: "Callable[[Fleet], None]") -> None:
    async with _open(data, clock=clock, opened=opened) as (fleet, endpoints):
        for name, urls in endpoints.items():
            for url in urls:
                click.echo(f"{name}: {url}")
        settle_memory()
        asked = _stop_asked()
        watching = asyncio.create_task(_watch(fleet), name="fleetcore watch")
        waiting = asyncio.create_task(asked.wait(), name="fleetcore asked to stop")
        await asyncio.wait({watching, waiting}, return_when=asyncio.FIRST_COMPLETED)
        click.echo("stopping")
        notify("STOPPING=1")
        await end_tasks(waiting)
        await end_task(watching)


async def _watch(fleet: "Fleet") -> None:
    """Says that it is ready once each configured listener is open, and that it lives.

    Raises StorageError if the store has ended.
    """
    told: dict[str, str] = {}
    ready, every_s, due_s = False, watchdog_s(), 0.0
    while True:
        for name, why in fleet.late.items():
            if told.get(name) != why:
                click.echo(f"not ready: [protocols.{name}] {why}", err=True)
        told = dict(fleet.late)
        if not told and not ready:
            ready = True
            click.echo("ready")
            notify("READY=1")
        if every_s is not None and time.monotonic() >= due_s:
            due_s = time.monotonic() + every_s
            notify("WATCHDOG=1")
        if fleet.storage.failure is not None:
            raise fleet.storage.failure
        await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def running(data: Path, *, create: bool = False) -> AsyncIterator[dict[str, list[str]]]:
    """A server in this process: yields its endpoints by protocol; stops and drains at the end.

    ``create`` creates the fleet if there is only a fleet.toml.
    """
    async with _open(data, create=create) as (_, endpoints):
        yield endpoints


@asynccontextmanager
async def _open(
    data: Path,
    *,
    create: bool = False,
    clock: Clock | None = None,
    opened: "Callable[[Fleet], None]" = lambda _fleet: None,
) -> AsyncIterator[tuple["Fleet", dict[str, list[str]]]]:
    from fleetcore.frontends.control import serve_control
    from fleetcore.frontends.library import IoTFleetManager

    manager = IoTFleetManager(data, create=create, clock=clock)
    try:
        fleet = await manager.open()
        opened(fleet)
        await fleet.serve()
        async with serve_control(manager, data):
            listening = {name: item.adapter for name, item in fleet.protocols.items()} | fleet.services
            yield fleet, {name: list(getattr(item, "endpoints", ())) for name, item in listening.items()}
    finally:
        await manager.close()


def _stop_asked() -> asyncio.Event:
    """From now on a signal sets the event, and the process ends within ``STOP_S`` of it."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    deadline = Deadline(STOP_S, "stopping")
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        del number, frame
        if stopping:
            os._exit(1)  # asked twice: the operator does not wait for the drain, which then counts as failed
        stopping = True
        deadline.begin()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(asked.set)

    # The interpreter's handlers, not the loop's, which do not run while a plugin blocks it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return asked
