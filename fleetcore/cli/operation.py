"""``fleetcore operation``: long operations, their progress, and stopping them."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from fleetcore.cli.connect import Caller
from fleetcore.cli.exits import PARTLY, printable
from fleetcore.cli.output import show

#: The polling interval of a waiting command.
_LOOK_S = 0.2


@click.group()
def operation() -> None:
    """Follow and stop long operations."""


async def follow(caller: Caller, started: dict[str, Any], step: Callable[[int], None], seen: int = 0) -> dict[str, Any]:
    """Waits until an operation has ended; ``step`` is called with how many more items are done."""
    import asyncio

    current = started
    while True:
        step(current["done"] - seen)
        seen = current["done"]
        if current["state"] != "running":
            return current
        await asyncio.sleep(_LOOK_S)
        current = await caller.run("get_operation", {"operation": started["id"]})


def conclude(ended: dict[str, Any], output: str, lines: Sequence[int] | None = None) -> int:
    """Prints the end of an operation, each failure on stderr, by its line if known; returns the exit code."""
    for failure in ended.get("failures", ()):
        place = f"line {lines[failure['item'] - 1]}" if lines else f"item {failure['item']}"
        click.echo(printable(f"{place}: {failure['about'] or ''}: {failure['reason']} [{failure['code']}]"), err=True)
    if ended["failed"] > len(ended.get("failures", ())):
        click.echo(f"… and {ended['failed'] - len(ended['failures'])} more", err=True)
    if output == "table":
        click.echo(f"{ended['done'] - ended['failed']} of {ended['total']} done, {ended['failed']} failed")
        for counts in (ended.get("result"), ended.get("reasons")):
            if counts:
                click.echo("  " + ", ".join(f"{name} {number}" for name, number in sorted(counts.items())))
    else:
        show(ended, output)
    return PARTLY if ended["failed"] else 0
