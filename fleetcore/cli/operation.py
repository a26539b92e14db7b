"""``fleetcore operation``: long operations, their progress, and stopping them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from fleetcore.cli import watching
from fleetcore.cli.connect import Caller, Target, connect, fleet_option
from fleetcore.cli.exits import PARTLY, printable
from fleetcore.cli.ids import with_whole_ids
from fleetcore.cli.output import output_option, show
from fleetcore.cli.watching import Watched
from fleetcore.frontends.catalogue import core

#: The polling interval of a waiting command.
_LOOK_S = 0.2


@click.group()
def operation() -> None:
    """Follow and stop long operations."""


@operation.command()
@click.argument("operation", help="The operation's id.")
@fleet_option
@output_option
def watch(operation: str, at: Target, output: str) -> int:
    """Follow OPERATION until it has ended; exit 7 if some of its items failed or were not tried.

    It prints a line for each change, or a bar on a terminal. It can be interrupted and started again at any time,
    and waits while the server is away.
    """
    import asyncio

    ended = asyncio.run(_watch(at, operation, output))
    if output == "jsonl":  # the last line shows it
        return _code(ended)
    return conclude(ended, output)


async def _watch(at: Target, operation: str, output: str) -> dict[str, Any]:
    call = core()["get_operation"]
    async with connect(at) as caller:
        given = {"operation": operation}
        first = await with_whole_ids(caller, call, given, lambda whole: caller.run(call.name, whole))
    return await watching.watch(at, _WATCHED, {"operation": first["id"]}, output, f"{first['kind']} {operation}")


def _bar(current: Mapping[str, Any]) -> tuple[int, int, Mapping[str, int]]:
    held = 0 if current["paused"] is None else 1
    return current["done"], current["total"], {"failed": current["failed"], "paused": held}


def _line(current: Mapping[str, Any]) -> str:
    state = current["state"] if current["paused"] is None else "paused"
    failed = f", {current['failed']} failed" if current["failed"] else ""
    why = current["paused"] or current["waiting"]
    return f"{state}: {current['done']} of {current['total']}{failed}{f' ({why})' if why else ''}"


_WATCHED = Watched(
    call="get_operation",
    seen=lambda current: (current["state"], current["done"], current["failed"], current["paused"], current["waiting"]),
    ended=lambda current: current["state"] != "running",
    bar=_bar,
    line=_line,
)


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
        how = f", {ended['total'] - ended['done']} not tried" if _is_cut(ended) else ""
        click.echo(f"{ended['done'] - ended['failed']} of {ended['total']} done, {ended['failed']} failed{how}")
        for counts in (ended.get("result"), ended.get("reasons")):
            if counts:
                click.echo("  " + ", ".join(f"{name} {number}" for name, number in sorted(counts.items())))
    else:
        show(ended, output)
    return _code(ended)


def _is_cut(ended: Mapping[str, Any]) -> bool:
    """Whether it ended before all its items were tried."""
    done, total = ended["done"], ended["total"]
    return bool(done < total)


def _code(ended: Mapping[str, Any]) -> int:
    return PARTLY if ended["failed"] or _is_cut(ended) else 0
