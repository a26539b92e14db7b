"""``fleetcore plugin``: what is installed, and a start for one of your own."""

from pathlib import Path

import click

from fleetcore.cli.output import output_option, show
from fleetcore.errors import Refused


@click.group()
def plugin() -> None:
    """List plugins, or start one of your own."""


@plugin.command("list")
@click.option("--file", "files", multiple=True, type=click.Path(path_type=Path), help="A one-file plugin; repeatable.")
@output_option
def list_(files: tuple[Path, ...], output: str) -> int:
    """List plugins with their offers and failures; exit 7 where one failed."""
    from fleetcore.calls.fleet_table import of_fleet
    from fleetcore.cli.exits import PARTLY
    from fleetcore.runtime.plugins import PluginHost

    host = PluginHost(files)
    of_fleet(host)  # notes the calls that each adds, and the plugin of which a call cannot be added
    rows = [
        {
            "name": one.name,
            "version": one.version,
            "origin": one.origin,
            "offers": ", ".join(one.offers),
            "error": one.error,
        }
        for one in host.plugins.values()
    ]
    show(rows, output)
    return PARTLY if any(row["error"] for row in rows) else 0


@plugin.command()
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), default=".", help="The folder it is made in.")
def new(name: str, into: Path) -> None:
    """Write a complete plugin project fleetcore-NAME with a detector and passing tests."""
    from fleetcore.cli.template import write_plugin

    if not name.isidentifier() or not name.islower():
        raise Refused(f"{name!r} is no plugin name", code="name_invalid", remedy="Use lower-case letters, digits and _")
    folder = write_plugin(name, into)
    click.echo(f"Wrote {folder}. Try it:  cd {folder} && pip install -e '.[test]' && pytest")


@plugin.command()
@click.argument("name")
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
