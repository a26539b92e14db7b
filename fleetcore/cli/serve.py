"""``fleetcore serve``: the server, until it is asked to stop."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from fleetcore.cli.connect import data_option
from fleetcore.errors import ConfigError
from fleetcore.runtime.process import settle_memory


@click.command()
@data_option
@click.option("--verbose", is_flag=True, help="Log more.")
def serve(data: Path, verbose: bool) -> None:
    """Run the server on a data folder. SIGTERM drains and stops; a second one stops at once (exit 1)."""
    if not (data / "fleet.toml").is_file():
        raise ConfigError(f"{data} is no data folder", remedy=f"fleetcore init {data}")
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    runner = asyncio.Runner(loop_factory=_uvloop())
    with runner:
        runner.run(_serve(data))


def _uvloop() -> "type[asyncio.AbstractEventLoop] | None":
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop  # type: ignore[return-value]  # a factory, as a loop class is
    return None


async def _serve(data: Path) -> None:
    async with running(data) as endpoints:
        for name, urls in endpoints.items():
            for url in urls:
                click.echo(f"{name}: {url}")
        settle_memory()
        click.echo("ready")
        await _stop_asked()
        click.echo("stopping")


@asynccontextmanager
async def running(data: Path, *, create: bool = False) -> AsyncIterator[dict[str, list[str]]]:
    """A server in this process: yields its endpoints by protocol, stops and drains at the end.

    ``create`` makes the fleet where there is only a fleet.toml.
    """
    from fleetcore.manager import IoTFleetManager
    from fleetcore.runtime.control import serve_control

    manager = IoTFleetManager(data, create=create)
    try:
        fleet = await manager.open()
        await fleet.serve()
        async with serve_control(manager, data):
            listening = {name: one.adapter for name, one in fleet.protocols.items()} | fleet.services
            yield {name: list(getattr(one, "endpoints", ())) for name, one in listening.items()}
    finally:
        await manager.close()


async def _stop_asked() -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def stop() -> None:
        if asked.is_set():
            os._exit(1)  # asked twice: whoever asks does not want to wait for the drain, which has then failed
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await asked.wait()
