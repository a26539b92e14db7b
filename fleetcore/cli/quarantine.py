"""``fleetcore quarantine``: refused messages; replays or discards some or all of them."""

import asyncio
from typing import Any

import click

from fleetcore.cli.confirm import confirm, yes_option
from fleetcore.cli.connect import Caller, Target, connect, fleet_option
from fleetcore.cli.derived import items
from fleetcore.cli.exits import PARTLY
from fleetcore.cli.output import output_option, show
from fleetcore.errors import FleetError
from fleetcore.frontends.catalogue import core

_numbers = click.argument(
    "numbers",
    nargs=-1,
    type=click.IntRange(0),
    metavar="[NUMBERS…]",
    help="The messages, by their numbers in the list.",
)
_all = click.option("--all", "every", is_flag=True, help="All stored messages.")
_KINDS = core()["replay_dead_letter"].members
_why = click.option("--reason", default="", help="The reason, for the audit log.")


@click.group()
def quarantine() -> None:
    """Stored refused messages: show why, replay them, or discard them."""


@quarantine.command()
@_numbers
@_all
@_why
@fleet_option
@output_option
def replay(numbers: tuple[int, ...], every: bool, reason: str, at: Target, output: str) -> int:
    """Put the messages NUMBERS through the data path again, with their time of receipt. Exit 7 if one was refused."""
    rows = _each(at, "replay_dead_letter", numbers, every, reason)
    show(rows if every or len(rows) > 1 else rows[0], output, ("number", "accepted", "code", "reason"), _KINDS)
    return 0 if all(row["accepted"] for row in rows) else PARTLY


@quarantine.command()
@_numbers
@_all
@_why
@yes_option
@fleet_option
@output_option
def discard(numbers: tuple[int, ...], every: bool, reason: str, yes: bool, at: Target, output: str) -> int:
    """Delete the messages NUMBERS. Exit 7 if one could not be deleted."""
    named = "all refused messages" if every else f"the refused messages {', '.join(map(str, numbers))}"
    if every or numbers:
        confirm(f"Deletes {named} for good.", yes=yes)
    rows = _each(at, "discard_dead_letter", numbers, every, reason)
    show(rows if every or len(rows) > 1 else None, output, ("number", "accepted", "code", "reason"), _KINDS)
    return 0 if all(row["accepted"] for row in rows) else PARTLY


def _each(at: Target, name: str, numbers: tuple[int, ...], every: bool, reason: str) -> list[dict[str, Any]]:
    """The outcome of each; with --all, failures are listed beside the others."""
    if bool(numbers) == every:
        raise click.UsageError("Name the messages by their numbers, or use --all.")
    if every:
        numbers = tuple(letter["number"] for letter in items(at, core()["list_dead_letters"], {}))

    async def run() -> list[dict[str, Any]]:
        async with connect(at) as caller:
            return [await _done(caller, name, number, reason, every=every) for number in numbers]

    return asyncio.run(run())


async def _done(caller: Caller, name: str, number: int, reason: str, *, every: bool) -> dict[str, Any]:
    try:
        answer: dict[str, Any] | None = await caller.run(name, {"number": number, "reason": reason})
    except FleetError as error:
        if not every:
            raise
        return {"number": number, "accepted": False, "code": error.code, "reason": error.message}
    return answer or {"number": number, "accepted": True, "code": "", "reason": ""}
