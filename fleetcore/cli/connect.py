"""The connection to a fleet, the same for every command: a data folder, the server that has it open, or a remote."""

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from attrs import frozen

from fleetcore.errors import Refused, Unavailable

if TYPE_CHECKING:
    from fleetcore.runtime.plugins import PluginHost

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_DATA = "./fleet-data"


class Caller(Protocol):
    """Calls a fleet anywhere; answers are plain data."""

    async def run(self, name: str, given: Mapping[str, Any]) -> Any:
        """The answer of a call; raises the call's errors."""
        ...

    def stream(self, name: str, given: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """The items of a streaming call, as plain data."""
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


@frozen
class Remote:
    """A remote server.

    Attributes:
        token: as given: the token, or a reference ``env:NAME`` or ``file:PATH``.
        plain: whether the token may be sent over ``http://``, only to this machine.
    """

    url: str
    token: str | None
    ca: Path | None
    plain: bool = False


Target = Path | Remote


def fleet_option(command: F) -> F:
    """Adds ``--data``, or ``--server`` with ``--token`` and ``--ca``; the command gets them as ``at``."""

    @click.option(
        "--server",
        metavar="URL",
        envvar="FLEETCORE_SERVER",
        help="The operators' API of a server, instead of a folder.",
    )
    @click.option("--token", envvar="FLEETCORE_TOKEN", help="For --server: file:PATH, env:NAME, or the token.")
    @click.option(
        "--ca",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        envvar="FLEETCORE_CA",
        help="For --server: the fleet's CA, pki/ca.pem of its data folder.",
    )
    @click.option(
        "--plain-http",
        is_flag=True,
        envvar="FLEETCORE_PLAIN_HTTP",
        help="For --server http://, only on this machine: send the token without encryption.",
    )
    @functools.wraps(command)
    def run(
        *args: Any, data: Path, server: str | None, token: str | None, ca: Path | None, plain_http: bool, **given: Any
    ) -> Any:
        where = click.get_current_context().get_parameter_source
        folder_named = where("data") is click.core.ParameterSource.COMMANDLINE
        if folder_named and where("server") is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError("--data and --server name two places: give only one")
        at: Target = data if server is None or folder_named else Remote(server, token, ca, plain_http)
        return command(*args, at=at, **given)

    return data_option(run)  # type: ignore[return-value]  # the same command with its place resolved


def plugins_of(words: Sequence[str]) -> "PluginHost":
    """The installed plugins that may add nouns, without those that the fleet of a command line disables.

    It is read before the line's options, and without the full configuration code, because this answers ``--help``. The
    command itself reports errors in the file.
    """
    import tomllib

    from fleetcore.interfaces.provider import OPEN_TIMEOUT_S
    from fleetcore.runtime.plugins import PluginHost

    data = os.environ.get("FLEETCORE_DATA") or DEFAULT_DATA
    for place, word in enumerate(words):
        if word == "--data":
            data = "".join(words[place + 1 : place + 2])
        elif word.startswith("--data="):
            data = word.removeprefix("--data=")
    try:
        fleet = tomllib.loads((Path(data) / "fleet.toml").read_text(encoding="utf-8")).get("fleet", {})
        disable = [name for name in fleet.get("disable", ()) if isinstance(name, str)]
        timeout_s = float(fleet.get("open_timeout_s", OPEN_TIMEOUT_S))
    except (OSError, ValueError, TypeError, AttributeError):
        disable, timeout_s = [], OPEN_TIMEOUT_S
    return PluginHost(collect=False, disable=disable, timeout_s=timeout_s)


def host_of(data: Path) -> "PluginHost":
    """The plugins of a folder, without opening it; the installed ones if there is no fleet.toml."""
    from fleetcore.runtime.config import load
    from fleetcore.runtime.plugins import PluginHost

    file = data / "fleet.toml"
    return PluginHost.of(load(file if file.is_file() else None))


def target_of(context: click.Context) -> Target:
    """The place that an incomplete command line names: for completion."""
    words = context.params
    where = context.get_parameter_source
    data, server = words.get("data") or Path(DEFAULT_DATA), words.get("server")
    if server is None or where("data") is click.core.ParameterSource.COMMANDLINE:
        return Path(data)
    return Remote(server, words.get("token"), words.get("ca"), bool(words.get("plain_http")))


class _Caller:
    """Calls the library or the remote client, which have the same calls."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    async def run(self, name: str, given: Mapping[str, Any]) -> Any:
        from fleetcore.calls.types import to_builtins

        return to_builtins(await self._manager.call(name, **given))

    async def stream(self, name: str, given: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        from fleetcore.calls.types import to_builtins

        async with contextlib.aclosing(self._manager.stream(name, **given)) as items:
            async for item in items:
                yield to_builtins(item)


@asynccontextmanager
async def connect(at: Target, *, opens: bool = True) -> AsyncIterator[Caller]:
    """Opens the folder, or connects to the server that has it open, or to the remote one.

    Raises Refused if the data folder does not exist, or a server's token is missing; without ``opens`` Unavailable if
    no process has the folder open.
    """
    if isinstance(at, Remote):
        async with remote_client(at) as client:
            yield _Caller(client)
        return
    data = at
    if not await asyncio.to_thread(data.is_dir):
        raise Refused(f"Data folder {data} does not exist", remedy="`fleetcore init` creates one; --data names another")
    from fleetcore.runtime import lease

    if await asyncio.to_thread(lease.holder, data) is not None:
        from fleetcore.frontends.control_client import ControlClient

        yield ControlClient(data)
        return
    if not opens:
        raise Unavailable(f"No server has {data} open", remedy="fleetcore serve")
    from fleetcore.calls.caller import user_of
    from fleetcore.frontends.library import IoTFleetManager

    manager = IoTFleetManager(data, create=False, actor=user_of("cli"))
    await manager.open()
    try:
        yield _Caller(manager)
    finally:
        await manager.close()


def remote_client(at: Remote) -> Any:
    """The client of a server; raises Refused without a token, or if it would be sent unencrypted without consent."""
    if at.token is None:
        raise Refused("A server requires a token", remedy="`fleetcore token create` there; then --token file:PATH")
    if at.url.lower().startswith("http://") and not at.plain:
        remedy = "Use https://; on this machine, --plain-http allows it"
        raise Refused(f"{at.url!r} would send the token without encryption", remedy=remedy)
    try:
        from fleetcore.client import AsyncFleetClient
    except ModuleNotFoundError as error:
        raise Refused(f"--server needs {error.name}", remedy="pip install 'fleetcore[client]'") from error
    from fleetcore.runtime.config import secret

    referred = at.token.startswith(("env:", "file:"))
    return AsyncFleetClient(at.url, secret(at.token) if referred else at.token, ca=at.ca)
