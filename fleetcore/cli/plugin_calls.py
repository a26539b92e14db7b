"""Nouns that a fleet's plugins add by their calls: read from the target if a command names an unknown noun."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import Remote, Target, fleet_option, remote_client
from fleetcore.cli.derived import add_commands
from fleetcore.cli.exits import printable
from fleetcore.errors import FleetError, NotFound, Unavailable
from fleetcore.frontends.catalogue import ANSWERS, KINDS, CallInfo, Catalogue, core, read

#: The allowed names of a target's commands; others are not shown.
_COMMAND = re.compile(r"[a-z][a-z0-9-]*( [a-z][a-z0-9-]*)+( [A-Z][A-Z_]*)*", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@fleet_option
def _place(at: Target) -> Target:
    return at


def noun(words: Sequence[str]) -> click.Group | None:
    """The noun at the start of a command line, from the target's plugins; None if none has it.

    Raises the errors of asking the target.
    """
    at: Target = _place.main(list(words[1:]), prog_name="fleetcore", standalone_mode=False)
    calls = [_safe(call) for call in asyncio.run(_catalogue(at)).nouns().get(words[0], ()) if _is_fit(call)]
    if not calls:
        if isinstance(at, Path) and not (at / "fleet.toml").exists():
            raise NotFound(f"{at} has no fleet.toml; --data names another folder")
        return None
    group = click.Group(words[0], help=f"Calls of the plugin {words[0]}.")
    add_commands(group, words[0], calls)
    return group


async def _catalogue(at: Target) -> Catalogue:
    if isinstance(at, Remote):
        async with remote_client(at) as client:
            return read(await client.catalogue())
    from fleetcore.frontends.control_client import ControlClient, socket_of

    if socket_of(at).exists():
        try:
            return read(await ControlClient(at).catalogue())
        except Unavailable:
            pass  # left behind by a server that was killed
    return await asyncio.to_thread(_of_folder, at)


def _of_folder(data: Path) -> Catalogue:
    """The calls of a fleet without a server: those of the installed plugins, and of those in its fleet.toml."""
    from fleetcore.calls.fleet_table import of_fleet
    from fleetcore.cli.connect import host_of
    from fleetcore.frontends.describe import describe

    return Catalogue(describe(of_fleet(host_of(data))))


def _is_fit(call: CallInfo) -> bool:
    """Whether a call can become commands: its words are valid, and its parameters clash with nothing."""
    from fleetcore.calls.types import OPTIONS

    names = [parameter.name for parameter in call.parameters]
    commands = [command for command in (call.command, *call.also) if command]
    arguments = {word.lower() for command in commands for word in command.split()[1:] if word.isupper()}
    return (
        bool(call.plugin)
        and call.name not in core()
        and call.answer in ANSWERS
        and all(_COMMAND.fullmatch(command) for command in commands)
        and all(_NAME.fullmatch(name) for name in names)
        and not OPTIONS & {parameter.word or parameter.name for parameter in call.parameters} - arguments
        and len({*names}) == len(names)
        and arguments <= {*names}
        and all(parameter.kind in KINDS for parameter in call.parameters)
    )


def _safe(call: CallInfo) -> CallInfo:
    """A call whose texts contain no terminal control characters."""
    import msgspec

    texts: dict[str, Any] = {"help": "\n".join(printable(line) for line in call.help.splitlines())}
    texts |= {"deprecated": printable(call.deprecated), "confirm": printable(call.confirm)}
    parameters = [
        msgspec.structs.replace(
            parameter,
            help=printable(parameter.help),
            word=parameter.word if _NAME.fullmatch(parameter.word) else "",
            choices=[printable(choice) for choice in parameter.choices],
        )
        for parameter in call.parameters
    ]
    columns = [printable(column) for column in call.columns]
    return msgspec.structs.replace(call, **texts, parameters=parameters, columns=columns)


def reason(error: FleetError) -> str:
    """Why the target could not be asked, for the error about an unknown command."""
    return f" Its fleet's plugins could not be asked: {printable(error.message)}."
