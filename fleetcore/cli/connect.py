"""One way to a fleet for every command: the data folder itself, or the running server that holds it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from fleetcore.errors import DataFolderInUse, Refused

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_DATA = "./fleet-data"


class Caller(Protocol):
    """Calls the façade, wherever it runs; results are plain data."""

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        """The call's result; raises the façade's errors."""
        ...


def data_option(command: F) -> F:
    """Adds ``--data``."""
    return click.option(
        "--data",
        "data",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_DATA,
        envvar="FLEETCORE_DATA",
        show_default=True,
        help="The data folder.",
    )(command)


class _Local:
    def __init__(self, manager: Any) -> None:
        self._manager = manager

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        result = await getattr(self._manager, name)(*args, **options)
        return result.to_plain() if hasattr(result, "to_plain") else result


@asynccontextmanager
async def connect(data: Path) -> AsyncIterator[Caller]:
    """Opens the folder, or speaks to the server that has it open. Raises Refused where there is no data folder."""
    if not await asyncio.to_thread(data.is_dir):
        raise Refused(f"There is no data folder {data}", remedy="`fleetcore init` makes one; --data names another")
    from fleetcore.manager import IoTFleetManager

    manager = IoTFleetManager(data)
    try:
        await manager.open()
    except DataFolderInUse:
        from fleetcore.runtime.control import ControlClient

        yield ControlClient(data)
    else:
        try:
            yield _Local(manager)
        finally:
            await manager.close()


def call(data: Path, name: str, *args: Any, **options: Any) -> Any:
    """One call, from a command that is not a coroutine."""

    async def run() -> Any:
        async with connect(data) as caller:
            return await caller.call(name, *args, **options)

    return asyncio.run(run())
