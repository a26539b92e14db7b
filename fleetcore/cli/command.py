"""``fleetcore command``: commands to devices, and their results."""

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from fleetcore.cli.connect import Target, connect
from fleetcore.cli.derived import command as derived
from fleetcore.cli.exits import PARTLY
from fleetcore.cli.operation import conclude, follow
from fleetcore.cli.output import show
from fleetcore.cli.progress import progress
from fleetcore.cli.twin import object_argument
from fleetcore.frontends.catalogue import core

_ENDED_WELL = "succeeded"


@click.group()
def command() -> None:
    """Send commands to devices and follow them."""


def _waited(_at: Target, given: Mapping[str, Any], answer: dict[str, Any], output: str) -> dict[str, Any] | None:
    """With ``--wait`` the exit code is 0 only if the command succeeded, and 7 if it has not ended yet."""
    if not given.get("wait_s") or answer["state"] == _ENDED_WELL:
        return answer
    show(answer, output, members=_send.members)
    raise click.exceptions.Exit(1 if answer["finished_at"] else PARTLY)


def _bulk(at: Target, given: Mapping[str, Any], output: str, *, dry_run: bool, detach: bool) -> dict[str, Any] | None:
    """Plans if no plan was given, sends, and follows the operation to its end."""

    async def run() -> dict[str, Any]:
        async with connect(at) as caller:
            wanted = {name: value for name, value in given.items() if name not in ("plan", "idempotency_key")}
            planned = {} if "plan" in given else await caller.run("plan_commands", wanted)
            if dry_run:
                return planned or await caller.run("plan_commands", wanted)
            wanted_plan = {"plan": planned["plan"]} if planned else {}
            started: dict[str, Any] = await caller.run("send_commands", {**given, **wanted_plan})
            if detach:
                return started
            with progress("sending", started["total"]) as step:
                return await follow(caller, started, step)

    answer = asyncio.run(run())
    if dry_run or detach:
        return answer
    raise click.exceptions.Exit(conclude(answer, output))


_send, _to_many = core()["send_command"], core()["send_commands"]
command.add_command(
    derived(_send, _send.command, {}, options=[object_argument("args", required=False)], finish=_waited)
)
command.add_command(
    derived(
        _to_many,
        _to_many.command,
        {},
        options=[
            object_argument("args", required=False),
            click.Option(["--dry-run"], is_flag=True, help="Only show the plan: the devices."),
            click.Option(["--detach"], is_flag=True, help="Show the started operation; do not follow it."),
        ],
        ask=_bulk,
    )
)
