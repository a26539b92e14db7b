"""``fleetcore plugin``: lists plugins, and starts a new one."""

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcore.cli.connect import Caller, Remote, Target, connect, fleet_option, host_of
from fleetcore.cli.exits import printable
from fleetcore.cli.output import output_option, show
from fleetcore.errors import Refused

if TYPE_CHECKING:
    from fleetcore.runtime.plugins import PluginHost


@click.group()
def plugin() -> None:
    """List plugins, or start a new one."""


@plugin.command("list")
@click.option("--file", "files", multiple=True, type=click.Path(path_type=Path), help="A one-file plugin to try.")
@fleet_option
@output_option
def list_(files: tuple[Path, ...], at: Target, output: str) -> int:
    """List the plugins of a fleet with what they offer, and failures. Exit 7 if one failed.

    A running server lists the plugins that it has loaded. Without a data folder, the installed ones are listed; with
    --file, these files too.
    """
    from fleetcore.cli.exits import PARTLY

    plugins = _tried(files) if files else asyncio.run(_of(at))
    show(plugins if output != "table" else [_row(item) for item in plugins], output)
    if output == "table":
        for item in plugins:
            for said in filter(None, (item["error"], *item["warnings"])):
                click.echo(f"{item['name']}: {printable(said)}", err=True)
            if item["remedy"]:
                click.echo(f"    → {printable(item['remedy'])}", err=True)
    return PARTLY if any(item["error"] for item in plugins) else 0


def _row(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": item["name"],
        "version": item["version"],
        "origin": item["origin"],
        "state": "failed in part" if item["error"] and item["state"] == "loaded" else item["state"],
        "offers": ", ".join(item["offers"]),
    }


def _tried(files: tuple[Path, ...]) -> list[dict[str, Any]]:
    from fleetcore.runtime.plugins import PluginHost

    return _surveyed(PluginHost(files))


def _surveyed(host: "PluginHost") -> list[dict[str, Any]]:
    from attrs import asdict

    from fleetcore.calls.fleet_table import of_fleet
    from fleetcore.cli.root import TAKEN

    of_fleet(host)  # notes the calls that each adds, and a plugin whose call cannot be added
    host.survey(TAKEN)
    return [asdict(item) for item in host.plugins.values()]


async def _of(at: Target) -> list[dict[str, Any]]:
    """The plugins of a running server, also a remote one, or of a folder without a server."""
    if isinstance(at, Remote):
        async with connect(at) as caller:
            return await _asked(caller)
    from fleetcore.runtime import lease

    if await asyncio.to_thread(lease.holder, at) is None:
        return _surveyed(host_of(at))
    from fleetcore.frontends.control_client import ControlClient

    return await _asked(ControlClient(at))


async def _asked(caller: Caller) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await caller.run("list_plugins", {}))["items"]
    return found


@plugin.command()
@click.argument("name", help="The plugin's name: lower-case letters, digits and _.")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), default=".", help="The folder in which it is created."
)
def new(name: str, into: Path) -> None:
    """Write a complete plugin project fleetcore-NAME with a detector and passing tests."""
    from fleetcore.cli.template import write_plugin

    if not name.isidentifier() or not name.islower():
        raise Refused(
            f"{name!r} is not a plugin name", code="name_invalid", remedy="Use lower-case letters, digits and _"
        )
    folder = write_plugin(name, into)
    click.echo(f"Wrote {folder}. Try it:  cd {shlex.quote(str(folder))} && pip install -e '.[test]' && pytest")


@plugin.command()
@click.argument("name", help="The plugin's name.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file; typed_calls.py beside the calls by default.",
)
def calls(name: str, into: Path | None) -> None:
    """Write the calls of the installed plugin NAME as typed methods, for scripts and editors."""
    import sys

    from fleetcore.calls.fleet_table import of_fleet
    from fleetcore.frontends.plugin_methods import module_of
    from fleetcore.runtime.plugins import PluginHost

    table = of_fleet(PluginHost())
    text = module_of(table, name)
    if into is None:
        first = next(call for call in table if call.plugin == name)
        into = Path(str(sys.modules[first.function.__module__].__file__)).parent / "typed_calls.py"
    into.write_text(text, encoding="utf-8")
    click.echo(f"Wrote {into}")
