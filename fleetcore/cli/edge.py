"""``fleetcore edge map-reduce``: what all gateways have stored, summarised there and added here."""

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from fleetcore.cli.connect import Target, connect
from fleetcore.cli.derived import command as derived
from fleetcore.cli.edge_top import top
from fleetcore.cli.exits import PARTLY, printable
from fleetcore.cli.output import show
from fleetcore.cli.progress import progress
from fleetcore.errors import Refused
from fleetcore.frontends.catalogue import core

#: How long one question waits for news, s.
_LOOK_S = 2.0


@click.group()
def edge() -> None:
    """Gateways, the devices behind them, and the functions that run on them."""


def _share(text: str) -> float:
    try:
        share = 1.0 if text == "all" else float(text.removesuffix("%")) / 100 if text.endswith("%") else 0.0
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise Refused(f"{text!r} is not all, and no share such as 80%", pointer="/wait_for")
    return share


def _run(at: Target, given: Mapping[str, Any], output: str, *, detach: bool, until: str) -> Any:
    """Starts the job, and follows it until there is enough, or until its deadline."""
    wanted = {**given, "wait_for": _share(until)}

    async def run() -> dict[str, Any]:
        async with connect(at) as caller:
            found: dict[str, Any] = await caller.run("run_distributed", wanted)
            done = 0
            with progress("gateways", len(found["gateways"])) as step:
                while not detach and not found["enough"]:
                    found = await caller.run("get_distributed", {"operation": found["operation"], "wait_s": _LOOK_S})
                    now = len(found["gateways"]) - len(found["missing"])
                    step(now - done)
                    done = now
            return found

    return _shown(at, given, asyncio.run(run()), output)


def _shown(_at: Target, _given: Mapping[str, Any], found: dict[str, Any], output: str) -> None:
    """Prints the rows, and on stderr which gateways are missing; exit code 7 where some are."""
    group, start = ("group",) if found["by"] != "all" else (), ("start",) if found["bucket_s"] else ()
    names = ("metric", *group, *start, *found["aggregates"])
    rows = [{name: row.get(name, row["values"].get(name)) for name in names} for row in found["rows"]]
    show(found if output == "json" else rows, output, names)
    if not found["missing"]:
        return
    for each in found["gateways"]:
        if each["state"] != "answered":
            click.echo(printable(f"{each['gateway']}: {each['state']}: {each['reason']}"), err=True)
    there = len(found["gateways"])
    click.echo(f"{found['state']}: {there - len(found['missing'])} of {there} gateways have answered", err=True)
    if found["open"]:
        click.echo(f"Late answers are added: fleetcore edge result {found['operation']}", err=True)
    raise click.exceptions.Exit(PARTLY)


_map_reduce, _result = core()["run_distributed"], core()["get_distributed"]
edge.add_command(top)
edge.add_command(
    derived(
        _map_reduce,
        _map_reduce.command,
        {"wait_s": 0.0, "wait_for": 1.0},
        options=[
            click.Option(["--wait-for", "until"], default="all", show_default=True, metavar="all|N%",
                         help="How many of the gateways are enough."),
            click.Option(["--detach"], is_flag=True, help="Show what is there at once; do not wait."),
        ],
        ask=_run,
    )
)  # fmt: skip
edge.add_command(derived(_result, _result.command, {}, finish=_shown))
