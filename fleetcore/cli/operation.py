"""``fleetcore operation``: long work, how far it is, and stopping it."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from fleetcore.cli.connect import Caller
from fleetcore.cli.exits import PARTLY, printable
from fleetcore.cli.output import show

#: How often a waiting command looks.
_LOOK_S = 0.2


@click.group()
def operation() -> None:
    """Follow and stop long work."""


async def follow(caller: Caller, started: dict[str, Any], step: Callable[[int], None], seen: int = 0) -> dict[str, Any]:
    """Waits until an operation has ended; ``step`` is told how many items are done beyond those seen."""
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
    """Shows how an operation ended, each failure on stderr, by its line where known; the exit code."""
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
