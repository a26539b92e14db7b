"""``fleetcore telemetry dead-letters``: refused messages, understood, and tried again or thrown away."""

import asyncio
from typing import Any

import click

from fleetcore.cli.connect import Caller, Target, call, connect, fleet_option
from fleetcore.cli.exits import PARTLY
from fleetcore.cli.output import output_option, show
from fleetcore.errors import FleetError

_COLUMNS = ("number", "time", "device", "operation", "code", "reason")
_numbers = click.argument("numbers", nargs=-1, type=click.IntRange(0))
_all = click.option("--all", "every", is_flag=True, help="All that are kept.")
_why = click.option("--reason", default="", help="Why, for the audit log.")


@click.group("dead-letters")
def dead_letters() -> None:
    """Refused messages that were kept: see why, try them again, or discard them."""


@dead_letters.command("list")
@fleet_option
@output_option
def list_(at: Target, output: str) -> None:
    """List refused messages, oldest first."""
    show(call(at, "list_dead_letters"), output, _COLUMNS)


@dead_letters.command("show")
@click.argument("number", type=click.IntRange(0))
@fleet_option
@output_option
def show_(number: int, at: Target, output: str) -> None:
    """Show the message NUMBER with its payload."""
    show(call(at, "get_dead_letter", number), output)


@dead_letters.command()
@_numbers
@_all
@_why
@fleet_option
@output_option
def replay(numbers: tuple[int, ...], every: bool, reason: str, at: Target, output: str) -> int:
    """Put the messages NUMBERS through the data path again, as of when they came. Exit 7 where one was refused."""
    rows = asyncio.run(_each(at, "replay_dead_letter", numbers, every, reason))
    show(rows, output, ("number", "accepted", "code", "reason"))
    return 0 if all(row["accepted"] for row in rows) else PARTLY


@dead_letters.command()
@_numbers
@_all
@_why
@fleet_option
@output_option
def discard(numbers: tuple[int, ...], every: bool, reason: str, at: Target, output: str) -> None:
    """Remove the messages NUMBERS for good."""
    show(asyncio.run(_each(at, "discard_dead_letter", numbers, every, reason)), output)


async def _each(at: Target, name: str, numbers: tuple[int, ...], every: bool, reason: str) -> list[dict[str, Any]]:
    if bool(numbers) == every:
        raise click.UsageError("Name the messages by their numbers, or all by --all.")
    async with connect(at) as caller:
        if every:
            numbers = tuple(one["number"] for one in await caller.call("list_dead_letters"))
            return [await _tried(caller, name, number, reason) for number in numbers]
        return [await caller.call(name, number, reason=reason) for number in numbers]


async def _tried(caller: Caller, name: str, number: int, reason: str) -> dict[str, Any]:
    """One of all: what cannot be done with it is said beside the others."""
    try:
        row: dict[str, Any] = await caller.call(name, number, reason=reason)
    except FleetError as error:
        return {"number": number, "accepted": False, "code": error.code, "reason": error.message}
    return row
