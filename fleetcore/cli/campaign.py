"""``fleetcore campaign``: firmware campaigns, and following one to its end."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from fleetcore.cli import envelopes
from fleetcore.cli.connect import Caller, Target, connect, fleet_option
from fleetcore.cli.derived import command
from fleetcore.cli.encoding import takes_all
from fleetcore.cli.exits import PARTLY
from fleetcore.cli.output import output_option, show
from fleetcore.frontends.catalogue import core
from fleetcore.model.firmware import EXECUTION_ENDS, EXECUTION_FAILURES, ExecutionState

#: The interval of polling for changes, in seconds.
_LOOK_S = 1.0


@click.group()
def campaign() -> None:
    """Send firmware to devices, and follow them."""


_MANIFEST = click.Option(
    ["--manifest"],
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    callback=envelopes.text,
    help="The file with the signed manifest, which names digest and size.",
)
campaign.add_command(command(core()["create_campaign"], core()["create_campaign"].command, {}, options=[_MANIFEST]))


@campaign.command()
@click.argument("campaign")
@fleet_option
@output_option
def watch(campaign: str, at: Target, output: str) -> int:
    """Follow CAMPAIGN until it has ended and no device is under way; exit 7 if some devices failed.

    It prints a line for each change, or a bar on a terminal.
    """
    from fleetcore.cli.progress import progress

    async def run() -> dict[str, Any]:
        async with connect(at) as caller:
            if output != "table" or not sys.stderr.isatty():
                return await _follow(caller, campaign, _tell(output))
            first = await caller.run("get_campaign", {"campaign": campaign})
            with progress(campaign, first["total"]) as step:
                seen = 0

                def advance(current: Mapping[str, Any]) -> None:
                    nonlocal seen
                    ended = _count(current, EXECUTION_ENDS)
                    step(ended - seen)
                    seen = ended

                return await _follow(caller, campaign, advance)

    last = asyncio.run(run())
    if output != "jsonl":  # the last line of the command shows it
        show(last, output, members=core()["get_campaign"].members)
    return PARTLY if _count(last, EXECUTION_FAILURES) else 0


def _tell(output: str) -> Callable[[Mapping[str, Any]], None]:
    """Prints a state as a line, if the output is line by line."""

    def tell(current: Mapping[str, Any]) -> None:
        match output:
            case "jsonl":
                click.echo(json.dumps(current, ensure_ascii=not takes_all()))
            case "table":
                counts = ", ".join(f"{name} {number}" for name, number in sorted(current["counts"].items()) if number)
                click.echo(f"{current['state']}: {counts or 'no devices yet'}")

    return tell


async def _follow(caller: Caller, name: str, tell: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Returns the campaign once it has ended; calls ``tell`` with its first state and after each change."""
    told: tuple[object, ...] = ()
    while True:
        current: dict[str, Any] = await caller.run("get_campaign", {"campaign": name})
        seen = (current["state"], current["code"], current["reason"], current["counts"])
        if seen != told:
            tell(current)
            told = seen
        if current["finished_at"] is not None and _count(current, EXECUTION_ENDS) == sum(current["counts"].values()):
            return current
        await asyncio.sleep(_LOOK_S)


def _count(current: Mapping[str, Any], states: frozenset[ExecutionState]) -> int:
    """The number of devices in some states."""
    return sum(number for state, number in current["counts"].items() if state in states)
